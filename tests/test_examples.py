"""What docstrings and pages show in Python is run: ``>>>`` examples, and blocks of code."""

from __future__ import annotations

import doctest
import importlib
import pydoc
import re

import pytest
from PIL import Image
from repository import REPOSITORY

CODE = re.compile(r'```python\n(.*?)```', re.S)
PAGES = ('README.md', 'docs/upscale.md')
WITH_EXAMPLES = sorted(
    path
    for path in (REPOSITORY / 'defsr').rglob('*.py')
    if '>>> ' in path.read_text(encoding='utf-8')
)
MUST_HAVE = (  # where a person begins
    'defsr.upscaling.upscale',
    'defsr.upscaling.Upscaler',
    'defsr.methods.build.Restorer.build',
    'defsr.diffusion.degradation.Degradation',
    'defsr.diffusion.reference_null_space.project',
    'defsr.archs.sisr_enhancer_arch.SISREnhancer',
    'defsr.ops.matching.match_patches',
    'defsr.ops.deform.deform_conv_at',
    'defsr.ops.evidence.evidence_of',
    'defsr.rectify.rectifier.Rectifier',
    'defsr.rectify.made_folder.make_rectified',
)
NAMES = ('photo.jpg', 'photo.png', 'other.jpg', 'other.png', 'other1.jpg', 'other2.jpg')


@pytest.mark.parametrize(
    'path', WITH_EXAMPLES, ids=lambda path: path.relative_to(REPOSITORY).as_posix()
)
def test_docstrings(path):
    name = '.'.join(path.relative_to(REPOSITORY).with_suffix('').parts)
    module = importlib.import_module(name)
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


@pytest.mark.parametrize('name', MUST_HAVE)
def test_entry_points_have_an_example(name):
    assert '>>> ' in pydoc.locate(name).__doc__


@pytest.mark.parametrize('page', PAGES)
def test_pages(tmp_path, monkeypatch, page):
    """One block after the other, in a folder with the images that they name."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        Image.effect_noise((24, 24) if 'other' in name else (20, 16), 80).convert('RGB').save(name)
    blocks = CODE.findall((REPOSITORY / page).read_text(encoding='utf-8'))
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, 'exec'), names)
    for written in {*re.findall(r"'([a-z0-9]+\.[a-z]+)'", '\n'.join(blocks))} - {*NAMES}:
        assert Image.open(written).size == (80, 64)
