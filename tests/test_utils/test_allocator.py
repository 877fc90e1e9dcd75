"""Freed memory stays in the process, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from defsr.utils import allocator

SCRIPT = """
import resource, sys
import torch
from defsr.utils.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
assert keep_freed_memory()
for _ in range(4):  # until the heap has a hole that fits
    faults()
print(first, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='glibc only')
def test_pages_are_cleared_once():
    done = subprocess.run([sys.executable, '-c', SCRIPT], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    before, after = map(int, done.stdout.split())
    assert before > 100 and after < before / 10


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(allocator.sys, 'platform', 'darwin')
    assert not allocator.keep_freed_memory()
