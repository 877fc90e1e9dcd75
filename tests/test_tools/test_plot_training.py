"""Training curves from event files: resumed runs, missing tags, the picture."""

from __future__ import annotations

import os

import cv2
import pytest
from torch.utils.tensorboard import SummaryWriter
from workspaces import run, run_well

from defsr.tools.plot_training import draw, read_curves, smoothed


def log(folder, values, tag='losses/l_pix', first=0):
    with SummaryWriter(str(folder)) as writer:
        for step, value in enumerate(values, start=first):
            writer.add_scalar(tag, value, step)


def test_a_resumed_run_is_one_curve(tmp_path):
    """Cut off at step 5, gone on from 3: of the steps done twice the later values count."""
    log(tmp_path / 'run', [0, 1, 2, 3, 4, 5])
    log(tmp_path / 'run', [30, 40, 50, 60], first=3)
    assert len(os.listdir(tmp_path / 'run')) == 2
    steps, values = read_curves(tmp_path / 'run')['losses/l_pix']
    assert steps == [0, 1, 2, 3, 4, 5, 6]
    assert values == [0, 1, 2, 30, 40, 50, 60]


def test_smoothed():
    assert smoothed([4.0, 2.0, 0.0, 2.0], 2) == [4.0, 3.0, 1.0, 1.0]
    assert smoothed([4.0, 2.0], 1) == [4.0, 2.0]
    assert smoothed([], 3) == []


def test_picture(tmp_path):
    log(tmp_path / 'a', [3, 2, 1])
    log(tmp_path / 'b', [2, 1, 1], tag='losses/l_g_pix')
    log(tmp_path / 'b', [20, 21], tag='metrics/set/psnr')
    folders = [str(tmp_path / name) for name in 'ab']
    tags = ['--tags', 'losses/l_pix,losses/l_g_pix', 'metrics/set/psnr']
    out = str(tmp_path / 'deep.png')
    output = run_well(
        tmp_path, '-m', 'defsr.tools.plot_training', *folders, '--out', out, '--labels', 'A', 'B',
        *tags,
    )  # fmt: skip
    assert '2 runs' in output
    picture = cv2.imread(out)
    assert picture.shape[1] > picture.shape[0] > 300 and picture.std() > 5


def test_the_legend_fits_long_names(tmp_path):
    """Six runs of long names in one panel: all of the legend is within the picture."""
    curves = {
        f'small_table2_DCN_DEF_x4_{n}': {'losses/l_pix': ([0, 1], [n, 0.5])} for n in range(6)
    }
    draw(curves, [['losses/l_pix']], tmp_path / 'o.png')
    picture = cv2.imread(str(tmp_path / 'o.png'))
    height, width, _ = picture.shape
    ink = (picture < 128).any(-1)
    assert not ink[:, :4].any() and not ink[:, width - 4 :].any() and not ink[height - 4 :].any()
    assert height > 4 * 110  # and the panel keeps its height


def test_mistakes(tmp_path):
    log(tmp_path / 'a', [1])
    (tmp_path / 'empty').mkdir()
    curves = {'a': read_curves(tmp_path / 'a')}
    with pytest.raises(ValueError, match=r'No run has x or y. There are: losses/l_pix.'):
        draw(curves, [['x', 'y']], tmp_path / 'o.png')
    with pytest.raises(ValueError, match='nowhere is no folder'):
        read_curves(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='empty holds no TensorBoard scalars'):
        read_curves(tmp_path / 'empty')
    more = ('--out', 'o.png', '--labels', 'A', 'B')
    done = run(tmp_path, '-m', 'defsr.tools.plot_training', 'a', *more)
    assert done.returncode == 2 and '--labels has 2 names for 1 folders' in done.stderr
    done = run(tmp_path, '-m', 'defsr.tools.plot_training', 'a', 'b/a', '--out', 'o.png')
    assert done.returncode == 2 and 'would share the label a' in done.stderr
    assert not (tmp_path / 'o.png').exists()
