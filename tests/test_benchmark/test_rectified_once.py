"""References are rectified once for all methods of a benchmark, and as each would do it."""

from __future__ import annotations

import pytest
import torch
from repository import REPOSITORY
from workspaces import SMALL, write_pairs

from defsr.archs.interface import Reference
from defsr.benchmark.options import read_benchmark
from defsr.benchmark.rectified_once import RectifierOnce, Views
from defsr.benchmark.rows import Results
from defsr.benchmark.runner import Runner
from defsr.diffusion.degradation import Degradation
from defsr.ops.resize import upsample_bicubic
from defsr.rectify.rectifier import Rectifier

WEIGHTS = REPOSITORY / 'experiments/pretrained_models/small_EDSR.pth'
MATLAB = Degradation('matlab', 4)
PLANE = {'matcher': 'sift', 'model': 'homography', 'flow': False}


@pytest.fixture
def case(stereo):
    left, right = (image[..., 100:292, 150:406] for image in stereo)
    lq = MATLAB.degrade(left)
    return lq, upsample_bicubic(lq, 4).clamp(0, 1), [Reference(right)]


def soft(lq):
    return upsample_bicubic(lq, 4).clamp(0, 1)


def test_the_second_method_finds_the_views_of_the_first(case, monkeypatch):
    plain = Rectifier(MATLAB, **PLANE)
    views = Views()
    first = RectifierOnce(plain, views)(*case, soft)
    expected = plain(*case, soft)
    assert len(first) == len(expected) == 1
    assert torch.equal(first[0].image, expected[0].image)
    monkeypatch.setattr(Rectifier, 'find', None)
    assert RectifierOnce(plain, views)(*case, soft) is first
    lq, de, refs = case
    for other in (
        (lq, de.flip(-1), refs),
        (lq.flip(-1), de, refs),
        (lq, de, [*refs, Reference(de)]),
    ):
        with pytest.raises(TypeError, match='not callable'):
            RectifierOnce(plain, views)(*other, soft)
    with pytest.raises(TypeError, match='not callable'):
        RectifierOnce(Rectifier(MATLAB, 'sift', 'field', flow=False), views)(*case, soft)


def test_what_has_no_room_is_made_again(case):
    views = Views(most_bytes=2**20)
    rectifier = RectifierOnce(Rectifier(MATLAB, **PLANE), views)
    assert rectifier(*case, soft) is rectifier(*case, soft)
    used = views.num_bytes
    lq, de, refs = case
    other = lq, de, [Reference(refs[0].image.flip(-3))]
    assert rectifier(*other, soft) is not rectifier(*other, soft)
    assert views.num_bytes == used <= 2**20


def test_the_runner_shares_except_where_it_times(tmp_path, stereo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path, stereo, [(100, 150, 192, 256)])
    block = {
        'type': 'RefTripletDataset',
        'dataroot_gt': str(tmp_path / 'gt'),
        'dataroot_ref': str(tmp_path / 'ref'),
        'io_backend': {'type': 'disk'},
    }
    row = {'options': str(SMALL / 'null_space_x4.yml')}
    weights = {'path': {'pretrain_network_e': str(WEIGHTS)}}
    shares = {'all': 1.0, 'half': 0.5}
    content = {
        'name': 'b',
        'scale': 4,
        'num_gpu': 0,
        'timed': ['timed'],
        'datasets': {'shared': block, 'timed': block | {'center_crop': 512}},
        'methods': {
            name: row | {'with': {'rectify': PLANE, 'network_g': {'most': most}, **weights}}
            for name, most in shares.items()
        },
    }
    calls = []
    made = Rectifier.__call__
    monkeypatch.setattr(
        Rectifier, '__call__', lambda *args, **more: calls.append(1) or made(*args, **more)
    )
    runner = Runner(read_benchmark(content), tmp_path / 'results')
    runner.run()
    assert not runner.failures
    assert len(calls) == 5, 'once for both; where it is timed once for each, and to be counted'
    found = {
        (r['method'], r['dataset']): r['psnr'] for r in Results(runner.results.path).read().values()
    }
    for name in shares:
        assert found[name, 'shared'] == found[name, 'timed']
    assert found['all', 'shared'] != found['half', 'shared']
