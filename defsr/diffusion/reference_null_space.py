"""The null space of the input filled from references, where these explain the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.diffusion.operators import BicubicDownsample
from defsr.ops.evidence import Evidence
from defsr.ops.tiles import Index

POWER = 3  # of rho and of its fine part each: what a reference's detail counts
NETWORK_ERROR = 0.1  # variance of a network's error in a reference's detail, of that detail


@dataclass(frozen=True)
class NullSpaces:
    """What y leaves open, as a rectified reference W fills it.

    Attributes:
        pinv: (N, 3, H, W), A_pinv y, which every result begins with.
        other: (N, 3, H, W), a (I - A_pinv A) W, a the gain of the evidence; 0 where W is not valid.
        soft: (N, 3, h, w), A W.
        evidence: of W.
    """

    pinv: Tensor
    other: Tensor
    soft: Tensor
    evidence: Evidence

    @classmethod
    def of(
        cls, lq: Tensor, image: Tensor, evidence: Evidence, operator: BicubicDownsample
    ) -> NullSpaces:
        """Of y and W: (N, 3, h, w) and (N, 3, H, W)."""
        soft = operator.A(image)
        own = image - operator.A_pinv(soft)
        other = enlarged(evidence.gain, operator.scale) * own
        return cls(operator.A_pinv(lq), other, soft, evidence)

    def mixed(self, image: Tensor, share: Tensor) -> Tensor:
        """A_pinv y + (1 - M)(image - A_pinv y) + M other, M = ``share``, (N, 1, h, w)."""
        scale = image.shape[-1] // self.soft.shape[-1]
        return image + enlarged(share, scale) * (self.pinv + self.other - image)

    def filling(self, share: Tensor) -> Filling:
        """What ``mixed`` does, for each step of a diffusion; ``share`` as there."""
        scale = self.pinv.shape[-1] // self.soft.shape[-1]
        return Filling(self.pinv + self.other, enlarged(share, scale))

    def __getitem__(self, piece: tuple[Index, Index]) -> NullSpaces:
        """The same of a tile: its slices at the sizes of A W and of W."""
        small, large = piece
        evidence = self.evidence.map(lambda x: x[small])
        return NullSpaces(self.pinv[large], self.other[large], self.soft[small], evidence)


@dataclass(frozen=True)
class Filling:
    """What a reference says of each x0 that a diffusion predicts: DEF's Eq. 8-9 step by step.

    ``(1 - M) x0 + M (A_pinv y + a (I - A_pinv A) W)``; the sampler projects it onto y. Where M is 0
    it is x0 to the bit. On whatever scale both images are.

    Attributes:
        image: (N, 3, H, W), A_pinv y + a (I - A_pinv A) W.
        share: (N, 1, H, W) in [0, 1], M.
    """

    image: Tensor
    share: Tensor

    def __call__(self, x0: Tensor) -> Tensor:
        """(N, 3, H, W) -> the same."""
        return torch.lerp(x0, self.image, self.share)

    def map(self, change: Callable[[Tensor], Tensor]) -> Filling:
        """The same change to both, as a crop."""
        return Filling(change(self.image), change(self.share))


def trust(evidence: Evidence) -> Tensor:
    """What the detail of a reference counts, (N, 1, h, w): (rho fine)^``POWER``."""
    return (evidence.rho * evidence.fine) ** POWER


def trust_beside_network(evidence: Evidence) -> Tensor:
    """What it counts beside a network's result, (N, 1, h, w): ``t v / (v + 1 - t^2)``.

    t = rho fine. Two estimates of one detail, by the variances of their errors: v, a network's
    (``NETWORK_ERROR``), and 1 - t^2 of a reference that correlates by t; times t, so that one
    that does not correlate at all counts nothing.
    """
    t = evidence.rho * evidence.fine
    return t * NETWORK_ERROR / (NETWORK_ERROR + 1 - t.square())


def with_null_space(
    lq: Tensor, de: Tensor, image: Tensor, evidence: Evidence, operator: BicubicDownsample
) -> Tensor:
    """DEF's Eq. 9 with a reference as the image of the null space, where it explains the input.

    ``A_pinv y + (1 - M)(I_DE - A_pinv y) + M a (I - A_pinv A) W``, M as of ``trust``, projected: M
    and a vary in space, so the sum alone would miss y.

    Args:
        lq: (N, 3, h, w), y.
        de: (N, 3, H, W), I_DE.
        image: (N, 3, H, W), the rectified reference W.
        evidence: of W.
        operator: A, with its pseudo-inverse.

    Returns:
        (N, 3, H, W) in [0, 1].
    """
    spaces = NullSpaces.of(lq, image, evidence, operator)
    return project(spaces.mixed(de, trust(evidence)), lq, operator)


@dataclass(frozen=True)
class Best:
    """What ``best_of`` chooses: an image, its evidence, where it is valid, and what it is of.

    Attributes:
        image: (N, 3, H, W).
        evidence: of it.
        valid: (N, 1, h, w) bool.
        source: (N, 1, h, w) int64, which of the images.
    """

    image: Tensor
    evidence: Evidence
    valid: Tensor
    source: Tensor


def best_of(views: Sequence[tuple[Tensor, Evidence, Tensor]], scale: int) -> Best:
    """One image of several: at each place the one that is trusted most, or is valid at all.

    Args:
        views: images (N, 3, H, W) with their evidence and (N, 1, h, w) where they are valid; the
            first wins a tie.
        scale: of images to evidence.
    """
    image, evidence, valid = views[0]
    source = torch.zeros_like(valid, dtype=torch.int64)
    score = trust(evidence) + valid
    for number, (other, found, there) in enumerate(views[1:], start=1):
        wins = trust(found) + there > score
        score = torch.maximum(score, trust(found) + there)
        image = image + enlarged(wins.to(image), scale) * (other - image)
        names = ('rho', 'fine', 'gain')
        pairs = ((getattr(found, name), getattr(evidence, name)) for name in names)
        evidence = Evidence(*(torch.where(wins, new, old) for new, old in pairs))
        source = torch.where(wins, number, source)
        valid = valid | there
    return Best(image, evidence, valid, source)


def gated(de: Tensor, sr: Tensor, spaces: NullSpaces) -> Tensor:
    """A network's result where the references explain the input, elsewhere I_DE.

    ``I_DE + rho (sr - I_DE)``, then this and the references' own null space by
    ``trust_beside_network``.

    Args:
        de, sr: (N, 3, H, W).
        spaces: of the references.
    """
    scale = de.shape[-1] // spaces.soft.shape[-1]
    sr = de + enlarged(spaces.evidence.rho, scale) * (sr - de)
    return spaces.mixed(sr, trust_beside_network(spaces.evidence))


def project(x: Tensor, lq: Tensor, operator: BicubicDownsample, rounds: int = 2) -> Tensor:
    """The image nearest to x whose A is y, in [0, 1]: clamping moves it, so in some rounds.

    Example:
        >>> operator = BicubicDownsample(4)
        >>> x, lq = torch.rand(1, 3, 32, 48), torch.full((1, 3, 8, 12), 0.5)
        >>> float((operator.A(project(x, lq, operator)) - lq).abs().mean()) < 0.01
        True
    """
    for _ in range(rounds):
        x = operator.project(x, lq).clamp(0, 1)
    return x


def enlarged(x: Tensor, scale: int) -> Tensor:
    """A map of the input's size at that of the result, bilinear."""
    return F.interpolate(x, scale_factor=float(scale), mode='bilinear')
