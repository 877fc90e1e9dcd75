"""Networks that see rectified references: the training-free one, and the fusion of a DEFNet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from defsr.archs.blocks import build_network
from defsr.archs.interface import Reference
from defsr.archs.null_space_arch import ReferenceNullSpace
from defsr.archs.null_space_fusion_arch import NullSpaceFusion
from defsr.diffusion.degradation import Degradation
from defsr.diffusion.reference_null_space import NullSpaces, best_of, with_null_space
from defsr.methods.from_rectified import FromRectified
from defsr.models.parameter_groups import freeze
from defsr.ops.evidence import Evidence, evidence_of
from defsr.tools.upscale import told_lines

MATLAB = Degradation('matlab', 4)
OPERATOR = MATLAB.operator


class PinvEnhancer(nn.Module):
    def forward(self, lq: Tensor) -> Tensor:
        return OPERATOR.A_pinv(lq).clamp(0, 1)


@pytest.fixture(scope='module')
def photo(stereo) -> Tensor:
    """(1, 3, 160, 200) of the left image."""
    left = stereo[0].reshape(1, *stereo[0].shape[-3:])
    return left[..., 120:280, 200:400]


def method(**options: object) -> FromRectified:
    return FromRectified(PinvEnhancer(), MATLAB, **{'rectify': {'matcher': 'sift'}} | options)


def test_the_null_space_row_is_the_formula(photo):
    gt, lq = MATLAB.make_lq(photo)
    one = method(project='exact')
    net = ReferenceNullSpace().eval()
    moved = photo.roll((2, -3), dims=(-2, -1))
    found = one.super_resolve(net, lq, [Reference(moved)])
    view = found.views[0]
    de = one.enhance(lq)
    expected = with_null_space(lq, de, view.image, view.evidence, OPERATOR)
    torch.testing.assert_close(found.sr, expected)
    assert float((found.sr - gt).square().mean()) < 0.5 * float((de - gt).square().mean())
    tiled = one.super_resolve(net, lq, [Reference(moved)], views=found.views, tile=16, overlap=4)
    torch.testing.assert_close(tiled.sr, found.sr)


def test_what_is_not_clean_is_not_projected_onto(photo, rng):
    _, lq = MATLAB.make_lq(photo)
    noisy = (lq + 0.02 * torch.randn(lq.shape, generator=rng)).clamp(0, 1)
    sr = {}
    for image, other in ((lq, 'exact'), (noisy, 'off')):
        for project in ('auto', other):
            with told_lines('basicsr.references') as lines:
                refs = [Reference(photo)]
                net = ReferenceNullSpace().eval()
                found = method(project=project).super_resolve(net, image, refs)
            sr[project] = found.sr
            told = any('has noise or traces of JPEG' in line for line in lines)
            assert told == (project == 'auto' and image is noisy)
        torch.testing.assert_close(sr['auto'], sr[other])
    assert float((OPERATOR.A(sr['auto']) - noisy).abs().mean()) > 1e-4  # it would be less


def test_without_a_reference_that_is_confirmed_the_result_is_the_input(photo):
    _, lq = MATLAB.make_lq(photo)
    with told_lines('basicsr.references') as lines:
        found = method().super_resolve(
            ReferenceNullSpace(), lq, [Reference(torch.rand(1, 3, 64, 64))]
        )
    assert len(lines) == 2 and lines[1].startswith('None of 1 references used'), lines
    assert float((OPERATOR.A(found.sr) - lq).abs().mean()) < 1e-3  # but for clamping


def test_two_halves_are_put_together(photo, rng):
    """Each place comes from the view that explains it."""
    _, lq = MATLAB.make_lq(photo)
    views = []
    for columns in (slice(0, 25), slice(25, 50)):
        valid = torch.zeros(1, 1, *lq.shape[-2:], dtype=torch.bool)
        valid[..., columns] = True
        noise = torch.rand(photo.shape, generator=rng)
        image = torch.where(valid.repeat_interleave(4, -1).repeat_interleave(4, -2), photo, noise)
        views.append((image, evidence_of(lq, OPERATOR.A(image), valid), valid))
    best = best_of(views, 4)
    assert float(best.evidence.rho.mean()) > 0.9 and bool(best.valid.all())
    assert best.source[0, 0, 5].tolist() == [0] * 25 + [1] * 25
    inner = (best.image - photo).abs().mean(dim=(0, 1))
    assert float(inner[:, :88].max()) < 0.02 and float(inner[:, 112:].max()) < 0.02


def test_references_elsewhere_are_refused(photo):
    one = method()
    with pytest.raises(ValueError, match='Set rectify, or give the data dataroot_ref_rect'):
        one.prepare(ReferenceNullSpace(), [Reference(photo)])


def spaces_of(rng: torch.Generator, trusted: float) -> tuple[Tensor, Tensor, Tensor, NullSpaces]:
    lq = torch.rand(1, 3, 8, 8, generator=rng)
    de, sr, other, pinv = (torch.rand(1, 3, 32, 32, generator=rng) for _ in range(4))
    level = torch.full((1, 1, 8, 8), trusted)
    return lq, de, sr, NullSpaces(pinv, other, lq, Evidence(level, level, level))


@pytest.mark.parametrize('trusted', [0.0, 1.0])
def test_a_fusion_begins_as_the_mean_of_what_is_trusted(rng, trusted):
    lq, de, sr, spaces = spaces_of(rng, trusted)
    fused = NullSpaceFusion(8, 1)(lq, de, sr, spaces, torch.zeros(1, 8, 8))
    plain = 0.1 * de + 0.9 * sr
    expected = plain if not trusted else (plain + spaces.pinv + spaces.other) / 2
    torch.testing.assert_close(fused, expected, atol=5e-3, rtol=0)


def test_a_fusion_learns_where_all_else_is_frozen(rng):
    net = build_network({
        'type': 'DEFNet', 'skip': 'de', 'transfer': {'type': 'HardTransferArch'},
        'aggregator': {'type': 'TTSRAggregator', 'num_feat': 4, 'num_block': [1, 1, 1, 1]},
        'fusion': {'type': 'NullSpaceFusion', 'num_feat': 8, 'num_block': 1},
    })  # fmt: skip
    freeze(net, ['aggregator'])
    trained = {name.split('.')[0] for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {'fusion'}
    with pytest.raises(ValueError, match='train:freeze: enhancer fits no parameter of DEFNet'):
        freeze(net, ['enhancer'])
    lq, de, sr, spaces = spaces_of(rng, 1.0)
    fused = net.fusion(lq, de, sr, spaces, torch.zeros(1, 8, 8))
    fused.mean().backward()
    assert all(p.grad is not None for p in net.fusion.last.parameters())
    with pytest.raises(ValueError, match='leaves nothing to train'):
        freeze(net, ['fusion'])


def test_blocks_of_a_large_image_are_one_piece(photo, monkeypatch):
    _, lq = MATLAB.make_lq(photo)
    one, net = method(gate='evidence', project='exact'), ReferenceNullSpace().eval()
    refs = [Reference(photo.roll(2, dims=-1)), Reference(torch.rand(1, 3, 64, 64))]
    whole = one.super_resolve(net, lq, refs)
    monkeypatch.setattr('defsr.methods.base.BLOCK', 24)
    monkeypatch.setattr('defsr.methods.blocks.BLOCK', 24)
    blocks = one.super_resolve(net, lq, refs, views=whole.views)
    inner = (blocks.sr - whole.sr).abs()
    assert float(inner.max()) < 0.02  # evidence is looked at anew in each block
    assert set(whole.winner.unique().tolist()) == {0}
