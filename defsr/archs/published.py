"""Which network a state dict is of: ours by their class methods, BasicSR's by what stands here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor

from defsr.archs.blocks import build_network
from defsr.utils.weights import NOT_THEIRS

State = Mapping[str, Tensor]
# EDSR's: RGB, of DIV2K; its own code subtracts it in a layer.
EDSR_MEAN = (0.4488, 0.4371, 0.4040)
EDSR_NAMES = {
    r'^head\.0': 'conv_first',
    r'^body\.(\d+)\.body\.0': r'body.\1.conv1',
    r'^body\.(\d+)\.body\.2': r'body.\1.conv2',
    r'^body\.(\d+)\.(?=weight|bias)': 'conv_after_body.',
    r'^tail\.0\.': 'upsample.',
    r'^tail\.1': 'conv_last',
}
RRDB_NAMES = {  # the first release's, and the second's
    r'^model\.0': 'conv_first',
    r'^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0': r'body.\1.rdb\2.conv\3',
    r'^model\.1\.sub\.\d+': 'conv_body',
    r'^model\.3': 'conv_up1',
    r'^model\.6': 'conv_up2',
    r'^model\.8': 'conv_hr',
    r'^model\.10': 'conv_last',
    r'^RRDB_trunk\.(\d+)\.RDB': r'body.\1.rdb',
    '^trunk_conv': 'conv_body',
    '^upconv': 'conv_up',
    '^HRconv': 'conv_hr',
}
MSR_NAMES = {'^recon_trunk': 'body', '^HRconv': 'conv_hr'}
_PIXEL_UNSHUFFLED = {3: 4, 12: 2, 48: 1}  # RRDBNet's channels in -> its scale


@dataclass(frozen=True)
class Found:
    """A network that a state dict is of.

    Attributes:
        source: who publishes such files.
        network: its block in an option file, ``type`` and arguments.
        state: the state dict as that network names it.
    """

    source: str
    network: dict[str, Any]
    state: dict[str, Tensor]


@dataclass(frozen=True)
class Known:
    """How the files of one arch are told; see ``docs/add_a_method.md``, "Published weights"."""

    source: str
    block: Callable[[State], Mapping[str, Any]]
    rename: Callable[[State], Mapping[str, Tensor]] = dict


def find_network(state: State, file: object) -> Found:
    """The one network that has all the names and shapes of ``state``.

    Args:
        state: as ``read_weights`` returns it.
        file: where it came from, for the message.

    Raises:
        ValueError: if no network that is known has them, or several have.
    """
    tried = ((name, known, _try(name, known, state)) for name, known in _known())
    found = [each for _, _, each in tried if each is not None]
    if len(found) == 1:
        return found[0]
    if found:
        types = ' and '.join(each.network['type'] for each in found)
        raise ValueError(f'{file} fits {types} alike: name the right one in your option file.')
    names = ', '.join(list(state)[:3])
    raise ValueError(
        f'{file} is of no network that is known here; its tensors are {names}, ... Known: '
        f'{", ".join(sorted(name for name, _ in _known()))}. Of one trained here give the option '
        'file (--options).'
    )


def _known() -> Iterator[tuple[str, Known]]:
    yield from BASICSR.items()
    for name, arch in ARCH_REGISTRY:
        if hasattr(arch, 'official_block'):
            rename = getattr(arch, 'from_official', dict)
            yield name, Known(arch.official_source, arch.official_block, rename)


def _try(name: str, known: Known, state: State) -> Found | None:
    try:
        network = {'type': name, **known.block(state)}
        with torch.random.fork_rng(devices=[]):
            wanted = build_network(network).state_dict()
        own = dict(state) if state.keys() == wanted.keys() else dict(known.rename(state))
    except NOT_THEIRS:
        return None
    fits = {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in wanted.items()}
    return Found(known.source, network, own) if fits else None


def _renamed(state: State, names: Mapping[str, str]) -> dict[str, Tensor]:
    number = len(state)
    for old, new in names.items():
        state = {re.sub(old, new, key): value for key, value in state.items()}
    if len(state) < number:
        raise ValueError('two tensors of one name')
    return dict(state)


def _count(state: State, start: str) -> int:
    """How many blocks there are whose names begin so and go on with a number."""
    found = (re.match(rf'{start}\.(\d+)\.', key) for key in state)
    return len({match[1] for match in found if match})


def _ends(state: State) -> dict[str, Any]:
    first, last = state['conv_first.weight'], state['conv_last.weight']
    return {'num_in_ch': first.shape[1], 'num_out_ch': last.shape[0], 'num_feat': first.shape[0]}


def _edsr_state(state: State) -> dict[str, Tensor]:
    state = {k: v for k, v in state.items() if not k.startswith(('sub_mean.', 'add_mean.'))}
    return _renamed(state, EDSR_NAMES)


def _edsr_block(state: State) -> dict[str, Any]:
    own = _edsr_state(state)
    up = own['upsample.0.weight']
    block = _ends(own) | {'num_block': _count(own, 'body')}
    block['upscale'] = 3 if len(up) == 9 * up.shape[1] else 2 ** _count(own, 'upsample')
    if block['num_feat'] >= 256:  # EDSR-L; in no tensor
        block['res_scale'] = 0.1
    if 'add_mean.bias' in state:
        bias = state['add_mean.bias'].double()
        block['img_range'] = round(float(bias.norm() / bias.new_tensor(EDSR_MEAN).norm()), 3)
        mean = bias / block['img_range']
        if not torch.allclose(mean, bias.new_tensor(EDSR_MEAN), rtol=0, atol=1e-4):
            block['rgb_mean'] = [round(value, 6) for value in mean.tolist()]
    return block


def _rrdb_block(state: State) -> dict[str, Any]:
    own = _renamed(state, RRDB_NAMES)
    block = _ends(own)
    return block | {
        'num_in_ch': 3,
        'scale': _PIXEL_UNSHUFFLED[block['num_in_ch']],
        'num_block': _count(own, 'body'),
        'num_grow_ch': len(own['body.0.rdb1.conv1.weight']),
    }


def _msr_block(state: State) -> dict[str, Any]:
    own = _renamed(state, MSR_NAMES)
    up = own['upconv1.weight']
    upscale = 4 if 'upconv2.weight' in own else {4: 2, 9: 3}[len(up) // up.shape[1]]
    return _ends(own) | {'num_block': _count(own, 'body'), 'upscale': upscale}


BASICSR = {
    'EDSR': Known(
        'EDSR, by BasicSR or its authors (res_scale is in no tensor: 0.1 from 256 features on)',
        _edsr_block,
        _edsr_state,
    ),
    'MSRResNet': Known(
        'SRResNet as modified by BasicSR and its forerunners',
        _msr_block,
        lambda state: _renamed(state, MSR_NAMES),
    ),
    'RRDBNet': Known(
        "ESRGAN's RRDBNet, by BasicSR, Real-ESRGAN or ESRGAN's authors",
        _rrdb_block,
        lambda state: _renamed(state, RRDB_NAMES),
    ),
}
