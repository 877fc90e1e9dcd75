"""Low-resolution input, ground truth and references, for training and for the benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import path as osp
from typing import Any

from basicsr.utils import get_root_logger
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from defsr.data.augmentation import ItemDraw, crop, draw_item
from defsr.data.image_source import ImageSource
from defsr.data.pair_list import Pair, check_result_names, read_pair_list
from defsr.data.triplet_options import TripletOptions

AT_LR = ('lq', 'ref_valid')  # at the size of the input, the others are scale times as large
MIN_REF_SIDE = 4  # the texture extractor's coarsest level has a quarter of it


@dataclass(frozen=True)
class _Entry:
    """One pair with every image found: names in the sources, and the paths of the item."""

    aligned: Mapping[str, str]  # of gt, lq and de
    refs: tuple[str, ...]
    ref_des: tuple[str, ...]
    lq_path: str


@DATASET_REGISTRY.register()
class RefTripletDataset(Dataset):
    """Input, ground truth and reference images for reference-based super-resolution.

    An item has, as RGB float32 (3, H, W) tensors in [0, 1]:

    - ``lq`` (3, h, w), and ``gt`` (3, scale*h, scale*w) unless ``dataroot_gt`` is absent;
    - ``ref``, of any size in validation, (3, ref_size, ref_size) in training;
    - ``de``, ``ref_de``: cached detail-enhanced images of lq's and ref's content, at the size of
      gt and ref, if ``dataroot_de``, ``dataroot_ref_de`` are given;
    - ``ref`` (3, scale*h, scale*w) and ``ref_valid`` (1, h, w) bool, cut and turned with ``gt``, if
      the references are in its frame: ``dataroot_ref_rect`` with ``dataroot_ref_mask``;
    - in validation with several references lists ``refs`` (and ``refs_de``), whose first is
      ``ref``. They collate at batch 1. In training one of them is drawn for ``ref``.

    and the strings ``lq_path``, ``gt_path``, ``ref_path``. ``lq_path`` carries the result's
    name (``<gt>__<ref>``), since BasicSR names results by it. Cropping and augmentation happen
    in training only. ``docs/datasets.md`` has every option.

    Args:
        opt: the data set's block of an option file; read only.

    Raises:
        ValueError: for options that are unknown or do not fit, empty folders, and results that
            would overwrite each other.
        FileNotFoundError: for folders and listed images that do not exist.
    """

    gives = ('lq', 'gt', 'refs')  # with each image, ``gt`` if there is one

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt
        self.options = options = TripletOptions.from_opt(opt)
        self.sources = {
            root: ImageSource(
                f'{options.block}:dataroot_{root}', folder, options.backend, options.max_megapixels
            )
            for root, folder in options.roots.items()
        }
        pairs = self._list_pairs()
        if not options.is_train:
            check_result_names(options.block, pairs)
        self.entries = [self._find(pair) for pair in pairs]
        self._kept: dict[tuple[int, ...], dict[str, Tensor]] = {}
        self._warn_of_leaks()

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse a block that the constructor would; reads no folder."""
        TripletOptions.from_opt(block, where)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, Tensor | list[Tensor] | str]:
        entry = self.entries[index]
        images = self._centre(self._once((index,), lambda: self._read_aligned(entry)))
        chosen: Sequence[int] = range(len(entry.refs))
        draw = None
        if self.options.is_train:
            draw = draw_item(self.options.use_hflip, self.options.use_rot, self.options.ref_augment)
            chosen = [draw.pick(entry.refs)]
        refs = [
            self._centre(self._once((index, i), partial(self._read_ref, entry, i, images['lq'])))
            for i in chosen
        ]
        if draw is not None:
            if 'ref_rect' in self.sources:
                refs = [self._crop_aligned({**images, **ref}, draw, entry) for ref in refs]
                refs = [{key: ref[key] for key in ('ref', 'ref_valid')} for ref in refs]
            else:
                refs = [self._crop_ref(ref, draw) for ref in refs]
            images = self._crop_aligned(images, draw, entry)
        refs = [{key: ref[key].contiguous() for key in ref} for ref in refs]
        item: dict[str, Tensor | list[Tensor] | str] = {
            key: image.contiguous() for key, image in images.items()
        }
        item |= refs[0]
        if len(refs) > 1:
            for key in refs[0]:
                item[key.replace('ref', 'refs', 1)] = [ref[key] for ref in refs]
        item['lq_path'] = entry.lq_path
        if 'gt' in entry.aligned:
            item['gt_path'] = self.sources['gt'].path(entry.aligned['gt'])
        item['ref_path'] = self._ref_path(entry, chosen[0])
        return item

    def _once(
        self, place: tuple[int, ...], read: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What ``read`` gives, with ``keep_in_memory`` for good."""
        if not self.options.keep_in_memory:
            return read()
        if place not in self._kept:
            self._kept[place] = read()
        return self._kept[place]

    def _list_pairs(self) -> list[Pair]:
        """The pair list's lines, or every image with the reference of the same name."""
        options = self.options
        if options.pair_list is None:
            names = self.sources[self.options.main].names()
            return [Pair(name, (name,)) for name in names]
        pairs = read_pair_list(options.pair_list, f'{options.block}:pair_list')
        for pair in pairs:
            if options.ref_is_lq and pair.refs not in ((), (pair.gt,)):
                raise ValueError(
                    f'{options.block}:dataroot_ref is `lq`, but pair_list gives {pair.gt} the '
                    f'references {pair.refs}. Name their folder, or use another list.'
                )
            if not options.ref_is_lq and not pair.refs:
                raise ValueError(
                    f'{options.block}:pair_list has no reference for {pair.gt}. '
                    'Write `gt ref1 [ref2 ...]`, or set `dataroot_ref: lq`.'
                )
        return [Pair(pair.gt, pair.refs or (pair.gt,)) for pair in pairs]

    def _find(self, pair: Pair) -> _Entry:
        """Look up every image of a pair. Names not in a list match with any extension."""
        loose = self.options.any_extension
        aligned: dict[str, str] = {
            root: self.sources[root].find(pair.gt, any_extension=loose(root))
            for root in ('gt', 'lq', 'de')
            if root in self.sources
        }
        refs: tuple[str, ...] = pair.refs
        ref_des: tuple[str, ...] = ()
        for root in {'ref', 'ref_rect'} & self.sources.keys():
            source = self.sources[root]
            refs = tuple(source.find(name, any_extension=loose(root)) for name in refs)
        if 'ref_de' in self.sources:
            source = self.sources['ref_de']
            ref_des = tuple(source.find(name, any_extension=loose('ref_de')) for name in refs)
        lq_file = self._lq_file(aligned)
        extension = osp.splitext(lq_file)[1]
        lq_path = osp.join(osp.dirname(lq_file), pair.result_stem + extension)
        return _Entry(aligned, refs, ref_des, lq_path)

    def _lq_file(self, aligned: Mapping[str, str]) -> str:
        root = 'lq' if 'lq' in aligned else 'gt'
        return self.sources[root].path(aligned[root])

    def _ref_path(self, entry: _Entry, index: int) -> str:
        if self.options.ref_is_lq:
            return self._lq_file(entry.aligned)
        return self.sources['ref_rect' if 'ref_rect' in self.sources else 'ref'].path(
            entry.refs[index]
        )

    def _warn_of_leaks(self) -> None:
        if self.options.main != 'gt' or 'ref' not in self.sources:
            return
        gt, ref = self.sources['gt'], self.sources['ref']
        if osp.realpath(gt.root) != osp.realpath(ref.root):
            return
        leaks = [e.aligned['gt'] for e in self.entries if e.aligned['gt'] in e.refs]
        if leaks:
            get_root_logger().warning(
                f'{self.options.block}: the reference of {leaks[0]} is its ground truth '
                f'(so for {len(leaks)} of {len(self)} inputs). Give a pair_list or another '
                'dataroot_ref, unless this is meant as an upper bound.'
            )

    def _read_aligned(self, entry: _Entry) -> dict[str, Tensor]:
        """``lq``, ``gt``, ``de`` of one entry as whole images that fit each other."""
        scale = self.options.scale
        images = {root: self.sources[root].read(name) for root, name in entry.aligned.items()}
        if 'lq' not in images:
            path = self.sources['gt'].path(entry.aligned['gt'])
            images['gt'], images['lq'] = self.options.degradation.make_lq(images['gt'], path)
        height, width = (scale * side for side in images['lq'].shape[-2:])
        for root, play in (('gt', scale - 1), ('de', 0)):
            if root in images:
                path = self.sources[root].path(entry.aligned[root])
                images[root] = _fit(images[root], height, width, play, f'{root} {path}')
        return images

    def _read_ref(self, entry: _Entry, index: int, lq: Tensor) -> dict[str, Tensor]:
        """``ref`` and ``ref_de``; the reference loses what its cached image does not have."""
        if 'ref_rect' in self.sources:
            return self._read_rectified(entry.refs[index], lq)
        source = self.sources.get('ref')
        ref = source.read(entry.refs[index]) if source else lq.clone()
        if min(ref.shape[-2:]) < MIN_REF_SIDE:
            raise ValueError(
                f'The reference {self._ref_path(entry, index)} of {self.options.block} is '
                f'{ref.shape[-2]}x{ref.shape[-1]} (HxW), but both sides must be at least '
                f'{MIN_REF_SIDE}. Remove the pair or give another reference.'
            )
        if not entry.ref_des:
            return {'ref': ref}
        ref_de = self.sources['ref_de'].read(entry.ref_des[index])
        height, width = ref_de.shape[-2:]
        what = f'ref {self._ref_path(entry, index)} (for its ref_de)'
        ref = _fit(ref, height, width, self.options.scale - 1, what)
        return {'ref': ref, 'ref_de': ref_de}

    def _read_rectified(self, name: str, lq: Tensor) -> dict[str, Tensor]:
        """``ref`` in the frame of the input, and ``ref_valid``."""
        height, width = lq.shape[-2:]
        scale, source = self.options.scale, self.sources['ref_rect']
        ref = _fit(source.read(name), scale * height, scale * width, 0, source.path(name))
        masks = self.sources['ref_mask']
        mask = masks.find(name, any_extension=self.options.any_extension('ref_mask'))
        valid = _fit(masks.read(mask), height, width, 0, masks.path(mask))
        return {'ref': ref, 'ref_valid': valid[:1] > 0.5}

    def _centre(self, images: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The middle of ``center_crop``, cut on the grid of ``lq``."""
        side, scale = self.options.center_crop, self.options.scale
        if not side or (self.options.ref_is_lq and 'ref' in images):  # a copy of lq, which is cut
            return images
        return {
            name: _middle(image, side // scale, 1 if name in AT_LR else scale)
            for name, image in images.items()
        }

    def _crop_aligned(
        self, images: Mapping[str, Tensor], draw: ItemDraw, entry: _Entry
    ) -> dict[str, Tensor]:
        """The same random part of ``lq``, ``gt`` and ``de``, cut on the grid of ``lq``."""
        scale, size = self.options.scale, self.options.gt_size
        height, width = images['lq'].shape[-2:]
        if min(height, width) * scale < size:
            raise ValueError(
                f'{self.sources["gt"].path(entry.aligned["gt"])} is {height * scale}x'
                f'{width * scale} (HxW, a multiple of scale), smaller than {self.options.block}:'
                f'gt_size={size}. Remove it, or lower gt_size to at most '
                f'{min(height, width) * scale}.'
            )
        top, left = draw.position.offset_yx(images['lq'], size // scale)
        return {
            name: draw.transform(crop(image, top * factor, left * factor, size * factor // scale))
            for name, image in images.items()
            for factor in [1 if name in AT_LR else scale]
        }

    def _crop_ref(self, images: Mapping[str, Tensor], draw: ItemDraw) -> dict[str, Tensor]:
        """``ref`` and ``ref_de`` at ref_size: a random part, or mirrored at bottom and right."""
        size = self.options.ref_size
        top, left = draw.ref_position.offset_yx(images['ref'], size)
        return {
            name: draw.ref_transform(crop(image, top, left, size)) for name, image in images.items()
        }


def all_of(item: Mapping[str, Any], key: str) -> list[Tensor]:
    """All of ``ref``, ``ref_de`` or ``ref_valid`` of an item or a batch; empty if it has none."""
    return item.get(key.replace('ref', 'refs', 1)) or ([item[key]] if key in item else [])


def _fit(image: Tensor, height: int, width: int, play: int, what: str) -> Tensor:
    """Cut at most ``play`` rows and columns off bottom and right; ValueError if it is no fit."""
    more = (image.shape[-2] - height, image.shape[-1] - width)
    if min(more) < 0 or max(more) > play:
        at_most = f' or up to {play} more' if play else ''
        raise ValueError(
            f'{what} is {image.shape[-2]}x{image.shape[-1]} (HxW), but must be {height}x{width}'
            f'{at_most}. Check scale and the dataroot_* options.'
        )
    return image[..., :height, :width]


def _middle(image: Tensor, number: int, cell: int) -> Tensor:
    """The middle of an image: at most ``number`` cells of that side each way, on their grid."""
    spans = []
    for size in image.shape[-2:]:
        keep = min(number, size // cell)
        first = (size // cell - keep) // 2
        spans.append(slice(first * cell, (first + keep) * cell))
    return image[..., spans[0], spans[1]]
