"""What ``import defsr`` sets up without importing anything: PyTorch alone takes seconds.

The patches of other people's packages that act while these are imported, each with its reason
and the version it concerns (``defsr/compat.py`` has the others), and where moved modules are now.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import pkgutil
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Execute = Callable[[ModuleType], None]
Around = Callable[[ModuleType, Execute], None]
_COMPLETING = threading.RLock()

INSTALLER = 'defsr.tools.install_basicsr'
FUNCTIONAL_TENSOR = 'torchvision.transforms.functional_tensor'
# BasicSR's registry -> the package, here and there, and the end of the files that register.
PLACES = {
    'arch': ('archs', '_arch'),
    'dataset': ('data', '_dataset'),
    'loss': ('losses', '_loss'),
    'metric': ('metrics', '_metric'),
    'model': ('models', '_model'),
}
MOVED = {
    'defsr.archs.match_keys': 'defsr.methods.match_keys',
    'defsr.archs.pipeline': 'defsr.methods.matched',
    'defsr.archs.reference_keys': 'defsr.methods.reference_keys',
    'defsr.archs.texture_maps': 'defsr.archs.stacked_features',
    'defsr.benchmark_examples': 'defsr.benchmark.examples',
    'defsr.benchmark_options': 'defsr.benchmark.options',
    'defsr.benchmark_report': 'defsr.benchmark.report',
    'defsr.benchmarking': 'defsr.benchmark.runner',
    'defsr.data.enhance_source': 'defsr.enhance.source',
    'defsr.data.enhanced_cache': 'defsr.enhance.cache',
    'defsr.data.epochs': 'defsr.running.epochs',
    'defsr.data.loaders': 'defsr.running.loaders',
    'defsr.data.shards': 'defsr.running.shards',
    'defsr.enhance_options': 'defsr.enhance.options',
    'defsr.enhancing': 'defsr.enhance.job',
    'defsr.methods.texture_maps': 'defsr.archs.stacked_features',
    'defsr.models.checkpoints': 'defsr.running.checkpoints',
    'defsr.models.def_model': 'defsr.models.ref_sr_model',
    'defsr.models.safe_networks': 'defsr.running.safe_networks',
    'defsr.models.safe_training': 'defsr.running.safe_training',
    'defsr.models.sharded_validation': 'defsr.running.sharded_validation',
    'defsr.options_check': 'defsr.config.check',
    'defsr.restoring': 'defsr.methods.build',
    'defsr.tools.export_weights': 'defsr.tools.convert',
    'defsr.training_run': 'defsr.running.training_run',
    'defsr.utils.figures': 'defsr.images.figures',
    'defsr.utils.image_form': 'defsr.images.form',
    'defsr.utils.image_header': 'defsr.images.header',
    'defsr.utils.image_io': 'defsr.images.photo',
    'defsr.utils.levels': 'defsr.images.levels',
    'defsr.utils.option_blocks': 'defsr.config.blocks',
    'defsr.utils.options': 'defsr.config.files',
}


def install() -> None:
    """Patch what is imported from now on, and what has been already. Once is enough.

    Raises:
        ImportError: without BasicSR, with the command that installs it.
    """
    if any(isinstance(finder, Finder) for finder in sys.meta_path):
        return
    if 'basicsr' not in sys.modules and not importlib.util.find_spec('basicsr'):
        _ask_for_basicsr()
    sys.meta_path.insert(0, Finder())
    for name, around in AROUND.items():
        if name in sys.modules:
            around(sys.modules[name], lambda module: None)


def _ask_for_basicsr() -> None:
    if INSTALLER in sys.orig_argv:
        return
    line = f'BasicSR is not installed, and defsr is a plugin of it. Run: python -m {INSTALLER}'
    if any(os.path.basename(argument).startswith('defsr-') for argument in sys.orig_argv[:3]):
        sys.exit(f'error: {line}')  # one of the commands
    raise ImportError(line, name='basicsr')


class Finder:
    """Stands before Python's finders and asks them; what they find is executed by ``AROUND``."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """As Python's finders. ModuleNotFoundError for a moved module says where it is now."""
        if name in MOVED:  # without its name in `name`: `from package import module` would hide it
            raise ModuleNotFoundError(f'{name} is now {MOVED[name]}.')
        if name not in AROUND and name != FUNCTIONAL_TENSOR:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec), None)
        if name == FUNCTIONAL_TENSOR:
            stand_in: Any = _FunctionalTensor()
            return spec or ModuleSpec(name, stand_in)
        if spec:
            loader: Any = spec.loader
            execute = loader.exec_module
            loader.exec_module = lambda module: AROUND[name](module, execute)
        return spec


class _FunctionalTensor:
    """basicsr 1.4.2 imports ``rgb_to_grayscale`` from a module that torchvision 0.17 removed."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Python's own kind of module will do."""

    def exec_module(self, module: Any) -> None:
        functional = importlib.import_module('torchvision.transforms.functional')
        module.rgb_to_grayscale = functional.rgb_to_grayscale


def _on_demand(package: Any, execute: Execute) -> None:
    """basicsr 1.4.2 imports all of itself, a second: wait until something of that is asked for.

    Its subpackages can be imported without; the first name that none of these has set does it.
    """

    def ask(name: str) -> object:
        vars(package).pop('__getattr__', None)  # what is imported now must not ask again
        try:
            execute(package)
        except BaseException:
            package.__getattr__ = ask
            raise
        return getattr(package, name)

    package.__getattr__ = ask


def _without(slow: str, wanted: str) -> Around:
    """Execute a module that has ``from slow import wanted``: the function is imported when called.

    If it comes to want more, as another release may, the slow module is imported as ever.
    """

    def later(*args: object) -> object:
        return getattr(importlib.import_module(slow), wanted)(*args)

    def execute_without(module: ModuleType, execute: Execute) -> None:
        if slow not in sys.modules:
            sys.modules[slow] = stand_in = ModuleType(slow)
            setattr(stand_in, wanted, later)
            try:
                return execute(module)
            except ImportError:
                pass
            finally:
                if sys.modules.get(slow) is stand_in:
                    del sys.modules[slow]
        execute(module)

    return execute_without


def _with_safe_options(module: ModuleType, execute: Execute) -> None:
    execute(module)
    importlib.import_module('defsr.compat').read_options_safely()


def _with_complete_registries(module: Any, execute: Execute) -> None:
    """A registry imports, at its first look-up, all that BasicSR and this package put into it.

    Registering looks nothing up, so each module can be imported alone. A name that is taken is a
    ValueError that says by whom.
    """
    execute(module)
    registry, register = module.Registry, module.Registry._do_register
    for name in ('get', '__contains__', '__iter__', 'keys'):
        setattr(registry, name, _completed_first(getattr(registry, name)))

    def register_once(self: Any, name: str, obj: object, suffix: str | None = None) -> None:
        try:
            register(self, name, obj, suffix)
        except AssertionError:
            key = f'{name}_{suffix}' if suffix else name
            owner = self._obj_map[key].__module__
            raise ValueError(
                f'{obj.__module__} registers {key} as {self._name}, and so does {owner}. '
                'Give yours another name.'
            ) from None

    registry._do_register = register_once


def _completed_first(look_up: Callable) -> Callable:
    @functools.wraps(look_up)
    def look_up_in_all(self: Any, *args: object, **kwargs: object) -> object:
        with _COMPLETING:  # other threads wait; a look-up of what is being imported does not
            if self._name in PLACES and not hasattr(self, 'is_complete'):
                self.is_complete = True
                try:
                    _import_all(*PLACES[self._name])
                except BaseException:  # look-ups will try again: forget what did not get imported
                    del self.is_complete
                    for name, obj in list(self._obj_map.items()):
                        if obj.__module__ not in sys.modules:
                            del self._obj_map[name]
                    raise
        return look_up(self, *args, **kwargs)

    return look_up_in_all


def _import_all(package: str, suffix: str) -> None:
    importlib.import_module(f'basicsr.{package}')
    ours = importlib.import_module(f'defsr.{package}')
    for module in sorted(info.name for info in pkgutil.iter_modules(ours.__path__)):
        if module.endswith(suffix):
            importlib.import_module(f'defsr.{package}.{module}')


AROUND: dict[str, Around] = {
    'basicsr': _on_demand,
    # basicsr 1.4.2 imports SciPy's statistics for one of its blur kernels: a second.
    'basicsr.data.degradations': _without('scipy.stats', 'multivariate_normal'),
    'basicsr.utils.options': _with_safe_options,
    'basicsr.utils.registry': _with_complete_registries,
    # torchvision 0.29 imports PyTorch's compiler for a function it rarely calls: two seconds.
    'torchvision.ops.roi_align': _without('torch._dynamo.utils', 'is_compile_supported'),
}
