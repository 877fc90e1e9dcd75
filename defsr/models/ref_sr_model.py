"""Reference-based super-resolution in BasicSR's training loop and validation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from functools import reduce
from os import path as osp
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from defsr.archs.denoiser_runtime import PRECISIONS
from defsr.archs.interface import Reference, Restoration
from defsr.archs.lazy_compile import compile_errors
from defsr.archs.network_call import NetworkCall
from defsr.config.blocks import FILLED_KEYS, RUN_KEYS, check_adversarial, required
from defsr.data.ref_triplet_dataset import all_of
from defsr.data.triplet_options import one_degradation
from defsr.losses.gradient_penalty import gradient_penalty
from defsr.losses.relativistic import critic_losses, generator_loss
from defsr.methods.build import build_method, method_class
from defsr.methods.matched import caches_read
from defsr.methods.networks import arrange, arrange_image, count_parameters
from defsr.methods.single_image import SingleImage
from defsr.models.mixed_precision import lazy_compile, loss_scale, train_compile, train_precision
from defsr.models.parameter_groups import check_rates, freeze, parameter_groups
from defsr.models.validation import ImageValidation
from defsr.running.loss_scale import step_on
from defsr.running.optimizers import build_optimizer
from defsr.utils.checks import check_at_least, check_choice, check_keys, check_list, check_text

TRAIN_KEYS = (
    'optim_g', 'optim_d', 'scheduler', 'total_iter', 'warmup_iter', 'num_iter_per_pass',
    'rec_only_epochs', 'allow_online', 'ema_decay', 'net_d_iters', 'net_d_init_iters',
    'gradient_penalty_weight', 'gan_opt', 'gan_relativistic', 'freeze', 'precision', 'compile',
)  # fmt: skip
SWITCHES = ('check_cache', 'check_trained')  # true or false, of the file's top level
LOG_NAMES = {'pixel': 'pix', 'perceptual': 'percep'}  # as BasicSR logs them


@MODEL_REGISTRY.register()
class RefSRModel(ImageValidation, SRModel):
    """Any ``network_g``, with or without references, as a BasicSR model.

    What the network reads (``defsr.archs.interface``) decides the method around it and its frozen
    networks. ``network_d`` is needed only with ``train:gan_opt``. Each ``train:<x>_opt`` is a
    loss, logged as ``l_g_<x>``: BasicSR's of two images, or a class whose attribute ``reads`` is
    ``restoration``, called as ``loss(out, gt, net_g)`` with all that the network returned (a
    ``Restoration``). A loss gives one number, or a dict of several by name. The sum is Eq. 14 of
    DEF: ``pixel_opt`` alone for ``train:rec_only_epochs`` passes over the data, then all.

    Options of its own: those of the method (``match_*``), ``check_cache``,
    ``train:{rec_only_epochs, allow_online, gradient_penalty_weight, gan_relativistic}``,
    ``train:precision`` (``fp32``, or ``bf16`` or, on a GPU, ``fp16``: network_g under autocast,
    all else float32), ``train:compile`` (network_g by ``torch.compile``; not the critic),
    ``train:optim_g:groups`` (start of a parameter's name -> its learning rate) and
    ``val:{save_maps, save_comparison, compare_bicubic, tb_images, tile}``; see
    ``options/train_DEF_x4.yml`` for each.
    """

    label = 'SR'
    optimizer_keys = ('groups',)  # of `train:optim_*`, beside the optimizer's own

    def __init__(self, opt: dict) -> None:
        self.check(opt)
        BaseModel.__init__(self, opt)
        degradation = one_degradation(opt)
        caches = caches_read(opt)
        cached = all(block.get(key) for block in opt['datasets'].values() for key in caches)
        self.method, net_g = build_method(
            opt, self.device, degradation, needs_enhancer=not cached, prefer='params'
        )
        logger = get_root_logger()
        for name, net in self.method.frozen.items():
            number = count_parameters(net)
            logger.info(f'{name}: {type(net).__name__}, frozen, {number:,d} parameters')
        self.method.check_data(opt, self.is_train)
        self.net_g = self.model_to_device(net_g)
        self.print_network(self.net_g)
        if self.is_train:
            self.init_training_settings()

    @classmethod
    def check(cls, opt: Mapping[str, Any]) -> None:
        """Refuse options that are not legal; ValueError names the option."""
        method = method_class(opt)
        given = {key: value for key, value in opt.items() if key not in FILLED_KEYS}
        check_keys('', given, (*RUN_KEYS, *SWITCHES, *method.keys_of(opt)))
        for name in ('scale', *method.blocks_of(opt)):
            required(opt, '', name)
        for name in SWITCHES:
            check_choice(name, opt.get(name, True), (True, False))
        method.check(opt, one_degradation(opt))
        cls.check_val(opt.get('val') or {})
        train = opt.get('train') or {}
        losses = [key for key in train if key.endswith('_opt')]
        check_keys('train', train, (*TRAIN_KEYS, *losses))
        for key in ('allow_online', 'gan_relativistic'):
            check_choice(f'train:{key}', train.get(key, False), (True, False))
        train_precision(opt)
        train_compile(opt)
        for key in ('rec_only_epochs', 'gradient_penalty_weight'):
            check_at_least(f'train:{key}', train.get(key, 0), 0)
        for prefix in check_list('train:freeze', train.get('freeze') or [], ' of names', 0):
            check_text('train:freeze', prefix)
        if train.get('rec_only_epochs') and not train.get('pixel_opt'):
            raise ValueError(
                'train:pixel_opt is missing, the only loss in the first train:rec_only_epochs. '
                'Give it, or remove rec_only_epochs.'
            )
        if train and not any(train[key] for key in losses if key != 'gan_opt'):
            raise ValueError('train has no loss. Give pixel_opt, or another <name>_opt.')
        if train.get('gan_opt') is not None:
            check_adversarial(opt)
        for label in 'gd':
            rates = (train.get(f'optim_{label}') or {}).get('groups')
            check_rates(f'train:optim_{label}:groups', rates or {})

    @classmethod
    def reads_of_data(cls, opt: Mapping[str, Any], is_train: bool) -> tuple[str, ...]:
        """What the items of its data sets must have."""
        needed = ('lq', 'gt') if is_train else ('lq',)
        return needed if method_class(opt) is SingleImage else (*needed, 'refs')

    # -- building ------------------------------------------------------------------------------

    def init_training_settings(self) -> None:
        """The moving average, an optional critic, the losses and the length of the warm-up."""
        self.net_g.train()
        train_opt, path = self.opt['train'], self.opt['path']
        freeze(self.get_bare_model(self.net_g), train_opt.get('freeze') or ())
        self.ema_decay = train_opt.get('ema_decay', 0)
        if self.ema_decay > 0:
            self._init_ema(path.get('pretrain_network_g'))
        self.use_gan = train_opt.get('gan_opt') is not None
        if self.use_gan:
            self._init_critic(path.get('pretrain_network_d'))
        self.losses = self._build_losses()
        self.called: Any = self.net_g
        dtype, compiled = PRECISIONS[train_precision(self.opt)], lazy_compile(self.opt)
        self.loss_scale = loss_scale(self.opt, self.device)
        if dtype is not None or compiled is not None:
            bare = self.get_bare_model(self.net_g)
            self.called = NetworkCall(self.net_g, bare, dtype, compiled)
        epochs = train_opt.get('rec_only_epochs', 0)
        if epochs and 'num_iter_per_pass' not in train_opt:
            raise ValueError(
                'train:rec_only_epochs needs train:num_iter_per_pass, the iterations of one pass '
                'over the data. defsr/train.py sets it; set it where the model is built by hand.'
            )
        self.num_rec_only_iter = round(epochs * train_opt.get('num_iter_per_pass', 0))
        if self.num_rec_only_iter:
            get_root_logger().info(
                f'Reconstruction loss only up to iteration {self.num_rec_only_iter}.'
            )
        self.setup_optimizers()
        self.setup_schedulers()

    def _init_ema(self, path: str | None) -> None:
        get_root_logger().info(f'Use Exponential Moving Average with decay: {self.ema_decay}')
        self.net_g_ema = arrange(build_network(self.opt['network_g']), self.device)
        if path is None:
            self.model_ema(0)  # copy net_g's weights
        else:
            strict = self.opt['path'].get('strict_load_g', True)
            self.load_network(self.net_g_ema, path, strict, 'params_ema')
        self.net_g_ema.eval().requires_grad_(False)

    def _init_critic(self, path: str | None) -> None:
        train_opt = self.opt['train']
        net_d = arrange(build_network(self.opt['network_d']), self.device)
        self.net_d = self.model_to_device(net_d)
        self.print_network(self.net_d)
        if path is not None:
            path_opt = self.opt['path']
            param_key = path_opt.get('param_key_d', 'params')
            self.load_network(self.net_d, path, path_opt.get('strict_load_d', True), param_key)
        self.net_d.train()
        self.cri_gan = build_loss(train_opt['gan_opt']).to(self.device)
        self.relativistic = train_opt.get('gan_relativistic', False)
        self.net_d_iters = train_opt.get('net_d_iters', 1)
        self.net_d_init_iters = train_opt.get('net_d_init_iters', 0)
        self.gradient_penalty_weight = train_opt.get('gradient_penalty_weight', 0)

    def _build_losses(self) -> dict[str, nn.Module]:
        """Name in the log -> loss; the reconstruction first."""
        train_opt = self.opt['train']
        names = [key.removesuffix('_opt') for key in train_opt if key.endswith('_opt')]
        names = [name for name in names if name != 'gan' and train_opt[f'{name}_opt']]
        losses = {}
        for name in sorted(names, key=lambda name: name != 'pixel'):
            loss = arrange(build_loss(train_opt[f'{name}_opt']), self.device)
            losses[LOG_NAMES.get(name, name)] = loss
            attribute = 'cri_pix' if name == 'pixel' else f'cri_{name}'  # where BasicSR keeps them
            setattr(self, attribute, loss)
        return losses

    def setup_optimizers(self) -> None:
        """One for the network, one for the critic if there is one."""
        for label in ('g', 'd') if self.use_gan else ('g',):
            options = deepcopy(self.opt['train'][f'optim_{label}'])
            kind = options.pop('type')
            where = f'train:optim_{label}:groups'
            net = self.get_bare_model(getattr(self, f'net_{label}'))
            groups = parameter_groups(net, options.pop('groups', None), where)
            optimizer = build_optimizer(kind, groups, **options)
            setattr(self, f'optimizer_{label}', optimizer)
            self.optimizers.append(optimizer)

    def print_network(self, net: nn.Module) -> None:
        """One line instead of BasicSR's dump of every layer."""
        net = self.get_bare_model(net)
        number = count_parameters(net)
        get_root_logger().info(f'Network: {type(net).__name__}, trained, {number:,d} parameters')

    # -- training ------------------------------------------------------------------------------

    def feed_data(self, data: dict) -> None:
        """Take a batch of ``RefTripletDataset``, or of one without references."""
        self.lq = self._take(data['lq'])
        self.gt = self._take(data['gt']) if 'gt' in data else None
        self.de = self._take(data['de']) if 'de' in data else None
        images, enhanced, valid = (all_of(data, key) for key in ('ref', 'ref_de', 'ref_valid'))
        self.refs = [
            Reference(
                self._take(image),
                self._take(enhanced[i]) if enhanced else None,
                valid[i].to(self.device) if valid else None,
            )
            for i, image in enumerate(images)
        ]

    def _take(self, image: Tensor) -> Tensor:
        return arrange_image(image, self.device)

    def optimize_parameters(self, current_iter: int) -> None:
        """One step of G, and after the warm-up one of D (Eq. 14)."""
        full_loss = current_iter > self.num_rec_only_iter
        adversarial = full_loss and self.use_gan
        step_g = not adversarial or (
            current_iter % self.net_d_iters == 0 and current_iter > self.net_d_init_iters
        )
        losses: OrderedDict[str, Tensor] = OrderedDict()
        out = self.method.super_resolve(self.called, self.lq, self.refs, de=self.de)
        self.output = out.sr
        if step_g:
            self._step_g(out, losses, full_loss, adversarial)
        if adversarial:
            self._step_d(losses)
        self.log_dict = self.reduce_loss_dict(losses)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def _step_g(
        self, out: Restoration, losses: dict[str, Tensor], full_loss: bool, adversarial: bool
    ) -> None:
        for name, loss in self.losses.items():
            if full_loss or name == 'pix':
                losses.update(self._values(name, loss, out))
        if adversarial:
            self.net_d.requires_grad_(False)
            real = self.gt if self.relativistic else None
            losses['l_g_gan'] = generator_loss(self.cri_gan, self.net_d, out.sr, real)
        with compile_errors('train:compile'):
            step_on(reduce(torch.add, losses.values()), self.optimizer_g, self.loss_scale)

    def _values(self, name: str, loss: nn.Module, out: Restoration) -> dict[str, Tensor]:
        """What a loss says, by its names in the log."""
        if getattr(loss, 'reads', None) == 'restoration':
            value = loss(out, self.gt, self.net_g)
        else:
            value = loss(out.sr, self.gt)
        if isinstance(value, tuple):  # of BasicSR's PerceptualLoss
            value = dict(zip((name, 'style'), value, strict=True))
        elif isinstance(value, Tensor):
            value = {name: value}
        return {f'l_g_{key}': number for key, number in value.items() if number is not None}

    def _step_d(self, losses: dict[str, Tensor]) -> None:
        self.net_d.requires_grad_(True)
        assert self.gt is not None
        fake = self.output.detach()
        real_pred, fake_pred = self.net_d(self.gt), self.net_d(fake)
        losses['l_d_real'], losses['l_d_fake'] = critic_losses(
            self.cri_gan, real_pred, fake_pred, relativistic=self.relativistic
        )
        total = losses['l_d_real'] + losses['l_d_fake']
        if self.gradient_penalty_weight:
            losses['l_d_gp'] = gradient_penalty(self.net_d, self.gt, fake)
            total = total + self.gradient_penalty_weight * losses['l_d_gp']
        step_on(total, self.optimizer_d)
        losses['out_d_real'], losses['out_d_fake'] = real_pred.mean(), fake_pred.mean()

    def save(self, epoch: int, current_iter: int) -> None:
        """The network with its moving average, the critic if there is one, the state."""
        nets, keys = [self.net_g], ['params']
        if self.ema_decay > 0:
            nets, keys = [self.net_g, self.net_g_ema], ['params', 'params_ema']
        self.save_network(nets, 'net_g', current_iter, param_key=keys)
        if self.use_gan:
            self.save_network(self.net_d, 'net_d', current_iter)
        self.save_training_state(epoch, current_iter)

    def test(self) -> None:
        """Super-resolve what was fed; the EMA network if there is one."""
        net_g = getattr(self, 'net_g_ema', self.net_g)
        net_g.eval()
        tile = (self.opt.get('val') or {}).get('tile')
        with torch.no_grad():
            self.restoration = self.method.super_resolve(
                net_g, self.lq, self.refs, de=self.de, tile=tile
            )
        self.restoration.textures = {}  # of losses; of a whole image several times its size
        self.output = self.restoration.sr
        if net_g is self.net_g and self.is_train:
            net_g.train()

    def result_path(self, dataset_name: str, image_name: str, current_iter: int | str) -> str:
        """Where BasicSR's SRModel writes a result."""
        folder = self.opt['path']['visualization']
        if self.is_train:
            return osp.join(folder, image_name, f'{image_name}_{current_iter}.png')
        suffix = (self.opt['val'].get('suffix')) or self.opt['name']
        return osp.join(folder, dataset_name, f'{image_name}_{suffix}.png')


@MODEL_REGISTRY.register()
class DEFModel(RefSRModel):
    """The Detail-Enhancing Framework (DEF, arXiv 2023): ``RefSRModel`` around a ``DEFNet``."""

    label = 'DEF'
