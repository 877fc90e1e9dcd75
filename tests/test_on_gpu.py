"""On a CUDA device everything public says what it says on the CPU."""

from __future__ import annotations

import re

import pytest
import torch
from basicsr.models import build_model
from repository import REPOSITORY
from torch import Tensor
from torch.testing import assert_close
from workspaces import (
    DENOISER,
    DIFFUSION,
    SMALL,
    TRAIN,
    build_enhancer,
    losses_on_one_batch,
    pairs,
    run_well,
    save_options,
    write_prior,
)

import defsr
from defsr.archs.enhancer_arch import DDNMEnhancer
from defsr.config.files import load_options
from defsr.diffusion.degradation import Degradation
from defsr.methods.build import Restorer
from defsr.ops import deform_conv_at, match_patches
from defsr.ops.block_matching import match_block_centres
from defsr.ops.match_coherence import agreed_field
from defsr.ops.match_refine import refine_positions
from defsr.ops.matching_coarse import match_coarse_to_fine
from defsr.ops.matching_inside import match_patches_inside
from defsr.ops.matching_near import match_patches_near

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device'),
]

ROWS = [
    row
    for file in sorted((REPOSITORY / 'experiments/pretrained_models').glob('small_*.pth'))
    if (SMALL / f'{(row := file.stem.removeprefix("small_"))}_x4.yml').exists()
    and row != 'C2_student'
]


@pytest.fixture(autouse=True)
def _float32():
    """Convolutions in all of float32, as on the CPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def assert_alike(sr: Tensor, other: Tensor, share: float = 0.002) -> None:
    """But for the few places where two matches tie and rounding decides."""
    off = (sr.cpu() - other.cpu()).abs()
    assert sr.isfinite().all()
    assert float((off > 2e-3).float().mean()) < share, float(off.max())


def assert_same_matches(search, query: Tensor, key: Tensor, **options) -> None:
    """The same places but for ties, the same confidence."""
    on_gpu = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in options.items()}
    index, confidence = search(query.cuda(), key.cuda(), **on_gpu)
    other, confidence_cpu = search(query, key, **options)
    assert index.is_cuda and confidence.is_cuda
    assert_close(confidence.cpu(), confidence_cpu, rtol=0, atol=2e-6)
    assert float((index.cpu() == other).float().mean()) > 0.999


@pytest.mark.parametrize('block_elements', [None, 2**14], ids=['kernel', 'tiles'])
@pytest.mark.parametrize('patch_size', [1, 3, 5])
@pytest.mark.parametrize('sizes', [((40, 40), (40, 40)), ((9, 61), (50, 7)), ((1, 1), (3, 2))])
def test_exact_search(rng, sizes, patch_size, block_elements):
    query, key = (torch.randn(2, 16, *size, generator=rng) for size in sizes)
    mask = torch.rand(sizes[1], generator=rng) > 0.4
    mask[0, 0] = True
    for options in ({}, {'key_mask': mask}):
        options |= {'patch_size': patch_size, 'block_elements': block_elements}
        assert_same_matches(match_patches, query, key, **options)


def test_exact_search_in_pieces(rng, monkeypatch):
    """As large maps are: several rows of queries, several of keys."""
    matching_fused = pytest.importorskip('defsr.ops.matching_fused')
    monkeypatch.setattr(matching_fused, 'PRODUCTS', 2**16)
    query, key = (torch.randn(1, 16, *size, generator=rng) for size in ((70, 31), (44, 29)))
    assert_same_matches(match_patches, query, key)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_exact_search_of_other_types(rng, dtype):
    query, key = (torch.randn(1, 16, 20, 24, generator=rng).to(dtype) for _ in 'qk')
    index, confidence = match_patches(query.cuda(), key.cuda())
    assert confidence.dtype == dtype
    assert torch.equal(index.cpu(), match_patches(query, key)[0])


@pytest.mark.parametrize(
    ('search', 'options'),
    [
        (match_patches_near, {'reach': 5}),
        (match_coarse_to_fine, {}),
        (match_patches_inside, {}),
    ],
    ids=['near', 'coarse to fine', 'inside'],
)
def test_other_searches(rng, search, options):
    query, key = (torch.randn(2, 16, 40, 36, generator=rng) for _ in 'qk')
    assert_same_matches(search, query, key, **options)


def test_block_search(rng):
    query, key = (torch.rand(1, 16, 32, 40, generator=rng) for _ in 'qk')
    index, score = match_block_centres(query.cuda(), key.cuda())
    other, score_cpu = match_block_centres(query, key)
    assert torch.equal(index.cpu(), other)
    assert_close(score.cpu(), score_cpu)


def test_refinement(rng):
    query, key = (torch.rand(2, 16, 40, 48, generator=rng) for _ in 'qk')
    corner_yx = torch.randint(0, 40, (2, 2, 10, 12), generator=rng)
    moved = refine_positions(query.cuda(), key.cuda(), corner_yx.cuda(), 4, 2, 9)
    expected = refine_positions(query, key, corner_yx, 4, 2, 9)
    assert float((moved.cpu() == expected).float().mean()) > 0.999


def test_matches_that_agree(rng):
    place = 0.9 * torch.rand(2, 2, 30, 34, generator=rng) + torch.arange(34)
    place[:, :, 10:14] = 30 * torch.rand(2, 2, 4, 34, generator=rng)
    weight = torch.rand(2, 30, 34, generator=rng)
    found = agreed_field(place.cuda(), weight.cuda(), 3)
    expected = agreed_field(place, weight, 3)
    same = (found.place.cpu() - expected.place).abs() < 1e-3
    assert float(same.float().mean()) > 0.999


@pytest.mark.parametrize('backend', ['torchvision', 'gather'])
def test_deformable_convolution_with_gradients(rng, backend):
    feat = torch.randn(2, 8, 20, 24, generator=rng)
    base = torch.randint(0, 20, (2, 2, 12, 10), generator=rng).float()
    offset = torch.randn(2, 2 * 18, 12, 10, generator=rng)
    mask = torch.rand(2, 18, 12, 10, generator=rng)
    weight = torch.randn(6, 8, 3, 3, generator=rng)
    results = []
    for device in ('cpu', 'cuda'):
        inputs = [x.to(device).clone().requires_grad_() for x in (feat, offset, mask, weight)]
        feat_, offset_, mask_, weight_ = inputs
        options = {'backend': 'gather' if device == 'cpu' else backend}
        out = deform_conv_at(feat_, base.to(device), offset_, mask_, weight_, **options)
        out.square().mean().backward()
        results.append([out.detach().cpu(), *(x.grad.cpu() for x in inputs)])
    for on_cpu, on_gpu in zip(*results, strict=True):
        assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['matlab', 'pil'])
def test_degradation_and_its_operator(rng, name):
    image = torch.rand(1, 3, 44, 61, generator=rng)
    degradation = Degradation(name, 4)
    image = degradation.cut(image)
    lq = degradation.degrade(image)
    assert_close(degradation.degrade(image.cuda()).cpu(), lq, rtol=0, atol=1e-6)
    operator = degradation.operator
    assert_close(operator.A_pinv(lq.cuda()).cpu(), operator.A_pinv(lq), rtol=0, atol=1e-5)


def test_diffusion_draws_the_same_noise(rng):
    """Noise is drawn on the CPU from the image's content: no device changes the result."""
    opt = load_options(SMALL / 'enhance_cufed_small.yml')
    block = {key: value for key, value in opt['network_e'].items() if key != 'type'}
    enhancer = DDNMEnhancer(**block)
    enhancer.load_weights(opt['path']['pretrain_network_e'])
    lq = torch.rand(1, 3, 16, 24, generator=rng)
    expected = enhancer.enhance(lq)
    assert_close(enhancer.cuda().enhance(lq.cuda()).cpu(), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize('row', ROWS)
def test_every_shipped_network(stereo, row):
    """On the stereo pair, in one piece and in tiles, two references of unlike sizes."""
    opt = load_options(SMALL / f'{row}_x4.yml')
    weights = f'experiments/pretrained_models/small_{row}.pth'
    opt['path'] = {**opt['path'], 'pretrain_network_g': weights}
    left, right = stereo
    lq = Degradation('matlab', 4).degrade(left[..., 100:276, 200:400])
    refs = [right[..., 90:290, 200:400], right[..., 100:228, 240:440]]
    results = {}
    for device in ('cpu', 'cuda'):
        restorer = Restorer.build(opt, torch.device(device), Degradation('matlab', opt['scale']))
        images = lq.to(device), [ref.to(device) for ref in refs]
        results[device] = restorer(*images, tile=None), restorer(*images, tile=24)
    for on_cpu, on_gpu in zip(results['cpu'], results['cuda'], strict=True):
        assert_alike(on_gpu, on_cpu, share=0.01)


def test_upscale_rectifies(stereo):
    left, right = stereo
    lq = Degradation('matlab', 4).degrade(left[..., 100:356, 100:420])
    on_cpu, on_gpu = (
        defsr.upscale(lq, [right[..., 100:356, 80:420]], device=device)
        for device in ('cpu', 'cuda')
    )
    # Of flows, OpenCV's in 8 bit: a value that rounds otherwise moves a few pixels a little.
    assert float((on_gpu - on_cpu).square().mean()) < 1e-5, '50 dB'


def test_a_network_learns(opt):
    opt['num_gpu'] = 1
    torch.manual_seed(0)
    model = build_model(opt)
    assert next(model.net_g.parameters()).is_cuda
    losses = losses_on_one_batch(model, opt, 30)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_trains_and_resumes_by_the_command(workspace):
    opt = load_options(SMALL / 'best_x4.yml') | {'num_gpu': 1}
    train = opt['datasets']['train'] | pairs() | {'gt_size': 64, 'ref_size': 64}
    opt['datasets'] = {'train': train | {'batch_size_per_gpu': 2}}
    opt['datasets']['val'] = pairs(name='pairs', center_crop=40)
    opt['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': 3, 'keep_last': None}
    opt['val'] |= {'val_freq': 6}
    opt['train']['total_iter'] = 3
    run_well(workspace, TRAIN, '-opt', save_options(workspace / 'o.yml', opt))
    opt['train']['total_iter'] = 6
    file = save_options(workspace / 'o.yml', opt)
    said = run_well(workspace, TRAIN, '-opt', file, '--auto_resume')
    assert 'iter: 3.' in said and len(re.findall(r'l_g_pix: (\S+)', said)) == 3
    assert 'psnr' in said


@pytest.mark.slow
def test_compiled_denoiser(rng, tmp_path):
    lq = torch.rand(1, 3, 8, 12, generator=rng).cuda()
    plain = build_enhancer(write_prior(tmp_path / 'prior.pth')).cuda()
    fast = DDNMEnhancer(dict(DENOISER), diffusion=dict(DIFFUSION), compile=True).cuda()
    fast.denoiser.load_state_dict(plain.denoiser.state_dict())
    assert_close(fast.enhance(lq), plain.enhance(lq), rtol=0, atol=1e-3)
