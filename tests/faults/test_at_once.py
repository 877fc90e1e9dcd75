"""The same work started twice at once: one is refused, or both end well, and nothing is mixed."""

from __future__ import annotations

import json
import time

import pytest
import torch
import yaml
from harness import Result, Run, train_arguments
from ledger import LONG
from test_enhance_killed import arguments, is_equal
from workspaces import pairs

pytestmark = pytest.mark.timeout(1800 if LONG else 240)

TIMES = 20 if LONG else 2
IN_USE = 'is in use by'


def both(start, delay: float) -> list[Run]:
    """Two runs, the second begun ``delay`` seconds after the first, until both have ended."""
    first = start()
    time.sleep(delay)
    second = start()
    for run in (first, second):
        run.wait()
    return [first, second]


def refused(two: list[Run]) -> int:
    """How many were, in one line; all others ended well."""
    number = 0
    for run in two:
        is_refused = run.code == 2 and IN_USE in run.output
        assert is_refused or run.code == 0, run.output[-3000:]
        assert not (is_refused and 'Traceback' in run.output)
        number += is_refused
    assert number < 2
    return number


@pytest.mark.parametrize('resume', [True, False], ids=['auto_resume', 'anew'])
def test_two_trainings_of_one_name(runs, undisturbed, ledger, dice, resume):
    left_alone = undisturbed('SR')
    length = left_alone.seconds_before + left_alone.seconds
    what, number = f'two at once, {"--auto_resume" if resume else "anew"}', 0
    for i in range(TIMES):
        delay = dice.uniform(0, length) if i else 0
        name = f'SR_twice_{resume}_{i}'
        given = train_arguments('SR', name)
        if not resume:
            given.remove('--auto_resume')
        two = both(lambda given=given: runs.start('train', *given), delay)
        turned_away = refused(two)
        number += turned_away
        result = Result(runs.folder, name, [run.log for run in two if run.code == 0])
        if not resume and not turned_away:
            result = Result(runs.folder, name, [two[1].log])  # the first is archived
        differences = result.differences(left_alone)
        ledger.judge(what, equal=not differences)
        assert not differences
    assert number > 0
    assert not list((runs.folder / 'experiments').glob('.SR_twice*'))


def test_two_enhancings_into_one_place(runs, alone, ledger, dice):
    number = 0
    for i in range(TIMES):
        out = runs.folder / f'twice{i}'
        delay = dice.uniform(0, alone.seconds) if i else 0
        two = both(lambda out=out: runs.start('enhance', *arguments(out.name)), delay)
        number += refused(two)
        equal = is_equal(out, alone)
        ledger.judge('two at once', equal=equal, table='enhance')
        assert equal
    assert number > 0


def test_two_tests_into_one_results_folder(runs, undisturbed, dice):
    """The second archives the folder of the first, or is refused; both numbers are those of one."""
    weights = undisturbed('SR').experiment / 'models/net_g_latest.pth'
    opt = yaml.safe_load((runs.folder / 'SR.yml').read_text())
    val = opt['datasets'].pop('val')
    kept = {key: opt[key] for key in ('model_type', 'scale', 'num_gpu', 'manual_seed', 'network_g')}
    kept['datasets'] = {'test': val}
    kept['path'] = {'pretrain_network_g': str(weights), 'strict_load_g': True}
    kept['val'] = {'save_img': True, 'suffix': None, 'metrics': opt['val']['metrics']}

    def tested(name: str, number: int, delay: float) -> dict[str, bytes]:
        (runs.folder / f'{name}.yml').write_text(yaml.safe_dump(kept | {'name': name}))
        start = lambda: runs.start('test', '-opt', f'{name}.yml')  # noqa: E731
        if number == 1:
            start().wait_well()
        else:
            refused(both(start, delay))
        folder = runs.folder / 'results' / name / 'visualization'
        found = {path.name: path.read_bytes() for path in folder.rglob('*.png')}
        return {name_.replace(name, ''): content for name_, content in found.items()}

    expected = tested('tested_alone', 1, 0)
    assert len(expected) == 3
    for i in range(TIMES):
        assert tested(f'tested_{i}', 2, dice.uniform(0, 1.0) if i else 0) == expected


def test_two_benchmarks_of_one_name_share_the_work(runs, dice):
    """Each row is measured by one or by both, and is what one alone measures."""
    network = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}
    opt = yaml.safe_load((runs.folder / 'SR.yml').read_text()) | {'network_g': network}
    from basicsr.archs import build_network

    torch.manual_seed(0)
    weights = build_network(dict(network)).state_dict()
    torch.save({'params': weights}, runs.folder / 'bench.pth')
    (runs.folder / 'bench_SR.yml').write_text(yaml.safe_dump(opt))
    content = {
        'scale': 4,
        'num_gpu': 0,
        'datasets': {'train': pairs(), 'val': pairs(prefix='val_')},
        'methods': {
            'bicubic': {'method': 'bicubic'},
            'EDSR': {'options': 'bench_SR.yml', 'weights': 'bench.pth'},
        },
        'compare_to': 'bicubic',
        'save_images': True,
    }

    def measured(name: str, number: int, delay: float) -> tuple[dict, dict]:
        (runs.folder / f'{name}.yml').write_text(yaml.safe_dump(content | {'name': name}))
        start = lambda: runs.start('benchmark', '-opt', f'{name}.yml')  # noqa: E731
        two = both(start, delay) if number == 2 else [start()]
        for run in two:
            run.wait_well()
        folder = runs.folder / 'results' / name
        lines = (folder / 'rows.jsonl').read_text().split('\n')
        rows = {row.pop('key'): row for row in map(json.loads, filter(None, lines))}
        for row in rows.values():
            del row['seconds'], row['memory']
        images = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in (folder / 'images').rglob('*.png')
        }
        assert not [path for path in folder.rglob('.*')]
        return rows, images

    expected = measured('bench_alone', 1, 0)
    for i in range(TIMES):
        assert measured(f'bench_{i}', 2, dice.uniform(0, 1.0)) == expected
