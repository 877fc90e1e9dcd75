"""defsr-benchmark: true numbers, resumption, changes, failures, kills, parts, and its report."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from repository import REPOSITORY
from warm import Warm
from workspaces import pairs, run, run_well, save_options, shrink

from defsr.benchmark.examples import Examples, best_windows
from defsr.benchmark.options import loss_of, read_benchmark
from defsr.benchmark.report import Report
from defsr.benchmark.rows import Results, collect, image_path
from defsr.benchmark.runner import Runner
from defsr.config.files import load_options
from defsr.metrics.perceptual import PERCEPTUAL, missing, place_of
from defsr.utils.fingerprints import digest_of_file

TOOL = ('-m', 'defsr.tools.benchmark', '-opt', 'b.yml')
EDSR = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}


@pytest.fixture
def bench(workspace, monkeypatch):
    """A folder with two methods without training, a tiny EDSR and a tiny DEF."""
    monkeypatch.chdir(workspace)
    torch.manual_seed(0)
    opt = shrink('EDSR_x4.yml') | {'network_g': EDSR}
    save_options(workspace / 'edsr.yml', opt)
    torch.save({'params': build_network(dict(EDSR)).state_dict()}, 'edsr.pth')
    opt = shrink('table2_DCN_x4.yml')
    save_options(workspace / 'def.yml', opt)
    net = build_network(opt['network_g'])
    torch.save({'params': net.state_dict()}, 'def.pth')
    content = {
        'name': 'b',
        'scale': 4,
        'num_gpu': 0,
        'datasets': {'whole': pairs(), 'middle': pairs(center_crop=32)},
        'methods': {
            'bicubic': {'method': 'bicubic'},
            'A_pinv y': {'method': 'pinv'},
            'EDSR': {'options': 'edsr.yml', 'weights': 'edsr.pth'},
            'DEF': {'options': 'def.yml', 'weights': 'def.pth'},
        },
        'compare_to': 'bicubic',
    }
    write(content)
    return content


def write(content) -> None:
    with open('b.yml', 'w') as file:
        yaml.safe_dump(content, file)


def rows() -> list[dict]:
    return list(Results(results_file()).read().values())


def results_file() -> Path:
    return Path('results/b/rows.jsonl')


def lines() -> int:
    return len([x for x in results_file().read_text().splitlines() if x])


def measure_all(content, **parts) -> Runner:
    benchmark = read_benchmark(content)
    runner = Runner(benchmark, results_file().parent, **parts)
    runner.run()
    return runner


def test_the_command(bench, workspace):
    """All files, a row for each method and image, and the table on the screen."""
    output = run_well(workspace, *TOOL, cold=True)
    folder = workspace / 'results/b'
    names = ['results.csv', 'results.json', 'results.md', 'results.png', 'rows.jsonl']
    assert sorted(os.listdir(folder)) == names
    found = rows()
    images = len(os.listdir('datasets/gt'))
    assert len(found) == 4 * 2 * images
    assert '| EDSR | L1 |' in output and '| DEF | L1 |' in output
    with open(folder / 'results.csv', newline='') as file:
        assert len(list(csv.DictReader(file))) == len(found)
    methods = json.loads((folder / 'results.json').read_text())['methods']
    expected = sum(p.numel() for p in build_network(dict(EDSR)).parameters())
    assert methods['EDSR']['parameters'] == expected
    assert methods['bicubic']['scores']['whole']['psnr'] == pytest.approx(
        sum(r['psnr'] for r in found if (r['method'], r['dataset']) == ('bicubic', 'whole'))
        / images
    )
    sizes = {round(r['megapixels'] * 1e6) for r in found if r['dataset'] == 'middle'}
    assert sizes == {32 * 32}
    if Path('/proc/self/status').exists():
        assert all(r['memory'] > 0 for r in found if r['method'] == 'DEF')


def test_bicubic_on_the_stereo_pair(workspace, monkeypatch):
    """The figure that README states for it: 25.36 dB, 0.751."""
    monkeypatch.chdir(workspace)
    run_well(workspace, '-m', 'defsr.tools.demo_data')
    block = pairs(dataroot_gt='datasets/demo/gt', dataroot_ref='datasets/demo/ref')
    head = {'name': 'b', 'scale': 4, 'num_gpu': 0, 'datasets': {'demo': block}}
    measure_all(head | {'methods': {'bicubic': {'method': 'bicubic'}}})
    (row,) = rows()
    assert row['psnr'] == pytest.approx(25.36, abs=0.005)
    assert row['ssim'] == pytest.approx(0.751, abs=0.0005)


def test_nothing_is_measured_twice(bench):
    measure_all(bench)
    before = results_file().read_text()
    measure_all(bench)
    assert results_file().read_text() == before


def test_what_changed_is_measured_anew_and_nothing_else(bench):
    """Other weights, another tile, another crop: the rows that depend on them."""
    measure_all(bench)
    before = lines()
    images = len(os.listdir('datasets/gt'))
    torch.manual_seed(1)
    torch.save({'params': build_network(dict(EDSR)).state_dict()}, 'edsr.pth')
    measure_all(bench)
    assert lines() == before + 2 * images, 'EDSR on two sets'
    report = Report(
        read_benchmark(bench), collect(read_benchmark(bench), results_file().parent), {}
    )
    assert len(report.rows) == 8 * images, 'the old ones are not counted'
    measure_all(bench | {'tile': 64})
    assert lines() == before + 6 * images, 'EDSR and DEF on two sets'
    bench['datasets']['middle'] = pairs(center_crop=48)
    measure_all(bench)
    assert lines() == before + 10 * images, 'all methods on one set'


def test_a_failing_method_does_not_stop_the_others(bench, workspace):
    bench['methods'] = {
        'nowhere': {'options': 'edsr.yml', 'weights': 'nowhere.pth'},
        'other': {'options': 'def.yml', 'weights': 'edsr.pth'},
        'no file': {'options': 'none.yml', 'weights': 'edsr.pth'},
    } | bench['methods']
    write(bench)
    done = run(workspace, *TOOL)
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('4 failed, of no file, nowhere, other: see above.') or (
        '3 failed, of no file, nowhere, other' in last
    )
    text = (workspace / 'results/b/results.md').read_text()
    assert '- nowhere failed: ' in text and 'nowhere.pth' in text
    assert '| nowhere | L1 | failed | failed | - | - | - |' in text
    assert '- no file failed: methods:no file:options is none.yml' in text
    assert len(rows()) == 8 * len(os.listdir('datasets/gt'))


def test_a_failing_image_is_named(bench, workspace):
    """A reference that cannot be read costs its row only, and is tried again."""
    names = sorted(os.listdir('datasets/ref'))
    path = workspace / 'datasets/ref' / names[0]
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    runner = measure_all(bench, methods=['bicubic'], datasets=['whole'])
    ((label, name, image),) = runner.failures
    assert (label, name) == ('bicubic', 'whole') and names[0].split('.')[0] in image
    assert len(rows()) == len(names) - 1
    path.write_bytes(good)
    assert not measure_all(bench, methods=['bicubic'], datasets=['whole']).failures
    assert len(rows()) == len(names)


def test_a_torn_line_is_passed_over(bench):
    measure_all(bench, methods=['bicubic'])
    expected = {row['key']: row['psnr'] for row in rows()}
    text = results_file().read_text().rstrip('\n')
    results_file().write_text(text[:-40])
    assert len(rows()) == len(expected) - 1
    measure_all(bench, methods=['bicubic'])
    assert {row['key']: row['psnr'] for row in rows()} == expected


def test_kill_9_loses_the_image_in_hand_only(bench, workspace):
    """Killed as soon as rows come, again and again; what was there stays, and the end is whole."""
    kept = 0
    for _ in range(3):
        job = Warm(workspace, *TOOL)
        limit = time.monotonic() + 120
        while job.poll() is None and time.monotonic() < limit:
            if results_file().exists() and len(rows()) > kept:
                break
            time.sleep(0.01)
        job.send_signal(signal.SIGKILL)
        job.wait()
        assert len(rows()) >= kept
        kept = len(rows())
    assert kept >= 3
    run_well(workspace, *TOOL)
    assert len(rows()) == 8 * len(os.listdir('datasets/gt')) == lines()


def test_a_signal_ends_it_between_images(bench, workspace):
    job = Warm(workspace, *TOOL)
    limit = time.monotonic() + 120
    while not (results_file().exists() and rows()) and time.monotonic() < limit:
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    if job.wait() != 0:  # it may have been done
        assert job.returncode == 143
        assert 'Run the same command again to go on' in job.err and 'Traceback' not in job.err
    assert (workspace / 'results/b/results.md').is_file()


def test_parts_by_two_processes_at_once(bench, workspace):
    parts = [('bicubic', 'EDSR'), ('A_pinv y', 'DEF')]
    jobs = [Warm(workspace, *TOOL, '--methods', *methods) for methods in parts]
    assert [job.wait() for job in jobs] == [0, 0]
    assert len(rows()) == lines() == 8 * len(os.listdir('datasets/gt'))
    run_well(workspace, *TOOL, '--report-only')
    methods = json.loads((workspace / 'results/b/results.json').read_text())['methods']
    cells = [c['psnr'] for m in methods.values() for c in m['scores'].values()]
    assert len(cells) == 8 and None not in cells


def test_examples_show_what_is_planted():
    """One method is right in a corner, the other everywhere but in another corner."""
    rng = np.random.default_rng(0)
    gt = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    one, other = gt.copy(), gt.copy()
    other[:16, 80:] ^= 128
    one[48:, :16] ^= 128
    best, worst = best_windows(gt, one, other, 16)
    assert best[1:] == (0, 80) and worst[1:] == (48, 0)
    assert best[0] > 10 and worst[0] < -10
    assert [x[1] for x in best_windows(gt, one, other, 500)] == [0, 0], 'one row of windows'


def test_saved_images_and_examples(bench, workspace):
    """What is measured is what is saved; an image that is gone is made again."""
    bench |= {
        'save_images': True,
        'examples': {'method': 'DEF', 'number': 1, 'side': 16, 'show': ['EDSR', 'DEF']},
        'report': {},
    }
    write(bench)
    run_well(workspace, *TOOL)
    pictures = sorted((workspace / 'results/b/images').rglob('*.png'))
    assert len(pictures) == len(rows()) == 8 * len(os.listdir('datasets/gt'))
    assert cv2.imread(str(workspace / 'results/b/examples.png')).std() > 5
    assert '"name":"DEF"' in (workspace / 'results/b/report.html').read_text()
    row = next(row for row in rows() if (row['method'], row['dataset']) == ('EDSR', 'middle'))
    (path,) = [p for p in pictures if row['key'][:12] in p.name and p.parent.name == 'middle']
    before = cv2.imread(str(path))
    assert before.shape == (32, 32, 3)
    path.unlink()
    measure_all(bench)
    assert np.array_equal(cv2.imread(str(path)), before)
    assert lines() == len(pictures) + 1
    ours = {row['key'][:12] for row in rows() if row['method'] == 'EDSR'}
    for picture in pictures:
        if picture.stem[-12:] in ours:
            picture.unlink()
    drawn = workspace / 'results/b/without.png'
    Examples(read_benchmark(bench), workspace / 'results/b', rows()).draw(drawn)
    assert drawn.is_file(), 'a method whose image is gone has an empty place'


def test_losses_in_words():
    assert loss_of(None) == '-'
    l1 = {'pixel_opt': {'type': 'L1Loss'}}
    assert loss_of(l1) == 'L1'
    gan = l1 | {'perceptual_opt': {}, 'gan_opt': {'gan_type': 'wgan'}}
    assert loss_of(l1 | {'perceptual_opt': {'type': 'x'}}) == 'L1 + perceptual'
    gan['perceptual_opt'] = {'type': 'x'}
    assert loss_of(gan | {'rank_opt': {'type': 'x'}}).startswith('L1 + perceptual + rank + GAN')
    assert loss_of(gan) == 'L1 + perceptual + GAN (wgan)'
    assert loss_of(gan | {'gradient_penalty_weight': 10}) == 'L1 + perceptual + WGAN-GP'


def test_differences_are_paired(bench):
    """By hand: per image, pooled over a group; few images are no claim."""
    content = bench | {'groups': {'both': ['whole', 'middle']}, 'bootstrap': {'samples': 500}}
    benchmark = read_benchmark(content)
    measured = [
        {'method': m, 'dataset': d, 'image': i, 'psnr': p, 'ssim': 0.5, 'seconds': 1.0,
         'megapixels': 2.0, 'parameters': 3}
        for m, d, i, p in (
            ('bicubic', 'whole', 'a', 20.0), ('bicubic', 'whole', 'b', 30.0),
            ('bicubic', 'middle', 'a', 10.0), ('EDSR', 'whole', 'b', 31.0),
            ('EDSR', 'whole', 'a', 22.0), ('EDSR', 'middle', 'a', 13.0),
            ('DEF', 'middle', 'a', 9.0),
        )
    ]  # fmt: skip
    report = Report(benchmark, measured, {})
    found = report.difference('EDSR', ('whole', 'middle'), 'bicubic')
    assert (found.mean, found.number) == (2.0, 3) and 1 <= found.low < found.high <= 3
    assert report.difference('DEF', ('whole',), 'bicubic') is None
    text = report.markdown()
    assert '-1.00 (1 image, no claim)' in text and '+2.00 (3 images, no claim)' in text
    assert report.per_megapixel('EDSR') == 0.5
    two = read_benchmark(content | {'compare_to': ['bicubic', 'EDSR']})
    text = Report(two, measured, {}).markdown()
    assert 'PSNR-Y minus that of EDSR in dB' in text and '-4.00 (1 image, no claim)' in text


def test_scenes_are_what_counts_and_is_resampled(bench):
    """Ten images of one scene are one; names tell scenes but for the numbers at their end."""
    gains = {
        'near_lund00_0': 1.0,
        'near_lund03_0__near_lund03_1': 3.0,
        'near_lund12_0': 2.0,
        'near_berlin1_0': 6.0,
    }
    measured = [
        {'method': m, 'dataset': 'whole', 'image': i, 'psnr': 20 + p * (m == 'EDSR'), 'ssim': 0.5,
         'seconds': 1.0, 'megapixels': 2.0, 'parameters': 3}
        for i, p in gains.items() for m in ('bicubic', 'EDSR')
    ]  # fmt: skip
    benchmark = read_benchmark(bench | {'scenes': ['whole']})
    found = Report(benchmark, measured, {}).difference('EDSR', ('whole',), 'bicubic')
    assert (found.mean, found.number) == (4.0, 2)
    text = Report(benchmark, measured, {}).markdown()
    assert '+4.00 (2 scenes, no claim)' in text and 'over scenes in whole' in text
    found = Report(read_benchmark(bench), measured, {}).difference('EDSR', ('whole',), 'bicubic')
    assert (found.mean, found.number) == (3.0, 4)


def test_costs_are_of_chosen_data_sets(bench):
    """Seconds, memory, MACs per megapixel; rows of an older version say nothing of the latter."""
    rows = [
        {'method': 'EDSR', 'dataset': d, 'image': 'a', 'psnr': 30.0, 'ssim': 0.5, 'seconds': s,
         'megapixels': 2.0, 'parameters': 3_000_000, **more}
        for d, s, more in (('whole', 1.0, {}), ('middle', 9.0, {'memory': 3 * 2**30, 'macs': 5e12}))
    ]  # fmt: skip
    timed = Report(read_benchmark(bench | {'timed': ['middle']}), rows, {})
    assert timed.per_megapixel('EDSR') == 4.5
    assert '| 3.00 M | 4.5 | 1.5 | 2,500 |' in timed.markdown() and 'of middle.' in timed.markdown()
    rows[1]['macs'] = 2.469e9
    assert '| 1.5 | 1.23 |' in timed.markdown()
    assert Report(read_benchmark(bench), rows[:1], {}).per_megapixel('EDSR', 'memory') is None


def test_tables_of_chosen_data_sets(bench):
    """A title and a table for each list; numbers of all data sets in the last two columns."""
    content = bench | {'tables': {'Whole images': ['whole'], 'Middles': ['middle', 'whole']}}
    measured = [
        {'method': 'EDSR', 'dataset': d, 'image': 'a', 'psnr': p, 'ssim': 0.5, 'seconds': 1.0,
         'megapixels': 2.0, 'parameters': 3_000_000}
        for d, p in (('whole', 20.0), ('middle', 30.0))
    ]  # fmt: skip
    text = Report(read_benchmark(content), measured, {}).markdown()
    first, second = text.split('Whole images:')[1].split('Middles:')
    assert '| EDSR | L1 | 20.00 / 0.500 | 3.00 M | 0.5 | - |' in first
    assert '| EDSR | L1 | 30.00 / 0.500 | 20.00 / 0.500 | 3.00 M | 0.5 | - |' in second


def test_what_nobody_measured_is_left_out_of_the_tables(bench):
    """Of a large option file of which ``--methods`` and ``--datasets`` took a part."""
    bench |= {'tables': {'One': ['whole', 'middle'], 'Two': ['middle']}, 'compare_to': 'EDSR'}
    bench['groups'] = {'all': ['whole', 'middle'], 'half': ['middle']}
    row = {'method': 'bicubic', 'dataset': 'whole', 'image': 'a', 'psnr': 20.0, 'ssim': 0.5,
           'seconds': 1.0, 'megapixels': 2.0, 'parameters': 0}  # fmt: skip
    text = Report(read_benchmark(bench), [row], {}).markdown()
    assert '| method | loss | whole (1) | parameters |' in text and 'Two:' not in text
    assert '| EDSR |' not in text and 'minus that of' not in text
    assert (
        f'Of the {len(bench["methods"])} methods and ' in text and 'is measured: 1 and 1.' in text
    )
    text = Report(read_benchmark(bench), [row, row | {'method': 'EDSR'}], {}).markdown()
    assert '| method | all: whole |' in text and '| bicubic | +0.00 (1 image, no claim) |' in text
    failed = Report(read_benchmark(bench), [row], {('EDSR', 'middle', 'x'): 'torn'}).markdown()
    assert '| EDSR | L1 | - | failed | - | - | - | - |' in failed


MISTAKES = [
    (
        lambda opt: opt['methods']['DEF'].update({'with': {'rectfy': 'none'}}),
        'Unknown option `methods:DEF:with:rectfy`. Did you mean `rectify`',
    ),
    (lambda b: b.update(method={}), 'Unknown option `method`. Did you mean `methods`'),
    (lambda b: b['methods'].update(x={'metod': 'bicubic'}), 'Unknown option `methods:x:metod`'),
    (lambda b: b['methods'].update(x={'method': 'nearest'}), "methods:x:method is 'nearest'"),
    (lambda b: b['methods'].update(x={'weights': 'w'}), 'methods:x:options is missing'),
    (lambda b: b.update(compare_to='ESDR'), "compare_to is 'ESDR'.*Did you mean `EDSR`"),
    (lambda b: b.update(groups={'g': ['hole']}), "groups:g is 'hole'.*Did you mean `whole`"),
    (lambda b: b.update(tables={'t': ['hole']}), "tables:t is 'hole'.*Did you mean `whole`"),
    (
        lambda b: b.update(save_images=True, examples={'method': 'DEF', 'show': ['EDS']}),
        "examples:show is 'EDS'.*Did you mean `EDSR`",
    ),
    (lambda b: b.update(groups={'g': 'whole'}), "groups:g is 'whole', but must be a list"),
    (lambda b: b['datasets'].update(x=pairs(center_crop=30)), 'center_crop is 30, but must be'),
    (lambda b: b['datasets'].update(x=pairs(gt='y')), 'Unknown option `datasets:x:gt`'),
    (
        lambda b: save_options(Path('edsr.yml'), {'network_g': EDSR | {'num_blok': 2}}),
        'methods:EDSR:options is edsr.yml. Unknown option `network_g:num_blok`',
    ),
    (lambda b: b.update(tile=4), 'tile is 4, but must be at least 16'),
    (lambda b: b.update(examples={'method': 'DEF'}), 'examples needs `save_images: true` and'),
    (
        lambda b: b.update(metrics=['lpip'], save_images=True),
        "metrics is 'lpip'.*Did you mean `lpips`",
    ),
    (
        lambda b: b.update(metrics='lpips', save_images=True),
        "metrics is 'lpips', but must be a list",
    ),
    (lambda b: b.update(metrics=['trunk']), 'metrics needs `save_images: true`'),
    (lambda b: b.update(report={}), 'report needs `save_images: true`'),
    (lambda b: b.update(report={'numbr': 3}), 'Unknown option `report:numbr`. Did you mean'),
    (lambda b: b.update(report={'side': 16}), 'report:side is 16, but must be at least 32'),
    (lambda b: b.update(report={'show': ['EDS']}), "report:show is 'EDS'.*Did you mean `EDSR`"),
    (lambda b: b.update(report={'maps': 'bicubic'}), "report:maps is 'bicubic', which does not"),
    (lambda b: b.update(report={'maps': 'DEF'}), "report:maps is 'DEF', which does not rectify"),
    (lambda b: b.update(report={'number': 0}), 'report:number is 0, but must be at least 1'),
    (lambda b: b.update(report=[1]), 'report is'),
    (lambda b: b.update(bootstrap={'sample': 3}), 'Unknown option `bootstrap:sample`'),
    (lambda b: b.update(published=[{'label': 'x', 'scores': {'C': [1]}}]), 'must have 2 entries'),
]


@pytest.mark.parametrize(('spoil', 'message'), MISTAKES, ids=[text[:24] for _, text in MISTAKES])
def test_mistakes_in_the_option_file(bench, spoil, message):
    spoil(bench)
    with pytest.raises(ValueError, match=message):
        read_benchmark(bench)


def test_a_row_may_change_its_option_file(bench):
    for value in ('off', 'exact'):
        bench['methods'][value] = bench['methods']['DEF'] | {'with': {'project': value}}
    measure_all(bench, methods=['DEF', 'off', 'exact'])
    found = {row['method']: row['psnr'] for row in rows()}
    assert found['DEF'] == found['off'] != found['exact']


def test_a_row_may_have_options_other_than_it_was_trained_with():
    """If it says so, where the refusal of its weights says that it can be said."""
    row = {'options': 'options/small/table2_DEF_x4.yml', 'weights': 'small_table2_DEF.pth'}
    row['with'] = {'check_trained': False, 'match_key': 'ref_down_up'}
    data = {'type': 'RefTripletDataset', 'dataroot_gt': 'gt', 'dataroot_ref': 'ref'}
    opt = {'name': 'b', 'scale': 4, 'num_gpu': 0, 'datasets': {'x': data}, 'methods': {'m': row}}
    assert read_benchmark(opt).methods['m'].opt['check_trained'] is False


def test_the_small_benchmark_is_understood():
    """Every file that its rows name is there, with weights that the repository ships."""
    benchmark = read_benchmark(load_options(REPOSITORY / 'options/benchmark_small.yml'))
    for method in benchmark.methods.values():
        assert method.plain or (REPOSITORY / method.file).is_file()


def test_the_papers_table_is_understood():
    """Rows of the paper, by option files that are there, each beside what is published of it."""
    small, full = (
        load_options(REPOSITORY / f'options/benchmark_{name}.yml') for name in ('small', 'table1')
    )
    benchmark = read_benchmark(full)
    for method in benchmark.methods.values():
        assert method.plain or method.opt['scale'] == 4
        assert method.plain or method.weights.startswith('weights/')
    published = {row['label']: row['scores'] for row in full['published']}
    assert {*published} == {*benchmark.methods} - {'bicubic'}
    assert {name for scores in published.values() for name in scores} <= {*benchmark.datasets}
    for row in small['published']:  # which were checked against the paper before
        label = row['label'].replace('+DCN+DEF', 'DEF')
        assert row['scores'].items() <= published[label].items()


def test_published_numbers_stand_beside_those_of_the_same_names(bench):
    bench['published'] = [
        {'label': 'EDSR', 'scores': {'whole': [30, 0.9], 'X': [31, 0.8]}, 'differs': 'weights'},
        {'label': 'other', 'scores': {'whole': [29, 0.7]}},
    ]
    row = {'method': 'EDSR', 'dataset': 'whole', 'image': 'a', 'psnr': 20.0, 'ssim': 0.5,
           'seconds': 1.0, 'megapixels': 2.0, 'parameters': 3}  # fmt: skip
    text = Report(read_benchmark(bench), [row], {}).markdown()
    assert 'As published, on whole data sets; in brackets what is measured here' in text
    assert '| EDSR | - | 30.00 / 0.900 (20.00 / 0.500) | 31.00 / 0.800 | weights |' in text
    assert '| other | - | 29.00 / 0.700 | - |  |' in text
    assert 'in brackets' not in Report(read_benchmark(bench), [], {}).markdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of weights, where a file called ``lpips`` becomes AlexNet's."""
    lpips = pytest.importorskip('lpips')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    folder = tmp_path / 'hub/checkpoints'
    folder.mkdir(parents=True)

    def fill():
        net = lpips.pn.alexnet(pretrained=False)
        state = {f'features.{k.split(".", 1)[1]}': v for k, v in net.state_dict().items()}
        torch.save(state, folder / 'lpips')
        begins = digest_of_file(folder / 'lpips')[:8]
        (folder / 'lpips').rename(folder / f'lpips-{begins}.pth')
        source = replace(PERCEPTUAL['lpips'], file=f'lpips-{begins}.pth')
        monkeypatch.setitem(PERCEPTUAL, 'lpips', source)

    return fill


def test_metrics_whose_weights_are_not_there(bench, workspace, cache):
    """Lines that say so, the trunk distance in their place, and exit status 0."""
    bench |= {'save_images': True, 'metrics': ['lpips', 'dists'], 'compare_to': None}
    bench['methods'] = {'bicubic': {'method': 'bicubic'}, 'pinv': {'method': 'pinv'}}
    write(bench)
    run_well(workspace, *TOOL)
    text = (workspace / 'results/b/results.md').read_text()
    for name in ('lpips', 'dists'):
        assert missing(name) in text and place_of(name).name in missing(name)
    title = 'trunk distance (VGG16, not LPIPS)'
    assert f'{title} stands in.' in text and f'{title}, lower is better:' in text
    assert 'LPIPS (AlexNet, 0.1), lower' not in text and 'DISTS, lower' not in text
    assert {key for row in rows() for key in row} & {*PERCEPTUAL} == {'trunk'}
    with open(workspace / 'results/b/results.csv', newline='') as file:
        assert all(float(row['trunk']) > 0 and not row['lpips'] for row in csv.DictReader(file))


def test_metrics_of_weights_that_came_later(bench, cache):
    """Rows get them from the saved images; nothing is restored again."""
    bench |= {'save_images': True, 'metrics': ['lpips']}
    measure_all(bench, methods=['bicubic', 'EDSR'])
    before = {row['key']: row for row in rows()}
    cache()
    monochrome = image_path(results_file().parent, next(iter(before.values())))
    image = cv2.imread(str(monochrome))
    cv2.imwrite(str(monochrome), np.full_like(image, 128))
    runner = measure_all(bench, methods=['bicubic', 'EDSR'])
    assert not runner.failures
    after = {row['key']: row for row in rows()}
    for key, row in before.items():
        assert {k: v for k, v in after[key].items() if k != 'lpips'} == row
        assert after[key]['lpips'] > 0
    content = json.loads(Report(read_benchmark(bench), [*after.values()], {}).as_json())
    cell = content['methods']['bicubic']['scores']['whole']
    ours = [r for r in after.values() if (r['method'], r['dataset']) == ('bicubic', 'whole')]
    assert cell['lpips'] == pytest.approx(sum(r['lpips'] for r in ours) / len(ours))
    lines_before = lines()
    measure_all(bench, methods=['bicubic', 'EDSR'])
    assert lines() == lines_before


def test_a_saved_image_that_is_damaged(bench):
    bench |= {'save_images': True, 'metrics': ['trunk']}
    measure_all(bench | {'metrics': []}, methods=['bicubic'], datasets=['whole'])
    image_path(results_file().parent, rows()[0]).write_bytes(b'no image')
    runner = measure_all(bench, methods=['bicubic'], datasets=['whole'])
    ((_, _, reason),) = [(*where[:2], text) for where, text in runner.failures.items()]
    assert reason.endswith('cannot be read. Remove it, and it is made anew.')
    assert sum('trunk' in row for row in rows()) == len(rows()) - 1


LABEL = 'a|b <img onerror=x> [c](d) $x$ $'


def test_what_a_user_has_named_is_shown_as_it_is(bench, workspace):
    bench['methods'] = {LABEL: bench['methods']['bicubic'], 'pinv': {'method': 'pinv'}}
    bench |= {'compare_to': LABEL, 'tables': {'<b>': ['whole']}, 'name': 'b<i>'}
    bench['published'] = [{'label': LABEL, 'loss': '|', 'scores': {'<u>': [1, 1]}}]
    benchmark = read_benchmark(bench)
    runner = Runner(benchmark, Path('results/b'))
    runner.run()
    report = Report(benchmark, collect(benchmark, Path('results/b')), {('', '', ''): '<s>\n|'})
    text = report.markdown()
    assert r'| a\|b &lt;img onerror=x&gt; \[c\](d) $x$ $ | - |' in text
    assert not {'<img', '<b>', '<i>', '<u>', '<s>'} & set(text.replace('>', '> ').split())
    rows = [line for line in text.splitlines() if line.startswith('|')]
    assert {len(re.split(r'(?<!\\)\|', line)) for line in rows} == {9, 5}
    report.write(Path('results/b'))


def test_rows_are_called_as_the_option_file_calls_them_now(bench):
    """And what a stranger wrote into them leads nowhere."""
    bench['methods'] = {'bicubic': {'method': 'bicubic'}}
    measure_all(bench)
    text = results_file().read_text()
    results_file().write_text(text.replace('"whole"', '"../../x"').replace('bicubic', 'c'))
    bench |= {'methods': {'other': {'method': 'bicubic'}}, 'compare_to': 'other'}
    found = collect(read_benchmark(bench), results_file().parent)
    assert {(row['method'], row['dataset']) for row in found} == {
        ('other', 'whole'), ('other', 'middle')
    }  # fmt: skip


@pytest.mark.parametrize(
    'line',
    [
        '3', '[]', '{"key": []}', '{"key": "a"}', '[' * 100_000, '9' * 5000, '\xff',
        '{"key": "a", "psnr": NaN, "ssim": 1, "seconds": 1, "megapixels": 1, "parameters": 1}',
        '{"key": "a", "psnr": 1e3, "ssim": "", "seconds": 1, "megapixels": 1, "parameters": 1}',
        '{"key": "a", "psnr": true, "ssim": 1, "seconds": 1, "megapixels": 1, "parameters": 1}',
    ],
    ids=lambda line: line[:40],
)  # fmt: skip
def test_a_strange_line_is_passed_over(tmp_path, line):
    (tmp_path / 'rows.jsonl').write_bytes(line.encode('latin-1') + b'\n')
    assert Results(tmp_path / 'rows.jsonl').read() == {}


@pytest.mark.parametrize('name', ['../x', '/x', '..', 'a\n', '\x1b[2J', 'x' * 101, '\udcff'])
def test_data_sets_cannot_lead_out_of_the_results(bench, name):
    bench['datasets'] = {name: bench['datasets']['whole']}
    with pytest.raises(ValueError, match='^A name in datasets is .*, but must'):
        read_benchmark(bench)
