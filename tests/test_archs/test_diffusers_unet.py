"""Denoisers in folders of diffusers: real ones, made small, and folders that are none."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from torch.testing import assert_close

from defsr.archs.blocks import build_inner
from defsr.archs.diffusers_unet_arch import DiffusersUNet
from defsr.archs.enhancer_arch import DDNMEnhancer
from defsr.diffusion import NoiseSchedule

CONFIG = {
    '_class_name': 'UNet2DModel',
    'in_channels': 3,
    'out_channels': 3,
    'block_out_channels': [8, 16, 16],
}
SCHEDULER = {'beta_schedule': 'linear', 'beta_start': 1e-4, 'beta_end': 0.02}
SCHEDULER |= {'num_train_timesteps': 1000, 'prediction_type': 'epsilon'}


@pytest.fixture
def copied(diffusers_pipeline, tmp_path):
    """A copy of the pipeline's folder, to be spoilt."""
    return shutil.copytree(diffusers_pipeline, tmp_path / 'pipeline')


def write(folder, **config):
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(CONFIG | config))
    (folder / 'diffusion_pytorch_model.safetensors').touch()
    return folder


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# ------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize('size', [(8, 12), (20, 4)], ids=str)
def test_answers_as_diffusers_does(diffusers_pipeline, size, rng):
    from diffusers import UNet2DModel

    net = DiffusersUNet(str(diffusers_pipeline))
    theirs = UNet2DModel.from_pretrained(diffusers_pipeline / 'unet', low_cpu_mem_usage=False)
    x_t, t = torch.randn(2, 3, *size, generator=rng), torch.tensor([3.0, 471.0])
    with torch.no_grad():
        answer = net(x_t, t)
        assert answer.shape == (2, 6, *size)
        assert torch.equal(answer, theirs(x_t, t).sample)
    assert net.stride == 4
    assert not net.training
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_timesteps_are_fractional_and_per_sample(diffusers_pipeline, rng):
    """Between two whole ones lies an answer between theirs: nothing is rounded."""
    net = DiffusersUNet(str(diffusers_pipeline))
    x_t = torch.randn(1, 3, 8, 12, generator=rng)
    with torch.no_grad():
        low, middle, high = (net(x_t, torch.tensor([t])) for t in (10.0, 10.5, 11.0))
        batch = net(x_t.expand(2, -1, -1, -1), torch.tensor([10.5, 300.0]))
    whole = (high - low).norm()
    assert whole > 1e-3
    for end in (low, high):
        assert 0.3 * whole < (middle - end).norm() < 0.7 * whole
    assert (middle - (low + high) / 2).norm() < 0.2 * whole
    assert_close(batch[:1], middle, rtol=0, atol=1e-5)


def test_shapes_are_checked(diffusers_pipeline):
    net = DiffusersUNet(str(diffusers_pipeline))
    for shape in ((1, 3, 8, 10), (1, 1, 8, 8), (3, 8, 8)):
        with pytest.raises(ValueError, match='must be .N, 3, H, W. with .* multiples of 4'):
            net(torch.zeros(shape), torch.zeros(1))


def test_what_a_pipeline_says_of_its_training(diffusers_pipeline):
    net = DiffusersUNet(str(diffusers_pipeline))
    expected = NoiseSchedule.cosine(500).alpha_bar
    assert torch.equal(net.trained_schedule.alpha_bar, expected)
    assert net.trained_prediction == 'v'
    # What diffusers computes in float32.
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler.from_pretrained(diffusers_pipeline / 'scheduler').alphas_cumprod.double()
    assert_close(net.trained_schedule.alpha_bar, theirs, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    ('theirs', 'ours'), [('epsilon', 'eps'), ('v_prediction', 'v'), ('sample', 'x0')]
)
def test_predictions_and_the_linear_schedule(copied, theirs, ours):
    file = copied / 'scheduler/scheduler_config.json'
    change(file, **SCHEDULER | {'prediction_type': theirs})
    net = DiffusersUNet(str(copied))
    assert net.trained_prediction == ours
    assert torch.equal(net.trained_schedule.alpha_bar, NoiseSchedule.linear(1e-4, 0.02).alpha_bar)


def test_a_folder_of_the_unet_alone(copied):
    net = DiffusersUNet(str(copied / 'unet'))
    assert net.trained_schedule is None and net.trained_prediction is None
    # The layout of older models: everything in one folder.
    shutil.move(copied / 'scheduler/scheduler_config.json', copied / 'unet')
    assert DiffusersUNet(str(copied / 'unet')).trained_prediction == 'v'


# --------------------------------------------------------------------------------- in DDNMEnhancer


def enhancer(folder, **diffusion):
    block = {'type': 'DiffusersUNet', 'folder': str(folder)}
    return DDNMEnhancer(block, diffusion={'num_steps': 4} | diffusion)


def test_the_enhancer_takes_schedule_and_prediction_from_the_folder(diffusers_pipeline, rng):
    lq = torch.rand(2, 3, 3, 5, generator=rng)
    found = enhancer(diffusers_pipeline)
    assert found.prediction == 'v' and not found.needs_weights
    table = NoiseSchedule.cosine(500).timesteps_at(found.schedule.alpha_bar)
    assert torch.equal(found.denoiser_timesteps, table.float())
    de = found.enhance(lq)
    assert found.residual(de, lq)['unclamped'] < 1e-4
    # Saying the same is no contradiction; on a folder without a scheduler it is needed.
    said = {'prediction': 'v', 'denoiser_schedule': {'type': 'cosine', 'num_train_steps': 500}}
    for folder in (diffusers_pipeline, diffusers_pipeline / 'unet'):
        assert torch.equal(enhancer(folder, **said).enhance(lq), de)
    assert not torch.equal(enhancer(diffusers_pipeline / 'unet').enhance(lq), de)


@pytest.mark.parametrize(
    'diffusion',
    [
        {'prediction': 'eps'},
        {'denoiser_schedule': {'type': 'cosine', 'num_train_steps': 1000}},
        {'denoiser_schedule': {'beta_start': 1e-4, 'beta_end': 0.02, 'num_train_steps': 500}},
    ],
    ids=str,
)
def test_a_contradiction_is_refused(diffusers_pipeline, diffusion):
    key = next(iter(diffusion))
    with pytest.raises(ValueError, match=f'network_e:diffusion:{key} is not what .*v, alpha_bar'):
        enhancer(diffusers_pipeline, **diffusion)


def test_weights_twice_are_refused(diffusers_pipeline):
    found = enhancer(diffusers_pipeline)
    with pytest.raises(ValueError, match='network_e is w.pth, but .* has its weights already'):
        found.load_weights('w.pth')


def test_other_denoisers_say_nothing():
    small = {'type': 'UnshuffleUNet', 'num_feat': [8], 'num_block': 1}
    net = DDNMEnhancer(small, diffusion={'prediction': 'v'})
    assert net.needs_weights and net.prediction == 'v'


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({'_class_name': 'UNet2DConditionModel'}, "_class_name is 'UNet2DConditionModel'.*uncond"),
        ({'_class_name': None}, '_class_name is None'),
        ({'in_channels': 4}, 'in_channels is 4 .*x_t is RGB'),
        ({'out_channels': 4}, 'out_channels is 4 .*RGB and a variance'),
        ({'num_class_embeds': 1000}, 'num_class_embeds is 1000.*must not ask for a class'),
        ({'class_embed_type': 'timestep'}, 'class_embed_type is .timestep.'),
        ({'time_embedding_type': 'fourier'}, 'time_embedding_type is .fourier.'),
        ({'center_input_sample': True}, 'center_input_sample is True'),
        ({'quantization_config': {'quant_method': 'x'}}, 'quantization_config is'),
        ({'block_out_channels': 8}, 'no list `block_out_channels`'),
    ],
    ids=str,
)
def test_other_models_are_refused(tmp_path, config, message):
    folder = write(tmp_path / 'unet', **config)
    with pytest.raises(ValueError, match=f'network_e:denoiser:folder: .*unet cannot be.*{message}'):
        DiffusersUNet(str(folder))


@pytest.mark.parametrize(
    ('scheduler', 'message'),
    [
        ({'beta_schedule': 'scaled_linear'}, 'beta_schedule is .scaled_linear., not linear'),
        ({'beta_schedule': None}, 'beta_schedule is None'),
        ({'trained_betas': [0.1, 0.2]}, 'beta_schedule is'),
        ({'prediction_type': 'flow'}, 'prediction_type is .flow.'),
        ({'rescale_betas_zero_snr': True}, 'rescale_betas_zero_snr is set'),
        ({'beta_start': 3}, 'schedule:beta_start is 3, but must be at most 1'),
        ({'num_train_timesteps': 'x'}, 'num_train_steps is .x.'),
    ],
    ids=str,
)
def test_other_schedulers_are_refused(tmp_path, scheduler, message):
    folder = write(tmp_path / 'unet')
    (folder / 'scheduler_config.json').write_text(json.dumps(SCHEDULER | scheduler))
    with pytest.raises(ValueError, match=f'folder: .*scheduler_config.json cannot be.*{message}'):
        DiffusersUNet(str(folder))


def test_a_scheduler_without_its_betas(tmp_path):
    folder = write(tmp_path / 'unet')
    (folder / 'scheduler_config.json').write_text('{"beta_schedule": "linear"}')
    with pytest.raises(ValueError, match="it has no 'num_train_timesteps'"):
        DiffusersUNet(str(folder))


@pytest.mark.parametrize('folder', [None, 7, ''], ids=repr)
def test_what_is_no_path(folder):
    with pytest.raises(ValueError, match='network_e:denoiser:folder is .*must be the path'):
        DiffusersUNet(folder)


def test_folders_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match='folder is .*none, which is not an existing.*Down'):
        DiffusersUNet(str(tmp_path / 'none'))
    with pytest.raises(ValueError, match='it has no config.json'):
        DiffusersUNet(str(tmp_path))
    (tmp_path / 'config.json').write_text('[1, 2')
    with pytest.raises(ValueError, match='config.json cannot be used: it is no JSON object'):
        DiffusersUNet(str(tmp_path))


def test_pickles_are_not_read(tmp_path):
    folder = write(tmp_path / 'unet')
    weights = folder / 'diffusion_pytorch_model.safetensors'
    weights.rename(weights.with_suffix('.bin'))
    with pytest.raises(ValueError, match=r'no diffusion_pytorch_model.safetensors, and pickles'):
        DiffusersUNet(str(folder))


def test_latent_models_are_refused(tmp_path):
    write(tmp_path / 'unet')
    (tmp_path / 'model_index.json').write_text('{"vqvae": ["diffusers", "VQModel"]}')
    with pytest.raises(ValueError, match='works on the latents of a vqvae'):
        DiffusersUNet(str(tmp_path))


def test_damaged_weights(copied):
    from safetensors.torch import load_file, save_file

    weights = copied / 'unet/diffusion_pytorch_model.safetensors'
    state = load_file(weights)
    rest = {key: value for key, value in state.items() if key != 'conv_in.bias'}
    spoilt = {
        r'1 missing weights \(conv_in.bias\)': rest,
        r'1 unexpected weights \(extra\)': state | {'extra': torch.zeros(1)},
        'diffusers cannot load it': state | {'conv_in.bias': torch.zeros(3)},
        r'conv_in.bias has values that are NaN or infinite': state
        | {'conv_in.bias': torch.full((8,), torch.nan)},
    }
    for message, content in spoilt.items():
        save_file(content, weights)
        with pytest.raises(ValueError, match=f'network_e:denoiser:folder.*{message}'):
            DiffusersUNet(str(copied))
    weights.write_bytes(weights.read_bytes()[:999])
    with pytest.raises(ValueError, match='diffusers cannot load it'):
        DiffusersUNet(str(copied))


def test_without_diffusers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    block = {'type': 'DiffusersUNet', 'folder': str(write(tmp_path / 'unet'))}
    with pytest.raises(ValueError, match=r"needs diffusers: pip install 'defsr\[diffusers\]'"):
        build_inner('network_e:denoiser', block)
