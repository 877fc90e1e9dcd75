"""The parts of the benchmarks that numbers hang on."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import pytest
import torch
from basicsr.archs import build_network
from torch.testing import assert_close

from defsr.archs.adm_unet_arch import ADMUNet
from defsr.archs.interface import Alignment
from defsr.diffusion import BicubicDownsample
from defsr.diffusion.windows import Window, cover

FOLDER = Path(__file__).parent / 'benchmarks'
BENCHMARKS = [path.stem for path in FOLDER.glob('*.py')]


@pytest.fixture
def script(monkeypatch):
    """Import a benchmark by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in BENCHMARKS:
        sys.modules.pop(name, None)


def test_the_projection_by_svd_is_ours(script, rng):
    x, y = torch.randn(2, 3, 64, 64, generator=rng), torch.randn(2, 3, 16, 16, generator=rng)
    svd = script('bench_ddnm').Svd(64, 4)
    assert_close(svd.project(x, y), BicubicDownsample(4).project(x, y), rtol=0, atol=1e-5)


def test_attention_is_among_the_counted_flops(script):
    """Of a convolution by hand too: 2 * 9 * 3 * 32 * H * W in the first one."""
    gpu_hours = script('gpu_hours')
    conv = torch.nn.Conv2d(3, 32, 3, padding=1, device='meta')
    counts = gpu_hours.count_flops(lambda x, t: conv(x), 64)
    assert counts == {'aten.convolution': 2 * 9 * 3 * 32 * 64 * 64}
    with torch.device('meta'):
        net = ADMUNet(image_size=64, num_feat=32, num_res_block=1, attention_resolutions=(8,))
    attention = gpu_hours.attention_flops(net, 64)
    assert attention == 4 * (4 * 64**2 * 128), 'four blocks, 8x8 positions, 128 channels'
    assert gpu_hours.count_flops(net, 64)['aten.bmm'] == attention


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_the_first_formulation_of_the_network_gives_the_same(script, rng, layout):
    """SR and every gradient, in float64."""
    num_ch = {'relu1_1': 8, 'relu2_1': 8, 'relu3_1': 16}
    aggregator = {'type': 'TTSRAggregator', 'num_feat': 8, 'num_block': [1] * 4}
    torch.manual_seed(0)
    net = build_network(
        {
            'type': 'DEFNet',
            'transfer': {'type': 'DCNTransferArch', 'num_ch': num_ch, 'num_group': 4},
            'aggregator': {**aggregator, 'num_ch': num_ch, 'use_feat_de': True},
        }
    ).to(torch.float64, memory_format=layout)
    for branch in net.transfer.offset.values():
        torch.nn.init.normal_(branch[-1].weight, std=0.05)
        torch.nn.init.normal_(branch[-1].bias)

    def draw(*shape):
        return torch.rand(2, *shape, generator=rng, dtype=torch.float64)

    def features(height, width):
        maps = {level: draw(ch, f * height, f * width) for (level, ch), f in sizes}
        return {level: x.to(memory_format=layout) for level, x in maps.items()}

    sizes = list(zip(num_ch.items(), (4, 2, 1), strict=True))
    index = torch.randint(0, 35, (2, 6, 9), generator=rng)
    lq = draw(3, 6, 9)
    given = lq, Alignment(features(6, 9), features(5, 7), index, draw(6, 9), (5, 7))
    now = net(*given).sr
    now_grads = torch.autograd.grad(now.square().sum(), net.parameters())
    with script('first_formulation').first_formulation():
        first = net(*given).sr
        first_grads = torch.autograd.grad(first.square().sum(), net.parameters())
    assert_close(now, first, rtol=1e-10, atol=1e-10)
    assert_close(now_grads, first_grads, rtol=1e-7, atol=1e-7)


def test_turns_alternate_and_memory_is_seen(script):
    measuring = script('measuring')
    order = []
    works = {name: lambda name=name: order.append(name) for name in 'ab'}
    seconds = measuring.in_turns(works, 2)
    assert order == list('abbaab') and [len(values) for values in seconds.values()] == [2, 2]
    assert measuring.ratio({'a': [1, 6, 2], 'b': [2, 2, 2]}, 'a', 'b') == 1
    taken = measuring.measured(lambda: torch.zeros(64 * 2**20))
    assert 250 < taken['mib'] < 270


def test_borders_are_those_inside_the_image(script):
    windows = cover(100, 160, 64, 16, 4)
    lines = script('seams').borders(windows, 100, 160)
    assert {(w.top, w.left) for w in windows} == {
        (top, left) for top in (0, *lines['begin'][0]) for left in (0, *lines['begin'][1])
    }
    assert lines['end'] == ([64], [64, 112])
    assert Window(36, 100, 96, 160) in windows


def test_photographs_have_the_size_asked_for(script, tmp_path, stereo):
    from torchvision.utils import save_image

    save_image(stereo[0], tmp_path / 'x.png')
    image = script('measuring').photograph(tmp_path, 1200, 300, 'x.png')
    assert image.shape == (1, 3, 1200, 300)
    first = image[..., :1000, :].diff(dim=-2).abs().amax(dim=(0, 1, 3))
    assert first.min() == 0, 'the mirror repeats its edge'


def test_the_rivals_searches_find_the_same(script, rng):
    """What is timed against ``match_patches`` is the same search."""
    bench = script('bench_matching')
    query, key = torch.randn(2, 1, 16, 9, 12, generator=rng)
    index, confidence = bench.match_patches(query, key)
    for rival in (bench.match_by_unfold, bench.match_by_convolution):
        found, score = rival(query, key)
        assert torch.equal(found.flatten(), index.flatten())
        assert_close(score.flatten(), confidence.flatten(), rtol=0, atol=1e-5)
    assert bench.recall((index, confidence), (index, confidence), 12)['same'] == 1


def test_auc_and_nearness(script):
    bench = script('match_confidence')
    right = torch.tensor([True, True, False, False])
    assert bench.auc(right, torch.tensor([0.9, 0.8, 0.2, 0.1])) == 1
    assert bench.auc(right, torch.tensor([0.5, 0.5, 0.5, 0.5])) == 0.5
    rows, columns = torch.tensor([1.9, float('nan')]), torch.tensor([2.5, 0.0])
    assert bench.near(torch.tensor([1 * 5 + 2, 0]), rows, columns, 5).tolist() == [True, False]


def test_alignment_finds_what_is_planted(script, stereo):
    """GT and reference the same: every setting whose query knows the truth finds it all."""
    bench = script('alignment')
    extractor = script('enhancer_cases').texture_extractor()
    image = stereo[0][..., 100:180, 200:296]
    with torch.no_grad():
        images = {name: lambda lq: image for name in ('bicubic', 'DDNM', 'SISR')}
        pair = bench.Pair(extractor, images, image, image)
        shares, judged = bench.measure(pair, None)
        rows = torch.arange(20.0).view(-1, 1).expand(20, 24)
        columns = torch.arange(24.0).view(1, -1).expand(20, 24)
        shifted, _ = bench.measure(pair, torch.stack([rows + 3, columns]))
    assert set(shares.values()) == {1.0}
    assert set(shifted.values()) == {0.0}
    assert len(shares) == 10 + len(bench.MORE) + len(bench.SUMS)
    for found in judged.values():
        assert found['right'].all() and found['cosine'].min() > 0.99
        assert 0 < found['margin'].median() < 1


def test_curves_of_the_reference_s_quality(script, tmp_path, photos_of_bsds):
    """A method that gives the reference back is as good as the reference is related."""
    bench = script('reference_quality')
    cases = script('enhancer_cases')
    photographs = bench.Photographs(photos_of_bsds)
    name = photographs.names[0]
    gt, plain = photographs.case(name, 'hue, degrees', 0.0)
    assert gt.shape == (1, 3, 128, 128) and plain.shape == (1, 3, 160, 160)
    again, bright = photographs.case(name, 'exposure, stops', 1.0)
    assert torch.equal(gt, again) and bright.mean() > plain.mean()
    _, other = photographs.case(name, 'overlap, %', 0.0)
    assert not torch.equal(other, plain)
    record = cases.Record(str(tmp_path / 'r.jsonl'))
    bicubic = {'bicubic': lambda lq, refs: cases.upsample_bicubic(lq, 4)}
    rows = list(bench.gains(photographs, [name], bicubic, record))
    assert len(rows) == sum(map(len, bench.LEVELS.values()))
    assert {value for row in rows for value in row[3]} == {0.0}
    bench.draw(rows, tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').stat().st_size > 10000
    assert bench.error_of([1.0, 3.0]) == 1.0
    with pytest.raises(ValueError, match='must be LABEL=OPTIONS.yml:WEIGHTS'):
        bench.restorers(['EDSR=options/small/EDSR_x4.yml'])


@pytest.fixture
def photos_of_bsds(tmp_path, stereo_paths):
    """Two photographs where BSDS500's validation set would be."""
    folder = tmp_path / 'data/bsds500/val'
    folder.mkdir(parents=True)
    for path in stereo_paths:
        shutil.copyfile(path, folder / path.name)
    return tmp_path / 'data'


def test_the_stage_meter_sees_time_and_memory(script):
    meter = script('whole_photograph').StageMeter()
    meter('one', 0, 1)
    held = torch.zeros(64 * 2**20)
    del held
    meter('two', 0, 1)
    meter(None)
    assert list(meter.rows) == ['one', 'two']
    assert 250 < meter.rows['one']['mib'] < 280
    assert meter.rows['two']['mib'] < 30


@pytest.mark.parametrize('method', ['TTSR', 'MASA-SR', 'C2-Matching'])
def test_ours_beside_the_authors_code(script, method, tmp_path, capsys, monkeypatch):
    """Without a checkout: our half runs, and the method is left out in one line."""
    bench = script('beside_official')
    lq, ref = torch.rand(1, 3, 16, 18), torch.rand(1, 3, 40, 44)
    with torch.no_grad():
        assert bench.ours(method, tmp_path).work(lq, ref).shape == (1, 3, 64, 72)
    monkeypatch.setattr(sys, 'argv', ['x', '--official', str(tmp_path), '--methods', method])
    bench.main()
    assert f'{method} is left out: there is no {tmp_path / method}.' in capsys.readouterr().err
    theirs = torch.nn.Conv2d(3, 8, 3, padding=1)
    drawn = bench.drawn(theirs.state_dict(), bias=None)
    assert torch.equal(drawn['bias'], theirs.bias)
    assert 0.5 < drawn['weight'].square().mean() * 27 / 0.5 < 2


def test_inputs_that_are_not_clean_have_one_size(script, rng):
    gt = torch.rand(1, 3, 64, 96, generator=rng)
    for name, change in script('inputs').INPUTS.items():
        lq = change(gt)
        assert lq.shape == (1, 3, 16, 24) and lq.min() >= 0 and lq.max() <= 1, name


def test_the_ground_truth_matches_as_itself(script, stereo):
    """All of its matches, and of an interpolated query some."""
    matching = script('enhancer_matching')
    left, right = (image.reshape(1, *image.shape[-3:])[..., 160:224, 300:396] for image in stereo)
    net_t = script('enhancer_cases').texture_extractor()
    found = matching.shares(net_t, left, [right], {'bicubic': matching.interpolate, 'GT': None})
    assert found['GT']['ref'] == 1 and 0.05 < found['bicubic']['ref_enhanced'] < 1
