"""What refined matches are worth before any network: the reference, warped to the input.

    python tests/benchmarks/refinement.py --data DIR [--made 20]

The best setting of ``alignment.py`` (``SISREnhancer``, mixed keys, 5x5 patches), matches carried
to the pixels as they are, moved by up to 1, 2 or 3 pixels (``match_refine``), and brought to agree
with those around them (``match_coherence``). PSNR (RGB) of the warped reference against GT, over
all pixels and over the more confident half of the positions; on made pairs also the share of pixels
within 1.5 pixels of the truth. Pairs as in ``alignment.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from alignment import MIXTURE, SISR_OPTIONS, made_pairs, real_pairs
from enhancer_cases import lq_of, texture_extractor
from measuring import data_parser, report, table
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from defsr.archs.interface import Reference
from defsr.archs.sisr_enhancer_arch import SISREnhancer
from defsr.config.files import load_options
from defsr.methods.matched import Matched
from defsr.ops.warping import gather_positions, match_positions
from defsr.utils.cli import run_cli

# name -> match_refine, match_coherence
SETTINGS = {
    '0 px': (0, False),
    '1 px': (1, False),
    '2 px': (2, False),
    '3 px': (3, False),
    'coherent, 2 px': (2, True),
}


def psnr(image: Tensor, gt: Tensor, where: Tensor) -> float:
    """dB over the pixels (1,1,H,W) that count."""
    error = (image - gt).square().mean(dim=1, keepdim=True)[where].mean()
    return float(-10 * torch.log10(error))


def warped(
    pipeline: Matched, gt: Tensor, ref: Tensor, truth: Tensor | None
) -> Iterator[tuple[str, dict[str, float]]]:
    """(setting, measures) of one pair; truth (2,h,w) in cells, or None."""
    references = pipeline.prepare(None, [Reference(ref)])
    aligned = pipeline.align(pipeline.enhance(lq_of(gt)), references)
    confidence = F.interpolate(aligned.confidence[:, None], scale_factor=4.0)
    half = confidence >= confidence.median()
    matches = aligned.index, aligned.confidence
    for name, (pixels, coherent) in SETTINGS.items():
        if coherent:
            move = partial(references.moved, aligned.feat_de['relu1_1'], pixels=pixels)
            place = references.coherent(matches, move).positions(4)
        elif pixels:
            place = references.refined(aligned.feat_de, aligned.index, pixels)['relu1_1']
        else:
            place = match_positions(aligned.index, aligned.key_size, 4)
        image = gather_positions(ref, place)
        found = {'all': psnr(image, gt, half | ~half), 'half': psnr(image, gt, half)}
        if truth is not None:
            cells = F.interpolate(truth[None].float(), scale_factor=4.0, mode='bilinear')
            off = (place - (4 * cells + 1.5)).abs().amax(dim=1)
            inside = cells.amin(dim=1) > -0.25
            found['near'] = float((off[inside] <= 1.5).float().mean())
        yield name, found


def mean_rows(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[list[str]]:
    """A line per pair; of the made ones the mean."""
    made = [found for name, found in rows.items() if name.startswith('made')]
    lines = []
    for name, found in rows.items():
        if not name.startswith('made'):
            cells = [f'{found[n]["all"]:.2f} / {found[n]["half"]:.2f}' for n in SETTINGS]
            lines.append([name, *cells])
    if made:
        means = {
            n: {key: sum(f[n][key] for f in made) / len(made) for key in made[0][n]}
            for n in SETTINGS
        }
        cells = [f'{means[n]["all"]:.2f} / {means[n]["half"]:.2f}' for n in SETTINGS]
        lines.append([f'made, mean of {len(made)}', *cells])
        near = [f'{means[n]["near"]:.3f}' for n in SETTINGS]
        lines.append(['made, share within 1.5 pixels of the truth', *near])
    return lines


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--made', type=int, default=20, help='made pairs')
    parser.add_argument('--sisr', default=SISR_OPTIONS, help='option file with its network_g')
    parser.add_argument('--weights', default='small_EDSR.pth')
    args = parser.parse_args()
    sisr = SISREnhancer(load_options(args.sisr)['network_g'])
    sisr.load_weights(args.weights)
    options = {'match_key': MIXTURE, 'match_patch_size': 5, 'match_refine': 1}
    pipeline = Matched(sisr, texture_extractor(), **options)
    rows = {}
    for pairs in (real_pairs(Path(args.data)), made_pairs(args.data, args.made)):
        for name, gt, ref, truth in tqdm(pairs, unit='pair'):
            if not name.startswith('cufed_train'):
                rows[name] = dict(warped(pipeline, gt, ref, truth))
    head = ['PSNR of the warped reference, all / confident half', *SETTINGS]
    report('Refined matches', table(head, mean_rows(rows)))


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
