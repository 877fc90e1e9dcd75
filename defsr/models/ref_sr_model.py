"""The Detail-Enhancing Framework in BasicSR's training loop and validation."""

from __future__ import annotations

from collections import OrderedDict
from os import path as osp

import torch
from basicsr.archs import build_network
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from defsr.data.cache_record import KINDS, check_caches
from defsr.losses.gradient_penalty import gradient_penalty
from defsr.methods.match_keys import key_weights
from defsr.methods.matched import RefSRPipeline, memory_format_on
from defsr.models.validation import validate
from defsr.utils.checks import check_at_least, check_keys

TRAIN_KEYS = (
    'optim_g', 'optim_d', 'scheduler', 'total_iter', 'warmup_iter', 'num_iter_per_pass',
    'rec_only_epochs', 'allow_online', 'ema_decay', 'net_d_iters', 'net_d_init_iters',
    'pixel_opt', 'perceptual_opt', 'gan_opt', 'gradient_penalty_weight',
)  # fmt: skip
VAL_KEYS = (
    'val_freq', 'save_img', 'suffix', 'metrics', 'pbar', 'save_maps', 'save_comparison',
    'compare_bicubic', 'tb_images', 'tile',
)  # fmt: skip


@MODEL_REGISTRY.register()
class DEFModel(SRGANModel):
    """DEF (arXiv 2023) as a BasicSR model.

    Networks: ``network_e`` (enhancer) and ``network_t`` (texture extractor) are frozen,
    ``network_g`` is trained, ``network_d`` is needed only with ``train:gan_opt``. Loss (Eq. 14):
    reconstruction alone for ``train:rec_only_epochs`` passes over the data, then with the
    perceptual and the adversarial one.

    Options of its own: ``match_key``, ``match_search``, ``match_check``, ``match_patch_size``,
    ``check_cache``, ``train:{rec_only_epochs, allow_online, gradient_penalty_weight}`` and
    ``val:{save_maps, save_comparison, compare_bicubic, tb_images, tile}``; see
    ``options/train_DEF_x4.yml`` for each.
    """

    def __init__(self, opt: dict) -> None:
        check_keys('train', opt.get('train') or {}, TRAIN_KEYS)
        check_keys('val', opt.get('val') or {}, VAL_KEYS)
        super().__init__(opt)
        self.net_e = self._frozen('network_e')
        self.net_t = self._frozen('network_t')
        self.degradation = _one_degradation(opt['datasets'])
        self._load_enhancer(opt['path'].get('pretrain_network_e'))
        if opt['path'].get('pretrain_network_t'):
            self.load_network(self.net_t, opt['path']['pretrain_network_t'], True, 'params')
        self._arrange_networks()
        self._check_enhancer(opt)
        if opt.get('check_cache', True):
            self._check_caches(opt['datasets'])
        self.pipeline = RefSRPipeline.from_opt(opt, self.net_e, self.net_t, self.degradation)

    # -- building ------------------------------------------------------------------------------

    def _frozen(self, name: str) -> nn.Module:
        net = build_network(self.opt[name]).to(self.device).eval()
        net.requires_grad_(False)
        number = sum(p.numel() for p in net.parameters())
        get_root_logger().info(f'{name}: {type(net).__name__}, frozen, {number:,d} parameters')
        return net

    def _arrange_networks(self) -> None:
        for name in ('net_g', 'net_g_ema', 'net_d', 'net_t', 'cri_perceptual'):
            net = getattr(self, name, None)
            if net is not None:
                net.to(memory_format=memory_format_on(self.device))

    def _load_enhancer(self, path: str | None) -> None:
        if path is None:
            if self.net_e.needs_weights:
                get_root_logger().warning(
                    'path:pretrain_network_e is not set: the network in network_e is untrained.'
                )
            return
        self.net_e.load_weights(path)
        get_root_logger().info(f'Loaded the network in network_e from {path}.')

    def _check_enhancer(self, opt: dict) -> None:
        """Refuse what would train on other images than intended, or for weeks."""
        if self.net_e.consistent and self.net_e.degradation != self.degradation:
            raise ValueError(
                f'network_e:degradation is {self.net_e.degradation}, but the data sets are '
                f'degraded by {self.degradation}. Set both to the same.'
            )
        if not self.net_e.costly or not self.is_train or opt['train'].get('allow_online'):
            return
        train = opt['datasets'].get('train', {})
        needed = ['dataroot_de']
        if 'ref_enhanced' in key_weights(opt.get('match_key', 'ref')):
            needed.append('dataroot_ref_de')
        for key in needed:
            if not train.get(key):
                raise ValueError(
                    f'{type(self.net_e).__name__} would run in every training iteration, because '
                    f'datasets:train:{key} is not set. Give a cache of enhanced images, '
                    'or set train:allow_online: true.'
                )

    def _check_caches(self, datasets: dict) -> None:
        """Refuse cached images that are not what network_e would give."""
        if any(block.get(f'dataroot_{kind}') for block in datasets.values() for kind in KINDS):
            check_caches(datasets, self.net_e.fingerprint())

    def init_training_settings(self) -> None:
        """BasicSR's settings, with an optional critic and the length of the warm-up."""
        train_opt = self.opt['train']
        self.use_gan = train_opt.get('gan_opt') is not None
        if self.use_gan:
            for name, block in (('network_d', self.opt), ('optim_d', train_opt)):
                if not block.get(name):
                    raise ValueError(f'train:gan_opt needs `{name}`: give it, or remove gan_opt.')
            super().init_training_settings()
        else:
            SRModel.init_training_settings(self)
        self.net_d_iters = train_opt.get('net_d_iters', 1)
        self.net_d_init_iters = train_opt.get('net_d_init_iters', 0)
        self.gradient_penalty_weight = train_opt.get('gradient_penalty_weight', 0)
        epochs = check_at_least('train:rec_only_epochs', train_opt.get('rec_only_epochs', 0), 0)
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

    def setup_optimizers(self) -> None:
        """As BasicSR's; the critic's optimizer only with a critic."""
        (SRGANModel if self.use_gan else SRModel).setup_optimizers(self)

    def print_network(self, net: nn.Module) -> None:
        """One line instead of BasicSR's dump of every layer."""
        net = self.get_bare_model(net)
        number = sum(p.numel() for p in net.parameters())
        get_root_logger().info(f'Network: {type(net).__name__}, trained, {number:,d} parameters')

    # -- training ------------------------------------------------------------------------------

    def feed_data(self, data: dict) -> None:
        """Take a batch of ``RefTripletDataset``."""
        self.lq = self._take(data['lq'])
        self.gt = self._take(data['gt']) if 'gt' in data else None
        self.refs = [self._take(ref) for ref in data.get('refs') or [data['ref']]]
        self.de = self._take(data['de']) if 'de' in data else None
        ref_des = data.get('refs_de') or ([data['ref_de']] if 'ref_de' in data else None)
        self.ref_des = [self._take(image) for image in ref_des] if ref_des else None

    def _take(self, image: Tensor) -> Tensor:
        return image.to(self.device, memory_format=memory_format_on(self.device))

    def _forward(self, net_g: nn.Module):
        return self.pipeline.restore(net_g, self.lq, self.refs, self.de, self.ref_des)

    def optimize_parameters(self, current_iter: int) -> None:
        """One step of G, and after the warm-up one of D (Eq. 14)."""
        full_loss = current_iter > self.num_rec_only_iter
        adversarial = full_loss and self.use_gan
        step_g = not adversarial or (
            current_iter % self.net_d_iters == 0 and current_iter > self.net_d_init_iters
        )
        losses = OrderedDict()
        self.output = self._forward(self.net_g).sr
        if step_g:
            self._step_g(losses, full_loss, adversarial)
        if adversarial:
            self._step_d(losses)
        self.log_dict = self.reduce_loss_dict(losses)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def _step_g(self, losses: dict[str, Tensor], full_loss: bool, adversarial: bool) -> None:
        if self.cri_pix:
            losses['l_g_pix'] = self.cri_pix(self.output, self.gt)
        if full_loss and self.cri_perceptual:
            perceptual, style = self.cri_perceptual(self.output, self.gt)
            if perceptual is not None:
                losses['l_g_percep'] = perceptual
            if style is not None:
                losses['l_g_style'] = style
        if adversarial:
            self.net_d.requires_grad_(False)
            losses['l_g_gan'] = self.cri_gan(self.net_d(self.output), True, is_disc=False)
        self.optimizer_g.zero_grad()
        sum(losses.values()).backward()
        self.optimizer_g.step()

    def _step_d(self, losses: dict[str, Tensor]) -> None:
        self.net_d.requires_grad_(True)
        fake = self.output.detach()
        real_pred, fake_pred = self.net_d(self.gt), self.net_d(fake)
        losses['l_d_real'] = self.cri_gan(real_pred, True, is_disc=True)
        losses['l_d_fake'] = self.cri_gan(fake_pred, False, is_disc=True)
        total = losses['l_d_real'] + losses['l_d_fake']
        if self.gradient_penalty_weight:
            losses['l_d_gp'] = gradient_penalty(self.net_d, self.gt, fake)
            total = total + self.gradient_penalty_weight * losses['l_d_gp']
        self.optimizer_d.zero_grad()
        total.backward()
        self.optimizer_d.step()
        losses['out_d_real'], losses['out_d_fake'] = real_pred.mean(), fake_pred.mean()

    def save(self, epoch: int, current_iter: int) -> None:
        """As BasicSR's; without a critic there is none to save."""
        (SRGANModel if self.use_gan else SRModel).save(self, epoch, current_iter)

    # -- validation ----------------------------------------------------------------------------

    def test(self) -> None:
        """Super-resolve what was fed; the EMA network if there is one."""
        net_g = getattr(self, 'net_g_ema', self.net_g)
        tile = (self.opt.get('val') or {}).get('tile')
        net_g.eval()
        with torch.no_grad():
            if tile:
                self.restoration = self.pipeline.restore_tiled(
                    net_g, self.lq, self.refs, tile=tile, de=self.de, ref_des=self.ref_des
                )
            else:
                self.restoration = self._forward(net_g)
        self.output = self.restoration.sr
        if net_g is self.net_g and self.is_train:
            net_g.train()

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img) -> None:
        """Metrics, tables and pictures of one data set, see ``defsr.models.validation``."""
        validate(self, dataloader, current_iter, tb_logger, save_img)

    def result_path(self, dataset_name: str, image_name: str, current_iter: int | str) -> str:
        """Where BasicSR's SRModel writes a result."""
        folder = self.opt['path']['visualization']
        if self.is_train:
            return osp.join(folder, image_name, f'{image_name}_{current_iter}.png')
        suffix = (self.opt['val'].get('suffix')) or self.opt['name']
        return osp.join(folder, dataset_name, f'{image_name}_{suffix}.png')


def _one_degradation(datasets: dict) -> str:
    """The degradation that every data set agrees on."""
    kinds = {block.get('degradation', 'matlab') for block in datasets.values()}
    if len(kinds) > 1:
        raise ValueError(
            f'The data sets are degraded in different ways ({sorted(kinds)}). '
            'Set datasets:*:degradation to the same.'
        )
    return kinds.pop()
