"""Caches from end to end: what they hold, how they go on, what is refused."""

from __future__ import annotations

import os
import signal
from copy import deepcopy
from pathlib import Path

import cv2
import pytest
import torch
from basicsr.archs import build_network
from processes import in_processes
from workspaces import NETWORK_E, build_enhancer, enhance_options, write_prior

from defsr.data.cache_record import RECORD, check_caches
from defsr.data.image_source import ImageSource
from defsr.data.ref_triplet_dataset import RefTripletDataset
from defsr.enhance import job
from defsr.enhance.cache import EnhancedCache
from defsr.enhance.job import fill_caches
from defsr.images.levels import round_to_8_bit
from defsr.methods.matched import Matched
from defsr.utils.stopping import StopRequest

SIZES = {'a': (48, 64), 'b': (48, 64), 'c': (51, 66), 'd': (41, 48)}  # c is cut to a's size


def blurred(folder: Path, name: str, height: int, width: int, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    noise = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))
    image = cv2.blur((255 * noise).byte().numpy(), (3, 3))
    assert cv2.imwrite(str(folder / f'{name}.png'), image)


@pytest.fixture
def opt(tmp_path, monkeypatch) -> dict:
    """Four pairs, of which a cache ``de`` is wanted as a folder and ``ref_de`` as an LMDB."""
    monkeypatch.chdir(tmp_path)
    for seed, (name, size) in enumerate(SIZES.items()):
        blurred(tmp_path / 'gt', name, *size, seed)
        blurred(tmp_path / 'ref', name, *size[::-1], 10 + seed)
    write_prior(tmp_path / 'prior.pth')
    data = {'dataroot_gt': 'gt', 'dataroot_ref': 'ref'}
    wanted = {'enhance': ['de', 'ref_de'], 'out': {'de': 'de', 'ref_de': 'packed/ref_de.lmdb'}}
    return enhance_options(Path('prior.pth'), train=data | wanted)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Sizes of the batches that went through the enhancer."""
    seen = []
    original = job.Job._enhance

    def counted(self, lq):
        seen.append(len(lq))
        return original(self, lq)

    monkeypatch.setattr(job.Job, '_enhance', counted)
    return seen


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a cache; of an LMDB its images."""
    if folder.suffix != '.lmdb':
        return {p.name: p.read_bytes() for p in folder.rglob('*') if p.is_file()}
    source = ImageSource('x', folder, 'lmdb')
    images = {name: source.read_bytes(name) for name in source.names()}
    return images | {n: (folder / n).read_bytes() for n in (RECORD, 'meta_info.txt')}


def test_a_cache_is_what_the_enhancer_gives_online(opt, calls):
    """As validation feeds it, one by one; of references, as the pipeline degrades them."""
    fill_caches(opt)
    assert calls == [1, 2, 1, 1, 2, 1], 'images of one size go together, two at most'
    enhancer = build_enhancer(Path('prior.pth'))
    pipeline = Matched(enhancer, torch.nn.Identity(), 'ref_enhanced')
    block = {'phase': 'val', 'scale': 4, 'name': 'v', 'dataroot_gt': 'gt', 'dataroot_ref': 'ref'}
    for item in RefTripletDataset(block | {'dataroot_de': 'de'}):
        online = round_to_8_bit(enhancer(item['lq'][None]))[0]
        assert (online - item['de']).abs().max() == 0
        assert item['de'].shape == item['gt'].shape
    ref_des = ImageSource('x', 'packed/ref_de.lmdb', 'lmdb')
    for item, name in zip(RefTripletDataset(block), ref_des.names(), strict=True):
        ref = pipeline._cut(item['ref'][None])
        online = round_to_8_bit(pipeline._soften(ref, 'ref_enhanced'))[0]
        assert (online - ref_des.read(name)).abs().max() == 0
    assert not Path('packed/ref_de.lmdb.parts').exists()


def test_data_sets_and_models_take_it(opt):
    opt['datasets']['train']['out']['ref_de'] = 'ref_de'
    fill_caches(opt)
    block = {'phase': 'train', 'scale': 4, 'name': 't', 'gt_size': 32, 'ref_size': 32}
    block |= {f'dataroot_{kind}': kind for kind in ('gt', 'ref', 'de', 'ref_de')}
    item = RefTripletDataset(block)[2]
    assert item['de'].shape == item['ref_de'].shape == (3, 32, 32)
    check_caches({'train': block}, build_enhancer(Path('prior.pth')).fingerprint())


def test_a_second_run_has_nothing_to_do(opt, calls, capsys):
    fill_caches(opt)
    before = {folder: contents(Path(folder)) for folder in ('de', 'packed/ref_de.lmdb')}
    calls.clear()
    capsys.readouterr()
    fill_caches(opt)
    assert calls == []
    assert capsys.readouterr().err.count('is finished, there is nothing to do') == 2
    assert all(contents(Path(folder)) == content for folder, content in before.items())


def test_what_is_missing_or_torn_is_made_again(opt, calls):
    """In the batches of the first run, so that not one bit differs."""
    fill_caches(opt)
    before = contents(Path('de'))
    torn = Path('de/a.png')
    torn.write_bytes(torn.read_bytes()[:100])
    Path('de/d.png').unlink()
    Path('de/.c.png.7.tmp').write_bytes(b'half')
    untouched = Path('de/b.png').stat().st_mtime_ns
    calls.clear()
    fill_caches(opt)
    assert calls == [1, 2]
    assert contents(Path('de')) == before
    assert Path('de/b.png').stat().st_mtime_ns == untouched


def test_any_number_of_processes_gives_the_same(opt, tmp_path):
    fill_caches(opt)
    alone = {folder: contents(Path(folder)) for folder in ('de', 'packed/ref_de.lmdb')}
    again = deepcopy(opt)
    again['datasets']['train']['out'] = {'de': 'two/de', 'ref_de': 'two/ref_de.lmdb'}
    assert in_processes(2, lambda rank: fill_caches(again), tmp_path) == [None, None]
    assert contents(Path('two/de')) == alone['de']
    assert contents(Path('two/ref_de.lmdb')) == alone['packed/ref_de.lmdb']


def test_a_mistake_is_raised_in_all_processes(opt, tmp_path):
    Path('de').mkdir()
    Path('de/photo.png').write_bytes(b'')
    raised = in_processes(2, lambda rank: fill_caches(opt), tmp_path)
    assert all('has files but no enhancer.json' in str(error) for error in raised)
    opt['datasets']['train']['out']['de'] = 'other'

    def with_other_weights(rank):
        opt['path']['pretrain_network_e'] = str(write_prior(tmp_path / f'{rank}.pth', seed=rank))
        fill_caches(opt)

    raised = in_processes(2, with_other_weights, tmp_path)
    assert all('The processes have different enhancers' in str(error) for error in raised)


def test_two_enhancers_are_not_mixed(opt):
    fill_caches(opt)
    opt['network_e']['diffusion'] = NETWORK_E['diffusion'] | {'seed': 1}
    with pytest.raises(
        ValueError,
        match='datasets:train:out:de is de, which another enhancer '
        'made: diffusion:seed 1 here, 0 in the cache. Remove the folder',
    ):
        fill_caches(opt)
    opt['datasets']['train']['out']['de'] = 'de2'
    with pytest.raises(ValueError, match='out:ref_de is packed/ref_de.lmdb, which another'):
        fill_caches(opt)


@pytest.mark.parametrize('spoil', ['header', 'pixels'])
def test_one_unreadable_image_among_good_ones(opt, spoil, capsys):
    """The others are made, an LMDB is not; after mending the same command completes it."""
    fill_caches(opt)
    whole = {folder: contents(Path(folder)) for folder in ('de', 'packed/ref_de.lmdb')}
    opt['datasets']['train']['out'] = {'de': 'de2', 'ref_de': 'ref_de2.lmdb'}
    for path in (Path('gt/b.png'), Path('ref/b.png')):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 8
        path.with_suffix('.whole').write_bytes(path.read_bytes())
        path.write_bytes(content if spoil == 'pixels' else content[:99])
    capsys.readouterr()
    with pytest.raises(
        ValueError,
        match='^2 images could not be enhanced, all others are: '
        'gt/b.png is .*; ref/b.png is .*then run the same command again',
    ):
        fill_caches(opt)
    assert 'pairs de: gt/b.png is' in capsys.readouterr().err
    names = {'a.png', 'c.png', 'd.png', RECORD}
    assert set(contents(Path('de2'))) == set(contents(Path('ref_de2.lmdb.parts'))) == names
    assert not Path('ref_de2.lmdb').exists()
    for path in (Path('gt/b.png'), Path('ref/b.png')):
        path.with_suffix('.whole').rename(path)
    fill_caches(opt)
    assert contents(Path('de2')) == whole['de']
    assert contents(Path('ref_de2.lmdb')) == whole['packed/ref_de.lmdb']


def test_values_that_are_no_numbers_are_not_kept(opt, monkeypatch):
    original = job.Job._enhance

    def spoilt(self, lq):
        de = original(self, lq)
        de[0, 0, 3, 3] = float('nan')
        return de

    monkeypatch.setattr(job.Job, '_enhance', spoilt)
    opt['datasets']['train'] |= {'enhance': ['de'], 'out': 'de'}
    with pytest.raises(ValueError, match='gt/a.png came out with NaN or infinite values'):
        fill_caches(opt)
    assert 'a.png' not in contents(Path('de'))


def test_a_request_to_stop_is_answered_between_batches(opt, monkeypatch, capsys):
    stop = StopRequest()
    original = EnhancedCache.put

    def put(self, name, image):
        stop.signal = signal.SIGTERM
        original(self, name, image)

    monkeypatch.setattr(EnhancedCache, 'put', put)
    with pytest.raises(SystemExit) as left:
        fill_caches(opt, stop)
    assert left.value.code == 143
    assert set(contents(Path('de'))) == {'d.png', RECORD}
    assert 'Stopped: finished images are in de. Run the same command' in capsys.readouterr().err
    monkeypatch.setattr(EnhancedCache, 'put', original)
    fill_caches(opt, StopRequest())
    assert len(contents(Path('de'))) == 5


def test_too_little_memory_on_a_gpu(opt, monkeypatch):
    def refuse(self, lq):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr('defsr.archs.enhancer_arch.DDNMEnhancer.forward', refuse)
    with pytest.raises(
        ValueError,
        match='the GPU has too little memory for 1 images of 10x12 .*Lower images_per_batch',
    ):
        fill_caches(opt)


def test_real_inputs_without_ground_truth(opt):
    opt['datasets'] = {
        'test': {'type': 'RefTripletDataset', 'name': 'real', 'dataroot_lq': 'ref', 'out': 'real'}
    }
    fill_caches(opt)
    sizes = {name: (4 * width, 4 * height) for name, (height, width) in SIZES.items()}
    source = ImageSource('x', 'real')
    assert {n[0]: tuple(source.read(n).shape[-2:]) for n in source.names()} == sizes


def test_a_cheap_enhancer_needs_no_weights(opt):
    opt['network_e'], opt['path'] = {'type': 'BicubicEnhancer'}, {}
    fill_caches(opt)
    enhancer = build_network({'type': 'BicubicEnhancer'})
    gt = {'phase': 'val', 'scale': 4, 'name': 'v', 'dataroot_gt': 'gt', 'dataroot_ref': 'ref'}
    item = RefTripletDataset(gt | {'dataroot_de': 'de'})[0]
    assert torch.equal(item['de'], round_to_8_bit(enhancer(item['lq'][None]))[0])


def test_real_pairs(opt, data_root):
    """Ten of CUFED; two of its references are 159 wide and lose three columns."""
    roots = {f'dataroot_{role}': str(data_root / 'cufed_train' / folder)
             for role, folder in (('gt', 'input'), ('ref', 'ref'))}  # fmt: skip
    opt['datasets']['train'] |= roots | {'out': {'de': 'de', 'ref_de': 'ref_de'}}
    opt['images_per_batch'] = 4
    fill_caches(opt)
    block = roots | {'phase': 'val', 'scale': 4, 'name': 'v', 'dataroot_de': 'de'}
    enhancer = build_enhancer(Path('prior.pth'))
    items = list(RefTripletDataset(block | {'dataroot_ref_de': 'ref_de'}))
    assert len(items) == 10
    online = round_to_8_bit(enhancer(torch.stack([item['lq'] for item in items[:3]])))
    assert (online - torch.stack([item['de'] for item in items[:3]])).abs().max() < 1.01 / 255
    assert all(item['ref_de'].shape == item['ref'].shape for item in items)


def test_a_denoiser_that_brings_its_weights_needs_none(opt, diffusers_pipeline):
    denoiser = {'type': 'DiffusersUNet', 'folder': str(diffusers_pipeline)}
    opt |= {'network_e': {'type': 'DDNMEnhancer', 'denoiser': denoiser}, 'path': {}}
    opt['network_e']['diffusion'] = {'num_steps': 2}
    opt['datasets']['train'] |= {'enhance': ['de'], 'out': 'de'}
    fill_caches(opt)
    assert len(contents(Path('de'))) == 5


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda o: o['path'].clear(), 'path:pretrain_network_e is missing: DDNMEnhancer is of no'),
        (lambda o: o.update(network_e={'type': 'BicubicEnhancer'}), 'has no weights'),
        (lambda o: o.update(scale=2), 'network_e:scale is 4, but scale is 2'),
        (lambda o: o['datasets']['train'].update(degradation='pil'),
         'network_e:degradation is matlab, but datasets:pairs:degradation is pil'),
        (lambda o: o['datasets']['train'].update(dataroot_gt='no'), 'which is not an existing'),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(opt, change, message):
    change(opt)
    with pytest.raises((ValueError, OSError), match=message):
        fill_caches(opt)
    assert not Path('de').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there(opt):
    with pytest.raises(ValueError, match='num_gpu is 1, but this machine has no CUDA device'):
        fill_caches(opt | {'num_gpu': 1})
    fill_caches(opt | {'num_gpu': 'auto'})


def test_names_that_an_lmdb_cannot_hold_are_refused_before_the_work(opt, calls):
    os.rename('ref/a.png', 'ref/a.b.png')
    os.rename('gt/a.png', 'gt/a.b.png')
    opt['datasets']['train'] |= {'enhance': ['ref_de'], 'out': 'x.lmdb'}
    with pytest.raises(ValueError, match='a.b.png: LMDB keys are ASCII and end at the first dot'):
        fill_caches(opt)
    assert calls == [] and not Path('x.lmdb.parts').exists()
