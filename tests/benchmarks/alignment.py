"""Which enhancer aligns best? Share of positions matched within one position, query by key.

    python tests/benchmarks/alignment.py --data DIR [--made 60] [--record FILE] [--figure PNG]

Made pairs: BSDS500's validation photographs (160x160, overlap 30 to 100 %, scale, rotation,
perspective and colour changed), measured against the true homography where the reference shows the
place. Real pairs: scikit-image's stereo pair and the CUFED5 image with each of its five references
(centre 256x320), and CUFED's ten training pairs (160x160, not trained on here), measured against
the match that the GT query finds in the untouched reference. Shipped VGG16 trunk at relu3_1, exact
matching.

Queries: bicubic, A_pinv y, I_DE of DDNM, of ``SISREnhancer`` (``--sisr``), of DDNM started from the
latter's image, GT. Keys: the reference, reduced and interpolated, reduced and enhanced as the
query was; mixtures of keys (``match_key`` as a block); patches of 3x3 and 5x5
(``match_patch_size``); sums of the cosines of two searches. ``AUC``: how well the confidence tells
right matches from wrong ones, as the cosine is, and as its margin over the best match farther than
one position away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from enhancer_cases import (
    OPTIONS,
    EnhancerFactory,
    centre,
    lq_of,
    stereo_images,
    texture_extractor,
)
from match_confidence import SETTINGS, auc, cells_of_truth, made_images, near
from measuring import data_parser, report, table
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from defsr.archs.levels import MATCH_LEVEL
from defsr.archs.sisr_enhancer_arch import SISREnhancer
from defsr.config.files import load_options
from defsr.data.image_source import ImageSource
from defsr.diffusion import BicubicDownsample, ddnm_sample, from_signed, to_signed
from defsr.images.figures import save_figure
from defsr.methods.match_keys import mixed_key
from defsr.ops.matching import match_patches
from defsr.ops.resize import upsample_bicubic
from defsr.utils.cli import run_cli

SIZE = (256, 320)
OPERATOR = BicubicDownsample(4)
SISR_OPTIONS = 'options/small/EDSR_x4.yml'
TTSR = 'bicubic / ref_down_up'
MIXTURE = {'ref_enhanced': 1.0, 'ref': 0.5}
# Beside each query with each key in 3x3 patches: query, keys with their weights, patch size.
MORE: tuple[tuple[str, dict[str, float], int], ...] = (
    ('SISR', MIXTURE, 3),
    ('bicubic', {'ref_down_up': 1.0}, 5),
    ('DDNM', {'ref_enhanced': 1.0}, 5),
    ('SISR', {'ref': 1.0}, 5),
    ('SISR', {'ref_enhanced': 1.0}, 5),
    ('DDNM', MIXTURE, 5),
    ('SISR', MIXTURE, 5),
)
# Sums of the cosines of two searches: (query, key, weight) twice, and the patch size.
SUMS: dict[str, tuple[tuple[tuple[str, str, float], ...], int]] = {
    'sum: SISR / ref_enhanced, bicubic / ref_down_up': (
        (('SISR', 'ref_enhanced', 1.0), ('bicubic', 'ref_down_up', 1.0)), 3,
    ),
    'sum: SISR / ref_enhanced, 0.5 SISR / ref': (
        (('SISR', 'ref_enhanced', 1.0), ('SISR', 'ref', 0.5)), 3,
    ),
    'sum: SISR / ref_enhanced, 0.5 SISR / ref, 5x5': (
        (('SISR', 'ref_enhanced', 1.0), ('SISR', 'ref', 0.5)), 5,
    ),
}  # fmt: skip
# Whose confidence is judged: query, keys, patch size.
JUDGED = (
    ('bicubic', {'ref_down_up': 1.0}, 3),
    ('SISR', {'ref': 1.0}, 3),
    ('SISR', {'ref_enhanced': 1.0}, 3),
    ('SISR', MIXTURE, 5),
)
Enhance = Callable[[Tensor], Tensor]


def enhancers(sisr_options: str, sisr_weights: str | None) -> dict[str, Enhance]:
    """lq -> image, by the name of the query."""
    opt = load_options(sisr_options)
    sisr = SISREnhancer(opt['network_g'])
    sisr.load_weights(sisr_weights or f'small_{Path(sisr_options).stem.removesuffix("_x4")}.pth')
    ddnm = EnhancerFactory(OPTIONS).make({})

    def warm(lq: Tensor) -> Tensor:
        start = to_signed(sisr.enhance(lq))
        image = ddnm_sample(
            ddnm._predict_noise,
            to_signed(lq),
            ddnm.operator,
            replace(ddnm.sampling, start_alpha_bar=0.97),
            x0_start=start,
        )
        return from_signed(image)

    return {
        'bicubic': lambda lq: upsample_bicubic(lq, 4),
        'A_pinv y': OPERATOR.A_pinv,
        'DDNM': ddnm.enhance,
        'SISR': sisr.enhance,
        'DDNM from SISR': warm,
    }


class Pair:
    """Features of one pair, and its matches by any query and keys.

    Args:
        net_t: texture extractor.
        images: name -> lq to image.
        gt, ref: (1,3,H,W) and (1,3,H',W').
    """

    def __init__(
        self, net_t: nn.Module, images: Mapping[str, Enhance], gt: Tensor, ref: Tensor
    ) -> None:
        self.net_t = net_t
        lq, small = lq_of(gt), lq_of(ref)
        self.query = {name: self._feature(make(lq)) for name, make in images.items()}
        self.query['GT'] = self._feature(gt)
        self.key = {('', 'ref'): self._feature(ref)}
        for name, make in images.items():
            self.key[name, 'ref_enhanced'] = self._feature(make(small))
        self.key['', 'ref_down_up'] = self.key['bicubic', 'ref_enhanced']
        self.size = self.query['GT'].shape[-2:]
        self.height, self.width = self.key['', 'ref'].shape[-2:]

    def _feature(self, image: Tensor) -> Tensor:
        return self.net_t(image.clamp(0, 1))[MATCH_LEVEL]

    def mixed(self, query: str, keys: Mapping[str, float]) -> Tensor:
        """The map that a query is matched against."""
        maps = {key: self.key[query if key == 'ref_enhanced' else '', key] for key in keys}
        return mixed_key(maps, keys)

    def index(self, query: str, keys: Mapping[str, float], patch_size: int) -> Tensor:
        """(h,w) flat index into the reference."""
        return match_patches(self.query[query], self.mixed(query, keys), patch_size)[0][0]

    def cosines(self, query: str, keys: Mapping[str, float], patch_size: int) -> Tensor:
        """(h*w, h'*w') of every query patch with every key patch."""
        patches = [
            F.normalize(F.unfold(x, patch_size, padding=patch_size // 2)[0], dim=0)
            for x in (self.query[query], self.mixed(query, keys))
        ]
        return patches[0].T @ patches[1]

    def matches(self) -> Iterator[tuple[str, Tensor]]:
        """Every setting's label and index (h,w)."""
        for query in self.query:
            for key in ('ref', 'ref_down_up', 'ref_enhanced'):
                if key == 'ref_enhanced' and query in ('GT', 'bicubic'):
                    continue  # GT is not enhanced; bicubic's is ref_down_up
                yield label_of(query, {key: 1.0}, 3), self.index(query, {key: 1.0}, 3)
        for setting in MORE:
            yield label_of(*setting), self.index(*setting)
        for label, (terms, patch_size) in SUMS.items():
            total = sum(w * self.cosines(q, {key: 1.0}, patch_size) for q, key, w in terms)
            yield label, total.argmax(dim=1).view(self.size)


def label_of(query: str, keys: Mapping[str, float], patch_size: int) -> str:
    """A setting's name in the tables."""
    names = ' + '.join(key if weight == 1 else f'{weight:g} {key}' for key, weight in keys.items())
    return f'{query} / {names}{"" if patch_size == 3 else f", {patch_size}x{patch_size}"}'


def margin(cosines: Tensor, width: int) -> Tensor:
    """Best cosine over the best one farther away than one position, (h*w)."""
    best, index = cosines.max(dim=1)
    place = torch.arange(cosines.shape[1])
    rows, columns = place // width, place % width
    far = (rows - (index // width)[:, None]).abs() > 1
    far |= (columns - (index % width)[:, None]).abs() > 1
    return best - cosines.masked_fill(~far, -1).amax(dim=1)


def measure(pair: Pair, truth: Tensor | None) -> tuple[dict[str, float], dict[str, dict]]:
    """Shares and confidences of one pair.

    Args:
        pair: its features.
        truth: (2,h,w) row and column of the true match, NaN or outside where there is none. None:
            the match of the GT query in the reference.

    Returns:
        label -> share of right matches where the reference shows the place; and of ``JUDGED``:
        label -> ``right``, ``cosine`` and ``margin`` of each position.
    """
    if truth is None:
        index = pair.index('GT', {'ref': 1.0}, 3)
        truth = torch.stack([index // pair.width, index % pair.width])
    inside = (truth[0] > -0.5) & (truth[0] < pair.height - 0.5)
    inside &= (truth[1] > -0.5) & (truth[1] < pair.width - 0.5)
    shares = {}
    for label, index in pair.matches():
        right = near(index, *truth, pair.width)
        shares[label] = float(right[inside].float().mean())
    judged = {}
    for setting in JUDGED:
        cosines = pair.cosines(*setting)
        best, index = cosines.max(dim=1)
        judged[label_of(*setting)] = {
            'right': near(index.view(pair.size), *truth, pair.width).flatten(),
            'cosine': best,
            'margin': margin(cosines, pair.width),
        }
    return shares, judged


def real_pairs(root: Path) -> Iterator[tuple[str, Tensor, Tensor, None]]:
    """(name, GT, reference, no truth)."""
    left, right = (centre(image, *SIZE) for image in stereo_images())
    yield 'motorcycle', left, right, None
    cufed = ImageSource('--data', root / 'cufed5')
    gt, *refs = (centre(cufed.read(f'001_{i}.png')[None], *SIZE) for i in range(6))
    for number, ref in enumerate(refs, start=1):
        yield f'cufed5 {number}', gt, ref, None
    inputs, others = (
        ImageSource('--data', root / 'cufed_train' / part) for part in ('input', 'ref')
    )
    for number, name in enumerate(inputs.names(), start=1):
        images = [inputs.read(name)[None], others.read(others.find(name, any_extension=True))[None]]
        gt, ref = (x[..., : x.shape[-2] // 8 * 8, : x.shape[-1] // 8 * 8] for x in images)
        yield f'cufed_train {number}', gt, ref, None


def made_pairs(root: Path, number: int) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """(name, GT, reference, (2,h,w) true cells); none is unrelated."""
    settings = replace(SETTINGS, unrelated=0.0)
    for count, (gt, ref, homography) in enumerate(made_images(root, number, settings), start=1):
        yield f'made {count}', gt, ref, cells_of_truth(homography, gt)


def pooled_auc(judged: Mapping[str, Mapping[str, Mapping]]) -> list[list[str]]:
    """A line per setting: AUC of the cosine and of its margin, over all positions of the pairs."""
    lines = []
    for setting in JUDGED:
        label = label_of(*setting)
        right = torch.cat([found[label]['right'] for found in judged.values()])
        cells = [
            auc(right, torch.cat([found[label][kind] for found in judged.values()]))
            for kind in ('cosine', 'margin')
        ]
        lines.append([label, *(f'{cell:.3f}' for cell in cells)])
    return lines


def lines_of(shares: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """A line per setting: mean of the made pairs, each of the seven large real ones, means, wins.

    ``wins``: real pairs on which it beats TTSR's setting, of all.
    """
    made = [name for name in shares if name.startswith('made')]
    real = [name for name in shares if not name.startswith('made')]
    groups = [made, *([name] for name in real if not name.startswith('cufed_train'))]
    groups += [[n for n in real if n.startswith('cufed_train')], real]
    lines = []
    for label in next(iter(shares.values())):
        means = [sum(shares[n][label] for n in group) / len(group) for group in groups if group]
        wins = sum(shares[name][label] > shares[name][TTSR] for name in real)
        lines.append([label, *(f'{mean:.3f}' for mean in means), f'{wins} of {len(real)}'])
    return lines


def draw(lines: Sequence[Sequence[str]], head: Sequence[str], path: str) -> None:
    """Settings by pair as a table of colours, each column against TTSR's setting."""
    from matplotlib.figure import Figure

    values = torch.tensor([[float(cell) for cell in line[1:-1]] for line in lines])
    labels = [line[0] for line in lines]
    gain = values - values[labels.index(TTSR)]
    figure = Figure(figsize=(11, 0.29 * len(lines) + 1.6), dpi=110, layout='constrained')
    axis = figure.subplots()
    picture = axis.imshow(gain, cmap='RdYlGn', vmin=-0.3, vmax=0.3, aspect='auto')
    for row, line in enumerate(lines):
        for column, cell in enumerate(line[1:-1]):
            bold = float(values[row, column]) == float(values[:, column].max())
            weight = 'bold' if bold else 'normal'
            axis.text(column, row, cell, ha='center', va='center', fontsize=8, weight=weight)
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_xticks(range(len(head) - 2), head[1:-1], fontsize=8, rotation=20)
    axis.set_title('Share of positions matched within one position; colour: against TTSR', size=10)
    figure.colorbar(picture, ax=axis, label='difference to bicubic / ref_down_up')
    save_figure(figure, path)


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--made', type=int, default=60, help='made pairs')
    parser.add_argument('--sisr', default=SISR_OPTIONS, help='option file with its network_g')
    parser.add_argument('--weights', help='its weights; default: the shipped ones')
    parser.add_argument('--figure')
    args = parser.parse_args()
    net_t, images = texture_extractor(), enhancers(args.sisr, args.weights)
    shares, judged = {}, {}
    for pairs in (real_pairs(args.data), made_pairs(args.data, args.made)):
        for name, gt, ref, truth in tqdm(pairs, unit='pair'):
            shares[name], judged[name] = measure(Pair(net_t, images, gt, ref), truth)
    large = [n for n in shares if not n.startswith(('made', 'cufed_train'))]
    trained = sum(n.startswith('cufed_train') for n in shares)
    head = ['query / key', *([f'made, {args.made}'] if args.made else []), *large]
    head += [f'cufed_train, {trained}', 'real pairs', 'better than TTSR']
    lines = lines_of(shares)
    parts = [table(head, lines)]
    for title in ('real', 'made'):
        part = {k: v for k, v in judged.items() if k.startswith('made') == (title == 'made')}
        if part:
            parts.append(table([f'AUC, {title} pairs', 'cosine', 'margin'], pooled_auc(part)))
    report('Alignment', *parts)
    if args.figure:
        draw(lines, head, args.figure)


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
