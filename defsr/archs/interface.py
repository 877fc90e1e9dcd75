"""What methods hand to networks, and what comes back.

An arch says by its attribute ``reads`` what its ``forward`` takes:

- ``lq`` (the default, so BasicSR's own archs): ``net_g(lq)``;
- ``references``: ``net_g(lq, refs)``, ``refs`` a list of (N, 3, H', W') images, one per reference;
- ``matches``: ``net_g(lq, aligned)``, an ``Alignment``;
- ``rectified``: ``net_g(lq, de, spaces)``, the enhanced input and ``NullSpaces``;
- ``correspondences``: ``net_g(lq, found)``, ``Correspondences``.

It returns the image (N, 3, scale*h, scale*w), or a ``Restoration`` if losses or pictures need more
of it. It may say by ``size_multiple`` of which number the sides of ``lq`` must be multiples, by
``tile_grid`` at multiples of which position of ``lq`` its tiles should begin, by
``parameter_free`` that it has no weights, and by ``not_learned`` which of its arguments its weights
do not depend on, as what training started from: checkpoints do not keep them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from defsr.diffusion.reference_null_space import NullSpaces


@dataclass
class Reference:
    """One reference of each image of a batch.

    Attributes:
        image: (N, 3, H', W') RGB in [0, 1], as it is.
        enhanced: (N, 3, H', W') degraded and detail-enhanced, if it comes from a cache.
        valid: (N, 1, H'/scale, W'/scale) bool, of a reference in the input's frame: where it shows
            the scene. None: it is not in that frame.
    """

    image: Tensor
    enhanced: Tensor | None = None
    valid: Tensor | None = None


@dataclass
class Alignment:
    """The enhanced input, the references, and where each finds itself in the other.

    Attributes:
        feat_de: level -> (N, C, f*h, f*w) features of the enhanced input, f by ``LEVEL_FACTORS``.
        feat_ref: level -> (N, C, f*h', f*w') features of the untouched references.
        index: (N, h, w) int64 into h' * w', the match of each position.
        confidence: (N, h, w) in [-1, 1].
        key_size: (h', w') of the matched map.
        de: (N, 3, 4h, 4w) in [0, 1], the enhanced input itself.
        positions: level -> (N, 2, f*h, f*w) int64, rows then columns of the match of each
            position. None: those of ``index``, see ``match_positions``.
        spaces: of references in the input's frame, what they add to it. None: they are not.
    """

    feat_de: Mapping[str, Tensor]
    feat_ref: Mapping[str, Tensor]
    index: Tensor
    confidence: Tensor
    key_size: Sequence[int]
    de: Tensor | None = None
    positions: Mapping[str, Tensor] | None = None
    spaces: NullSpaces | None = None


@dataclass
class Correspondences:
    """References, and where the patch around each position of the input matches them.

    Attributes:
        feat_ref: level -> (N, C, f*h', f*w') features of the references, f by ``LEVEL_FACTORS``.
        feat_here: level -> (N, C, f*h, f*w), those of the first reference at the same places as
            the input; 0 beyond it.
        match_yx: (N, 2, h + 2, w + 2) int64, rows then columns in h' x w': the centre of the patch
            that matches the one around each position, of a ring around the input, too.
        confidence: (N, h, w) in [-1, 1], how well; 0 at the border, where no patch fits.
    """

    feat_ref: Mapping[str, Tensor]
    feat_here: Mapping[str, Tensor]
    match_yx: Tensor
    confidence: Tensor


@dataclass
class Restoration:
    """What one super-resolution gives; beside ``sr`` what a method has.

    Attributes:
        sr: (N, 3, scale*h, scale*w) in about [0, 1].
        textures: level -> (N, C, f*h, f*w) transferred textures, for losses on them.
        attention: (N, 1, h, w) soft attention with its gradient, for losses on it.
        de: (N, 3, scale*h, scale*w), the detail-enhanced input.
        index, confidence, winner: (N, h, w), the matches, and which reference (from 0) each is in.
        key_size: (h', w') of the map that ``index`` points into.
        rectified: (N, 3, scale*h, scale*w), at each place the best of references in its frame.
        rho: (N, 1, h, w) in [0, 1], how well it explains the input.
        views: what each of these rests on, as ``Rectified`` of ``defsr.rectify.rectifier``.
    """

    sr: Tensor
    textures: Mapping[str, Tensor] = field(default_factory=dict)
    attention: Tensor | None = None
    de: Tensor | None = None
    index: Tensor | None = None
    confidence: Tensor | None = None
    winner: Tensor | None = None
    key_size: Sequence[int] | None = None
    rectified: Tensor | None = None
    rho: Tensor | None = None
    views: Sequence[Any] = ()

    @classmethod
    def of(cls, answer: Tensor | Restoration) -> Restoration:
        """A network's answer, which may be the image alone."""
        return answer if isinstance(answer, Restoration) else cls(answer)

    def cut(self, height: int, width: int, scale: int) -> Restoration:
        """That of the top left ``height`` x ``width`` of the LR image: ``sr`` and the matches."""
        cuts = {
            name: getattr(self, name)[..., :height, :width]
            for name in ('index', 'confidence', 'winner')
            if getattr(self, name) is not None
        }
        return replace(self, sr=self.sr[..., : scale * height, : scale * width], **cuts)


def has_weights(net_or_class: nn.Module | type[nn.Module]) -> bool:
    """Whether an arch is to be loaded: not if it says that it is ``parameter_free``."""
    return not getattr(net_or_class, 'parameter_free', False)


def reads_of(net_or_class: nn.Module | type[nn.Module]) -> str:
    """What an arch's ``forward`` takes: ``lq`` unless it says otherwise."""
    return getattr(net_or_class, 'reads', 'lq')
