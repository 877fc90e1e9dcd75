"""Start-up: what is imported when, and what it has set up by then."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
from processes import outcome_in_fork
from repository import REPOSITORY

from defsr.imports import AROUND, FUNCTIONAL_TENSOR, MOVED, Finder, _without

MODULES = sorted(
    '.'.join(path.relative_to(REPOSITORY).with_suffix('').parts).removesuffix('.__init__')
    for path in (REPOSITORY / 'defsr').rglob('*.py')
)
COMMANDS = sorted(
    set(re.findall(r'= (defsr\.tools\.\w+):main', (REPOSITORY / 'setup.py').read_text()))
    | {'defsr.tools.create_lmdb', 'defsr.tools.make_ranked'}
)


def python(code: str) -> str:
    """What ``code`` prints in a process of its own."""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def forget() -> None:
    """Make this process one that has imported neither BasicSR nor this package."""
    for name in [name for name in sys.modules if name.split('.')[0] in ('basicsr', 'defsr')]:
        del sys.modules[name]
    sys.modules.pop(FUNCTIONAL_TENSOR, None)
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]


@pytest.fixture
def afresh() -> Callable[[Callable[[], object]], object]:
    """Runs a function in a fork that has forgotten both; returns what it does, or raises it."""

    def run(work: Callable[[], object]) -> object:
        return outcome_in_fork(lambda: (forget(), work())[1])

    return run


def registry(kind: str):
    return getattr(importlib.import_module('basicsr.utils.registry'), f'{kind}_REGISTRY')


def test_the_package_imports_nothing_heavy():
    code = 'import sys; before = {*sys.modules}; import defsr; print(*{*sys.modules} - before)'
    imported = {name.split('.')[0] for name in python(code).split()}
    assert 'defsr' in imported
    assert imported <= {'defsr', *sys.stdlib_module_names}


@pytest.mark.parametrize('command', COMMANDS)
def test_help_does_not_wait_for_pytorch(command):
    code = f"""
import sys
from {command} import main
sys.argv = ['command', '--help']
try:
    main()
except SystemExit as stop:
    print(stop.code, {{'torch', 'basicsr', 'scipy', 'matplotlib'}} & {{*sys.modules}})
"""
    usage, end = python(code).rsplit('\n', 2)[:2]
    assert usage.startswith('usage: ') and end == '0 set()'


def test_commands_import_no_compiler_and_no_statistics():
    """PyTorch's compiler and SciPy's statistics take seconds; they are there when needed."""
    code = """
import sys, defsr
slow = {'torch._dynamo', 'torch._dynamo.utils', 'scipy.stats', 'diffusers', 'matplotlib'}
defsr.upscale
from basicsr.archs import build_network
build_network({'type': 'HardTransferArch'})
print(*(slow | {'basicsr.data', 'basicsr.models', 'scipy'}) & {*sys.modules})
from defsr.benchmark import examples, options, report, runner
from defsr.enhance import job
print(*slow & {*sys.modules})
from basicsr.data.degradations import multivariate_normal
from torchvision.ops.roi_align import is_compile_supported
print(is_compile_supported('cpu'), multivariate_normal([0, 0], [[1, 0], [0, 1]]).pdf([0, 0]) > 0.1)
"""
    assert python(code).splitlines()[-3:] == ['', '', 'True True']


@pytest.mark.parametrize(('imported', 'waits'), [('wanted', True), ('wanted, another', False)])
def test_a_slow_module_waits_unless_more_of_it_is_wanted(monkeypatch, tmp_path, imported, waits):
    (tmp_path / 'slow.py').write_text('def wanted(x): return x + 1\nanother = 7')
    (tmp_path / 'eager.py').write_text(f'from slow import {imported}')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(AROUND, 'eager', _without('slow', 'wanted'))
    eager = importlib.import_module('eager')
    try:
        assert ('slow' not in sys.modules) is waits
        assert eager.wanted(1) == 2 and sys.modules['slow'].another == 7
    finally:
        del sys.modules['eager'], sys.modules['slow']


def test_each_module_can_be_the_first(afresh):
    """Each in a fork of its own, of one that has forgotten both packages."""

    def import_each() -> dict[str, object]:
        found = {}
        for name in MODULES:
            try:
                outcome_in_fork(lambda name=name: importlib.import_module(name) and None)
            except Exception as error:
                found[name] = error
        return found

    assert afresh(import_each) == {}


@pytest.mark.parametrize(
    ('kind', 'ours', 'basicsrs'),
    [
        ('ARCH', 'DEFNet', 'EDSR'),
        ('DATASET', 'RefTripletDataset', 'PairedImageDataset'),
        ('LOSS', 'TexturePerceptualLoss', 'L1Loss'),
        ('METRIC', None, 'calculate_psnr'),
        ('MODEL', 'DEFModel', 'SRModel'),
    ],
)
@pytest.mark.parametrize('first', ['defsr', 'basicsr', 'defsr.archs.transfer_arch'])
def test_a_registry_is_complete_when_it_is_asked(afresh, kind, ours, basicsrs, first):
    def look_up() -> None:
        if first == 'basicsr':  # as with a torchvision that BasicSR was made for
            sys.modules[FUNCTIONAL_TENSOR] = SimpleNamespace(rgb_to_grayscale=None)
        for name in (first, 'defsr', 'basicsr'):
            importlib.import_module(name)
        wanted = [name for name in (ours, basicsrs) if name]
        for name in wanted:
            assert registry(kind).get(name).__name__ == name
        assert {*wanted} <= {*registry(kind).keys()} & {*dict(iter(registry(kind)))}

    def contains() -> bool:
        importlib.import_module('defsr')
        return all(name in registry(kind) for name in (ours, basicsrs) if name)

    afresh(look_up)
    assert afresh(contains)


def test_networks_of_networks(afresh):
    """The inner ones are built while the outer one is."""

    def build() -> str:
        importlib.import_module('defsr')
        from basicsr.archs import build_network

        aggregator = {'type': 'TTSRAggregator', 'num_feat': 8, 'num_block': [1, 1, 1, 1]}
        opt = {'type': 'DEFNet', 'transfer': {'type': 'HardTransferArch'}, 'aggregator': aggregator}
        return type(build_network(opt)).__name__

    assert afresh(build) == 'DEFNet'


def test_threads_wait_until_a_registry_is_complete(afresh):
    def look_up() -> list[str]:
        importlib.import_module('defsr')
        archs, found = registry('ARCH'), []
        threads = [
            threading.Thread(target=lambda: found.append(archs.get('DEFNet').__name__))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    assert afresh(look_up) == ['DEFNet'] * 4


@pytest.mark.parametrize(
    ('name', 'owner'),
    [('HardTransferArch', 'defsr.archs.transfer_arch'), ('EDSR', 'basicsr.archs.edsr_arch')],
)
@pytest.mark.parametrize('early', [True, False])
def test_a_name_that_is_taken(afresh, name, owner, early):
    """It is said by whom, whichever came first, and again when asked again."""

    def clash() -> list[str]:
        importlib.import_module('defsr')
        archs, said = registry('ARCH'), []
        mine = type(name, (), {'__module__': __name__})

        def take() -> None:
            archs.register(mine)

        def ask() -> None:
            archs.get('UnshuffleUNet')

        for step in (take, ask, ask) if early else (ask, take, take):
            try:
                step()
            except ValueError as error:
                said.append(str(error))
        return said

    both = (owner, __name__) if early else (__name__, owner)
    line = '{} registers {} as arch, and so does {}. Give yours another name.'
    assert afresh(clash) == [line.format(both[0], name, both[1])] * 2


def test_basicsr_is_whole_once_a_name_of_it_is_asked_for(afresh):
    def ask() -> tuple:
        importlib.import_module('defsr')
        basicsr = importlib.import_module('basicsr')
        before = 'basicsr.models' in sys.modules
        everything = {}
        exec('from basicsr import *', everything)
        missing = hasattr(basicsr, 'nothing')
        return (
            before,
            basicsr.__version__,
            missing,
            {'build_network', 'tensor2img'} <= {*everything},
        )

    assert afresh(ask) == (False, '1.4.2', False, True)


def test_options_are_read_safely_whoever_imports_them(afresh):
    def loader() -> bool:
        importlib.import_module('defsr')
        from basicsr.utils.options import ordered_yaml
        from yaml import SafeLoader

        return issubclass(ordered_yaml()[0], SafeLoader)

    assert afresh(loader)


def test_a_module_that_torchvision_still_has_is_not_replaced(afresh, monkeypatch, tmp_path):
    def found() -> object:
        transforms = importlib.import_module('torchvision.transforms')
        (tmp_path / 'functional_tensor.py').write_text('rgb_to_grayscale = "its own"')
        transforms.__path__.append(str(tmp_path))
        importlib.import_module('defsr')
        return importlib.import_module(FUNCTIONAL_TENSOR).rgb_to_grayscale

    assert afresh(found) == 'its own'


@pytest.mark.parametrize('old', MOVED)
def test_a_module_that_was_moved(old):
    package, name = old.rsplit('.', 1)
    for statement in (f'import {old}', f'from {package} import {name}'):
        with pytest.raises(ModuleNotFoundError, match=rf'^{old} is now {MOVED[old]}\.$'):
            exec(statement)
    assert MOVED[old] in MODULES and old not in MODULES


def test_unknown_names_are_errors():
    import defsr

    assert isinstance(defsr.upscale, Callable) and isinstance(defsr, ModuleType)
    with pytest.raises(AttributeError, match="module 'defsr' has no attribute 'upsacle'"):
        _ = defsr.upsacle
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'defsr\.nothing'"):
        importlib.import_module('defsr.nothing')
