"""What a cache of enhanced images is: which enhancer made it, and of what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from defsr.utils.files import atomic_path
from defsr.utils.fingerprints import differences, digest_of
from defsr.utils.paths import expanded
from defsr.utils.strangers import is_block, read_json

RECORD = 'enhancer.json'
FORMAT = 1
KINDS = {'de': 'inputs, enhanced', 'ref_de': 'references, degraded and enhanced'}
_KEYS = {'kind': str, 'lq': str, 'digest': str, 'enhancer': dict}
GIVEN = 'given'  # in place of a degradation: lq came from files


def make_record(kind: str, lq: str, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A cache's record.

    Args:
        kind: ``de`` or ``ref_de``.
        lq: how what was enhanced was made, ``matlab`` or ``pil``; ``given``: it was not.
        fingerprint: the enhancer's.
    """
    return {
        'format': FORMAT,
        'kind': kind,
        'lq': lq,
        'digest': digest_of(fingerprint),
        'enhancer': dict(fingerprint),
    }


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``enhancer.json``, whole or not at all."""
    with atomic_path(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + '\n', encoding='utf-8')


def read_record(option: str, root: str | Path) -> dict[str, Any] | None:
    """The record in a cache's folder; None if there is none. ValueError if it is damaged."""
    path = expanded(root) / RECORD
    if not path.is_file():
        return None
    try:
        record = read_json(path)
        whole = is_block(record, _KEYS) and record['digest'] == digest_of(record['enhancer'])
    except ValueError:
        whole = False
    if not whole:
        raise ValueError(f'{option} is {root}, whose {RECORD} is damaged. Make the cache anew.')
    return record


def fault_of(record: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Why a cache is not the wanted one, as the end of ``X is cache, which ...``; None if it is.

    A degradation is compared only where both know theirs: LR images that were given may well
    have been made by it.
    """
    if record['kind'] != wanted['kind']:
        kind = record['kind']
        return f'holds {kind} images ({KINDS.get(kind, "?")}), not {wanted["kind"]}'
    if record['lq'] != wanted['lq'] and GIVEN not in (record['lq'], wanted['lq']):
        return f'was made of images degraded by {record["lq"]}, not by {wanted["lq"]}'
    found = differences(wanted['enhancer'], record['enhancer'], 'in the cache')
    return f'another enhancer made: {found}' if found else None


def check_caches(datasets: Mapping[str, Mapping[str, Any]], fingerprint: Mapping[str, Any]) -> None:
    """Refuse a data set whose cache of enhanced images another enhancer made.

    Args:
        datasets: the blocks of an option file; those without a cache are passed over.
        fingerprint: the enhancer's.

    Raises:
        ValueError: for a cache without a record, of another enhancer or of another kind.
        FileNotFoundError: for a cache that does not exist.
    """
    for phase, block in datasets.items():
        degradation = block.get('degradation', 'matlab')
        for kind in KINDS:
            root = block.get(f'dataroot_{kind}')
            if root is None:
                continue
            made = GIVEN if kind == 'de' and block.get('dataroot_lq') else degradation
            wanted = make_record(kind, made, fingerprint)
            _check_cache(f'datasets:{phase}:dataroot_{kind}', root, wanted)


def _check_cache(option: str, root: str, wanted: Mapping[str, Any]) -> None:
    if not expanded(root).is_dir():
        raise FileNotFoundError(
            f'{option} is {root}, which is not an existing folder. Make it with defsr-enhance.'
        )
    record = read_record(option, root)
    if record is None:
        raise ValueError(
            f'{option} is {root}, which has no {RECORD}, so nobody knows which enhancer made it. '
            'Make it with defsr-enhance, or set check_cache: false.'
        )
    fault = fault_of(record, wanted)
    if fault:
        raise ValueError(
            f'{option} is {root}, which {fault}. Make the cache anew with defsr-enhance, change '
            'network_e or path:pretrain_network_e to what made it, or set check_cache: false.'
        )
