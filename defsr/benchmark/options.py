"""The option file of ``defsr-benchmark``, checked before a network is built or an image read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from defsr.config.blocks import (
    check_arguments,
    check_block_of,
    check_networks,
    check_run,
    required,
)
from defsr.config.files import load_options, merge_options
from defsr.data.triplet_options import TripletOptions
from defsr.methods.build import TILE, method_class
from defsr.metrics.perceptual import PERCEPTUAL
from defsr.rectify.rectifier import Rectifier
from defsr.utils.checks import (
    check_block,
    check_choice,
    check_int,
    check_keys,
    check_list,
    check_name,
    check_text,
)
from defsr.utils.kinds import NotNegative, Text, entries

METHOD = {
    'method': str,
    'options': str,
    'weights': str | None,
    'with': Mapping[str, Any] | None,
    'loss': Text | None,
}
PUBLISHED = {  # scores: PSNR and SSIM by data set
    'label': Text,
    'loss': Text | None,
    'scores': Mapping[str, Annotated[Sequence[NotNegative], entries(2, 2)]],
    'differs': Text | None,
}
PLAIN = ('bicubic', 'pinv')
BLOCKS = ('datasets', 'methods', 'groups', 'tables', 'bootstrap', 'examples', 'report')


@dataclass(frozen=True)
class Candidate:
    """A method of the benchmark, with its weights.

    Attributes:
        label: its name in the table.
        plain: ``bicubic`` or ``pinv``; '' for a network.
        opt: content of its option file, with what the row changes in it; empty without one.
        file: path of that file.
        weights: checkpoint of ``network_g``.
        loss: what it was trained with; '-' for what is not trained.
    """

    label: str
    plain: str = ''
    opt: Mapping[str, Any] = field(default_factory=dict)
    file: str = ''
    weights: str = ''
    loss: str = '-'


@dataclass(frozen=True)
class Benchmark:
    """Everything that an option file says; see ``docs/benchmark.md`` for the keys."""

    name: str
    scale: int
    num_gpu: int | str
    datasets: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Candidate]
    compare_to: Sequence[str] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tables: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scenes: Sequence[str] = ()
    timed: Sequence[str] = ()
    tile: int | None = TILE
    overlap: int = 16
    bootstrap: Mapping[str, int] = field(default_factory=dict)
    published: Sequence[Mapping[str, Any]] = ()
    save_images: bool = False
    metrics: Sequence[str] = ()
    examples: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


def read_benchmark(opt: Mapping[str, Any]) -> Benchmark:
    """Read an option file of ``defsr-benchmark``, which is left as it is.

    Raises:
        ValueError: for the first mistake; the message names the option. A method's own option
            file and weights may be missing: that is reported in its row.
    """
    check_run(opt)
    given = {key: value for key, value in opt.items() if value is not None}
    if isinstance(given.get('compare_to'), str):
        given['compare_to'] = [given['compare_to']]
    check_keys('', given, [each.name for each in fields(Benchmark)])
    check_arguments('', given, Benchmark)
    scale = check_int('scale', opt['scale'], 2)
    blocks = {name: check_block(name, given[name]) for name in BLOCKS if name in given}
    datasets = {name: _data_set(name, block, scale) for name, block in blocks['datasets'].items()}
    methods = {label: _candidate(label, block) for label, block in blocks['methods'].items()}
    _check_names('compare_to', given.get('compare_to', ()), methods, ' of methods', 0)
    _check_names('metrics', given.get('metrics', ()), PERCEPTUAL, ' of metrics', 0)
    if given.get('metrics') and not given.get('save_images'):
        raise ValueError('metrics needs `save_images: true`: they are of saved images. Set it.')
    for key in ('scenes', 'timed'):
        _check_names(key, given.get(key, ()), datasets, ' of data sets', 0)
    for key in ('groups', 'tables'):
        for name, members in blocks.get(key, {}).items():
            check_text(f'A name in {key}', name)
            _check_names(f'{key}:{name}', members, datasets, ' of data sets', 1)
    bootstrap = {'samples': 10000, 'seed': 0} | dict(blocks.get('bootstrap', {}))
    check_keys('bootstrap', bootstrap, ('samples', 'seed'))
    check_int('bootstrap:samples', bootstrap['samples'], 1)
    check_int('bootstrap:seed', bootstrap['seed'], 0)
    check_int('tile', given.get('tile', TILE), 16)
    check_int('overlap', given.get('overlap', 16), 0)
    _check_published(given.get('published', []))
    read = {'datasets': datasets, 'methods': methods, 'bootstrap': bootstrap}
    if blocks.get('examples'):
        read['examples'] = _examples(given, methods)
    if 'report' in blocks:
        read['report'] = _report(given, methods)
    return Benchmark(**(given | read | {'tile': opt.get('tile', TILE)}))


def _examples(opt: Mapping[str, Any], methods: Collection[str]) -> dict[str, Any]:
    examples: dict[str, Any] = {'method': None, 'number': 2, 'side': 96, 'show': []}
    check_keys('examples', opt['examples'], examples)
    examples |= opt['examples']
    check_choice('examples:method', required(examples, 'examples', 'method'), methods)
    check_int('examples:number', examples['number'], 1)
    check_int('examples:side', examples['side'], 16)
    _check_names('examples:show', examples['show'], methods, ' of methods', 0)
    if not opt.get('save_images') or not opt.get('compare_to'):
        raise ValueError('examples needs `save_images: true` and `compare_to`. Set both.')
    return examples


def _report(opt: Mapping[str, Any], methods: Mapping[str, Candidate]) -> dict[str, Any]:
    report: dict[str, Any] = {'number': 20, 'side': 256, 'show': [], 'maps': None}
    check_keys('report', opt['report'], report)
    report |= opt['report']
    check_int('report:number', report['number'], 1)
    check_int('report:side', report['side'], 32)
    _check_names('report:show', report['show'], methods, ' of methods', 0)
    if report['maps'] is not None:
        one = methods[check_choice('report:maps', report['maps'], methods)]
        missing = not (one.plain or one.opt)  # told in the method's row
        if not missing and not Rectifier.is_on(one.opt.get('rectify')):
            raise ValueError(
                f'report:maps is {one.label!r}, which does not rectify references. Name a method '
                'with `rectify`, or leave it out.'
            )
    if not opt.get('save_images'):
        raise ValueError('report needs `save_images: true`. Set it.')
    return report


def _check_names(option: str, names: object, known: Collection[str], of: str, least: int) -> None:
    for name in check_list(option, names, of, least):
        check_choice(option, name, known)


def _data_set(name: str, block: object, scale: int) -> dict[str, Any]:
    """The block as ``RefTripletDataset`` takes it."""
    check_name('A name in datasets', name)
    block = dict(check_block(f'datasets:{name}', block))
    check_choice(f'datasets:{name}:type', block.get('type'), ('RefTripletDataset',))
    block |= {'name': name, 'phase': 'test', 'scale': scale}
    if TripletOptions.from_opt(block).roots.get('gt') is None:
        raise ValueError(f'datasets:{name}:dataroot_gt is missing: nothing could be measured.')
    return block


def _candidate(label: str, block: Any) -> Candidate:
    where = f'methods:{check_text("A name in methods", label)}'
    check_keys(where, check_block(where, block), METHOD)
    if 'method' in block:
        plain = check_choice(f'{where}:method', block['method'], PLAIN)
        check_keys(where, block, ('method',))
        return Candidate(label, plain)
    check_block_of(where, block, METHOD, ('options',))
    file = block['options']
    opt: Mapping[str, Any] = {}
    try:
        opt = load_options(file, f'{where}:options')
        try:
            check_networks(opt)
        except ValueError as error:
            raise ValueError(f'{where}:options is {file}. {error}') from None
        if block.get('with'):
            method, more = method_class(opt), check_block(f'{where}:with', block['with'])
            known = {*opt, *method.keys_of({**opt, **more}), 'check_trained'}
            check_keys(f'{where}:with', more, known)
            opt = merge_options(opt, more)
            check_networks(opt)
    except FileNotFoundError:  # of the file or of weights, told in the method's row
        opt = merge_options(opt, block.get('with') or {}) if opt else opt
    weights = block.get('weights') or (opt.get('path') or {}).get('pretrain_network_g') or ''
    loss = block.get('loss') or loss_of(opt.get('train'))
    return Candidate(label, '', opt, file, str(weights), loss)


def loss_of(train: Mapping[str, Any] | None) -> str:
    """The losses of a ``train`` block in words, e.g. ``L1 + perceptual + WGAN-GP``; '-' if none."""
    if not train:
        return '-'
    parts = []
    if train.get('pixel_opt'):
        parts.append(train['pixel_opt']['type'].removesuffix('Loss'))
    if train.get('perceptual_opt'):
        parts.append('perceptual')
    if train.get('rank_opt'):
        parts.append('rank')
    if train.get('gan_opt'):
        kind = train['gan_opt'].get('gan_type', 'gan')
        penalty = kind == 'wgan' and train.get('gradient_penalty_weight')
        parts.append('WGAN-GP' if penalty else f'GAN ({kind})')
    return ' + '.join(parts) or '-'


def _check_published(rows: object) -> None:
    """Rows of a paper: label, loss, and PSNR and SSIM by the paper's own names of data sets."""
    for number, row in enumerate(check_list('published', rows, ' of rows')):
        where = f'published:{number}'
        check_block_of(where, row, PUBLISHED, ('label', 'scores'), only=True)
        for name in row['scores']:
            check_text(f'A name in {where}:scores', name)
