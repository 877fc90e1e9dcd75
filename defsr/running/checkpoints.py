"""Checkpoints that are whole or not there, and the record of validations.

A checkpoint of iteration i is a set of files: ``models/net_*_i.pth`` and
``training_states/i.state``, as BasicSR names them. ``training_states/i.json`` is written last and
deleted last; it lists the others with size and SHA-256. What it does not vouch for is not resumed.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import torch

from defsr.utils.files import atomic_path
from defsr.utils.fingerprints import digest_of_file
from defsr.utils.strangers import read_json

_TEMPORARY = re.compile(r'\..+\.\d+\.tmp')


def save_tensors(content: Mapping[str, Any], path: Path) -> None:
    """``torch.save`` that leaves the whole file or the one before. OSError if it cannot."""
    try:
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:
            torch.save(content, file)
    except OSError as error:
        raise OSError(
            f'{error} Older checkpoints are whole. Make room (logger:keep_last deletes old ones), '
            'then go on with --auto_resume.'
        ) from error


class Checkpoints:
    """The checkpoints of one experiment.

    Args:
        models, states: its folders ``models`` and ``training_states``.
    """

    def __init__(self, models: str | Path, states: str | Path) -> None:
        self.models = Path(models)
        self.states = Path(states)

    def state_path(self, current_iter: int) -> Path:
        """Where BasicSR puts the training state of an iteration."""
        return self.states / f'{current_iter}.state'

    def iterations(self) -> list[int]:
        """Iterations that have a state or a list of files, newest first; torn ones too."""
        names = os.listdir(self.states) if self.states.is_dir() else []
        stems = {name.partition('.')[0] for name in names if name.endswith(('.state', '.json'))}
        return sorted((int(stem) for stem in stems if stem.isdecimal()), reverse=True)

    def publish(self, current_iter: int, files: Iterable[Path]) -> None:
        """Vouch for the files of a checkpoint, all of which have been written."""
        content = {
            'iter': current_iter,
            'files': {
                f.name: {'bytes': f.stat().st_size, 'sha256': digest_of_file(f)} for f in files
            },
        }
        write_json(content, self._list_path(current_iter))

    def adopt(self, current_iter: int) -> None:
        """Vouch for a checkpoint that can be resumed and has no list: a kill came before it."""
        if not self._list_path(current_iter).is_file():
            files = [*self._networks(current_iter), self.state_path(current_iter)]
            self.publish(current_iter, files)

    def fault_of(self, current_iter: int) -> str | None:
        """What is wrong with a checkpoint; None if it can be resumed.

        One without a list, of BasicSR alone, is held against the checksums inside its files.
        """
        if not self._list_path(current_iter).is_file():
            return self._fault_without_list(current_iter)
        files = self._listed(current_iter)
        if files is None:
            return f'{self._list_path(current_iter).name} cannot be read, or lists something else'
        for name, (num_bytes, sha256) in files.items():
            path = self._path(name)
            if not path.is_file():
                return f'{name} is missing'
            if path.stat().st_size != num_bytes:
                return f'{name} has {path.stat().st_size} of {num_bytes} bytes'
            if digest_of_file(path) != sha256:
                return f'{name} has changed since it was written'
        return None

    def _listed(self, current_iter: int) -> dict[str, tuple[int, str]] | None:
        """Name -> size and digest: the state and a network at least. None for anything else."""
        try:
            files = read_json(self._list_path(current_iter))['files']
            found = {name: (f['bytes'], f['sha256']) for name, f in files.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        names = [name for name in found if name != self.state_path(current_iter).name]
        whole = names and len(names) < len(found)
        own = re.compile(rf'net_\w+_{current_iter}\.pth')
        return found if whole and all(own.fullmatch(name) for name in names) else None

    def newest(self) -> tuple[int | None, list[str]]:
        """The newest checkpoint that can be resumed, and a warning for each newer one."""
        warnings: list[str] = []
        for current_iter in self.iterations():
            fault = self.fault_of(current_iter)
            if fault is None:
                return current_iter, warnings
            warnings.append(
                f'The checkpoint of iteration {current_iter} is damaged ({fault}): '
                'taking the one before.'
            )
        return None, warnings

    def keep_newest(self, number: int, last_iter: int) -> None:
        """Of the checkpoints up to ``last_iter``, delete all but the newest ``number``.

        Later ones are remains of a part of the run that was not resumed, and will come again.
        Only what has a list of its files is deleted.
        """
        listed = [i for i in self.iterations() if i <= last_iter and self._list_path(i).is_file()]
        for current_iter in listed[number:]:
            for path in (*self._networks(current_iter), self.state_path(current_iter)):
                path.unlink(missing_ok=True)
            self._list_path(current_iter).unlink()

    def clear_temporaries(self) -> None:
        """Remove what a killed process was writing, metrics and the kept options as well."""
        experiment = self.models.parent
        for folder in (self.models, self.states, experiment, experiment / 'metrics'):
            for path in folder.glob('.*.tmp'):
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def _list_path(self, current_iter: int) -> Path:
        return self.states / f'{current_iter}.json'

    def _path(self, name: str) -> Path:
        return (self.states if name.endswith('.state') else self.models) / name

    def _networks(self, current_iter: int) -> list[Path]:
        return sorted(self.models.glob(f'net_*_{current_iter}.pth'))

    def _fault_without_list(self, current_iter: int) -> str | None:
        paths = [*self._networks(current_iter), self.state_path(current_iter)]
        if len(paths) == 1:
            return f'net_*_{current_iter}.pth is missing'
        for path in paths:
            try:
                with zipfile.ZipFile(path) as archive:
                    damaged = archive.testzip()
            except Exception:  # a damaged archive can fail in any way
                return f'{path.name} is torn'
            if damaged:
                return f'{path.name} is damaged'
        return None


class ValidationRecord:
    """The means of every validation of a run: iteration -> data set -> metric -> value.

    Args:
        path: a JSON file, written anew after each validation.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.results: dict[int, dict[str, dict[str, float]]] = {}

    def load(self, last_iter: int) -> None:
        """Read what was recorded up to iteration ``last_iter``; later ones will come again."""
        if not self.path.is_file():
            return
        try:
            found = {int(k): v for k, v in read_json(self.path).items()}
            whole = all(_is_validation(results) for results in found.values())
        except (OSError, ValueError, AttributeError):
            whole = False
        if whole:
            self.results = {k: v for k, v in found.items() if k <= last_iter}
        else:
            getLogger('basicsr').warning(
                f'{self.path} is damaged: earlier validations and their best values are forgotten.'
            )

    def add(self, current_iter: int, dataset: str, means: Mapping[str, float]) -> None:
        """Take one data set's means into the record (not into the file)."""
        self.results.setdefault(current_iter, {})[dataset] = dict(means)

    def save(self) -> None:
        """Write the file."""
        write_json({str(key): value for key, value in self.results.items()}, self.path)

    def has(self, current_iter: int, dataset: str) -> bool:
        """Whether a validation has been recorded."""
        return dataset in self.results.get(current_iter, {})


def write_json(content: object, path: Path) -> None:
    """Write a JSON file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


def _is_validation(results: object) -> bool:
    """Data set -> metric -> number, which may be NaN."""
    return isinstance(results, dict) and all(
        isinstance(means, dict) and all(isinstance(x, (int, float)) for x in means.values())
        for means in results.values()
    )
