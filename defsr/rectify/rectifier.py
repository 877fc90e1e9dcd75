"""References brought into the input's frame, before anything is matched patch by patch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from basicsr.utils import get_root_logger
from torch import Tensor
from torch.nn import functional as F

from defsr.archs.interface import Reference
from defsr.diffusion.degradation import Degradation
from defsr.diffusion.reference_null_space import with_null_space
from defsr.ops.affine_field import moving_least_squares
from defsr.ops.dense_warp import local_scale, warp
from defsr.ops.evidence import Evidence, evidence_of
from defsr.rectify.confirmation import Confirmed, confirm
from defsr.rectify.flow import positions, refine_field
from defsr.rectify.matchers import MATCHERS, Matcher
from defsr.utils.checks import check_block, check_choice, check_keys

MODELS = ('field', 'homography')
FIRST_FLOW, SECOND_FLOW = 8.0, 4.0  # pixels that the optical flow may move the field by
LEAST_SPACING = 24.0  # pixels: fields do not follow closer matches one by one
REACH = 3.0  # times the spacing that a position may lie from the nearest confirmed match
FINER = 1 / 3  # pixels of a reference per pixel of the result, below which it shows no more
FEW = 60  # confirmed matches, below which the mirror image is tried too
BORDER = 3  # LR pixels that the operator's reach and the windows take from a mask


@dataclass(frozen=True)
class Rectified:
    """A reference in the input's frame.

    Attributes:
        image: (1, 3, H, W) in [0, 1], of the result's size.
        valid: (1, 1, h, w) bool, at the input's size, where it can be trusted geometrically.
        evidence: how well it explains the input.
        confirmed: the matches it rests on.
    """

    image: Tensor
    valid: Tensor
    evidence: Evidence
    confirmed: Confirmed


class Rectifier:
    """Brings references into the frame of the enhanced input, or leaves them out.

    Correspondences, a geometry that confirms them, a field, two small optical flows; see
    ``docs/rectify.md``.

    Args:
        degradation: of the input.
        matcher: a name in ``MATCHERS``.
        model: ``field``, moving least squares through the confirmed matches, for scenes with
            depth; ``homography``, for planes and for cameras that only turned.
        flow: follow with optical flow.

    Raises:
        ValueError: for another value of these.
    """

    def __init__(
        self,
        degradation: Degradation,
        matcher: str = 'sift',
        model: str = 'field',
        flow: bool = True,
    ) -> None:
        self.degradation = degradation
        self.matcher_name = check_choice('rectify:matcher', matcher, MATCHERS)
        self.model = check_choice('rectify:model', model, MODELS)
        self.flow = check_choice('rectify:flow', flow, (True, False))

    @classmethod
    def from_opt(cls, block: object, degradation: Degradation) -> Rectifier | None:
        """Of the option ``rectify``: a block, or ``none``."""
        if block is None or block == 'none':
            return None
        options = check_block('rectify', block)
        check_keys('rectify', options, ('matcher', 'model', 'flow'))
        return None if options.get('matcher') == 'none' else cls(degradation, **options)

    @cached_property
    def matcher(self) -> Matcher:
        """Loaded when first used."""
        return MATCHERS[self.matcher_name]()

    @torch.no_grad()
    def __call__(
        self,
        lq: Tensor,
        de: Tensor,
        refs: Sequence[Reference],
        enhance: Callable[[Tensor], Tensor],
    ) -> list[Rectified]:
        """Those references that a geometry confirms; the log says what became of each.

        Args:
            lq: (1, 3, h, w).
            de: (1, 3, H, W), the enhanced input.
            refs: as they are.
            enhance: an input -> its enhanced image, for references that are softened alike.
        """
        found = []
        for number, ref in enumerate(refs, start=1):
            one, told = self._rectify(lq, de, ref, enhance)
            get_root_logger().info(f'Reference {number}: {told}')
            if one is not None:
                found.append(one)
        return found

    def _rectify(
        self, lq: Tensor, de: Tensor, ref: Reference, enhance: Callable[[Tensor], Tensor]
    ) -> tuple[Rectified | None, str]:
        image = self.degradation.cut(ref.image, 'A reference')
        key = image
        if self.matcher.wants_alike:
            soft = ref.enhanced
            key = enhance(self.degradation.degrade(image)) if soft is None else soft
        height, width = de.shape[-2:]
        confirmed = confirm(self.matcher(de, key), (height, width))
        number = 0 if confirmed is None else confirmed.number
        if number < FEW and self._is_mirrored(de, key, number):
            return None, 'left out: it is mirrored. Flip it and try again.'
        if confirmed is None or not confirmed.suffices:
            return None, f'left out: {number} matches confirmed, too few to know where it lies.'
        field = self._field(confirmed, (height, width))
        if float(local_scale(field).median()) < FINER:
            return None, 'left out: it shows the scene no finer than the input does.'
        if self.flow:
            operator = self.degradation.operator
            seen = warp(image, field)[0]
            field = refine_field(
                field, operator.A_pinv(lq), operator.A_pinv(operator.A(seen)), FIRST_FLOW
            )
            first = self._seen(lq, image, field, confirmed)
            sharp = with_null_space(lq, de, [(first.image, first.evidence)], operator)
            field = refine_field(field, sharp, first.image, SECOND_FLOW)
        one = self._seen(lq, image, field, confirmed)
        if not bool(one.valid.any()):
            return None, 'left out: it shows nothing of what the input shows.'
        return one, (
            f'{confirmed.number} matches confirmed, {float(one.valid.float().mean()):.0%} covered, '
            f'rho {float(one.evidence.rho.sum() / one.valid.sum()):.2f}.'
        )

    def _is_mirrored(self, de: Tensor, key: Tensor, number: int) -> bool:
        """Whether more than twice as many matches are confirmed in the mirror image."""
        found = confirm(self.matcher(de, key.flip(-1)), (de.shape[-2], de.shape[-1]))
        return found is not None and found.suffices and found.number > 2 * number

    def _field(self, confirmed: Confirmed, size: tuple[int, int]) -> Tensor:
        if self.model == 'homography':
            return _homography_field(confirmed.homography, size)
        sigma = 1.5 * _spacing(confirmed, size)
        return moving_least_squares(*confirmed.matches, size, sigma)

    def _seen(self, lq: Tensor, image: Tensor, field: Tensor, confirmed: Confirmed) -> Rectified:
        """A reference through a field, with its mask and its evidence."""
        seen, inside = warp(image, field)
        seen = seen.clamp(0, 1)
        scale = self.degradation.scale
        size = (lq.shape[-2] * scale, lq.shape[-1] * scale)
        whole = F.avg_pool2d(inside.to(lq), scale) > 0.999
        near = _near(confirmed, (lq.shape[-2], lq.shape[-1]), scale, _spacing(confirmed, size))
        valid = _eroded(whole & near, BORDER)
        soft = self.degradation.operator.A(seen)
        return Rectified(seen, valid, evidence_of(lq, soft, valid), confirmed)


def _spacing(confirmed: Confirmed, size: tuple[int, int]) -> float:
    """Mean distance of confirmed matches, were they even over what they cover; with a least."""
    area = max(confirmed.covered, 1e-3) * size[0] * size[1]
    return max(LEAST_SPACING, math.sqrt(area / confirmed.number))


def _near(confirmed: Confirmed, size: tuple[int, int], scale: int, spacing: float) -> Tensor:
    """(1, 1, h, w) bool, within ``REACH`` spacings of a match: beyond them fields run wild."""
    places = positions(*size).flatten(1).T * scale + (scale - 1) / 2
    matches = confirmed.matches.query_yx.float()
    parts = [torch.cdist(part, matches).amin(dim=1) for part in places.split(4096)]
    return (torch.cat(parts) < REACH * spacing).view(1, 1, *size)


def _eroded(mask: Tensor, pixels: int) -> Tensor:
    outside = F.pad((~mask).float(), [pixels] * 4, value=1.0)
    return F.max_pool2d(outside, 2 * pixels + 1, stride=1) < 0.5


def _homography_field(homography: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = positions(*size).double()
    x, y, w = torch.einsum(
        'ij,jhw->ihw', homography, torch.stack((columns, rows, torch.ones_like(rows)))
    )
    return torch.stack((y / w, x / w)).float()
