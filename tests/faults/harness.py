"""Start runs, kill them, resume them, and compare what comes out with a run left alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import torch
from hosts import Host
from repository import REPOSITORY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from warm import ENVIRONMENT, Warm
from witness import Witness
from workspaces import same

from defsr.running.checkpoints import Checkpoints

OBSERVED = str(Path(__file__).with_name('observed.py'))
PATIENCE = 120  # seconds for a run that takes two on an idle machine
SCRIPTS = {
    'train': (str(REPOSITORY / 'defsr/train.py'),),
    'create_lmdb': ('-m', 'defsr.tools.create_lmdb'),
    'enhance': (str(REPOSITORY / 'defsr/tools/enhance.py'),),
    'benchmark': ('-m', 'defsr.tools.benchmark'),
    'test': (str(REPOSITORY / 'defsr/test.py'),),
}
_LOSSES = re.compile(r'iter: +(\d+), .*?\(data\): [\d.]+ \([\d.]+\)\] (.*)')


class Run:
    """A process that was started, in a session of its own.

    Attributes:
        pid: also of its session and process group.
        log: the file with its output.
        witness: where it is; None for one started by its command.
    """

    def __init__(self, pid: int, log: Path, poll, witness: Witness | None = None) -> None:
        self.pid, self.log, self.witness = pid, log, witness
        self.code: int | None = None
        self._poll = poll

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()

    def is_over(self) -> bool:
        """Whether it has ended; its exit code is in ``code`` then."""
        if self.code is None:
            self.code = self._poll()
        return self.code is not None

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code. AssertionError if it does not end in time."""
        deadline = time.monotonic() + seconds
        while not self.is_over():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise AssertionError(f'no end after {seconds} s:\n{self.output[-3000:]}')
            time.sleep(0.005)
        return self.code

    def wait_well(self) -> None:
        """AssertionError if it does not end with exit code 0, and alone."""
        assert self.wait() == 0, self.output[-3000:]
        assert_gone(self.pid)

    def wait_for(self, phase: str, iteration: int = 0) -> bool:
        """Return when it is in a phase, from an iteration on; False if it ended before."""
        while not self.is_over():
            now, _, current_iter = self.witness.read()
            if now == phase and current_iter >= iteration:
                return True
            time.sleep(0.001)
        return False

    def send(self, number: signal.Signals, *, to_group: bool = True) -> None:
        """A signal to it, or to all processes of its group. None if it has ended."""
        try:
            (os.killpg if to_group else os.kill)(self.pid, number)
        except ProcessLookupError:
            self.wait()


class Runs:
    """Starts runs in a folder.

    Args:
        folder: of the runs; with option files and images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = count()

    def start(
        self,
        work: str,
        *arguments: str,
        plan: Mapping | None = None,
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
        host: Host | None = None,
    ) -> Run:
        """Start one of ``SCRIPTS``, forked and observed; see ``observe`` for the plan."""
        log, witness = self._new('log'), self._new('witness')
        process = Warm(
            folder or self.folder,
            *SCRIPTS[work],
            *arguments,
            env=env,
            log=log,
            observe=(OBSERVED, work),
            witness=str(witness),
            plan=dict(plan or {}),
            host=host.holder if host else None,
        )
        return Run(process.pid, log, process.poll, Witness(witness))

    def command(
        self, *command: str, env: Mapping[str, str] | None = None, host: Host | None = None
    ) -> Run:
        """Start a command as a user would."""
        log = self._new('log')
        with open(log, 'wb') as file:
            process = subprocess.Popen(
                host.inside(self.folder, *command) if host else command,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=os.environ | ENVIRONMENT | dict(env or {}),
                start_new_session=True,
            )
        return Run(process.pid, log, process.poll)

    def _new(self, kind: str) -> Path:
        return self.folder / f'{next(self._numbers)}.{kind}'


def train_arguments(model: str, name: str, **options: object) -> list[str]:
    """The command line of a training run that resumes what there is.

    Args:
        options: overrides, with ``__`` for ``:``.
    """
    entries = [f'{key.replace("__", ":")}={value}' for key, value in options.items()]
    return ['-opt', f'{model}.yml', '--auto_resume', '--force_yml', f'name={name}', *entries]


class Result:
    """What a finished training run leaves.

    Args:
        folder: where it ran.
        name: of the experiment.
        logs: the output of all its parts.
    """

    def __init__(self, folder: Path, name: str, logs: Sequence[Path]) -> None:
        self.experiment = folder / 'experiments' / name
        self.events = folder / 'tb_logger' / name
        self.checkpoints = Checkpoints(
            self.experiment / 'models', self.experiment / 'training_states'
        )
        self.logs = logs
        self.losses: dict[int, set[str]] = {}
        for log in logs:
            for current_iter, text in _LOSSES.findall(log.read_text()):
                self.losses.setdefault(int(current_iter), set()).add(text.strip())

    def curves(self) -> dict[str, dict[int, list[float]]]:
        """What TensorBoard shows: losses and metrics by iteration, to the last bit.

        A loss twice is two values. Metrics are logged before the validation is recorded, so they
        may come again, the same.
        """
        accumulator = EventAccumulator(str(self.events))
        accumulator.Reload()
        curves: dict[str, dict[int, list[float]]] = {}
        for tag in accumulator.Tags()['scalars']:
            if tag.startswith(('losses/', 'metrics/')):
                curve = curves.setdefault(tag, {})
                for event in accumulator.Scalars(tag):
                    values = curve.setdefault(event.step, [])
                    if tag.startswith('losses/') or event.value not in values:
                        values.append(event.value)
        return curves

    def differences(self, other: Result) -> list[str]:
        """What is not as in a run left alone; empty if all is."""
        found = []
        for pattern in ('models/net_*_latest.pth', 'models/net_*_best.pth'):
            names = {p.name for p in other.experiment.glob(pattern)}
            assert names
            found += [n for n in sorted(names) if not self._same(other, f'models/{n}')]
        last = other.checkpoints.iterations()[0]
        if not self._same(other, f'training_states/{last}.state'):
            found.append(f'{last}.state')
        for log, mine, theirs in self._logged(other):
            for key in sorted(mine.keys() | theirs.keys()):
                if mine.get(key) != theirs.get(key):
                    found.append(f'{log} of iteration {key}')
        if not self._same(other, 'training_states/validation.json'):
            found.append('validation.json')
        return found + self.remains()

    def remains(self) -> list[str]:
        """Temporary files, and checkpoints that are not whole."""
        found = [str(path) for path in self.experiment.rglob('.*')]
        for current_iter in self.checkpoints.iterations():
            fault = self.checkpoints.fault_of(current_iter)
            if fault:
                found.append(f'checkpoint {current_iter}: {fault}')
        return found

    def torn(self) -> list[str]:
        """Files under their final names that cannot be read; none, whenever a run was killed."""
        found = []
        for path in sorted(self.experiment.rglob('[!.]*')):
            if path.suffix in ('.json', '.pth', '.state'):
                try:
                    load(path)
                except Exception as error:  # whatever a torn file makes of the reader
                    found.append(f'{path.name}: {error!r:.200}')
        return found

    def _logged(self, other: Result) -> Iterator[tuple[str, dict, dict]]:
        yield 'log', self.losses, other.losses
        mine, theirs = self.curves(), other.curves()
        for tag in sorted(mine.keys() | theirs.keys()):
            yield f'TensorBoard: {tag}', mine.get(tag, {}), theirs.get(tag, {})

    def _same(self, other: Result, name: str) -> bool:
        paths = self.experiment / name, other.experiment / name
        if not all(path.is_file() for path in paths):
            return False
        return same(*map(load, paths))


class Alone(Result):
    """A run that was left alone.

    Attributes:
        seconds_before, seconds: until the training loop, and in it.
        counts: file operations by kind, see ``Points``.
    """

    def __init__(self, runs: Runs, model: str) -> None:
        name, counts = f'{model}_alone', runs.folder / f'{model}.counts'
        start = time.monotonic()
        run = runs.start('train', *train_arguments(model, name), plan={'counts': str(counts)})
        run.wait_for('loading')
        loop = time.monotonic()
        run.wait_well()
        self.seconds_before, self.seconds = loop - start, time.monotonic() - loop
        self.counts = json.loads(counts.read_text())
        super().__init__(runs.folder, name, [run.log])
        assert not self.remains()


def load(path: Path) -> object:
    """What a JSON file or a checkpoint holds."""
    if path.suffix == '.json':
        return json.loads(path.read_text())
    return torch.load(path, weights_only=True)


def session_of(pid: int) -> list[str]:
    """The living processes of a session."""
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = stat.read_text().rpartition(')')[2].split()
        except OSError:
            continue
        if int(fields[3]) == pid and fields[0] not in 'ZX':
            found.append(stat.parent.name)
    return found


def assert_gone(pid: int, seconds: float = 15) -> None:
    """AssertionError if processes of a session stay."""
    deadline = time.monotonic() + seconds
    while left := session_of(pid):
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            raise AssertionError(f'left behind: {left}')
        time.sleep(0.01)


def kilobytes(*folders: Path) -> int:
    """What files take in blocks of 4."""
    sizes = [p.stat().st_size for folder in folders for p in folder.rglob('*') if p.is_file()]
    return sum(-(-size // 4096) * 4 for size in sizes)


def resize(disk: Path, size: int) -> None:
    """Set its size in kilobytes."""
    subprocess.run(['mount', '-o', f'remount,size={size}k', str(disk)], check=True)
