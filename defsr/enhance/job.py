"""Caches of enhanced images, filled by one process or by many, and by as many runs as it takes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from basicsr.utils.dist_util import get_dist_info
from torch import Tensor
from tqdm import tqdm

from defsr.archs.enhancer_base import Enhancer
from defsr.data.cache_record import make_record, write_record
from defsr.data.image_source import ImageSource
from defsr.data.lmdb_writer import build_lmdb, check_key
from defsr.enhance.cache import EnhancedCache
from defsr.enhance.options import (
    IMAGES_PER_BATCH,
    CacheRequest,
    check_enhance_options,
    device_of,
)
from defsr.enhance.source import EnhanceSource
from defsr.methods.networks import build_frozen
from defsr.utils import distributed
from defsr.utils.cli import tell
from defsr.utils.files import building_folder, publish_folder
from defsr.utils.fingerprints import digest_of
from defsr.utils.locks import locked
from defsr.utils.stopping import StopRequest

Piece = TypeVar('Piece')
GO_ON = 'Run the same command again to go on: what is finished is whole and is kept.'


@dataclass(frozen=True)
class Batch:
    """Images of one size that go through the enhancer together.

    Attributes:
        names: all of them. They depend on the list of images alone, not on what is finished or
            on the number of processes, so that a result does not either, to the last bit.
        todo: those that are to be written.
        size: (h, w) of each before it is enhanced.
    """

    names: tuple[str, ...]
    todo: tuple[str, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """What is left to do for one cache, and why some images cannot be (name -> reason)."""

    batches: tuple[Batch, ...]
    faults: Mapping[str, str]


def fill_caches(opt: Mapping[str, Any], stop: StopRequest | None = None) -> None:
    """Make every cache that an option file of ``defsr-enhance`` asks for; collective.

    Args:
        opt: its content.
        stop: asked for after each batch. Default: nobody asks.

    Raises:
        ValueError: for options, data or caches that do not fit, and at the end if images could
            not be enhanced; all others are then.
        OSError: for files that are not there, and if the disk does not take an image.
        SystemExit: with 128 + the signal, if asked to stop.
    """
    requests = check_enhance_options(opt)
    device = device_of(opt)
    enhancer = build_frozen('network_e', opt, device, may_lack_weights=False)
    fingerprint = enhancer.fingerprint()
    if len(set(distributed.gather(digest_of(fingerprint)))) > 1:
        raise ValueError(
            'The processes have different enhancers. Give all machines the same '
            'path:pretrain_network_e and the same version of this package.'
        )
    images_per_batch = opt.get('images_per_batch', IMAGES_PER_BATCH)
    faults = []
    for request in requests:
        job = Job(request, enhancer, fingerprint)
        with locked(job.cache.out, f'Wait for it, stop it, or change {request.option}.'):
            faults += job.run(images_per_batch, stop or StopRequest())
    refuse_faults(faults, 'images could not be enhanced, all others are')


class Job:
    """One cache on its way.

    Args:
        request: which.
        enhancer: by whom.
        fingerprint: the enhancer's.
    """

    def __init__(
        self, request: CacheRequest, enhancer: Enhancer, fingerprint: Mapping[str, Any]
    ) -> None:
        self.enhancer = enhancer
        self.label = f'{request.options.block.removeprefix("datasets:")} {request.kind}'
        self.source = EnhanceSource(request.options, request.kind)
        record = make_record(request.kind, self.source.lq, fingerprint)
        self.cache = EnhancedCache(request.option, request.out, record)

    def run(self, images_per_batch: int, stop: StopRequest) -> list[str]:
        """Enhance what is missing; returns why some images could not be. Collective."""
        plan = distributed.on_main(lambda: self.make_plan(images_per_batch))
        if plan is None:
            return []
        faults = dict(plan.faults) | shared_out(
            plan.batches,
            self.enhance,
            self.label,
            stop,
            self.cache.folder,
            images_in=lambda batch: len(batch.todo),
        )
        if distributed.is_main():
            for name in sorted(faults):
                tell(f'{self.label}: {faults[name]}')
        if not faults and self.cache.is_lmdb:
            distributed.on_main(self.pack)
        elif distributed.is_main() and not faults:
            tell(f'{self.label}: {len(self.source.images)} images are in {self.cache.out}.')
        return [faults[name] for name in sorted(faults)]

    def make_plan(self, images_per_batch: int) -> Plan | None:
        """What to do, from headers and from what is there; None if that is nothing.

        Raises:
            ValueError: if the cache is another one's, or an LMDB cannot hold a name.
            OSError: if the disk does not take its folder.
        """
        names = sorted(self.source.images)
        if self.cache.is_lmdb:
            for name in names:
                check_key(name, self.source.path(name))
        with disk_explained():
            is_open = self.cache.begin(names)
        if not is_open:
            tell(f'{self.label}: {self.cache.out} is finished, there is nothing to do.')
            return None
        sizes: dict[tuple[int, int], list[str]] = {}
        faults = {}
        for name in tqdm(names, unit='image', desc=f'{self.label}, looking', leave=False):
            try:
                sizes.setdefault(self.source.lq_size(name), []).append(name)
            except (ValueError, OSError) as error:
                faults[name] = str(error)
        batches = [
            self._batch(tuple(group[i : i + images_per_batch]), size)
            for size, group in sorted(sizes.items())
            for i in range(0, len(group), images_per_batch)
        ]
        left = tuple(batch for batch in batches if batch.todo)
        if not left and not faults and not self.cache.is_lmdb:
            tell(f'{self.label}: {self.cache.out} is finished, there is nothing to do.')
            return None
        return Plan(left, faults)

    def _batch(self, names: tuple[str, ...], size: tuple[int, int]) -> Batch:
        height, width = (self.enhancer.scale * side for side in size)
        final = height, width
        return Batch(names, tuple(n for n in names if not self.cache.has(n, final)), size)

    def enhance(self, batch: Batch) -> dict[str, str]:
        """Write the images of a batch; returns those that could not be, with the reason."""
        images, faults = self._read(batch)
        faults = {name: why for name, why in faults.items() if name in batch.todo}
        if not set(images) & set(batch.todo):
            return faults
        lq = torch.stack(list(images.values()))
        for name, de in zip(images, self._enhance(lq), strict=True):
            if name not in batch.todo:
                continue
            if not bool(torch.isfinite(de).all()):
                faults[name] = f'{self.source.path(name)} came out with NaN or infinite values.'
                continue
            with disk_explained():
                self.cache.put(name, de)
        return faults

    def _read(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, str]]:
        images, faults = {}, {}
        for name in batch.names:
            try:
                image = self.source.read_lq(name)
            except (ValueError, OSError) as error:
                faults[name] = str(error)
                continue
            if image.shape[-2:] != batch.size:
                faults[name] = f'{self.source.path(name)} has another size than its header says.'
            else:
                images[name] = image
        return images, faults

    @torch.no_grad()
    def _enhance(self, lq: Tensor) -> Tensor:
        try:
            return where_it_is(self.enhancer, lq)
        except torch.OutOfMemoryError:
            raise ValueError(
                f'the GPU has too little memory for {len(lq)} images of {lq.shape[-2]}x'
                f'{lq.shape[-1]} (HxW, low resolution) at once. Lower images_per_batch, or set '
                f'network_e:diffusion:strategy: blend with a smaller tile. {GO_ON}'
            ) from None

    def pack(self) -> None:
        """Make the LMDB of the parts; it appears whole, then the parts go."""
        cache, building = self.cache, building_folder(self.cache.out)
        source = ImageSource(cache.option, cache.folder, max_megapixels=float('inf'))
        try:
            with disk_explained():
                build_lmdb(source, sorted(self.source.images), building)
                write_record(building, cache.record)
                publish_folder(cache.out)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(cache.folder, ignore_errors=True)
        tell(f'{self.label}: {len(self.source.images)} images are in {cache.out}.')


def shared_out(
    pieces: Sequence[Piece],
    work: Callable[[Piece], Mapping[str, str]],
    label: str,
    stop: StopRequest,
    folder: Path,
    images_in: Callable[[Piece], int] = lambda piece: 1,
) -> dict[str, str]:
    """Work off this process's share of the pieces, with a bar; collective.

    Args:
        pieces: of all processes.
        work: does one and returns what of it could not be done, name -> reason.
        label: of the bar.
        stop: asked for after each piece.
        folder: where finished images are, for the message of a stop.
        images_in: how many images a piece stands for.

    Returns:
        What no process could do.

    Raises:
        SystemExit: with 128 + the signal, if asked to stop; others, not told, see it end.
    """
    rank, world_size = get_dist_info()
    own = pieces[rank::world_size]
    faults: dict[str, str] = {}
    label = label if world_size == 1 else f'{label}, 1 of {world_size} shares'
    with tqdm(total=sum(map(images_in, own)), unit='image', desc=label, disable=rank != 0) as bar:
        for piece in own:
            if stop.signal:
                break
            faults |= work(piece)
            bar.update(images_in(piece))
    if stop.signal:
        if rank == 0:
            tell(f'Stopped: finished images are in {folder}. {GO_ON}')
        raise SystemExit(128 + stop.signal)
    return {name: why for part in distributed.gather(faults) for name, why in part.items()}


def refuse_faults(faults: Sequence[str], what: str) -> None:
    """ValueError, at the end of all work, if something could not be done."""
    if faults:
        first = '; '.join(faults[:3]) + (' ...' if len(faults) > 3 else '')
        raise ValueError(
            f'{len(faults)} {what}: {first} Mend them or take them out of the pair list, then '
            'run the same command again.'
        )


def where_it_is(enhancer: Enhancer, lq: Tensor) -> Tensor:
    """I_DE of lq, made on the enhancer's device, in memory."""
    device = next((p.device for p in enhancer.parameters()), lq.device)
    return enhancer(lq.to(device)).cpu()


@contextmanager
def disk_explained() -> Iterator[None]:
    """Say how to go on when the disk does not take a file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(f'{error} If the disk is full, make room. {GO_ON}') from error
