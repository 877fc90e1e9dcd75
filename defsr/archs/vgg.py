"""A frozen VGG cut at the last layer that is asked for, with the normalisation its weights need."""

from __future__ import annotations

import http.client
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from basicsr.archs.vgg_arch import NAMES
from torch import Tensor, nn

from defsr.utils.checks import check_choice, check_image
from defsr.utils.paths import find_pretrained
from defsr.utils.weights import check_same_layout, read_checkpoint, state_dict_of

VGG_TYPES = ('vgg16', 'vgg19')
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_WIDTHS = {'1': 64, '2': 128, '3': 256, '4': 512, '5': 512}
_NORMALISATION = ('mean', 'std')


class VGGTrunk(nn.Module):
    """VGG features by layer name, for texture matching and perceptual losses.

    Always frozen: no parameter asks for a gradient, and ``train()`` leaves it in eval mode.
    Gradients do flow to the image. The parameters are named ``conv1_1.weight`` and so on; a state
    dict that goes deeper than the cut may be loaded, what lies behind the cut is dropped.

    Args:
        layers (Sequence[str]): what ``forward`` returns, in BasicSR's names: ``conv1_1``,
            ``relu1_1``, ``pool1``, ... A ``conv`` layer is the value before its ReLU.
        vgg_type (str): ``vgg16`` or ``vgg19``. Default: ``vgg19``.
        weights (str): ``torchvision``: ImageNet weights, downloaded once by torchvision. A path,
            or a name in ``experiments/pretrained_models``: a trunk written by
            ``defsr.tools.convert_vgg``, or torchvision's VGG state dict
            (``vgg19-dcbb9e9d.pth``). ``none``: untrained, always the same random numbers.
            Default: ``torchvision``.
        where (str): the block that these came from, for messages.

    Raises:
        ValueError: for an unknown layer or type, and for a file of another type, without a layer
            that is asked for, or that is no VGG at all.
        FileNotFoundError: if the file is not there.
        OSError: if torchvision's weights cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: Sequence[str],
        vgg_type: str = 'vgg19',
        weights: str = 'torchvision',
        *,
        where: str = 'network_t',
    ) -> None:
        super().__init__()
        self.check(where, {'layers': layers, 'vgg_type': vgg_type, 'weights': weights})
        names = NAMES[vgg_type]
        self.vgg_type = vgg_type
        self.layers = tuple(sorted(set(layers), key=names.index))
        names = names[: names.index(self.layers[-1]) + 1]
        self.num_feat = {layer: num_feat_of(layer) for layer in self.layers}
        self.min_size = 2 ** sum(name.startswith('pool') for name in names)
        self.reach = _reach(names)

        for name, module in _build_layers(names, keep=self.layers).items():
            self.add_module(name, module)
        self.register_buffer('mean', torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer('std', torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.register_load_state_dict_pre_hook(_drop_deeper_layers)
        if weights == 'none':
            _init_untrained(self)
        elif weights == 'torchvision':
            self.load_state_dict(_download(vgg_type))
        else:
            state = _read_trunk(weights, vgg_type, self.state_dict(), f'{where}:weights')
            self.load_state_dict(state)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would. Errors as its own; reads no file."""
        vgg_type, layers, weights = block['vgg_type'], block['layers'], block['weights']
        names = NAMES[check_choice(f'{where}:vgg_type', vgg_type, VGG_TYPES)]
        if isinstance(layers, str) or not layers:
            raise ValueError(f'{where}:layers is {layers!r}, but must be a list such as [relu1_1].')
        for layer in layers:
            check_choice(f'{where}: a layer of {vgg_type}', layer, names)
        if weights not in ('torchvision', 'none'):
            find_pretrained(weights, f'{where}:weights')

    def train(self, mode: bool = True) -> VGGTrunk:
        """Stay in eval mode, whatever ``mode`` says."""
        return super().train(False)

    def forward(self, img: Tensor) -> dict[str, Tensor]:
        """(N,3,H,W) RGB in [0,1] -> the features of each layer, (N, num_feat, H/2^k, W/2^k).

        k is the number of pools before the layer; odd sides are rounded down at each. Memory
        format follows the image. ValueError for a side below ``min_size``.
        """
        return self.some(img, self.layers)

    def some(self, img: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """As ``forward``, of some of its layers, and no further than the last of them."""
        check_image('img', img)
        if min(img.shape[-2:]) < self.min_size:
            height, width = img.shape[-2:]
            raise ValueError(
                f'img is {height}x{width} (HxW), but {self.layers[-1]} of {self.vgg_type} needs '
                f'at least {self.min_size} pixels per side. Use larger images or earlier layers.'
            )
        x = (img - self.mean) / self.std
        features = {}
        for name, module in self.named_children():
            x = module(x)
            if name in layers:
                features[name] = x
            if len(features) == len(layers):
                break
        return features


class _UndrawnConv2d(nn.Conv2d):
    """Its weights are loaded in any case: drawing some would advance the global generator."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is (``nn.utils.skip_init`` would import SymPy, half a second)."""


def convert_torchvision(state: Mapping[str, Tensor], vgg_type: str) -> dict[str, Tensor]:
    """torchvision's ``features.N.weight`` -> ``conv1_1.weight``, with ImageNet's mean and std.

    Raises:
        ValueError: if the state dict is not that of ``vgg_type`` without batch normalisation.
    """
    found = {key for key in state if key.startswith('features.')}
    for other in VGG_TYPES:
        convs = {i for i, name in enumerate(NAMES[other]) if name.startswith('conv')}
        names = {f'features.{i}.{kind}' for i in convs for kind in ('weight', 'bias')}
        if found == names and other != vgg_type:
            raise ValueError(
                f'The weights are a {other}, but vgg_type is {vgg_type}. Set `vgg_type: {other}`.'
            )
        if found == names:
            params = {
                f'{NAMES[other][i]}.{kind}': state[f'features.{i}.{kind}'].float()
                for i in sorted(convs)
                for kind in ('weight', 'bias')
            }
            mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
            return {**params, 'mean': mean.view(1, 3, 1, 1), 'std': std.view(1, 3, 1, 1)}
    raise ValueError(
        f'The weights are no VGG trunk: expected a file of defsr.tools.convert_vgg or the state '
        f'dict of torchvision.models.{vgg_type}, got keys like {list(state)[:3]}.'
    )


def _reach(names: Sequence[str]) -> int:
    """How many pixels to each side of its own a value behind these layers depends on, at most."""
    reach, pixel = 0, 1
    for name in names:
        if name.startswith('conv'):
            reach += pixel
        elif name.startswith('pool'):
            reach, pixel = reach + pixel, 2 * pixel
    return reach


def num_feat_of(layer: str) -> int:
    """Channels of a layer."""
    return _WIDTHS[_block_of(layer)]


def stride_of(layer: str) -> int:
    """Pixels of the image, each way, for one position of a layer."""
    return 2 ** (int(_block_of(layer)) - (0 if layer.startswith('pool') else 1))


def _block_of(layer: str) -> str:
    """``2`` of ``relu2_1`` and of ``pool2``."""
    return layer.removeprefix('conv').removeprefix('relu').removeprefix('pool')[0]


def _build_layers(names: Sequence[str], keep: Sequence[str]) -> dict[str, nn.Module]:
    """The layers in order; a ReLU works in place unless its input is among ``keep``."""
    modules: dict[str, nn.Module] = {}
    num_in = 3
    for name in names:
        if name.startswith('conv'):
            num_out = num_feat_of(name)
            modules[name] = _UndrawnConv2d(num_in, num_out, 3, padding=1)
            num_in = num_out
        elif name.startswith('relu'):
            modules[name] = nn.ReLU(inplace=name.replace('relu', 'conv') not in keep)
        else:
            modules[name] = nn.MaxPool2d(2)
    return modules


def _init_untrained(trunk: VGGTrunk) -> None:
    generator = torch.Generator().manual_seed(0)
    for module in trunk.children():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, nonlinearity='relu', generator=generator)
            nn.init.zeros_(module.bias)


def _drop_deeper_layers(trunk: VGGTrunk, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    deeper = set(NAMES[trunk.vgg_type]) - set(dict(trunk.named_children()))
    for key in [key for key in state if key.startswith(prefix)]:
        if key.removeprefix(prefix).split('.')[0] in deeper:
            del state[key]


def _download(vgg_type: str) -> dict[str, Tensor]:
    source = torchvision.models.get_model_weights(vgg_type).IMAGENET1K_V1
    try:
        state = source.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise OSError(
            f'`weights: torchvision` needs {source.url}, which could not be fetched ({error}). '
            f'Download it elsewhere and set `weights: <path>`, or use the trunk that comes with '
            f'the repository: `weights: vgg16_trunk_hed.pth` with `vgg_type: vgg16`.'
        ) from error
    return convert_torchvision(state, vgg_type)


def _read_trunk(
    path: str | Path, vgg_type: str, needed: Mapping[str, Tensor], option: str
) -> dict[str, Tensor]:
    """A weight file -> what ``needed`` names. Errors as in ``VGGTrunk``."""
    file = find_pretrained(path, option)
    content = read_checkpoint(file, option=option)
    if 'params' not in content:
        params = convert_torchvision(state_dict_of(content, file, option), vgg_type)
    elif content.get('vgg_type') != vgg_type:
        raise ValueError(
            f'{option} is {file}, which is a {content.get("vgg_type")}, but vgg_type is '
            f'{vgg_type}. Set `vgg_type: {content.get("vgg_type")}` or use other weights.'
        )
    else:
        params = state_dict_of(content, file, option, 'params')
    missing = [key for key in needed if key not in params]
    if missing:
        asked = [key.split('.')[0] for key in missing]
        raise ValueError(
            f'{option} is {file}, which ends at {content.get("layers")} and has no '
            f'{", ".join(dict.fromkeys(asked))}. '
            'Ask for earlier layers, or use weights that go deeper.'
        )
    state = {key: params[key] for key in needed}
    check_same_layout(file, state, needed, option=option, network=vgg_type)
    return state
