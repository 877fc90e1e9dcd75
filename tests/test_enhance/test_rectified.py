"""``defsr-rectify``: references of a data set in the frames of their inputs, once and for all."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from workspaces import save_options

from defsr.data.ref_triplet_dataset import RefTripletDataset
from defsr.enhance.rectified import RectifyJob, check_rectify_options, rectify_data_sets
from defsr.images.levels import to_levels
from defsr.images.png import write_png
from defsr.tools import rectify
from defsr.utils.stopping import StopRequest

OPT = {
    'name': 'rectify',
    'scale': 4,
    'num_gpu': 0,
    'rectify': {'matcher': 'sift'},
    'network_e': {'type': 'BicubicEnhancer', 'scale': 4},
    'datasets': {
        'train': {
            'name': 'pairs', 'type': 'RefTripletDataset', 'dataroot_gt': 'gt',
            'dataroot_ref': 'ref', 'out': 'made',
        },
    },
}  # fmt: skip


@pytest.fixture(scope='module')
def folder(stereo, tmp_path_factory) -> Path:
    """Two inputs: one whose reference is it, moved; one whose reference is a stranger."""
    root = tmp_path_factory.mktemp('rectify')
    left = stereo[0].reshape(1, *stereo[0].shape[-3:])
    photo, other = left[..., 120:280, 200:400], left[..., 300:460, 480:680]
    rng = torch.Generator().manual_seed(0)
    refs = {'a': photo.roll((3, 5), dims=(-2, -1)), 'b': torch.rand(other.shape, generator=rng)}
    for name, gt in (('a', photo), ('b', other)):
        for role, image in (('gt', gt), ('ref', refs[name])):
            write_png(to_levels(image)[..., ::-1], root / role / f'{name}.png')
    return root


def options(**changes: object) -> dict:
    opt = deepcopy(OPT)
    opt['datasets']['train'] |= changes
    return opt


def written(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob('*.png'))}


def test_a_training_reads_what_the_command_makes(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    file = save_options(folder / 'o.yml', options())
    monkeypatch.setattr(sys, 'argv', ['defsr-rectify', '-opt', file])
    monkeypatch.setattr('defsr.utils.stopping.StopRequest.listen', lambda self: None)
    rectify.main()
    assert 'pairs ref_rect: 2 images with their masks are in made.' in capsys.readouterr().err
    data = RefTripletDataset({
        'name': 'pairs', 'type': 'RefTripletDataset', 'phase': 'train', 'scale': 4, 'gt_size': 96,
        'dataroot_gt': 'gt', 'dataroot_ref_rect': 'made/ref_rect',
        'dataroot_ref_mask': 'made/ref_mask',
    })  # fmt: skip
    item, stranger = data[0], data[1]
    seen = item['ref_valid'].repeat_interleave(4, 1).repeat_interleave(4, 2).expand(3, -1, -1)
    assert float(item['ref_valid'].float().mean()) > 0.7
    assert float((item['ref'] - item['gt'])[seen].abs().mean()) < 0.02
    assert not bool(stranger['ref_valid'].any())


def test_a_stopped_run_is_gone_on_with_and_another_setting_is_refused(folder, monkeypatch):
    monkeypatch.chdir(folder)
    whole, parts = Path('whole'), Path('parts')
    rectify_data_sets(options(out='whole'))
    stop, make = StopRequest(), RectifyJob.make

    def make_and_stop(self: RectifyJob, index: int) -> None:
        make(self, index)
        stop.signal = 15

    monkeypatch.setattr(RectifyJob, 'make', make_and_stop)
    with pytest.raises(SystemExit) as ended:
        rectify_data_sets(options(out='parts'), stop)
    assert ended.value.code == 143 and len(written(parts)) == 2
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime_ns for path in parts.rglob('*.png')}
    rectify_data_sets(options(out='parts'))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert [*written(parts).values()] == [*written(whole).values()]
    other = options(out='parts') | {'rectify': {'matcher': 'sift', 'flow': False}}
    with pytest.raises(ValueError, match='out is parts/ref_rect, which another enhancer made: '):
        rectify_data_sets(other)


def test_a_damaged_image_does_not_stop_the_others(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    broken = tmp_path / 'ref'
    broken.mkdir()
    (broken / 'a.png').write_bytes(b'no image')
    (broken / 'b.png').write_bytes(Path('ref/b.png').read_bytes())
    with pytest.raises(ValueError, match='1 inputs have no rectified references, all others have'):
        rectify_data_sets(options(dataroot_ref=str(broken), out='damaged'))
    assert [path.name for path in Path('damaged').rglob('*.png')] == ['b.png', 'b.png']


def twice(opt: dict) -> None:
    opt['datasets']['other'] = opt['datasets']['train']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda opt: opt.update(rectify='none'), 'rectify is none, so there is nothing to make'),
        (lambda opt: opt.update(gate='evidence'), 'Unknown option `gate`'),
        (lambda opt: opt['datasets']['train'].pop('out'), 'datasets:train:out is missing'),
        (lambda opt: opt['datasets']['train'].pop('dataroot_ref'), 'train:dataroot_ref is missing'),
        (lambda opt: opt['datasets'].clear(), 'datasets is empty'),
        (twice, 'datasets:other:out is that of another data set'),
    ],
)
def test_options_that_are_refused(change, message):
    opt = options()
    change(opt)
    with pytest.raises(ValueError, match=message):
        check_rectify_options(opt)


def test_an_input_in_several_lines_is_refused(folder, monkeypatch):
    monkeypatch.chdir(folder)
    Path('pairs.txt').write_text('a.png a.png\na.png b.png\n')
    with pytest.raises(ValueError, match='pair_list has a.png in several lines'):
        rectify_data_sets(options(pair_list='pairs.txt', out='several'))


def test_several_references_become_one(folder, monkeypatch):
    monkeypatch.chdir(folder)
    Path('pairs.txt').write_text('a.png b.png a.png\n')
    rectify_data_sets(options(pair_list='pairs.txt', out='one'))
    rectify_data_sets(options(out='alone'))
    images = [written(Path(out))[f'{out}/ref_rect/a.png'] for out in ('one', 'alone')]
    assert images[0] == images[1]
