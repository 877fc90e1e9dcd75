"""DRUNet as a prior: its authors' code's numbers, their files, what it may be asked."""

from __future__ import annotations

import json

import pytest
import torch
from basicsr.archs import build_network
from golden_noise import noise
from golden_weights import assert_loads_published, fill, image, layout
from repository import REPOSITORY
from torch import Tensor
from torch.testing import assert_close

from defsr.archs.drunet_arch import DRUNet
from defsr.config.files import load_options
from defsr.methods.cleaning import Cleaner
from defsr.ops.input_quality import Faults
from defsr.tools.convert import convert

# cszn/DPIR at 15bca3f, models/network_unet.py as it is: UNetRes(in_nc=4, out_nc=3) in float64, with
# the weights and the image of golden_weights.py and noise of 10/255 and 45/255.
GOLDEN = json.loads((REPOSITORY / 'tests/golden/drunet.json').read_text())
SIGMA = torch.tensor([10 / 255, 45 / 255], dtype=torch.float64).view(2, 1, 1, 1)
SMALL = {'num_feat': (8, 12, 16, 20), 'num_block': 2}


def published(
    num_feat: tuple[int, ...] = (64, 128, 256, 512), num_block: int = 4
) -> dict[str, Tensor]:
    """Zeros by the names and shapes of the published files."""
    shapes = {'m_head': (num_feat[0], 4, 3, 3), 'm_tail': (3, num_feat[0], 3, 3)}
    stages = {'m_body': (num_feat[-1], 0)}
    for level, (fine, coarse) in enumerate(zip(num_feat[:-1], num_feat[1:], strict=True), 1):
        shapes[f'm_down{level}.{num_block}'] = (coarse, fine, 2, 2)
        shapes[f'm_up{level}.0'] = (coarse, fine, 2, 2)
        stages |= {f'm_down{level}': (fine, 0), f'm_up{level}': (fine, 1)}
    for stage, (width, before) in stages.items():
        for number in range(before, before + num_block):
            for conv in (0, 2):
                shapes[f'{stage}.{number}.res.{conv}'] = (width, width, 3, 3)
    return {f'{name}.weight': torch.zeros(shape) for name, shape in shapes.items()}


def test_layout_of_the_published_file():
    """64 tensors, 32,640,960 numbers."""
    state = published()
    assert layout(state) == tuple(GOLDEN['layout'])
    assert sum(value.numel() for value in state.values()) == GOLDEN['parameters']


@pytest.mark.parametrize(
    ('key', 'block', 'size'), [('small', SMALL, (24, 40)), ('published', {}, (16, 24))]
)
def test_answers_what_the_published_code_answers(key, block, size):
    net = DRUNet(**block).double()
    state = {name: value.double() for name, value in published(**block).items()}
    net.load_state_dict(net.from_official(fill(state, 0.6)))
    with torch.no_grad():
        out = net.denoised(image(2, 3, *size), SIGMA)
    want = GOLDEN[key]
    first = torch.tensor(want['first'], dtype=torch.float64)
    assert_close(out[:, :, ::5, ::7].flatten(), first, rtol=0, atol=1e-8)
    assert float(out.mean()) == pytest.approx(want['mean'], abs=1e-8)
    assert float(out.std()) == pytest.approx(want['std'], abs=1e-8)


def test_published_files_are_told_and_load_strictly(tmp_path):
    state = fill(published(**SMALL))
    torch.save(state, tmp_path / 'drunet_color.pth')
    found = convert(tmp_path / 'drunet_color.pth')
    block = {'type': 'DRUNet', 'num_in_ch': 3, 'num_feat': [8, 12, 16, 20], 'num_block': 2}
    assert found.network == block and found.source == 'DRUNet: cszn/DPIR, cszn/KAIR'
    net = build_network(block)
    net.load_state_dict(found.state)
    assert_loads_published(net, state, tmp_path)
    assert DRUNet.official_block(published()) == {
        'num_in_ch': 3, 'num_feat': [64, 128, 256, 512], 'num_block': 4,
    }  # fmt: skip


def test_it_is_told_the_noise_of_a_state():
    """Of sqrt(a) x0 + sqrt(1 - a) eps the image is x_t / sqrt(a), and sigma in [0, 1]."""
    net, x0 = DRUNet(num_feat=(4, 6), num_block=1).double(), image(2, 3, 6, 10)
    alpha_bar = 1 / (1 + 4 * SIGMA**2)
    t = net.trained_schedule.timesteps_at(alpha_bar.flatten())
    with torch.no_grad():
        answer = net((2 * x0 - 1) * alpha_bar.sqrt(), t)
        assert_close(answer, 2 * net.denoised(x0, SIGMA) - 1, rtol=0, atol=1e-6)
    largest = (1 / net.trained_schedule.alpha_bar[-1] - 1).sqrt() / 2
    assert float(largest) == pytest.approx(50 / 255)


def test_what_is_scaled_comes_out_scaled():
    """There is no bias."""
    net, x = DRUNet(num_feat=(4, 6), num_block=1).double(), image(2, 3, 6, 10)
    assert not any('bias' in name for name in net.state_dict())
    assert_close(net.denoised(3 * x, 3 * SIGMA), 3 * net.denoised(x, SIGMA))


def drunet_options(**diffusion) -> dict:
    """The network of the option file, narrow."""
    block = load_options(REPOSITORY / 'options/small/enhance_cufed_drunet.yml')['network_e']
    return block | {
        'denoiser': {'type': 'DRUNet'} | SMALL,
        'diffusion': block['diffusion'] | diffusion,
    }


@pytest.mark.parametrize('size', [(5, 7), (8, 6)], ids=str)
def test_any_size_is_padded_and_degrades_to_the_input(size):
    enhancer = build_network(drunet_options())
    assert enhancer.denoiser.stride == 8
    lq = noise('lq', 2, 3, *size).float()
    de = enhancer.enhance(lq)
    assert de.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert enhancer.residual(de, lq)['unclamped'] < 1e-5


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r'x_t is 8x12 .HxW., but .* multiples of 8'):
        DRUNet(**SMALL)(torch.zeros(1, 3, 8, 12), torch.zeros(1))


def test_it_is_not_asked_beyond_its_training():
    with pytest.raises(ValueError, match=r'more noise than DRUNet .* start_alpha_bar to 0\.867'):
        build_network(drunet_options(start_alpha_bar=0.75))


def test_inputs_are_cleaned_with_it():
    """Odd sides, and in pieces that carry what it asks for around them."""
    net = DRUNet(**SMALL).eval().requires_grad_(False)
    lq = noise('photo', 1, 3, 13, 18).float()
    cleaned = Cleaner(net, 'auto')(lq, [Faults(15 / 255, 0.0)])
    assert cleaned.shape == lq.shape and not torch.equal(cleaned, lq)
