"""``Enhancer.fingerprint``: all that changes I_DE, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from workspaces import DENOISER, DIFFUSION, SMALL, build_enhancer, write_prior

from defsr.archs.blocks import WITHOUT_EFFECT
from defsr.archs.enhancer_arch import BicubicEnhancer, DDNMEnhancer
from defsr.config.files import load_options
from defsr.diffusion import SamplingOptions

DEFAULTS = SamplingOptions().completed()
CHANGED = {
    'num_steps': 4,
    'eta': 0.25,
    'sigma_y': 'quantization',
    'travel': [2, 2],
    'start': 'lq',
    'start_alpha_bar': 0.25,
    'end_alpha_bar': 0.999,
    'temperature': 0.5,
    'grid': 'trailing',
    'rule': 'ddim',
    'schedule': {'beta_start': 2e-6},
    'denoiser_schedule': {'type': 'cosine'},
    'prediction': 'v',
    'strategy': 'blend',
    'tile': 128,
    'overlap': 64,
    'seed': 1,
}


# SHA-256, its first half, of fingerprints that users' caches carry, weights apart.
FROZEN = {
    'enhance_CUFED.yml': '0086a4af25aa98cfe3fa86a31819e85c',
    'small/enhance_cufed_small.yml': 'ed22725acd61e59b013bc4af755ad6f9',
    'small/enhance_pairs.yml': 'ed22725acd61e59b013bc4af755ad6f9',
}


@pytest.mark.parametrize('name', FROZEN)
def test_caches_of_before_stay_valid(name, monkeypatch):
    block = load_options(SMALL.parent / name)['network_e']
    # ADM's network has 2 GB, of which the fingerprint tells the block and the weights.
    monkeypatch.setattr('defsr.archs.enhancer_arch.build_inner', lambda *_: nn.Identity())
    made = ARCH_REGISTRY.get(block.pop('type'))(**block).fingerprint()
    del made['denoiser_sha256']
    assert hashlib.sha256(json.dumps(made).encode()).hexdigest().startswith(FROZEN[name])


def test_every_sampling_option_is_tried():
    assert set(DEFAULTS) - set(CHANGED) == {'windows_per_batch'}


@pytest.mark.parametrize('key', CHANGED)
def test_a_sampling_option_changes_it(key):
    before, after = (build_enhancer(**more).fingerprint() for more in ({}, {key: CHANGED[key]}))
    changed = [k for k in before['diffusion'] if before['diffusion'][k] != after['diffusion'][k]]
    assert changed == [key]


def test_an_extrapolation_changes_it():
    before, after = (
        build_enhancer(start='lq', extrapolation=share).fingerprint()['diffusion']
        for share in (0.0, 0.5)
    )
    assert after == before | {'extrapolation': 0.5} and 'extrapolation' not in before


def test_what_only_rounds_does_not():
    torch.manual_seed(0)
    one = build_enhancer().fingerprint()
    torch.manual_seed(0)
    assert build_enhancer(windows_per_batch=1).fingerprint() == one
    for option in ({'channels_last': False}, {'compile': True}):
        torch.manual_seed(0)
        other = DDNMEnhancer(DENOISER, diffusion=DIFFUSION, **option)
        assert other.fingerprint() == one
    of_networks = {'backend'}  # of the transfer
    assert {'windows_per_batch', 'compile', 'channels_last'} == WITHOUT_EFFECT - of_networks


def test_weights_and_denoiser_change_it(tmp_path):
    one = build_enhancer(write_prior(tmp_path / 'one.pth')).fingerprint()
    again = build_enhancer(write_prior(tmp_path / 'again.pth')).fingerprint()
    other = build_enhancer(write_prior(tmp_path / 'other.pth', seed=4)).fingerprint()
    assert one == again
    assert {k for k in one if one[k] != other[k]} == {'denoiser_sha256'}
    wide = DDNMEnhancer(DENOISER | {'emb_ch': 16}).fingerprint()
    assert wide['denoiser'] != one['denoiser']


def test_scale_degradation_and_class_change_it():
    two, four = (DDNMEnhancer(DENOISER, scale=scale).fingerprint() for scale in (2, 4))
    assert two['scale'] != four['scale']
    pil = DDNMEnhancer(DENOISER, degradation='pil').fingerprint()
    assert pil['degradation'] != four['degradation']
    assert BicubicEnhancer(3).fingerprint() == {
        'format': 1,
        'type': 'BicubicEnhancer',
        'scale': 3,
        'degradation': 'matlab',
    }


def test_precision_changes_it():
    torch.manual_seed(0)
    one = DDNMEnhancer(DENOISER).fingerprint()
    torch.manual_seed(0)
    half = DDNMEnhancer(DENOISER, precision='bf16').fingerprint()
    assert {k for k in one if one[k] != half[k]} == {'precision'}


def test_a_denoiser_that_knows_its_training(diffusers_pipeline, tmp_path):
    """Where it lies does not count; what its files say of the network and its training does."""

    def of(folder):
        return DDNMEnhancer({'type': 'DiffusersUNet', 'folder': str(folder)}).fingerprint()

    one = of(diffusers_pipeline)
    assert one['diffusion']['prediction'] == 'v'
    for number, (file, old, new) in enumerate(
        (
            ('unet/config.json', '', ''),
            ('unet/config.json', '"act_fn": "silu"', '"act_fn": "mish"'),
            (
                'scheduler/scheduler_config.json',
                '"num_train_timesteps": 500',
                '"num_train_timesteps": 400',
            ),
            ('scheduler/scheduler_config.json', '"v_prediction"', '"sample"'),
        )
    ):
        folder = tmp_path / str(number)
        shutil.copytree(diffusers_pipeline, folder)
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new) if old else text)
        assert (of(folder) == one) == (not old), (old, new)


def test_written_out_defaults_do_not():
    torch.manual_seed(0)
    short = DDNMEnhancer(DENOISER)
    torch.manual_seed(0)
    long = DDNMEnhancer(
        DENOISER | {'num_in_ch': 3, 'unshuffle': 2},
        scale=4,
        diffusion=DEFAULTS | {'travel': [1, 1], 'schedule': {'type': 'linear'}},
        degradation='matlab',
    )
    assert short.fingerprint() == long.fingerprint()


def test_it_is_plain_data():
    fingerprint = build_enhancer().fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint


class Softer(BicubicEnhancer):
    """An enhancer of somebody else's, with an option of its own."""

    def __init__(self, scale: int = 4, strength: float = 0.5, compile: bool = False) -> None:
        super().__init__(scale)
        self.strength = strength


def test_options_of_a_subclass_are_in_it():
    fingerprint = Softer(strength=0.25).fingerprint()
    assert fingerprint['type'] == 'Softer' and fingerprint['strength'] == 0.25
    assert 'compile' not in fingerprint
