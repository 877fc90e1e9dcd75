"""References brought into the input's frame, before anything is matched patch by patch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from logging import getLogger
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.archs.interface import Reference
from defsr.diffusion.degradation import Degradation
from defsr.diffusion.reference_null_space import with_null_space
from defsr.ops.affine_field import moving_least_squares
from defsr.ops.dense_warp import homography_field, local_scale, positions, warp
from defsr.ops.evidence import Evidence, evidence_of
from defsr.rectify.confirmation import Confirmed, planes_of
from defsr.rectify.flow import refine_field
from defsr.rectify.matchers import AUTO, MATCHERS, matcher_name, versions_of
from defsr.rectify.matches import Matcher
from defsr.rectify.search import Found, find
from defsr.utils.checks import check_block, check_choice, check_keys
from defsr.utils.surroundings import as_if_alone

LOG = getLogger('basicsr.references')  # what became of each, for people
STEPS = 2  # of each reference: it is found, and brought into the frame
MODELS = ('field', 'planes', 'field_and_planes', 'homography')
FIRST_FLOW = 8.0  # pixels that the optical flow may move the field by, soft against soft
SHARP_FLOWS = (4.0, 4.0)  # pixels, and how often after that: sharp against sharp
REACH = 3.0  # times the spacing that a position may lie from the nearest confirmed match
FINER = 1 / 3  # pixels of a reference per pixel of the result, below which it shows no more
LEAST_RHO = 0.3  # on average: after the flows unrelated photographs reach 0.28
BORDER = 3  # LR pixels that the operator's reach and the windows take from a mask


@dataclass(frozen=True)
class Rectified:
    """A reference in the input's frame.

    Attributes:
        image: (1, 3, H, W) in [0, 1], of the result's size.
        valid: (1, 1, h, w) bool, at the input's size, where it can be trusted geometrically.
        evidence: how well it explains the input.
        confirmed: the matches it rests on.
        number: which reference it is, from 0.
    """

    image: Tensor
    valid: Tensor
    evidence: Evidence
    confirmed: Confirmed
    number: int

    @property
    def mean_rho(self) -> float:
        """Over what is valid; 0 if nothing is."""
        return float(self.evidence.rho.sum() / self.valid.sum().clamp(min=1))

    def to(self, device: torch.device) -> Rectified:
        """The same with its maps there."""
        maps = self.image.to(device), self.valid.to(device)
        evidence = self.evidence.map(lambda x: x.to(device))
        return Rectified(*maps, evidence, self.confirmed, self.number)


class Rectifier:
    """Brings references into the frame of the enhanced input, or leaves them out.

    Correspondences, a geometry that confirms them, a field, small optical flows; see
    ``docs/rectify.md``.

    Args:
        degradation: of the input.
        matcher: a name in ``MATCHERS``, or ``auto``: the learned one if it is installed.
        model: ``field``, moving least squares through the confirmed matches, for scenes with
            depth; ``planes``, up to four homographies, each a view of its own;
            ``field_and_planes``, both; ``homography``, for one plane and for cameras that only
            turned.
        flow: follow with optical flow.

    Raises:
        ValueError: for another value of these.

    Example:
        >>> from skimage.data import astronaut
        >>> photo = torch.from_numpy(astronaut()).permute(2, 0, 1)[None] / 255
        >>> gt, ref = photo[..., :256, 128:384], Reference(photo[..., 24:280, 160:416])
        >>> degradation = Degradation('matlab', 4)
        >>> gt, lq = degradation.make_lq(gt)
        >>> enhance = lambda lq: degradation.operator.A_pinv(lq).clamp(0, 1)
        >>> [view] = Rectifier(degradation, 'sift')(lq, enhance(lq), [ref], enhance)
        >>> view.image.shape == gt.shape and view.mean_rho > 0.9
        True
    """

    def __init__(
        self,
        degradation: Degradation,
        matcher: str = AUTO,
        model: str = 'field',
        flow: bool = True,
    ) -> None:
        self.degradation = degradation
        self.matcher_name = check_choice('rectify:matcher', matcher, (AUTO, *MATCHERS))
        self.model = check_choice('rectify:model', model, MODELS)
        self.flow = check_choice('rectify:flow', flow, (True, False))

    @classmethod
    def from_opt(cls, block: object, degradation: Degradation) -> Rectifier | None:
        """Of the option ``rectify``: a block, or ``none``."""
        if not cls.is_on(block):
            return None
        options = check_block('rectify', block)
        check_keys('rectify', options, ('matcher', 'model', 'flow'))
        return cls(degradation, **options)

    @staticmethod
    def is_on(block: object) -> bool:
        """Whether the option ``rectify`` is anything but ``none``."""
        nothing = isinstance(block, Mapping) and block.get('matcher') == 'none'
        return not (block is None or block == 'none' or nothing)

    def fingerprint(self) -> dict[str, Any]:
        """What determines its results, beside the enhancer; caches carry it along."""
        name = matcher_name(self.matcher_name)
        block = {'matcher': name, 'model': self.model, 'flow': self.flow}
        return {'rectify': block, 'versions': versions_of(name)}

    @cached_property
    def matcher(self) -> Matcher:
        """Loaded when first used."""
        name = matcher_name(self.matcher_name)
        if name != self.matcher_name:
            hint = '' if name != 'sift' else " (pip install 'defsr[match]' finds far more)"
            LOG.info(f'rectify:matcher auto is {name}{hint}.')
        with as_if_alone():
            return MATCHERS[name]()

    @torch.no_grad()
    def __call__(
        self,
        lq: Tensor,
        de: Tensor,
        refs: Sequence[Reference],
        enhance: Callable[[Tensor], Tensor],
        *,
        tell: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Rectified]:
        """Those references that a geometry confirms; the log says what became of each.

        Args:
            lq: (1, 3, h, w).
            de: (1, 3, H, W), the enhanced input.
            refs: as they are.
            enhance: an input -> its enhanced image, for references that are softened alike.
            tell: a line for each reference, for people with one photograph.
            progress: called as (done, total): a reference is ``STEPS``, finding it and bringing it
                into the frame.
        """
        views = []
        for number, ref in enumerate(refs):
            found = self.find(de, ref, enhance)
            if progress:
                progress(STEPS * number + 1, STEPS * len(refs))
            seen, reasons = self._views(lq, de, ref, found, number)
            if progress:
                progress(STEPS * (number + 1), STEPS * len(refs))
            if tell:
                LOG.info(f'Reference {number + 1}: {_told(seen, reasons, found)}')
            views += seen
        return views

    def find(self, de: Tensor, ref: Reference, enhance: Callable[[Tensor], Tensor]) -> Found:
        """Where the enhanced input is seen in a reference: arguments as of a call."""
        key = self._cut(ref)
        if self.matcher.wants_alike:
            soft = ref.enhanced
            key = enhance(self.degradation.degrade(key)) if soft is None else soft
        return find(self.matcher, de.cpu(), key.cpu())

    def rectify(
        self, lq: Tensor, de: Tensor, ref: Reference, found: Found, number: int = 0
    ) -> list[Rectified]:
        """The views of a reference through the geometry that was found, none if it is refused."""
        return self._views(lq, de, ref, found, number)[0]

    def _views(
        self, lq: Tensor, de: Tensor, ref: Reference, found: Found, number: int
    ) -> tuple[list[Rectified], list[str]]:
        """And the reasons of those that are refused."""
        confirmed = found.confirmed
        if confirmed is None or not confirmed.suffices or found.mirrored:
            return [], []
        parts = [(confirmed, self.model == 'homography')] if self.model != 'planes' else []
        if 'planes' in self.model:
            parts += [(plane, True) for plane in planes_of(confirmed)]
        images = lq.cpu(), de.cpu(), self._cut(ref).cpu()  # the flow is OpenCV's
        found_or_not = [self._view(*images, part, is_plane, number) for part, is_plane in parts]
        views = [view.to(lq.device) for view in found_or_not if isinstance(view, Rectified)]
        return views, [reason for reason in found_or_not if isinstance(reason, str)]

    def _view(
        self,
        lq: Tensor,
        de: Tensor,
        image: Tensor,
        confirmed: Confirmed,
        is_plane: bool,
        number: int,
    ) -> Rectified | str:
        size = (de.shape[-2], de.shape[-1])
        if is_plane:
            field = homography_field(confirmed.homography, size)
        else:
            field = moving_least_squares(*confirmed.matches, size, 1.5 * confirmed.spacing)
        fineness = float(local_scale(field).median())
        if fineness < FINER:
            scale = self.degradation.scale
            return (
                f'it is no finer: {scale * fineness:.1f} of its pixels to one of the input along a '
                f'line, at least {scale * FINER:.1f} are of use. Give one that is larger or closer.'
            )
        if self.flow:
            field = flowed(lq, de, image, field, self.degradation)
        one = self._seen(lq, image, field, confirmed, number)
        if one.mean_rho < LEAST_RHO:
            return f'it does not explain the input: rho is {one.mean_rho:.2f}, below {LEAST_RHO}.'
        return one

    def _seen(
        self, lq: Tensor, image: Tensor, field: Tensor, confirmed: Confirmed, number: int
    ) -> Rectified:
        """A reference through a field, with its mask and its evidence."""
        seen, inside = warp(image, field)
        near = _near(confirmed, (lq.shape[-2], lq.shape[-1]), self.degradation.scale)
        valid = eroded(_whole(inside, self.degradation.scale) & near)
        seen = seen.clamp(0, 1)
        evidence = evidence_of(lq, self.degradation.operator.A(seen), valid)
        return Rectified(seen, valid, evidence, confirmed, number)

    def _cut(self, ref: Reference) -> Tensor:
        return self.degradation.cut(ref.image, 'A reference')


def _told(views: Sequence[Rectified], reasons: Sequence[str], found: Found) -> str:
    """What became of a reference, for the log."""
    number = 0 if found.confirmed is None else found.confirmed.number
    if views:
        covered = torch.stack([view.valid for view in views]).any(dim=0).float().mean()
        rho = max(view.mean_rho for view in views)
        return f'{number} matches confirmed, {float(covered):.0%} covered, rho {rho:.2f}.'
    if found.mirrored:
        return 'left out: it is mirrored. Flip it and try again.'
    if found.confirmed is None or not found.confirmed.suffices:
        return f'left out: {number} matches confirmed, too few to know where it lies.'
    reason = reasons[0] if reasons else 'they lie on no plane.'
    return f'left out: {number} matches confirmed, but {reason}'


def _near(confirmed: Confirmed, size: tuple[int, int], scale: int) -> Tensor:
    """(1, 1, h, w) bool, within ``REACH`` spacings of a match: beyond them fields run wild."""
    places = positions(*size).flatten(1).T * scale + (scale - 1) / 2
    matches = confirmed.matches.query_yx.float()
    parts = [torch.cdist(part, matches).amin(dim=1) for part in places.split(4096)]
    return (torch.cat(parts) < REACH * confirmed.spacing).view(1, 1, *size)


def _whole(inside: Tensor, scale: int) -> Tensor:
    """(1, 1, H, W) -> (1, 1, h, w) bool, whether all of a pixel's area is inside."""
    return F.avg_pool2d(inside.float(), scale) > 0.999


def eroded(mask: Tensor, pixels: int = BORDER) -> Tensor:
    """(1, 1, h, w) bool without what is near its border; that of the image is none to A."""
    outside = F.pad((~mask).float(), [pixels] * 4)
    return F.max_pool2d(outside, 2 * pixels + 1, stride=1) < 0.5


def flowed(
    lq: Tensor, de: Tensor, image: Tensor, field: Tensor, degradation: Degradation
) -> Tensor:
    """A field after the flows: first both sides soft alike, then against the sharp estimate.

    Args:
        lq: (1, 3, h, w).
        de: (1, 3, H, W), the enhanced input.
        image: a reference.
        field: (2, H, W), where each pixel lies in it.
        degradation: of the input.
    """
    operator = degradation.operator
    soft = operator.A_pinv(operator.A(warp(image, field)[0]))
    field = refine_field(field, operator.A_pinv(lq), soft, FIRST_FLOW)
    for most in SHARP_FLOWS:
        seen, inside = warp(image, field)
        seen = seen.clamp(0, 1)
        evidence = evidence_of(lq, operator.A(seen), eroded(_whole(inside, degradation.scale)))
        sharp = with_null_space(lq, de, seen, evidence, operator)
        field = refine_field(field, sharp, seen, most)
    return field
