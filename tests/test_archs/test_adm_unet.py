"""ADMUNet against guided-diffusion: layout of the published model, numbers of small ones."""

from __future__ import annotations

import hashlib
import math
import zlib

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch.testing import assert_close

from defsr.archs.adm_blocks import timestep_embedding
from defsr.archs.adm_unet_arch import ADMUNet

# Two small networks that between them use every switch.
RESBLOCK_UPDOWN = {
    'image_size': 64,
    'num_feat': 32,
    'num_res_block': 1,
    'channel_mult': [1, 2, 2],
    'attention_resolutions': [32, 16],
    'num_head_channels': 16,
}
CONV_UPDOWN = {
    'image_size': 32,
    'num_feat': 32,
    'num_res_block': 1,
    'channel_mult': [1, 2],
    'attention_resolutions': [16],
    'num_head_channels': None,
    'num_heads': 2,
    'num_out_ch': 3,
    'use_scale_shift_norm': False,
    'resblock_updown': False,
    'use_new_attention_order': True,
}

# Outputs [:, :, 5::10, 3::13] of openai/guided-diffusion's UNetModel (create_model with the same
# settings), float32, with the weights and inputs made below.
# fmt: off
GOLDEN = {
    'resblock_updown': (RESBLOCK_UPDOWN, [
        0.0040104, -1.1898810, -0.3398685, -0.6639805, -0.0248950, 0.0352954,
        -0.4353817, -1.0782100, -0.0892239, 0.1833394, 0.0424486, 0.3453456, -0.2734029,
        1.0719769, 0.0922136, 0.0771948, -0.1526161, -0.2142381, 0.2304343, 0.0546186,
        -0.4298303, 0.8997782, 0.2179279, -0.1910684, 0.3951886, -0.2314143, 1.0719144,
        0.3283083, 0.5099702, 0.2612218, -0.3442906, -0.3246646, -0.9065202, -0.6744043,
        0.3860390, 0.0899349, 1.3666453, 0.1309322, 0.6062725, 0.2371000, -0.7629049,
        -0.4314552, -0.7520834, -0.5301588, 1.8635696, -0.4928315, 0.4501596, 0.0443122,
    ]),
    'conv_updown': (CONV_UPDOWN, [
        0.6421954, -0.5614320, 0.0096563, 0.3531926, -0.4326757, 0.0404144, -0.6369622,
        0.0124931, 0.4538505, 0.0425618, 0.2744523, -0.2804693, -0.9821495, -1.2081885,
        0.1054944, -0.5340325, 0.3079284, 0.4275620, -0.9506075, -0.4853942, 0.8888217,
        0.6337660, 0.3323569, 0.2960161,
    ]),
}
# fmt: on


def pseudo_noise(shape, seed):
    """Uniform in [-1, 1], the same on every machine."""
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (2 * torch.frac(4e4 * torch.sin(n + seed).abs()) - 1).reshape(shape)


def fill(model):
    """Weights by a formula of their name, of variance 1 / fan-in; norms near 1, biases near 0."""
    state = {}
    for key, value in model.state_dict().items():
        noise = pseudo_noise(value.shape, zlib.crc32(key.encode()) % 1000)
        if value.ndim > 1:
            state[key] = noise * (3 / value[0].numel()) ** 0.5
        else:
            state[key] = 0.1 * noise + float(key.endswith('weight'))
    model.load_state_dict(state, strict=True)
    return model.eval()


def wave(*shape):
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.1 * n + 0.003 * n * n / (1 + 0.01 * n)).reshape(shape).float()


@pytest.fixture(scope='module')
def published():
    with torch.device('meta'):
        return ADMUNet()


def test_default_has_the_published_layout(published):
    state = published.state_dict()
    assert len(state) == 566
    assert sum(value.numel() for value in state.values()) == 552_814_086
    # SHA-256 of all keys with shapes in order, taken from guided-diffusion's own model.
    layout = '\n'.join(f'{key} {tuple(value.shape)}' for key, value in state.items())
    digest = hashlib.sha256(layout.encode()).hexdigest()
    assert digest == '99b0f51e19c0f48559ffcaead639281ac95de54fa82e0bb6dc03a52a58962ac2'


@pytest.mark.parametrize(
    ('key', 'shape'),
    [
        ('time_embed.0.weight', (1024, 256)),
        ('input_blocks.7.0.emb_layers.1.weight', (1024, 1024)),
        ('input_blocks.17.1.norm.weight', (1024,)),
        ('output_blocks.2.0.in_layers.2.weight', (1024, 2048, 3, 3)),
        ('output_blocks.8.1.qkv.weight', (1536, 512, 1)),
        ('output_blocks.17.0.skip_connection.weight', (256, 512, 1, 1)),
    ],
)
def test_a_few_published_keys(published, key, shape):
    assert tuple(published.state_dict()[key].shape) == shape


def test_default_stride(published):
    assert published.stride == 32


@pytest.mark.parametrize('name', GOLDEN)
def test_golden_outputs(name):
    options, golden = GOLDEN[name]
    model = fill(ADMUNet(**options))
    with torch.no_grad():
        out = model(wave(2, 3, 16, 24), torch.tensor([3.25, 871.6]))
    assert out.shape == (2, options.get('num_out_ch', 6), 16, 24)
    found = out[:, :, 5::10, 3::13]
    # Sums in another order: differences of up to 4e-6 were seen between attention kernels.
    assert_close(found.flatten(), torch.tensor(golden), rtol=0, atol=1e-5)


def test_timesteps_are_fractional_and_per_sample():
    model = fill(ADMUNet(**CONV_UPDOWN))
    x = wave(1, 3, 8, 12).expand(2, -1, -1, -1)
    with torch.no_grad():
        first, second = model(x, torch.tensor([10.0, 10.5]))
        assert_close(first, model(x, torch.tensor([10.0, 900.0]))[0], rtol=0, atol=1e-5)
    assert (first - second).abs().max() > 1e-3


def test_timestep_embedding_is_cosines_then_sines():
    embedding = timestep_embedding(torch.tensor([2.5, 0.0]), 8)
    angles = [2.5 / 10000 ** (k / 4) for k in range(4)]
    expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    assert_close(embedding[0], torch.tensor(expected))
    assert_close(embedding[1], torch.tensor([1.0] * 4 + [0.0] * 4))


def test_attention_stays_at_its_level_for_other_sizes():
    """The published test is on the running factor, so the input's size does not matter."""
    model = ADMUNet(**RESBLOCK_UPDOWN)
    with_attention = {
        key.split('.')[1] for key in model.state_dict() if 'input' in key and 'qkv' in key
    }
    assert with_attention == {'3', '5'}


def test_starts_as_zero_and_can_be_trained(rng):
    model = ADMUNet(**RESBLOCK_UPDOWN, dropout=0.1)
    x = torch.randn(2, 3, 8, 12, generator=rng)
    out = model(x, torch.tensor([0.0, 5.0]))
    assert bool((out == 0).all())
    fill(model).train()
    model(x, torch.tensor([0.0, 5.0])).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_double_precision_is_close(rng):
    model = fill(ADMUNet(**CONV_UPDOWN))
    x = torch.randn(2, 3, 8, 12, generator=rng)
    t = torch.tensor([3.0, 400.0])
    with torch.no_grad():
        single = model(x, t)
        double = model.double()(x.double(), t.double())
    assert double.dtype == torch.float64
    assert_close(single.double(), double, rtol=0, atol=1e-4)


def test_is_registered():
    assert ARCH_REGISTRY.get('ADMUNet') is ADMUNet


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'image_size': 96}, r'image_size is 96.*only \[64, 128, 256, 512\] have.*channel_mult'),
        ({'channel_mult': []}, 'channel_mult is empty'),
        ({'num_feat': 48}, 'has 48 channels.*multiples of 32'),
        ({'num_feat': 32, 'channel_mult': [0.5]}, 'has 16 channels.*multiples of 32'),
        ({'attention_resolutions': [24]}, r'has 24, but the feature sides.*\[64, 32, 16, 8\]'),
        ({'num_head_channels': 48}, 'multiple of num_head_channels=48'),
        ({'num_head_channels': None, 'num_heads': 3}, 'multiple of num_heads=3'),
        ({'num_res_block': 0}, 'num_res_block is 0, but must be at least 1'),
    ],
)
def test_bad_options(change, message):
    options = {'image_size': 64, 'num_feat': 32, 'attention_resolutions': [16]} | change
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        ADMUNet(**options)


def test_bad_inputs():
    model = ADMUNet(**RESBLOCK_UPDOWN)
    t = torch.zeros(2)
    with pytest.raises(ValueError, match='x is 16x18.*multiples of 4'):
        model(torch.zeros(2, 3, 16, 18), t)
    with pytest.raises(ValueError, match=r'must be \(N, 3, H, W\)'):
        model(torch.zeros(2, 1, 16, 16), t)
    with pytest.raises(ValueError, match=r't is \(1,\), but must be \(2,\)'):
        model(torch.zeros(2, 3, 16, 16), t[:1])
