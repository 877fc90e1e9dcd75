"""A benchmark shared by several processes: the numbers of one, and what goes wrong in one."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.archs import build_network
from processes import in_processes
from workspaces import pairs, run, run_well, save_options, shrink

import defsr.benchmark.runner
from defsr.benchmark.options import read_benchmark
from defsr.benchmark.rows import Results, collect
from defsr.benchmark.runner import GO_ON, Runner
from defsr.config.files import load_options
from defsr.utils import distributed
from defsr.utils.stopping import StopRequest

TOOL = ('-m', 'defsr.tools.benchmark', '-opt', 'b.yml')
TWO = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
EDSR = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}
EXACT = ('method', 'dataset', 'image', 'psnr', 'ssim', 'megapixels', 'parameters', 'trunk', 'macs')


@pytest.fixture
def bench(workspace, monkeypatch):
    """Bicubic interpolation and a tiny EDSR on two sets of three images, one of them timed."""
    monkeypatch.chdir(workspace)
    torch.manual_seed(0)
    save_options(workspace / 'edsr.yml', shrink('EDSR_x4.yml') | {'network_g': EDSR})
    torch.save({'params': build_network(dict(EDSR)).state_dict()}, 'edsr.pth')
    content = {
        'name': 'b', 'scale': 4, 'num_gpu': 0, 'timed': ['middle'],
        'save_images': True, 'metrics': ['trunk'],
        'datasets': {'whole': pairs(), 'middle': pairs(center_crop=32)},
        'methods': {
            'bicubic': {'method': 'bicubic'},
            'EDSR': {'options': 'edsr.yml', 'weights': 'edsr.pth'},
        },
    }  # fmt: skip
    write(content)
    return content


def write(content: dict) -> None:
    Path('b.yml').write_text(yaml.safe_dump(content))


def exact(folder: Path) -> list[dict]:
    """All of the rows that does not depend on the machine's load, in the option file's order."""
    rows = collect(read_benchmark(load_options('b.yml')), folder)
    return [{key: row.get(key) for key in EXACT} for row in rows]


def test_two_processes_have_the_numbers_of_one(bench, workspace):
    run_well(workspace, *TOOL)
    one, two = Path('results/b'), Path('results/two')
    expected = exact(one)
    write(bench | {'name': 'two'})
    said = run_well(workspace, *TWO, *TOOL, '--launcher', 'pytorch', cold=True)
    assert exact(two) == expected and len(expected) == 12
    counted = [row['image'] for row in expected if row['method'] == 'EDSR' and row['macs']]
    assert counted == ['0'], 'of the first image that is timed'
    assert said.count('| bicubic |') == 2, 'one process prints: scores, then the trunk distance'
    text = (two / 'rows.jsonl').read_text()
    keys = [json.loads(line)['key'] for line in text.splitlines() if line]
    assert sorted(keys) == sorted([*{*keys}] * 2), 'each is measured once, and scored once'

    lines = text.splitlines(keepends=True)
    (two / 'rows.jsonl').write_text(''.join(lines[: len(lines) // 3]))
    in_two(bench, two)
    assert exact(two) == expected, 'gone on after a kill'


def in_two(content: dict, folder: Path, asked: int | None = None) -> list:
    """A ``Runner`` in two processes -> what each has measured, its failures, and what it told.

    The process ``asked`` is asked to stop as soon as it has a row; then its exit status.
    """
    benchmark = read_benchmark(content)

    def work(rank):
        stop, own, told = StopRequest(), [], []
        defsr.benchmark.runner.tell = told.append  # of this process, which ends
        runner = Runner(benchmark, folder, stop=stop)
        add = runner.results.add

        def note(row):
            own.append((row['method'], row['dataset'], row['image'], 'trunk' in row))
            add(row)
            if rank == asked:
                stop.signal = signal.SIGTERM

        runner.results.add = note
        try:
            runner.run()
        except SystemExit as end:
            return own, end.code, told
        distributed.gather(None)  # nobody leaves before the other has seen the end
        return own, runner.failures, told

    return in_processes(2, work, folder.parent)


def test_what_is_timed_is_the_first_ones(bench, tmp_path):
    (one, _, _), (two, _, _) = in_two(bench, tmp_path / 'r')
    first = [row[1] for row in one if not row[3]]
    assert first[:6] == ['middle'] * 6 and 'middle' not in first[6:]
    assert {row[1] for row in two if not row[3]} == {'whole'}
    assert len(one) + len(two) == 24 and not {*one} & {*two}


def test_a_failing_image_of_another_process_is_told(bench, tmp_path, workspace):
    path = workspace / 'datasets/ref/1.png'
    path.write_bytes(path.read_bytes()[:-40])
    (_, found, told), (_, other, of_other) = in_two(bench, tmp_path / 'r')
    assert len(told) + len(of_other) == 4 and told and of_other
    assert found == other and len(found) == 4, 'two methods on two sets'
    assert {where[2] for where in found} == {'1'}
    rows = collect(read_benchmark(bench), tmp_path / 'r')
    assert len(rows) == 8


def test_a_method_that_fails_is_told_once(bench, tmp_path):
    bench['methods']['nowhere'] = {'options': 'edsr.yml', 'weights': 'nowhere.pth'}
    bench['datasets']['none'] = pairs(dataroot_gt='nowhere')
    (_, found, told), (_, other, of_other) = in_two(bench, tmp_path / 'r')
    assert found == other and {*found} == {('nowhere', '', ''), ('', 'none', '')}
    assert len(told) == 2 and not of_other
    assert len(exact(tmp_path / 'r')) == 12


def test_a_signal_to_one_ends_both_between_images(bench, tmp_path):
    (one, code, told), (two, other, _) = in_two(bench, tmp_path / 'r', asked=1)
    assert code == other == 128 + signal.SIGTERM
    assert len(two) == 1, 'it stops after the image in hand'
    assert told[-1].startswith('Stopped: ') and told[-1].endswith(GO_ON)
    assert len(Results(tmp_path / 'r/rows.jsonl').read()) == len(one) + 1
    (_, found, _), (_, other, _) = in_two(bench, tmp_path / 'r')
    assert found == other == {} and len(collect(read_benchmark(bench), tmp_path / 'r')) == 12


def test_without_timed_it_is_refused(bench, workspace):
    write({key: value for key, value in bench.items() if key != 'timed'})
    done = run(workspace, *TOOL, '--launcher', 'pytorch')
    assert done.returncode == 2
    assert 'error: timed is missing, which --launcher needs' in done.stderr
    assert not Path('results').exists()
    write(bench)
    done = run(workspace, *TOOL, '--launcher', 'pytorch')
    assert done.returncode == 2 and 'needs RANK, WORLD_SIZE' in done.stderr
