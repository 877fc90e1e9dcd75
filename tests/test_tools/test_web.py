"""What ``defsr-web`` does, without its page."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import free_port

from defsr.diffusion.degradation import Degradation
from defsr.images.levels import to_levels
from defsr.images.photo import read_photo
from defsr.methods.base import STAGES
from defsr.ops.resize import upsample_bicubic
from defsr.tools import web as tool
from defsr.tools.web_job import Remaining, Settings, StoppedError, enlarge, shown, upscalers

SIFT = 'base: options/upscale.yml\nrectify: {matcher: sift}\n'


@pytest.fixture(scope='module')
def files(tmp_path_factory, stereo) -> dict[str, Path]:
    """A photo, a reference of its scene, one of another, what is no image, and options."""
    folder = tmp_path_factory.mktemp('files')
    left, right = stereo
    _, lq = Degradation('matlab', 4).make_lq(left[..., 100:228, 200:360])
    images = {'photo': lq, 'ref': right[..., 100:228, 190:350], 'other': right[..., 380:460, 500:]}
    for name, image in images.items():
        Image.fromarray(to_levels(image)).save(folder / f'{name}.png')
    (folder / 'text.png').write_text('no image')
    (folder / 'sift.yml').write_text(SIFT)
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope='module')
def build(files):
    return upscalers(device='cpu', options=files['sift'])


def test_a_photo_and_its_references(files, build, tmp_path):
    stages: list[tuple[str, int, int]] = []
    found = enlarge(
        build('auto', True), files['photo'], [files['ref'], files['other']], Settings(), tmp_path,
        lambda *now: stages.append(now),
    )  # fmt: skip
    assert found.file == tmp_path / 'photo_x4.png' and [*tmp_path.iterdir()] == [found.file]
    lq = read_photo(files['photo']).rgb
    bicubic = to_levels(upsample_bicubic(lq, 4).clamp(0, 1))
    np.testing.assert_array_equal(found.before, bicubic)
    np.testing.assert_array_equal(found.after, np.asarray(Image.open(found.file)))
    assert found.after.shape == (128, 160, 3)
    assert {*found.maps} == {'rectified', 'rho', 'matches_1'}
    assert found.maps['rectified'].shape == (128, 160, 3)
    [(picture, title)] = found.matches
    assert title == 'Reference 1' and picture.shape == (128, 320, 3)
    *_, first, second, together, size = found.lines
    assert first.startswith('Reference 1: ') and ' matches confirmed, ' in first
    assert second.startswith('Reference 2: left out: ')
    assert together.startswith('1 of 2 references used, for ')
    assert size.startswith('128x160 (HxW), ')
    assert tuple(dict.fromkeys(stage for stage, *_ in stages)) == STAGES
    told = [(done, total) for stage, done, total in stages if stage == 'rectify']
    assert [*dict.fromkeys(told)] == [(done, 4) for done in range(5)]


def test_the_rectified_reference_is_in_the_frame_of_the_photo(files, build, stereo, tmp_path):
    """Nearer to what the photo was made of than the reference is as it lies."""
    found = enlarge(build('auto', True), files['photo'], [files['ref']], Settings(), tmp_path)
    gt = to_levels(stereo[0][..., 100:228, 200:360])
    trusted = (
        found.maps['rho'].repeat(4, axis=0).repeat(4, axis=1) > 200
    )  # it is of the photo's size
    assert trusted.mean() > 0.2

    def error(image: np.ndarray) -> float:
        return float(np.abs(image.astype(float) - gt)[trusted].mean())

    assert error(found.maps['rectified']) < 0.5 * error(np.asarray(Image.open(files['ref'])))
    assert error(found.after) < error(found.before)


def test_as_they_are(files, build, tmp_path):
    found = enlarge(build('clean', False), files['photo'], [files['ref']], Settings(), tmp_path)
    assert found.maps == {} and found.matches == []
    assert found.lines[-1].startswith('128x160') and len(found.lines) == 1


def test_the_best_of_several(files, build, tmp_path):
    refs = [files['other'], files['text'], files['ref']]
    found = enlarge(build('auto', True), files['photo'], refs, Settings(best=1), tmp_path)
    told = '\n'.join(found.lines)
    assert 'Left out: ' in told and 'text.png is no image' in told
    assert 'Reference 1 is ref.png: ' in told and '1 of 1 references used' in told


@pytest.mark.parametrize(
    ('photo', 'refs', 'settings', 'message'),
    [
        ('photo', [], {}, 'No reference is given, but at least one is needed'),
        ('text', ['ref'], {}, 'text.png is no image that can be read. Known: BMP, GIF'),
        ('photo', ['text'], {}, 'text.png is no image that can be read'),
        ('photo', ['ref'], {'max_megapixels': 0.01}, 'ref.png has .*max_megapixels=0.01'),
        (
            'photo',
            ['photo'],
            {'max_megapixels': 0.01},
            'would become 128x160 .*max_megapixels=0.01',
        ),
    ],
)
def test_refusals(files, build, tmp_path, photo, refs, settings, message):
    paths = [files[name] for name in refs]
    with pytest.raises(ValueError, match=message):
        enlarge(build('auto', True), files[photo], paths, Settings(**settings), tmp_path)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('tile', None, 'tile is None, but must be a whole number'),
        ('tile', 8, 'tile is 8, but must be'),
        ('overlap', -1, 'overlap is -1'),
        ('best', 0, 'best is 0'),
        ('max_megapixels', None, 'max_megapixels is None'),
        ('max_ref_megapixels', 0.0, 'max_ref_megapixels is 0.0, but must be above 0'),
    ],
)
def test_settings_that_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        Settings(**{name: value})


def test_what_is_left():
    now = [0.0]
    remaining = Remaining(lambda: now[0])
    assert remaining('match', 0, 9) == 'Matching patches'
    now[0] = 60
    assert remaining('match', 1, 9) == 'Matching patches, about 8 min left'
    assert remaining('match', 9, 9) == 'Matching patches'
    assert remaining('restore', 0, 2) == 'Restoring', 'each stage has its own clock'
    now[0] = 67
    assert remaining('restore', 1, 2) == 'Restoring, about 7 s left'


def test_a_browser_is_given_no_more_than_it_can_show():
    image = torch.full((1, 3, 40, 30), 0.5)
    assert shown(image).shape == (40, 30, 3)
    small = shown(image, 300)
    assert small.shape == (20, 15, 3) and (small == 128).all()


@pytest.fixture
def fail(monkeypatch, capsys):
    """The command, which ends in a line and status 2."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr('sys.argv', ['defsr-web', *arguments])
        with pytest.raises(SystemExit, match='2'):
            tool.main()
        [line] = capsys.readouterr().err.splitlines()
        return line

    return run


def test_help_waits_for_neither_pytorch_nor_gradio():
    script = 'import sys, defsr.tools.web; print(sorted({"torch", "gradio"} & {*sys.modules}))'
    assert subprocess.check_output([sys.executable, '-c', script], text=True) == '[]\n'


def test_without_the_extra_one_line_names_it(fail, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert fail('--port', free_port()).startswith(f'error: {tool.MISSING} (--')
    assert "pip install 'defsr[web]'" in tool.MISSING


def test_where_it_cannot_listen(fail):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        assert f'127.0.0.1:{port} cannot be listened at: ' in fail('--port', str(port))
    assert '--port is 0, but must be from 1 to 65535' in fail('--port', '0')
    assert 'Choose another --host or --port' in fail('--host', '192.0.2.1', '--port', free_port())


def test_who_reaches_it():
    assert [*map(tool.is_local, ('127.0.0.1', '::1', 'localhost'))] == [True] * 3
    assert [*map(tool.is_local, ('0.0.0.0', '::', 'example.org'))] == [False] * 3
    assert tool.HOST == '127.0.0.1'


def test_a_job_that_is_stopped_leaves_nothing(files, build, tmp_path):
    def stop_at_the_second(stage, done, total):
        if (stage, done) == ('rectify', 1):
            raise StoppedError

    with pytest.raises(StoppedError):
        enlarge(
            build('auto', True), files['photo'], [files['ref']], Settings(), tmp_path,
            stop_at_the_second,
        )  # fmt: skip
    assert [*tmp_path.iterdir()] == []
