"""Unconditional denoisers that were trained with Hugging Face's diffusers, from a local folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.diffusion.predictions import Prediction
from defsr.diffusion.schedule import NoiseSchedule
from defsr.utils.paths import expanded
from defsr.utils.strangers import read_json
from defsr.utils.weights import check_same_layout

OPTION = 'network_e:denoiser:folder'
WEIGHTS = 'diffusion_pytorch_model.safetensors'
PREDICTIONS: dict[str, Prediction] = {'epsilon': 'eps', 'v_prediction': 'v', 'sample': 'x0'}
# What a UNet's config.json must say: key, allowed values, default, and why.
NEEDED = (
    ('_class_name', ('UNet2DModel',), None, 'only unconditional models in pixel space fit'),
    ('in_channels', (3,), 3, 'x_t is RGB'),
    ('out_channels', (3, 6), 3, 'it must answer RGB, or RGB and a variance'),
    ('class_embed_type', (None,), None, 'it must not ask for a class'),
    ('num_class_embeds', (None,), None, 'it must not ask for a class'),
    ('time_embedding_type', ('positional',), 'positional', 'timesteps are fractions'),
    ('center_input_sample', (False,), False, 'x_t is in [-1, 1]'),
    ('quantization_config', (None,), None, 'its weights must be plain numbers'),
)


@ARCH_REGISTRY.register()
class DiffusersUNet(nn.Module):
    """Denoiser ``(x_t, t) -> answer``: a ``UNet2DModel`` of diffusers, with its weights.

    Needs the package diffusers (``pip install 'defsr[diffusers]'``), loaded here and not before.
    Local files only, and of weights only safetensors, which run no code.

    Args:
        folder (str): of a UNet (``config.json``, ``diffusion_pytorch_model.safetensors``), or of
            a pipeline as ``DDPMPipeline.save_pretrained`` writes it (``unet``, ``scheduler``).

    Attributes:
        stride: both sides of x_t must be multiples of it.
        trained_schedule: from ``scheduler_config.json``, in ``scheduler`` or in the folder itself;
            None if there is none, which leaves it to ``network_e:diffusion:denoiser_schedule``.
        trained_prediction: from the same file, ``eps``, ``v`` or ``x0``, or None.
        trained_config: what config.json says of the network.
        is_pretrained: True; ``path:pretrain_network_e`` must not be set.

    Raises:
        ValueError: without diffusers, and if the folder holds no such model.
        FileNotFoundError: if there is no such folder.
    """

    is_pretrained = True

    def __init__(self, folder: str) -> None:
        super().__init__()
        unet_folder, scheduler_file = _parts(folder)
        config = _checked_config(unet_folder)
        self.trained_config = {key: config[key] for key in config if not key.startswith('_')}
        self.trained_schedule, self.trained_prediction = None, None
        if scheduler_file.is_file():
            training = _training_of(scheduler_file)
            self.trained_schedule, self.trained_prediction = training
        self.stride = 2 ** (len(config['block_out_channels']) - 1)
        self.unet = _load(unet_folder)
        self.eval()

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse a folder that the constructor would; reads no weights."""
        _checked_config(_parts(block['folder'])[0])

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(N,3,H,W) about [-1,1] and (N,) timesteps, fractions allowed -> (N,3 or 6,H,W).

        ValueError for another number of channels, or if a side is no multiple of ``stride``.
        """
        height, width = x_t.shape[-2:]
        if x_t.ndim != 4 or x_t.shape[1] != 3 or height % self.stride or width % self.stride:
            raise ValueError(
                f'x_t is {tuple(x_t.shape)}, but must be (N, 3, H, W) with sides that are '
                f'multiples of {self.stride}.'
            )
        return self.unet(x_t, t, return_dict=False)[0]


def _parts(folder: str) -> tuple[Path, Path]:
    """The folder of the UNet, and the file of its scheduler, which need not exist."""
    if not isinstance(folder, str) or not folder:
        raise ValueError(f'{OPTION} is {folder!r}, but must be the path of a folder.')
    path = expanded(folder)
    if not path.is_dir():
        raise FileNotFoundError(
            f'{OPTION} is {folder}, which is not an existing folder. Download the model first: '
            'nothing is fetched from the network.'
        )
    index = path / 'model_index.json'
    if index.is_file():
        latent = sorted({'vae', 'vqvae'} & set(_read_json(index)))
        if latent:
            raise _unfit(path, f'its model works on the latents of a {latent[0]}')
    unet = path / 'unet' if (path / 'unet').is_dir() else path
    beside = path / 'scheduler' if (path / 'scheduler').is_dir() else path
    return unet, beside / 'scheduler_config.json'


def _checked_config(folder: Path) -> Mapping[str, Any]:
    """The config.json of a model that can be used, whose weights are there."""
    file = folder / 'config.json'
    if not file.is_file():
        raise _unfit(folder, 'it has no config.json')
    config = _read_json(file)
    for key, allowed, default, reason in NEEDED:
        value = config.get(key, default)
        if value not in allowed:
            raise _unfit(folder, f'{key} is {value!r} in its config.json, but {reason}')
    if not isinstance(config.get('block_out_channels'), list):
        raise _unfit(folder, 'its config.json has no list `block_out_channels`')
    if not any((folder / name).is_file() for name in (WEIGHTS, f'{WEIGHTS}.index.json')):
        raise _unfit(folder, f'it has no {WEIGHTS}, and pickles (.bin) are not read')
    return config


def _training_of(file: Path) -> tuple[NoiseSchedule, Prediction]:
    """The schedule and the prediction that a scheduler_config.json describes."""
    config = _read_json(file)
    kind, prediction = config.get('beta_schedule'), config.get('prediction_type', 'epsilon')
    if prediction not in PREDICTIONS:
        raise _unfit(file, f'prediction_type is {prediction!r}, not of {[*PREDICTIONS]}')
    if kind not in ('linear', 'squaredcos_cap_v2') or config.get('trained_betas') is not None:
        raise _unfit(file, f'beta_schedule is {kind!r}, not linear or squaredcos_cap_v2')
    if config.get('rescale_betas_zero_snr'):
        raise _unfit(file, 'rescale_betas_zero_snr is set, and pure noise has no x_0')
    try:
        steps = config['num_train_timesteps']
        if kind == 'linear':
            schedule = NoiseSchedule.linear(config['beta_start'], config['beta_end'], steps)
        else:
            schedule = NoiseSchedule.cosine(steps)
    except KeyError as error:
        raise _unfit(file, f'it has no {error}') from None
    except (ValueError, TypeError, OverflowError) as error:
        raise _unfit(file, str(error).rstrip('.')) from None
    return schedule, PREDICTIONS[prediction]


def _load(folder: Path) -> nn.Module:
    """The UNet with its weights, in float32."""
    try:
        from diffusers import UNet2DModel  # an extra, and slow to import
    except ImportError as error:
        raise ValueError(
            "DiffusersUNet needs diffusers: pip install 'defsr[diffusers]'."
        ) from error
    try:
        unet, found = UNet2DModel.from_pretrained(
            str(folder),
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # a damaged file or config can fail in any way
        reason = ' '.join(str(error).split())[:120].rstrip('. ')
        raise _unfit(folder, f'diffusers cannot load it: {reason}') from error
    for what in ('missing', 'unexpected', 'mismatched'):
        keys = [str(key) for key in found[f'{what}_keys']]
        if keys:
            raise _unfit(folder, f'{len(keys)} {what} weights ({", ".join(keys[:3])})')
    state = unet.state_dict()
    check_same_layout(folder, state, state, option=OPTION, network='network_e:denoiser')
    return unet


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        content = read_json(file)
    except ValueError:
        content = None
    if not isinstance(content, Mapping):
        raise _unfit(file, 'it is no JSON object')
    return content


def _unfit(path: Path, reason: str) -> ValueError:
    return ValueError(
        f'{OPTION}: {path} cannot be used: {reason}. Give the folder of another model.'
    )
