"""Starts runs by fork from a process that has imported everything: ``python fork_server.py``.

Requests and answers are lines of JSON. A run is a process of its own in a session of its own.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

import defsr  # noqa: F401  (before basicsr)

# isort: split
import basicsr.train
import torch
import torch.utils.tensorboard  # noqa: F401  (imported here, runs start at once)
from basicsr.utils.registry import ARCH_REGISTRY
from observed import observe_enhance, observe_lmdb, observe_training
from torch import Tensor, nn
from witness import Witness

from defsr.tools import create_lmdb, enhance
from defsr.train import train
from defsr.utils.cli import run_cli


@ARCH_REGISTRY.register()
class TinyTexture(nn.Module):
    """A texture extractor that costs nothing: three frozen convolutions."""

    num_feat = {'relu1_1': 4, 'relu2_1': 4, 'relu3_1': 8}

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        num_in = 3
        for level, num_out in self.num_feat.items():
            layer = nn.Conv2d(num_in, num_out, 3, padding=1)
            layer.weight.data.normal_(generator=generator)
            layer.bias.data.zero_()
            self.add_module(level, layer)
            num_in = num_out

    def forward(self, img: Tensor) -> dict[str, Tensor]:
        """(N,3,H,W) -> features at 1, 1/2 and 1/4 of the size."""
        features, x = {}, img - 0.5
        for level in self.num_feat:
            x = x if level == 'relu1_1' else nn.functional.avg_pool2d(x, 2)
            x = features[level] = getattr(self, level)(x).relu()
        return features


WORK = {
    'train': (train, observe_training),
    'create_lmdb': (create_lmdb.run, observe_lmdb),
    'enhance': (enhance.run, observe_enhance),
}


def start(request: dict) -> int:
    """Fork a run and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    log = os.open(request['log'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 70
    try:
        os.chdir(request['folder'])
        os.environ.update(request['env'])
        work, observe = WORK[request['work']]
        points = observe(Witness(request['witness']), request['plan'])
        sys.argv = [f'{request["work"]}.py', *request['arguments']]
        run_cli(work)
        points.report()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def poll(request: dict) -> int | None:
    """A run's exit code, -9 after SIGKILL; None while it runs."""
    pid, status = os.waitpid(request['pid'], os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def main() -> None:
    """Serve until told to stop, or until the input ends."""
    assert basicsr.train  # imported for the runs
    requests, answers = sys.stdin, sys.stdout
    answers.write('ready\n')
    answers.flush()
    for line in requests:
        request = json.loads(line)
        if request['do'] == 'stop':
            return
        answer = {'start': start, 'poll': poll}[request['do']](request)
        answers.write(json.dumps(answer) + '\n')
        answers.flush()


if __name__ == '__main__':
    main()
