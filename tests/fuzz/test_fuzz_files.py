"""Images, option files, lists and records that accidents and strangers have changed."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils import get_root_logger
from fuzzing import dice, fuzz, times
from mutations import SNIPPETS, changed, damaged, retyped
from PIL import Image
from repository import REPOSITORY

from defsr.benchmark.options import read_benchmark
from defsr.benchmark.report import Report
from defsr.benchmark.rows import collect
from defsr.benchmark.runner import Runner
from defsr.config.check import check_options
from defsr.config.files import load_options, override_options
from defsr.data.cache_record import RECORD, check_caches, make_record, write_record
from defsr.data.image_source import decode_image
from defsr.data.ref_triplet_dataset import RefTripletDataset
from defsr.enhance.options import check_enhance_options
from defsr.enhance.rectified import check_rectify_options
from defsr.images.photo import read_photo
from defsr.running.checkpoints import Checkpoints, ValidationRecord

PIXELS = cv2.blur(np.random.default_rng(3).integers(0, 256, (40, 56, 4), np.uint8), (3, 3))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(get_root_logger(), 'handlers', [])
    monkeypatch.setattr(get_root_logger(), 'propagate', False)


# -- images --------------------------------------------------------------------------------------


def encode(kind: str, mode: str = 'RGB', **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def deep(suffix: str) -> bytes:
    return cv2.imencode(suffix, PIXELS.astype(np.uint16) * 257)[1].tobytes()


def images() -> list[bytes]:
    """Five formats, in several ways each."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encode('PNG'), encode('PNG', 'P'), encode('PNG', 'RGBA', exif=exif), deep('.png'),
        encode('JPEG', exif=exif), encode('JPEG', 'L', progressive=True), encode('JPEG', 'CMYK'),
        encode('BMP'), encode('BMP', 'P'), encode('BMP', '1'),
        encode('TIFF'), encode('TIFF', compression='tiff_lzw'), deep('.tif'),
        encode('TIFF', compression='tiff_adobe_deflate', big_tiff=True),
        encode('TIFF', 'L', compression='jpeg'),
        encode('WEBP', exif=exif), encode('WEBP', 'RGBA', lossless=True),
        encode('WEBP', save_all=True, append_images=[Image.new('RGB', (56, 40))]),
    ]  # fmt: skip


def read_image(content: bytes, as_photo: bool) -> None:
    if as_photo:
        Path('x').write_bytes(content)
        image = read_photo('x').rgb
    else:
        image = decode_image(content, 'x')
    assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1


def test_images(tmp_path):
    chance, whole = dice('images'), images()
    cases = [partial(read_image, content, as_photo) for content in whole for as_photo in (0, 1)]
    for i in range(times(250, 2000)):
        content = damaged(whole[i % len(whole)], chance, whole)
        cases.append(partial(read_image, content, bool(i // len(whole) % 2)))
    tally = fuzz('images', tmp_path, cases)
    assert tally.counts['results'] >= 2 * len(whole)
    assert tally.counts['clear lines'] > len(cases) / 4


# -- option files --------------------------------------------------------------------------------


OPTION_FILES: dict[str, Callable] = {
    'small/train_DEF_small_x4.yml': partial(check_options, is_train=True),
    'test_DEF_demo.yml': partial(check_options, is_train=False),
    'enhance_CUFED.yml': check_enhance_options,
    'rectify_CUFED.yml': check_rectify_options,
    'benchmark_small.yml': read_benchmark,
}


def check_text(text: str, entry: str, check: Callable) -> None:
    Path('o.yml').write_text(text, encoding='utf-8', errors='surrogatepass')
    check(override_options(load_options('o.yml'), [entry] if entry else []))


def test_option_files(tmp_path, monkeypatch):
    chance, cases = dice('option files'), []
    for name, check in OPTION_FILES.items():
        text = (REPOSITORY / 'options' / name).read_text()
        keys = [line.partition(':')[0].strip() for line in text.splitlines() if ':' in line]
        for _ in range(times(40, 1500)):
            if chance.random() < 0.8:
                cases.append(partial(check_text, retyped(text, chance), '', check))
            else:
                entry = f'{chance.choice(keys)}={chance.choice(SNIPPETS)}'
                cases.append(partial(check_text, text, entry, check))
    tally = fuzz('option files', tmp_path, cases)
    assert tally.counts['clear lines'] > len(cases) / 4


# -- pair lists ----------------------------------------------------------------------------------

NAMES = (
    '0.png', '1.png', '../gt/0.png', '../../outside/0.png', '/etc/passwd', 'no.png', '.', '..', '#',
    '"0.png"', 'x' * 300, '\u5b57' * 90 + '.png', '0.png\x0b1.png', '\x1b[2J.png', '\0', '\ud800',
    '0.JPG', '0', '0.png.png', '\ufeff0.png', 'a|b.png', '-rf', '~', '$HOME', '*', '\x85', '\u2028',
)  # fmt: skip


def read_pairs(content: bytes, block: dict) -> None:
    Path('pairs.txt').write_bytes(content)
    data = RefTripletDataset(block | {'pair_list': 'pairs.txt'})
    for i in range(min(len(data), 4)):
        path = Path(data[i]['lq_path'])
        assert len(path.stem.encode()) <= 120
        (Path('results') / path.stem).with_suffix('.png').write_bytes(b'')


def test_pair_lists(tmp_path):
    work = tmp_path / 'work'
    for role in ('gt', 'ref'):
        (work / role).mkdir(parents=True)
        for i in range(3):
            (work / role / f'{i}.png').write_bytes(encode('PNG'))
    (work / 'results').mkdir()
    block = {
        'name': 'x', 'type': 'RefTripletDataset', 'phase': 'val', 'scale': 4,
        'dataroot_gt': 'gt', 'dataroot_ref': 'ref',
    }  # fmt: skip
    chance, cases = dice('pair lists'), []
    cases = [partial(read_pairs, b'0.png 1.png 2.png\n1.png 0.png\n', block)]
    for _ in range(times(100, 2000)):
        lines = [
            ' '.join(chance.choices(NAMES, weights=[60, 60] + [1] * (len(NAMES) - 2), k=number))
            for number in chance.choices((0, 1, 2, 2, 2, 3, 40), k=chance.choice((1, 2, 5)))
        ]
        content = '\n'.join(lines).encode('utf-8', 'surrogatepass')
        if chance.random() < 0.2:
            content = damaged(content or b'\n', chance)
        cases.append(partial(read_pairs, content, block))
    tally = fuzz('pair lists', tmp_path, cases)
    assert tally.counts['results'] >= 1


# -- JSON records --------------------------------------------------------------------------------

ENHANCER = {'type': 'X', 'scale': 4, 'diffusion': {'num_steps': 20, 'eta': 0.85}, 'weights': 'ab'}


def spoiled(content: object, chance: random.Random) -> bytes:
    """A JSON text, of other values or damaged itself."""
    text = json.dumps(changed(content, chance)).encode()
    return damaged(text, chance) if chance.random() < 0.3 else text


def use_cache(content: bytes) -> None:
    (Path('de') / RECORD).write_bytes(content)
    check_caches({'val': {'dataroot_de': 'de'}}, ENHANCER)


def use_list(content: bytes) -> None:
    Path('states/8.json').write_bytes(content)
    store = Checkpoints('models', 'states')
    newest, _ = store.newest()
    if newest is not None:
        assert {p.name for p in Path('models').iterdir()} == {'net_g_8.pth'}
        assert store.fault_of(8) is None


def use_validations(content: bytes) -> None:
    Path('validation.json').write_bytes(content)
    record = ValidationRecord('validation.json')
    record.load(100)
    for results in record.results.values():
        assert all(sum(map(abs, means.values())) is not None for means in results.values())
    record.save()


def use_rows(content: bytes, benchmark: object) -> None:
    Path('results/b/rows.jsonl').write_bytes(content)
    rows = collect(benchmark, Path('results/b'))  # type: ignore[arg-type]
    report = Report(benchmark, rows, {})  # type: ignore[arg-type]
    assert report.markdown() and report.as_csv() and report.as_json()


def test_json_records(tmp_path, monkeypatch):
    work = tmp_path / 'work'
    for name in ('de', 'models', 'states', 'gt', 'ref'):
        (work / name).mkdir(parents=True)
    monkeypatch.chdir(work)
    chance = dice('JSON records')
    torch.save({'params': {'a': torch.ones(1)}}, 'models/net_g_8.pth')
    torch.save({'iter': 8}, 'states/8.state')
    Checkpoints('models', 'states').publish(8, [Path('models/net_g_8.pth'), Path('states/8.state')])
    write_record(Path('de'), make_record('de', 'matlab', ENHANCER))
    validations = {str(i): {'v': {'psnr': 30.5, 'ssim': 0.9}} for i in (4, 8)}
    for role in ('gt', 'ref'):
        Path(role, '0.png').write_bytes(encode('PNG'))
    block = {'type': 'RefTripletDataset', 'dataroot_gt': 'gt', 'dataroot_ref': 'ref'}
    benchmark = read_benchmark({
        'name': 'b', 'scale': 4, 'num_gpu': 0, 'datasets': {'d': block},
        'methods': {'bicubic': {'method': 'bicubic'}},
    })  # fmt: skip
    Runner(benchmark, Path('results/b')).run()
    row = json.loads(Path('results/b/rows.jsonl').read_text())
    originals = {
        use_cache: json.loads(Path('de', RECORD).read_text()),
        use_list: json.loads(Path('states/8.json').read_text()),
        use_validations: validations,
        partial(use_rows, benchmark=benchmark): row,
    }
    cases = []
    for use, content in originals.items():
        cases.append(partial(use, json.dumps(content).encode()))
        cases += [partial(use, spoiled(content, chance)) for _ in range(times(40, 1500))]
        cases += [partial(use, text) for text in (b'', b'[' * 10**5, b'9' * 5000, b'\xff', b'null')]
    tally = fuzz('JSON records', tmp_path, cases)
    assert tally.counts['results'] >= len(originals)
