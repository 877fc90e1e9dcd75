"""What users get, held against frozen numbers, through nothing but what users call.

No module of ours is imported: all of them may move. ``frozen.py`` says how to freeze anew.
"""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import runpy
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import cv2
import frozen
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from torch.nn import functional as F
from torchvision.utils import save_image
from workspaces import REPOSITORY, TRAIN, load_options, run_well, save_options

import defsr

OPTIONS = REPOSITORY / 'options'
TEST = str(REPOSITORY / 'defsr/test.py')
STATE = frozen.FOLDER / 'state.zip'
AS_IT_IS = {'rectify': 'none', 'gate': 'none', 'project': 'off'}
TOOLS = ('benchmark', 'convert', 'convert_vgg', 'create_lmdb', 'enhance', 'make_pairs',
         'make_ranked', 'make_rectified', 'plot_training', 'upscale', 'web')  # fmt: skip


def assert_close(key: str, found: dict[str, float], atol: float) -> None:
    assert found == pytest.approx(frozen.expected(key, found), rel=0, abs=atol)


# -- commands -------------------------------------------------------------------------------------


def test_every_row_of_the_small_benchmark(tmp_path, stereo):
    """All shipped checkpoints with their option files.

    Sums in another order (AVX2 in place of AVX-512) round single pixels to another level, which
    moves PSNR by up to 2e-5.
    """
    for role, image, side in zip(('gt', 'ref'), stereo, (128, 160), strict=True):
        (tmp_path / role).mkdir()
        save_image(image[..., 200 : 200 + side, 300 : 300 + side], tmp_path / role / 'x.png')
    (tmp_path / 'options').symlink_to(OPTIONS)
    opt = load_options(OPTIONS / 'benchmark_small.yml')
    for key in (
        'tables',
        'groups',
        'examples',
        'report',
        'published',
        'compare_to',
        'scenes',
        'timed',
    ):
        del opt[key]
    data = {'type': 'RefTripletDataset', 'dataroot_gt': 'gt', 'dataroot_ref': 'ref'}
    data |= {'degradation': 'matlab', 'io_backend': {'type': 'disk'}}
    own = [k for k, row in opt['methods'].items() if not (row.get('with') or {}).get('rectify')]
    rows = frozen.names('benchmark: psnr', own)  # matchers are other people's
    opt |= {'name': 'b', 'save_images': False, 'datasets': {'pair': data}}
    opt['methods'] = {label: opt['methods'][label] for label in rows}
    run_well(tmp_path, '-m', 'defsr.tools.benchmark', '-opt', save_options(tmp_path / 'b.yml', opt))
    lines = (tmp_path / 'results/b/rows.jsonl').read_text().splitlines()
    found = {row['method']: row for row in map(json.loads, filter(None, lines))}
    for metric, atol in (('psnr', 1e-4), ('ssim', 1e-5)):
        values = {label: row[metric] for label, row in found.items()}
        assert_close(f'benchmark: {metric}', values, atol)


@pytest.mark.slow
def test_the_demo(tmp_path):
    """The whole pair, by the demo's own commands: README's 30.39 / 0.921, bicubic 25.36 / 0.751.

    To the last digit only without rectifying, whose matchers are other people's.
    """
    run_well(tmp_path, '-m', 'defsr.tools.demo_data')
    demo = OPTIONS / 'test_DEF_demo.yml'
    opt = load_options(demo) | {'name': 'as_it_is'} | AS_IT_IS
    plain = save_options(tmp_path / 'as_it_is.yml', opt)
    found = {}
    for name, file in (('as_it_is', plain), ('test_DEF_demo', str(demo))):
        run_well(tmp_path, TEST, '-opt', file, cold=name == 'test_DEF_demo')
        with open(tmp_path / f'results/{name}/metrics/demo_{name}.csv') as written:
            (row,) = csv.DictReader(written)
        keys = ('psnr', 'ssim', 'bicubic_psnr', 'bicubic_ssim')
        found[name] = {key: float(row[key]) for key in keys}
    assert_close('demo', found['as_it_is'], 1e-4)
    assert found['test_DEF_demo']['psnr'] > found['as_it_is']['psnr'] + 0.2


@pytest.mark.parametrize('command', [*TOOLS, 'train', 'test'])
def test_help(command, tmp_path, monkeypatch, capfd):
    """In a fork, which need not import PyTorch again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [command, '--help'])
    if command in TOOLS:
        call, place = runpy.run_module, f'defsr.tools.{command}'
    else:
        call, place = runpy.run_path, str(REPOSITORY / f'defsr/{command}.py')
    fork = multiprocessing.get_context('fork')
    child = fork.Process(target=call, args=(place,), kwargs={'run_name': '__main__'})
    child.start()
    child.join()
    told = capfd.readouterr()
    assert child.exitcode == 0, told.err
    assert told.out.startswith('usage: ')


# -- defsr.upscale --------------------------------------------------------------------------------


def test_upscale(tmp_path, stereo, one_thread):
    """In one piece (above) and in tiles with seams (below): one value of 100 one grey level off.

    With sums in another order (AVX2 in place of AVX-512) none is.
    """
    left, right = (image[..., 180:340, 280:460] for image in stereo)
    lq = as_uint8(F.avg_pool2d(left[..., :128, :160], 4))
    refs = [as_uint8(right[..., :120, 20:170]), as_uint8(right[..., 63:, :97])]
    opt = load_options(OPTIONS / 'upscale.yml') | AS_IT_IS
    upscaler = defsr.Upscaler(device='cpu', options=save_options(tmp_path / 'as_it_is.yml', opt))
    whole, tiles = upscaler(lq, refs), upscaler(lq, refs, tile=16, overlap=0)
    found = np.concatenate((whole, tiles))[..., ::-1]
    path = str(frozen.FOLDER / 'upscaled.png')
    if frozen.FREEZING:
        cv2.imwrite(path, found, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    errors = np.abs(found.astype(int) - cv2.imread(path))
    if errors.max() > 1 or errors.mean() >= 0.01:
        written = tmp_path / 'upscaled.png'
        cv2.imwrite(str(written), found)
        histogram = ', '.join(
            f'{n} by {level}' for level, n in enumerate(np.bincount(errors.flat)) if n
        )
        pytest.fail(f'{written} is off {path}, number of values by grey levels: {histogram}')


def as_uint8(image: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3)."""
    return image[0].permute(1, 2, 0).mul(255).round().byte().numpy()


# -- networks -------------------------------------------------------------------------------------


def networks() -> dict[str, dict]:
    """option file: block -> a trained network's block, of every file in options/."""
    return {
        f'{path.relative_to(OPTIONS)}: {key}': block
        for path in sorted(OPTIONS.rglob('*.yml'))
        for key, block in load_options(path).items()
        if key in ('network_g', 'network_d')
    }


def test_the_keys_of_every_trained_network():
    """Checkpoints hold the state by name, optimizers the parameters by their place."""
    blocks, layouts = networks(), {}
    found = {}
    for name in frozen.names('networks', blocks):
        block = str(blocks[name])  # many files have the same
        layouts[block] = layouts.get(block) or layout(blocks[name])
        found[name] = layouts[block]
    assert found == frozen.expected('networks', found)


def layout(block: dict) -> str:
    """A digest of keys and shapes, one of the parameters' order, and what may tell more."""
    with torch.device('meta'):
        net = build_network(block | ({'weights': 'none'} if 'weights' in block else {}))
    state = [f'{key} {list(value.shape)}' for key, value in net.state_dict().items()]
    order = [name for name, _ in net.named_parameters()]
    digests = (hashlib.sha256('\n'.join(lines).encode()).hexdigest() for lines in (state, order))
    one, two = (digest[:16] for digest in digests)
    numbers = sum(p.numel() for p in net.parameters())
    return f'{one} {two}: {len(state)} tensors, {len(order)} parameters, {numbers:,} numbers'


# -- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize('start', ['from scratch', 'from the frozen state'])
def test_training(workspace, start):
    """Iteration 4 has the frozen weights, and a checkpoint of iteration 2 can still be resumed."""
    experiment = workspace / 'experiments/guard'
    if start == 'from the frozen state':
        with ZipFile(STATE) as archive:
            archive.extractall(experiment)
    options = str(frozen.FOLDER / 'training.yml')
    output = run_well(workspace, TRAIN, '-opt', options, '--auto_resume')
    assert ('iter:       2' in output) == (start == 'from scratch')
    assert 'iter:       4' in output
    if frozen.FREEZING and start == 'from scratch':
        with ZipFile(STATE, 'w', ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(experiment.glob('[mt]*s/*2.*')):  # models, training_states
                archive.write(path, path.relative_to(experiment))
    compare_weights(experiment / 'models')


def compare_weights(models: Path) -> None:
    """Each tensor's product with cos(0), cos(1), ... must be as it was.

    With sums in another order it moves by 6e-6 of the tensor's norm (AVX2 in place of AVX-512) or
    6e-4 (neither), in biases whose gradients are near zero, since Adam's steps do not shrink with
    them. The moments of two equal layers exchanged, for two iterations, move it by 2e-2.
    """
    found, norms = {}, {}
    for net in ('net_g', 'net_d'):
        content = torch.load(models / f'{net}_4.pth', weights_only=True)
        for container in (name for name in content if name.startswith('params')):
            for key, value in content[container].items():
                name, flat = f'{net} {container} {key}', value.double().flatten()
                found[name] = flat.dot(torch.arange(len(flat)).double().cos()).item()
                norms[name] = flat.norm().item()
    want = frozen.expected('weights', found)
    assert list(found) == list(want)
    off = {name: abs(found[name] - want[name]) / norms[name] for name in want}
    worst = sorted(off.items(), key=lambda item: -item[1])[:5]
    assert all(value < 1e-3 for value in off.values()), worst
