"""A method: the way from an LR image and its references to the SR image, around one network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from defsr.archs.enhancer_base import Enhancer
from defsr.archs.interface import Reference, Restoration
from defsr.diffusion.degradation import Degradation
from defsr.diffusion.reference_null_space import (
    Best,
    NullSpaces,
    best_of,
    gated,
)
from defsr.methods.blocks import BLOCK, restore_in_blocks
from defsr.methods.inputs import Inputs
from defsr.methods.networks import build_frozen, check_enhancer
from defsr.ops.evidence import evidence_of
from defsr.ops.tiles import Tile, make_tiles
from defsr.rectify.rectifier import LOG, STEPS, Rectified, Rectifier
from defsr.utils.checks import check_choice

STAGES = ('enhance', 'rectify', 'references', 'match', 'restore')
GATES = ('none', 'evidence')
INPUT_OPTIONS = ('project', 'quality')  # of all methods
RECTIFY_OPTIONS = ('rectify', 'gate', *INPUT_OPTIONS)  # of methods that read references

Prepared = TypeVar('Prepared')  # what a method's `prepare` makes of references
Progress = Callable[[int, int], None]
StageProgress = Callable[[str, int, int], None]


class Method(ABC, Generic[Prepared]):
    """What stands around ``network_g``: model, upscaling and benchmark all go through it.

    Args:
        degradation: how LR images are made of HR ones; its scale is the method's.
        rectify: brings references into the input's frame first, see ``Rectifier``; for whole
            images only, not for crops in training. ``none`` (the papers): they stay as they are.
        gate: ``evidence``: where rectified references explain the input the result counts, and is
            averaged with their own null space; elsewhere the enhanced input stays, see ``gated``.
            ``none``: the result as it is.
        project: ``exact``: the result is made consistent with the input, but not in training,
            whose crops are not what their input was made of. ``auto``: the same, if the input
            is clean. ``off``: it stays.
        quality: what inputs are. ``clean`` (the papers): reduced, and rounded. ``auto``: noise and
            traces of JPEG are looked for, and taken off by a denoiser, ``network_c``, and by what
            rectified references say, see ``with_references``. ``photo``: there is some noise even
            if none is seen. Inputs with faults are not projected onto by ``project: auto``.

    Attributes:
        blocks: the option file's blocks of the frozen networks that it reads, as ``network_e``;
            those of one file: ``blocks_of``.
        options: the other options of the file's top level that decide its results.
        only_scale: the one factor that its networks work with; None: any.
        learned: those of them that a network is trained with and has to be used with.
        frozen: block name -> network, loaded, in eval mode; never trained, never saved.
        net_e: enhancer, ``lq -> I_DE``; None: it enhances nothing.
        net_r: enhancer of what references are brought to; None: ``net_e``.
        inputs: what they are, and what is done about it.
    """

    blocks: ClassVar[tuple[str, ...]] = ()
    only_scale: ClassVar[int | None] = None
    options: ClassVar[tuple[str, ...]] = ()
    learned: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        degradation: Degradation,
        rectify: object = 'none',
        gate: str = 'none',
        project: str | bool = 'off',
        quality: str = 'clean',
    ) -> None:
        self.degradation = degradation
        self.rectifier = Rectifier.from_opt(rectify, degradation)
        self.gate = check_choice('gate', gate, GATES)
        self.inputs = Inputs(degradation, project, quality)
        if self.gate != 'none' and self.rectifier is None:
            raise ValueError(f'gate is {gate}, but without rectify nothing is known. Give rectify.')
        self.scale = degradation.scale
        self.frozen: dict[str, nn.Module] = {}
        self.net_e: Enhancer | None = None
        self.net_r: Enhancer | None = None

    @classmethod
    def blocks_of(cls, opt: Mapping[str, Any]) -> tuple[str, ...]:
        """``blocks``, and those that the option file's other options ask for.

        Where it rectifies references the enhancer for that, ``network_r`` or ``network_e``: in its
        images points are found, and they stay where no reference explains the input. Where inputs
        may have faults the denoiser that takes them off, ``network_c``.
        """
        found = list(cls.blocks)
        if 'rectify' in cls.options and Rectifier.is_on(opt.get('rectify')):
            own = 'network_r' if opt.get('network_r') else 'network_e'
            found += [] if own in found else [own]
        if opt.get('quality', 'clean') != 'clean':
            found.append('network_c')
        return tuple(found)

    @classmethod
    def keys_of(cls, opt: Mapping[str, Any]) -> tuple[str, ...]:
        """What an option file may say to it at the top level: ``options`` and blocks, those too
        that its options do not ask for."""
        idle = {'rectify': 'network_r', 'quality': 'network_c'}
        may = [block for option, block in idle.items() if option in cls.options]
        return (*cls.options, *cls.blocks_of(opt), *may)

    @classmethod
    def from_opt(
        cls,
        opt: Mapping[str, Any],
        degradation: Degradation,
        device: torch.device,
        *,
        needs_enhancer: bool = True,
    ) -> Method:
        """The method of an option file with its frozen networks.

        Args:
            opt: an option file's content.
            degradation: of the data, or of the photographs to be restored.
            device: of the networks.
            needs_enhancer: False if all of its images come from caches.
        """
        lacks = not needs_enhancer
        own = [build_frozen(block, opt, device, may_lack_weights=lacks) for block in cls.blocks]
        make: Any = cls
        method: Method = make(*own, degradation=degradation, **cls.own_options(opt))
        for block in cls.blocks_of(opt)[len(cls.blocks) :]:
            network = build_frozen(block, opt, device, may_lack_weights=False)
            method.frozen[block] = network
            if block == 'network_c':
                method.inputs.clean_with(network)
            else:
                method.net_r = network
        return method

    @classmethod
    def check(cls, opt: Mapping[str, Any], degradation: Degradation) -> None:
        """Refuse ``options`` that are not legal, and ``blocks`` that do not fit the images."""
        if cls.only_scale not in (None, degradation.scale):
            also = ', and network_e:scale' if 'network_e' in cls.blocks else ''
            raise ValueError(
                f'scale is {degradation.scale}, but {opt["network_g"]["type"]} works with '
                f'{cls.only_scale} only. Set it{also}.'
            )
        make: Any = cls  # the options are looked at, no network is
        own = [nn.Identity() for _ in cls.blocks]
        make(*own, degradation=degradation, **cls.own_options(opt))
        for block in {'network_e', 'network_r'}.intersection(cls.blocks_of(opt)):
            check_enhancer(block, opt, degradation)

    @classmethod
    def own_options(cls, opt: Mapping[str, Any]) -> dict[str, Any]:
        """Those of an option file's content that the constructor takes."""
        return {key: opt[key] for key in cls.options if key in opt}

    def check_data(self, opt: Mapping[str, Any], is_train: bool) -> None:
        """Refuse data sets that do not fit the frozen networks; ValueError names the option."""
        train = (opt.get('datasets') or {}).get('train') or {}
        if is_train and self.rectifier is not None and not train.get('dataroot_ref_rect'):
            raise ValueError(
                'rectify is for whole images, but a training cuts crops out of them. Set it to '
                'none, or give datasets:train rectified references: dataroot_ref_rect.'
            )

    @torch.no_grad()
    def enhance(self, lq: Tensor, progress: Progress | None = None) -> Tensor | None:
        """lq (N,3,h,w) -> I_DE (N,3,4h,4w), both in [0, 1]; None for a method without."""
        if self.net_e is None:
            return None
        if progress:
            return self.net_e.enhance(lq, progress).clamp(0, 1)
        return self.net_e(lq)

    @abstractmethod
    def prepare(self, net_g: nn.Module, refs: Sequence[Reference]) -> Prepared:
        """Whatever of the references serves any number of LR images."""

    @abstractmethod
    def restore(
        self, net_g: nn.Module, lq: Tensor, prepared: Prepared, de: Tensor | None = None
    ) -> Restoration:
        """Super-resolve at once; gradients reach ``net_g`` only.

        Args:
            net_g: the trainable network.
            lq: (N, 3, h, w) RGB in [0, 1].
            prepared: what ``prepare`` returned.
            de: the detail-enhanced input, if it is at hand. Default: ``enhance(lq)``.
        """

    @torch.no_grad()
    def restore_tiled(
        self,
        net_g: nn.Module,
        lq: Tensor,
        prepared: Prepared,
        *,
        tile: int,
        overlap: int = 16,
        de: Tensor | None = None,
        progress: StageProgress | None = None,
    ) -> Restoration:
        """As ``restore`` for large inputs, in memory that the tile bounds.

        Args:
            prepared: what ``prepare`` returned; it may be used up.
            tile: inner side of a tile in LR pixels.
            overlap: context on each side in LR pixels; cut off again.
            progress: called as (stage, done, total), each stage with done = 0 first.
        """
        num, channels, height, width = lq.shape
        tiles = make_tiles(height, width, side=tile, overlap=overlap)
        whole = Restoration(
            lq.new_empty((num, channels, self.scale * height, self.scale * width)), de=de
        )
        report = partial(progress or say_nothing, 'restore')
        report(0, len(tiles))
        for number, piece in enumerate(tiles, start=1):
            de_tile = None if de is None else de[piece.outer(self.scale)]
            part = self.restore(net_g, lq[piece.outer()], prepared, de_tile)
            whole.sr[piece.inner(self.scale)] = part.sr[piece.core(self.scale)]
            for name in ('index', 'confidence', 'winner'):
                found = getattr(part, name)
                if found is not None:
                    if getattr(whole, name) is None:
                        setattr(whole, name, found.new_empty((num, height, width)))
                    getattr(whole, name)[piece.inner()] = found[piece.core()]
            whole.key_size = part.key_size
            report(number, len(tiles))
        return whole

    def super_resolve(
        self,
        net_g: nn.Module,
        lq: Tensor,
        refs: Sequence[Reference],
        *,
        de: Tensor | None = None,
        views: Sequence[Rectified] | None = None,
        tile: int | None = None,
        overlap: int = 16,
        progress: StageProgress | None = None,
    ) -> Restoration:
        """All stages one after the other; at once, or in tiles if ``tile`` is given.

        Arguments as of ``restore`` and ``restore_tiled``; ``progress`` sees the stages in the
        order of ``STAGES``, those that the method has. ``views`` are what its ``rectifier`` makes
        of ``refs``, if they are at hand.
        """
        report = progress or say_nothing
        seen, faults = lq, [] if net_g.training else self.inputs.faults(lq)
        if faults:
            lq, de = self.inputs.cleaned(lq, faults), None
        if de is None:
            report('enhance', 0, 1)
            de = self.enhance(lq, partial(report, 'enhance') if progress else None)
            report('enhance', 1, 1)
        best = anchor = None
        if self.rectifier is not None and any(ref.valid is None for ref in refs):
            steps = STEPS * len(refs)
            report('rectify', 0, steps)
            anchor = self.anchor(lq, de)
            if views is None:
                views = self.rectifier(
                    lq, anchor, refs, self.anchor, progress=partial(report, 'rectify')
                )
            report('rectify', steps, steps)
            if not views:
                LOG.info(f'None of {len(refs)} references used: the result is the enhanced input.')
                return Restoration(self.inputs.consistent(anchor, lq, faults), de=de)
            best = best_of([(v.image, v.evidence, v.valid) for v in views], self.scale)
            number = len({view.number for view in views})
            share = float(best.evidence.rho.mean())
            LOG.info(f'{number} of {len(refs)} references used, for {share:.0%} of the picture.')
            refs = [Reference(best.image, valid=best.valid)]
            if faults:
                lq = self.inputs.explained(seen, lq, best, faults)
                de = self.enhance(lq)
                anchor = self.anchor(lq, de)
        if anchor is not None and max(lq.shape[-2:]) > BLOCK:
            found = restore_in_blocks(
                self, net_g, lq, refs[0], de, anchor, tile=tile, overlap=overlap, progress=report
            )
        else:
            report('references', 0, 1)
            prepared = self.prepare(net_g, refs)
            report('references', 1, 1)
            if tile is None:
                found = self.restore(net_g, lq, prepared, de)
            else:
                found = self.restore_tiled(
                    net_g, lq, prepared, tile=tile, overlap=overlap, de=de, progress=progress
                )
        if best is not None and anchor is not None:
            found = self._settled(found, lq, anchor, best, views or ())
        if not net_g.training:
            found = replace(found, sr=self.inputs.consistent(found.sr, lq, faults))
        return found

    def _in_pieces(
        self,
        lq: Tensor,
        tile: int,
        overlap: int,
        restore: Callable[[Tile], Tensor],
        report: StageProgress,
        grid: int = 1,
    ) -> Tensor:
        """The result (N,3,scale*h,scale*w) of tiles of lq with their context, one by one."""
        num, channels, height, width = lq.shape
        sr = lq.new_empty((num, channels, self.scale * height, self.scale * width))
        tiles = make_tiles(height, width, side=tile, overlap=overlap, grid=grid)
        report('restore', 0, len(tiles))
        for number, piece in enumerate(tiles, start=1):
            sr[piece.inner(self.scale)] = restore(piece)[piece.core(self.scale)]
            report('restore', number, len(tiles))
        return sr

    @torch.no_grad()
    def _spaces(self, lq: Tensor, in_frame: Sequence[Reference]) -> NullSpaces | None:
        """What references in the frame of the input add to it; None without any."""
        if not in_frame:
            return None
        operator = self.degradation.operator
        found = [
            (ref.image, evidence_of(lq, operator.A(ref.image), ref.valid), ref.valid)
            for ref in in_frame
            if ref.valid is not None
        ]
        best = best_of(found, self.scale)
        return NullSpaces.of(lq, best.image, best.evidence, operator)

    @torch.no_grad()
    def anchor(self, lq: Tensor, de: Tensor | None = None) -> Tensor:
        """What references are brought to, and what stays where none explains the input.

        Args:
            lq: (N,3,h,w) in [0, 1].
            de: I_DE, if it is at hand.
        """
        if self.net_r is not None:
            return self.net_r(lq)
        de = self.enhance(lq) if de is None else de
        return self.degradation.operator.A_pinv(lq).clamp(0, 1) if de is None else de

    @torch.no_grad()
    def confirming(self, lq: Tensor) -> Callable[[Reference], int]:
        """How many matches of a reference with lq a geometry confirms.

        Raises:
            ValueError: without ``rectify``.
        """
        rectifier = self.rectifier
        if rectifier is None:
            raise ValueError(
                'rectify is none, but references are to be chosen by their matches. Set rectify, '
                'or give no more references than are wanted.'
            )
        image = self.anchor(self.inputs.cleaned(lq, self.inputs.faults(lq)))
        return lambda ref: rectifier.find(image, ref, self.anchor).number

    def _settled(
        self,
        found: Restoration,
        lq: Tensor,
        anchor: Tensor,
        best: Best,
        views: Sequence[Rectified],
    ) -> Restoration:
        """With the gate, and what the references were seen as."""
        numbers = torch.tensor([view.number for view in views], device=lq.device)
        found = replace(
            found,
            views=views,
            rectified=best.image,
            rho=best.evidence.rho,
            winner=numbers[best.source[:, 0]],
        )
        if self.gate == 'evidence':
            operator = self.degradation.operator
            spaces = NullSpaces.of(lq, best.image, best.evidence, operator)
            found = replace(found, sr=gated(anchor, found.sr, spaces))
        return found


def check_references(refs: Sequence[Reference], who: str) -> None:
    """ValueError without any reference."""
    if not refs:
        raise ValueError(
            f'{who} reads references, but the data have none. Give at least one, as '
            'datasets:*:dataroot_ref.'
        )


def say_nothing(stage: str, done: int, total: int) -> None:
    """A ``StageProgress`` for nobody."""
