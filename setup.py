from pathlib import Path

from setuptools import find_packages, setup

DIFFUSERS = ['diffusers', 'safetensors']

setup(
    name='defsr',
    version='0.2.0',
    description='Detail-Enhancing Framework for reference-based super-resolution, a BasicSR plugin',
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10,<3.13',  # basicsr 1.4.2 does not build on 3.13
    packages=find_packages(include=['defsr', 'defsr.*']),
    install_requires=[
        'basicsr==1.4.2',  # defsr/compat.py patches this release
        'torch>=2.6',  # torch.load reads weights only, by default
        'torchvision',
        'opencv-python',
        'lmdb',
        'pyyaml',
        'tb-nightly',
        'matplotlib',  # result pictures
        'pillow',  # EXIF, profiles, and the PIL degradation; comes with basicsr anyway
        'scipy>=1.15',  # intervals of the benchmark's differences; comes with basicsr anyway
        'tqdm',  # progress bars; comes with basicsr anyway
    ],
    extras_require={
        'dev': ['pytest', 'pytest-timeout', 'pytest-xdist', 'ruff', 'h5py', *DIFFUSERS],
        'convert': ['h5py'],  # python -m defsr.tools.convert_vgg
        'diffusers': DIFFUSERS,  # denoisers of type DiffusersUNet
    },
    entry_points={
        'console_scripts': [
            'defsr-train = defsr.train:main',
            'defsr-test = defsr.test:main',
            'defsr-enhance = defsr.tools.enhance:main',
            'defsr-upscale = defsr.tools.upscale:main',
            'defsr-make-pairs = defsr.tools.make_pairs:main',
            'defsr-benchmark = defsr.tools.benchmark:main',
            'defsr-plot-training = defsr.tools.plot_training:main',
        ]
    },
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Image Processing',
    ],
)
