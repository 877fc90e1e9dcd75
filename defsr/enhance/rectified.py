"""References of data sets in the frames of their inputs, made once: ``defsr-rectify``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from defsr.archs.enhancer_base import Enhancer
from defsr.archs.interface import Reference
from defsr.config.blocks import check_networks, check_path, check_run, required
from defsr.data.cache_record import GIVEN, make_record
from defsr.data.image_source import image_key
from defsr.data.ref_triplet_dataset import RefTripletDataset, all_of
from defsr.data.triplet_options import TripletOptions
from defsr.diffusion.reference_null_space import best_of
from defsr.enhance.cache import EnhancedCache
from defsr.enhance.job import disk_explained, refuse_faults, shared_out, where_it_is
from defsr.enhance.options import device_of
from defsr.methods.networks import build_frozen, check_enhancer
from defsr.rectify.rectifier import Rectifier
from defsr.utils import distributed
from defsr.utils.checks import check_block, check_choice, check_keys
from defsr.utils.cli import tell
from defsr.utils.kinds import check_kind
from defsr.utils.locks import locked
from defsr.utils.paths import expanded
from defsr.utils.stopping import StopRequest

TOP_KEYS = (
    'name', 'scale', 'num_gpu', 'rectify', 'datasets', 'network_e', 'path', 'dist_params',
)  # fmt: skip
ROLES = ('ref_rect', 'ref_mask')


def rectify_data_sets(opt: Mapping[str, Any], stop: StopRequest | None = None) -> None:
    """Make ``out/ref_rect`` and ``out/ref_mask`` of every data set of an option file; collective.

    An input's references become one image in its frame, at each place the one that is trusted
    most, under the name of the input; where none is confirmed the mask is empty.

    Args:
        opt: the content of an option file of ``defsr-rectify``.
        stop: asked for after each input. Default: nobody asks.

    Raises:
        ValueError: for options, data or results of other settings that do not fit, and at the end
            if images could not be read; all others are made then.
        OSError: for files that are not there, and if the disk does not take an image.
        SystemExit: with 128 + the signal, if asked to stop.
    """
    blocks = check_rectify_options(opt)
    device = device_of(opt)
    enhancer = build_frozen('network_e', opt, device, may_lack_weights=False)
    faults = []
    for where, block in blocks.items():
        data = RefTripletDataset({key: block[key] for key in block if key != 'out'})
        rectifier = Rectifier.from_opt(opt['rectify'], data.options.degradation)
        assert rectifier is not None, 'the check refuses it'
        job = RectifyJob(f'{where}:out', block['out'], data, enhancer, rectifier)
        with locked(job.out, f'Wait for it, stop it, or change {where}:out.'):
            faults += job.run(stop or StopRequest())
    refuse_faults(faults, 'inputs have no rectified references, all others have')


def check_rectify_options(opt: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read an option file of ``defsr-rectify``; its data sets' blocks, by their place in it.

    Raises:
        ValueError: for the first mistake; the message names the option.
        FileNotFoundError: for weights that do not exist.
    """
    check_keys('', opt, TOP_KEYS)
    check_run(opt)
    for key in ('scale', 'network_e', 'rectify'):
        required(opt, '', key)
    check_networks(opt)
    check_path({'path': {}} | {key: opt[key] for key in opt if opt[key] is not None})
    datasets = check_block('datasets', required(opt, '', 'datasets'))
    blocks: dict[str, dict[str, Any]] = {}
    for phase, given in datasets.items():
        where = f'datasets:{phase}'
        block = {**check_block(where, given), 'phase': 'test', 'scale': opt['scale']}
        check_choice(f'{where}:type', block.get('type'), ('RefTripletDataset',))
        for key in ('out', 'dataroot_ref', 'name'):
            check_kind(f'{where}:{key}', required(block, where, key), str)
        plain = {key: block[key] for key in block if key != 'out'}
        degradation = TripletOptions.from_opt(plain, where).degradation
        check_enhancer('network_e', opt, degradation)
        if Rectifier.from_opt(opt['rectify'], degradation) is None:
            raise ValueError('rectify is none, so there is nothing to make. Give it a matcher.')
        if block['out'] in [other['out'] for other in blocks.values()]:
            raise ValueError(f'{where}:out is that of another data set. Give each its own.')
        blocks[where] = block
    if not blocks:
        raise ValueError('datasets is empty. Add a block such as datasets:train.')
    return blocks


class RectifyJob:
    """The rectified references of one data set on their way.

    Args:
        option: what the user sets to ``out``, for messages.
        out: folder.
        data: pairs, whole images.
        enhancer: of the inputs.
        rectifier: of the references.
    """

    def __init__(
        self,
        option: str,
        out: str,
        data: RefTripletDataset,
        enhancer: Enhancer,
        rectifier: Rectifier,
    ) -> None:
        self.out, self.data, self.enhancer, self.rectifier = (
            expanded(out),
            data,
            enhancer,
            rectifier,
        )
        self.label = f'{data.opt["name"]} ref_rect'
        made_by = enhancer.fingerprint() | rectifier.fingerprint()
        given = GIVEN if 'lq' in data.sources else data.options.degradation.name
        self.caches = {
            role: EnhancedCache(option, self.out / role, make_record(role, given, made_by))
            for role in ROLES
        }
        main = data.options.main
        self.names = [f'{image_key(entry.aligned[main])}.png' for entry in data.entries]
        often = [name for name, number in Counter(self.names).items() if number > 1]
        if often:
            raise ValueError(
                f'{data.options.block}:pair_list has {often[0]} in several lines. Give all of its '
                'references in one.'
            )

    def run(self, stop: StopRequest) -> list[str]:
        """Make what is missing; returns why some could not be. Collective."""
        distributed.on_main(self._begin)
        faults = shared_out(range(len(self.names)), self._tried, self.label, stop, self.out)
        if distributed.is_main() and not faults:
            tell(f'{self.label}: {len(self.names)} images with their masks are in {self.out}.')
        return [faults[name] for name in sorted(faults)]

    def _begin(self) -> None:
        with disk_explained():
            for cache in self.caches.values():
                cache.begin(self.names)

    def _tried(self, index: int) -> dict[str, str]:
        try:
            self.make(index)
        except ValueError as error:
            return {self.names[index]: str(error)}
        return {}

    @torch.no_grad()
    def make(self, index: int) -> None:
        """Write the image and the mask of one input, unless they are there."""
        item: Any = self.data[index]
        name = self.names[index]
        lq = item['lq'][None]
        scale, size = self.enhancer.scale, (lq.shape[-2], lq.shape[-1])
        large = scale * size[0], scale * size[1]
        if all(self.caches[r].has(name, s) for r, s in zip(ROLES, (large, size), strict=True)):
            return
        image, mask = self._rectified(lq, item)
        with disk_explained():
            self.caches['ref_rect'].put(name, image)
            self.caches['ref_mask'].put(name, mask)

    def _rectified(self, lq: Tensor, item: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(3, H, W) in [0, 1] and (3, h, w), 0 or 1."""
        enhance = partial(where_it_is, self.enhancer)
        de = item['de'][None] if 'de' in item else enhance(lq)
        images, soft = all_of(item, 'ref'), all_of(item, 'ref_de')
        refs = [
            Reference(image[None], soft[i][None] if soft else None)
            for i, image in enumerate(images)
        ]
        views = self.rectifier(lq, de, refs, enhance, tell=False)
        if not views:
            return torch.zeros_like(de[0]), torch.zeros_like(lq[0])
        found = [(view.image, view.evidence, view.valid) for view in views]
        best = best_of(found, self.enhancer.scale)
        return best.image[0], best.valid[0].to(lq).expand(3, -1, -1)
