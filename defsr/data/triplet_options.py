"""The options of ``RefTripletDataset``, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from defsr.data.augmentation import REF_AUGMENTS, RefAugment
from defsr.data.roots import ROOTS, Backend
from defsr.diffusion.degradation import Degradation
from defsr.images.header import MAX_MEGAPIXELS
from defsr.utils.checks import Choice, check_above, check_block, check_choice, check_int, check_keys

SET_IT = '. Set it'
BACKENDS: tuple[Backend, ...] = ('disk', 'lmdb')
BASICSR_KEYS = {
    'name', 'type', 'phase', 'scale', 'io_backend', 'batch_size_per_gpu', 'num_worker_per_gpu',
    'use_shuffle', 'dataset_enlarge_ratio', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory',
    'persistent_workers', 'mean', 'std',
}  # fmt: skip
OWN_KEYS = {
    *(f'dataroot_{root}' for root in ROOTS), 'pair_list', 'gt_size', 'use_hflip', 'use_rot',
    'ref_augment', 'ref_size', 'degradation', 'max_megapixels', 'center_crop', 'keep_in_memory',
}  # fmt: skip


@dataclass(frozen=True)
class TripletOptions:
    """The data set's block of an option file, with defaults filled in.

    Attributes:
        block: its path in the option file, for messages.
        roots: kinds in ``ROOTS`` -> folder, those that are given.
        ref_is_lq: ``dataroot_ref: lq``, the input serves as its own reference.
        gt_size, ref_size: sides of the training crops; 0 outside training.
        max_megapixels: larger images are refused.
        center_crop: side of what is left of larger images outside training; 0: all.
        keep_in_memory: decoded and degraded images stay.
    """

    block: str
    is_train: bool
    scale: int
    backend: Backend
    roots: Mapping[str, str]
    ref_is_lq: bool
    pair_list: str | None
    gt_size: int
    ref_size: int
    use_hflip: bool
    use_rot: bool
    ref_augment: RefAugment
    degradation: Degradation
    max_megapixels: float
    center_crop: int
    keep_in_memory: bool

    @property
    def main(self) -> str:
        """The root whose images are the data set's: ``gt``, or ``lq`` without one."""
        return 'gt' if 'gt' in self.roots else 'lq'

    def any_extension(self, root: str) -> bool:
        """Whether names of a pair match with any extension there; those of a list do not."""
        if root in ('ref', 'ref_rect'):
            return self.pair_list is None
        return root != self.main

    @classmethod
    def from_opt(cls, opt: Mapping[str, Any], where: str = '') -> TripletOptions:
        """Read a data set block, which is left as it is.

        Args:
            opt: its content, with ``phase`` and ``scale``.
            where: its path in the option file. Default: by its ``name``.

        Raises:
            ValueError: for an unknown key, a value out of range or a combination without
                meaning; the message names the option.
        """
        block = where or place_of(opt)
        check_keys(block, opt, BASICSR_KEYS | OWN_KEYS)
        phase = check_choice(f'{block}:phase', opt.get('phase'), ('train', 'val', 'test'))
        for key in ('mean', 'std'):
            if opt.get(key) is not None:
                raise ValueError(f'{block}:{key} is set, but images stay in [0, 1]. Remove it.')
        scale = check_int('scale', opt.get('scale'), 1, SET_IT)
        is_train = phase == 'train'
        gt_size = _crop_side(block, 'gt_size', opt.get('gt_size'), scale) if is_train else 0
        ref_size = gt_size if opt.get('ref_size') is None else opt['ref_size']
        roots = _roots(block, opt, is_train)
        ref_augment = choice_of(block, opt, 'ref_augment', REF_AUGMENTS)
        if 'ref_rect' in roots and (ref_augment != 'together' or ref_size != gt_size):
            raise ValueError(
                f'{block}:dataroot_ref_rect is in the frame of the input and cut with it. Remove '
                'ref_augment and ref_size.'
            )
        most = opt.get('max_megapixels', MAX_MEGAPIXELS)
        return cls(
            block=block,
            is_train=is_train,
            scale=scale,
            backend=backend_of(block, opt),
            roots=roots,
            ref_is_lq=opt.get('dataroot_ref') == 'lq',
            pair_list=opt.get('pair_list'),
            gt_size=gt_size,
            ref_size=_crop_side(block, 'ref_size', ref_size, scale) if is_train else 0,
            use_hflip=choice_of(block, opt, 'use_hflip', (True, False)),
            use_rot=choice_of(block, opt, 'use_rot', (True, False)),
            ref_augment=ref_augment,
            degradation=degradation_of(opt, block),
            max_megapixels=check_above(f'{block}:max_megapixels', most, 0),
            center_crop=_center_crop(block, opt, scale, is_train),
            keep_in_memory=choice_of(block, opt, 'keep_in_memory', (False, True)),
        )


def place_of(opt: Mapping[str, Any]) -> str:
    """A data set's block in messages, where its path in the option file is not known."""
    return f'datasets:{opt.get("name", "?")}'


def degradation_of(opt: Mapping[str, Any], where: str = '') -> Degradation:
    """How a data set's block says that its LR images were made; MATLAB's way if it does not."""
    option = f'{where or place_of(opt)}:degradation'
    return Degradation(opt.get('degradation', 'matlab'), opt['scale'], option)


def one_degradation(opt: Mapping[str, Any]) -> Degradation:
    """The degradation that all data sets of an option file agree on; ValueError if they do not."""
    kinds = {block.get('degradation', 'matlab') for block in opt['datasets'].values()}
    if len(kinds) > 1:
        raise ValueError(
            f'The data sets are degraded in different ways ({sorted(kinds)}). '
            'Set datasets:*:degradation to the same.'
        )
    return Degradation(kinds.pop(), opt['scale'], 'datasets:*:degradation')


def choice_of(where: str, opt: Mapping[str, Any], key: str, choices: tuple[Choice, ...]) -> Choice:
    """The value of a key; the first choice is the default."""
    return check_choice(f'{where}:{key}', opt.get(key, choices[0]), choices)


def backend_of(where: str, opt: Mapping[str, Any]) -> Backend:
    """``disk`` or ``lmdb``, of a data set's ``io_backend``."""
    given = opt.get('io_backend')
    backend = check_block(f'{where}:io_backend', {'type': 'disk'} if given is None else given)
    check_keys(f'{where}:io_backend', backend, ('type',))
    return check_choice(f'{where}:io_backend:type', backend.get('type'), BACKENDS)


def _center_crop(block: str, opt: Mapping[str, Any], scale: int, is_train: bool) -> int:
    if opt.get('center_crop') is None:
        return 0
    if is_train:
        raise ValueError(
            f'{block}:center_crop is for val and test only. Training cuts at random: set gt_size.'
        )
    return _crop_side(block, 'center_crop', opt['center_crop'], scale)


def _crop_side(block: str, key: str, value: object, scale: int) -> int:
    side = check_int(f'{block}:{key}', value, scale, SET_IT)
    if side % scale:
        raise ValueError(
            f'{block}:{key} is {side}, but must be a multiple of scale={scale}. '
            f'Nearest: {side - side % scale}.'
        )
    return side


def _roots(block: str, opt: Mapping[str, Any], is_train: bool) -> dict[str, str]:
    given = {root: opt.get(f'dataroot_{root}') for root in ROOTS}
    roots = {root: value for root, value in given.items() if value is not None}
    for root, value in roots.items():
        if not isinstance(value, str):
            raise ValueError(f'{block}:dataroot_{root} is {value!r}, but must be a folder.')
    pair_list = opt.get('pair_list')
    if pair_list is not None and not isinstance(pair_list, str):
        raise ValueError(f'{block}:pair_list is {pair_list!r}, but must be the path of a file.')
    if 'gt' not in roots and (is_train or 'lq' not in roots):
        or_lq = '' if is_train else ', or dataroot_lq where there is none'
        raise ValueError(
            f'{block}:dataroot_gt is missing. Name the folder of ground truth images{or_lq}.'
        )
    if ('ref_rect' in roots) != ('ref_mask' in roots):
        raise ValueError(
            f'{block}: dataroot_ref_rect, references in the frame of the input, and '
            'dataroot_ref_mask, where they are valid, go together. Give both, or neither.'
        )
    if 'ref_rect' in roots:
        for root in ('ref', 'ref_de'):
            if root in roots:
                raise ValueError(
                    f'{block}:dataroot_{root} is given beside dataroot_ref_rect, which stands for '
                    'the reference. Remove one of them.'
                )
        return roots
    if 'ref' not in roots:
        raise ValueError(
            f'{block}:dataroot_ref is missing. Name the folder of references, '
            'or `lq` to let each input be its own reference (Urban100).'
        )
    if roots['ref'] == 'lq':
        if is_train:
            raise ValueError(f'{block}:dataroot_ref is `lq`, which is for val and test only.')
        del roots['ref']
    return roots
