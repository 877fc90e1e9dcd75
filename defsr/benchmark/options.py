"""The option file of ``defsr-benchmark``, checked before a network is built or an image read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from defsr.config.blocks import check_texts, required
from defsr.config.check import check_run
from defsr.config.files import load_options
from defsr.data.triplet_options import TripletOptions
from defsr.utils.checks import check_at_least, check_block, check_choice, check_int, check_keys

TOP_KEYS = (
    'name', 'scale', 'num_gpu', 'datasets', 'methods', 'compare_to', 'groups', 'tile', 'overlap',
    'tables', 'bootstrap', 'published', 'save_images', 'examples',
)  # fmt: skip
METHOD_KEYS = ('method', 'options', 'weights', 'loss')
PLAIN = ('bicubic', 'pinv')


@dataclass(frozen=True)
class Candidate:
    """A method of the benchmark, with its weights.

    Attributes:
        label: its name in the table.
        plain: ``bicubic`` or ``pinv``; '' for a network.
        opt: content of its option file; empty without one.
        file: path of that file.
        weights: checkpoint of ``network_g``.
        loss: what it was trained with; '-' for what is not trained.
    """

    label: str
    plain: str = ''
    opt: Mapping[str, object] = field(default_factory=dict)
    file: str = ''
    weights: str = ''
    loss: str = '-'


@dataclass(frozen=True)
class Benchmark:
    """Everything that an option file says; see ``docs/benchmark.md`` for the keys."""

    name: str
    scale: int
    num_gpu: int | str
    datasets: Mapping[str, Mapping[str, object]]
    methods: Mapping[str, Candidate]
    compare_to: str | None
    groups: Mapping[str, tuple[str, ...]]
    tables: Mapping[str, tuple[str, ...]]
    tile: int | None
    overlap: int
    samples: int
    seed: int
    published: tuple[Mapping[str, object], ...]
    save_images: bool
    examples: Mapping[str, object]


def read_benchmark(opt: Mapping[str, object]) -> Benchmark:
    """Read an option file of ``defsr-benchmark``, which is left as it is.

    Raises:
        ValueError: for the first mistake; the message names the option. A method's own option
            file and weights may be missing: that is reported in its row.
    """
    check_texts(opt)
    check_keys('', opt, TOP_KEYS)
    check_run(opt)
    scale = check_int('scale', required(opt, '', 'scale'), 2)
    datasets = {
        name: _data_set(name, block, scale)
        for name, block in check_block('datasets', required(opt, '', 'datasets')).items()
    }
    blocks = check_block('methods', required(opt, '', 'methods'))
    methods = {label: _candidate(label, block) for label, block in blocks.items()}
    compare_to = opt.get('compare_to')
    if compare_to is not None:
        check_choice('compare_to', compare_to, list(methods))
    bootstrap = check_block('bootstrap', opt.get('bootstrap') or {})
    check_keys('bootstrap', bootstrap, ('samples', 'seed'))
    examples = check_block('examples', opt.get('examples') or {})
    check_keys('examples', examples, ('method', 'number', 'side', 'show'))
    save_images = check_choice('save_images', opt.get('save_images', False), (True, False))
    if examples:
        check_choice('examples:method', required(examples, 'examples', 'method'), list(methods))
        check_int('examples:number', examples.get('number', 2), 1)
        check_int('examples:side', examples.get('side', 96), 16)
        show = examples.get('show', [])
        if not isinstance(show, list):
            raise ValueError(f'examples:show is {show!r}, but must be a list of methods.')
        for label in show:
            check_choice('examples:show', label, list(methods))
        if not save_images or compare_to is None:
            raise ValueError('examples needs `save_images: true` and `compare_to`. Set both.')
    tile = opt.get('tile', 96)
    return Benchmark(
        name=str(required(opt, '', 'name')),
        scale=scale,
        num_gpu=opt.get('num_gpu', 'auto'),
        datasets=datasets,
        methods=methods,
        compare_to=compare_to,
        groups=_lists('groups', opt.get('groups') or {}, datasets),
        tables=_lists('tables', opt.get('tables') or {}, datasets),
        tile=None if tile is None else check_int('tile', tile, 16),
        overlap=check_int('overlap', opt.get('overlap', 16), 0),
        samples=check_int('bootstrap:samples', bootstrap.get('samples', 10000), 1),
        seed=check_int('bootstrap:seed', bootstrap.get('seed', 0), 0),
        published=tuple(_published(opt.get('published') or [], datasets)),
        save_images=save_images,
        examples={'number': 2, 'side': 96, 'show': []} | dict(examples) if examples else {},
    )


def _data_set(name: str, block: object, scale: int) -> dict[str, object]:
    """The block as ``RefTripletDataset`` takes it."""
    block = dict(check_block(f'datasets:{name}', block))
    check_choice(f'datasets:{name}:type', block.get('type'), ('RefTripletDataset',))
    block |= {'name': name, 'phase': 'test', 'scale': scale}
    if TripletOptions.from_opt(block).roots.get('gt') is None:
        raise ValueError(f'datasets:{name}:dataroot_gt is missing: nothing could be measured.')
    return block


def _candidate(label: str, block: object) -> Candidate:
    where = f'methods:{label}'
    check_keys(where, check_block(where, block), METHOD_KEYS)
    if 'method' in block:
        plain = check_choice(f'{where}:method', block['method'], PLAIN)
        check_keys(where, block, ('method',))
        return Candidate(label, plain)
    file = str(required(block, where, 'options'))
    opt = load_options(file) if Path(file).is_file() else {}
    weights = block.get('weights') or (opt.get('path') or {}).get('pretrain_network_g') or ''
    loss = block.get('loss') or loss_of(opt.get('train'))
    return Candidate(label, '', opt, file, str(weights), loss)


def loss_of(train: Mapping[str, object] | None) -> str:
    """The losses of a ``train`` block in words, e.g. ``L1 + perceptual + WGAN-GP``; '-' if none."""
    if not train:
        return '-'
    parts = []
    if train.get('pixel_opt'):
        parts.append(train['pixel_opt']['type'].removesuffix('Loss'))
    if train.get('perceptual_opt'):
        parts.append('perceptual')
    if train.get('gan_opt'):
        kind = train['gan_opt'].get('gan_type', 'gan')
        penalty = kind == 'wgan' and train.get('gradient_penalty_weight')
        parts.append('WGAN-GP' if penalty else f'GAN ({kind})')
    return ' + '.join(parts) or '-'


def _lists(key: str, block: object, datasets: Mapping) -> dict[str, tuple[str, ...]]:
    """Named lists of data sets."""
    found = {}
    for name, members in check_block(key, block).items():
        if not isinstance(members, list) or not members:
            raise ValueError(f'{key}:{name} is {members!r}, but must be a list of data sets.')
        for member in members:
            check_choice(f'{key}:{name}', member, list(datasets))
        found[name] = tuple(members)
    return found


def _published(rows: object, datasets: Mapping[str, object]) -> list[dict[str, object]]:
    """Rows of a paper: label, loss, and PSNR and SSIM by the paper's own names of data sets."""
    if not isinstance(rows, list):
        raise ValueError(f'published is {rows!r}, but must be a list of rows.')
    for number, row in enumerate(rows):
        where = f'published:{number}'
        check_keys(where, check_block(where, row), ('label', 'loss', 'scores'))
        required(row, where, 'label')
        for name, scores in check_block(f'{where}:scores', row.get('scores')).items():
            if not isinstance(scores, list) or len(scores) != 2:
                raise ValueError(f'{where}:scores:{name} is {scores!r}, but must be [PSNR, SSIM].')
            for score in scores:
                check_at_least(f'{where}:scores:{name}', score, 0)
    return [dict(row) for row in rows]
