"""What a user's own type checker sees of the package: mypy, on a script and on a page's example."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from repository import REPOSITORY

SCRIPT = """
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import defsr
from defsr.archs.enhancer_base import Enhancer
from defsr.archs.interface import Alignment, Reference, Restoration
from defsr.diffusion import BicubicDownsample
from defsr.methods.base import Method
from defsr.methods.build import Restorer
from defsr.ops import match_patches, match_positions

photo, other = np.zeros((16, 20, 3)), np.zeros((24, 24, 3))
image, ref = torch.rand(1, 3, 16, 20), torch.rand(1, 3, 24, 24)
sharp: np.ndarray = defsr.upscale(photo, [other, ref], tile=None)
reveal_type(defsr.upscale(image, ref))  # Tensor
reveal_type(defsr.upscale('photo.png', 'other.png'))  # Image
reveal_type(defsr.Upscaler(device='cpu')(Image.new('L', (20, 16)), [photo]))  # Image
defsr.upscale(3)  # call-arg; arg-type
defsr.upscale(photo, [3])  # list-item
defsr.upscale(photo, other, tiles=16)  # call-arg
defsr.upscal  # attr-defined
defsr.Upscaler()(image, [ref], overlap='8')  # arg-type
index, confidence = match_patches(image, ref)
reveal_type(confidence)  # Tensor
match_positions(index, ref.shape[-2:])
BicubicDownsample(4, 'pill')  # arg-type


class Mine(Method[list[Tensor]]):
    def prepare(self, net_g: nn.Module, refs: Sequence[Reference]) -> list[Tensor]:
        return [ref.image for ref in refs]

    def restore(
        self, net_g: nn.Module, lq: Tensor, prepared: list[Tensor], de: Tensor | None = None
    ) -> Restoration:
        reveal_type(self.super_resolve(net_g, lq, []))  # Restoration
        return Restoration.of(net_g(lq, prepared))


class Theirs(Mine):
    def prepare(self, net_g: nn.Module, refs: Sequence[Reference]) -> int:  # override
        return len(refs)


class Sharper(Enhancer):
    def forward(self, lq: Tensor) -> Tensor:
        reveal_type(self.residual(lq, lq))  # dict[str, float]
        return lq


class Net(nn.Module):
    reads = 'matches'

    def forward(self, lq: Tensor, aligned: Alignment) -> Tensor:
        reveal_type(aligned.feat_ref['relu1_1'])  # Tensor
        return aligned.de + lq  # operator


def restore(restorer: Restorer) -> None:
    reveal_type(restorer(image, [ref]))  # Tensor
"""
PAGE = re.compile(r'_arch\.py`\*\*[^\n]*\n\n```python\n(.*?)```', re.S)
SAYS = re.compile(r'^(\w+)\.py:(\d+): (?:error: .*\[(\S+)\]|note: Revealed type is "(.*)")$', re.M)


def test_a_user_sees_types(tmp_path):
    """One run on both, in the cache that ``make lint`` has filled: seconds."""
    pytest.importorskip('mypy')
    assert (REPOSITORY / 'defsr/py.typed').is_file()
    page = (REPOSITORY / 'docs/add_a_method.md').read_text(encoding='utf-8')
    (tmp_path / 'script.py').write_text(SCRIPT, encoding='utf-8')
    (tmp_path / 'page.py').write_text(f'# mypy: allow-untyped-defs\n{PAGE.search(page)[1]}')
    settings = ['--config-file', f'{REPOSITORY}/pyproject.toml']
    settings += ['--cache-dir', f'{REPOSITORY}/.mypy_cache', '--no-pretty']
    done = subprocess.run(
        [sys.executable, '-m', 'mypy', *settings, 'script.py', 'page.py'],
        cwd=tmp_path,
        env=os.environ | {'MYPYPATH': str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    said: dict[int, set[str]] = {}
    for name, line, error, seen in SAYS.findall(done.stdout):
        assert name == 'script', done.stdout
        said.setdefault(int(line), set()).add(error or re.sub(r'\w+\.', '', seen))
    lines = enumerate(SCRIPT.splitlines(), start=1)
    wanted = {
        number: {*line.split('  # ')[1].split('; ')} for number, line in lines if '  # ' in line
    }
    assert said == wanted, done.stdout + done.stderr
