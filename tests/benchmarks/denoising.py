"""FFDNet as it comes with the repository, beside the numbers of its paper, on CBSD68.

    python tests/benchmarks/denoising.py --data DIR

White noise of sigma 15 to 75 on the scale of 255 is added to the 68 photographs of
``datasets/small/cbsd68.txt``, not rounded and not clipped; PSNR over R, G and B of the result in 8
bit, mean over the images. The noise is of a seed for each image and level; the paper's is another.
"""

from __future__ import annotations

from measuring import REPOSITORY, data_parser, report, table

import torch  # isort: skip
from basicsr.archs import build_network
from tqdm import tqdm

from defsr.data.image_source import ImageSource
from defsr.data.pair_list import read_pair_list
from defsr.images.levels import from_levels, to_levels
from defsr.methods.cleaning import Cleaner
from defsr.ops.input_quality import Faults
from defsr.utils.cli import run_cli
from defsr.utils.seeding import derive_seed
from defsr.utils.weights import load_weights

PUBLISHED = {15: 33.87, 25: 31.21, 35: 29.58, 50: 27.96, 75: 26.24}  # TIP 2018, Table VI


def main() -> None:
    args = data_parser(__doc__).parse_args()
    net = build_network({'type': 'FFDNet'}).eval().requires_grad_(False)
    weights = REPOSITORY / 'experiments/pretrained_models/ffdnet_color.pth'
    load_weights(net, weights, option='weights', network='FFDNet')
    clean = Cleaner(net, 'photo')
    source = ImageSource('--data', args.data / 'bsds500' / 'val')
    pairs = read_pair_list(str(REPOSITORY / 'datasets/small/cbsd68.txt'), 'cbsd68')
    found: dict[int, list[float]] = {sigma: [] for sigma in PUBLISHED}
    for pair in tqdm(pairs, unit='photo'):
        image = source.read(pair.gt)[None]
        for sigma, values in found.items():
            generator = torch.Generator().manual_seed(derive_seed(pair.gt, str(sigma)))
            noise = torch.randn(image.shape, generator=generator) * sigma / 255
            result = clean(image + noise, [Faults(sigma / 255, 0.0)])
            error = from_levels(to_levels(result)) - image
            values.append(-10 * float(error.square().mean().log10()))
    lines = []
    for sigma, published in PUBLISHED.items():
        mean = sum(found[sigma]) / len(found[sigma])
        lines.append([sigma, f'{mean:.2f}', f'{published:.2f}', f'{mean - published:+.2f}'])
    head = ['sigma', 'here, dB', 'published, dB', 'difference']
    report('FFDNet on CBSD68', f'{len(pairs)} photographs.', table(head, lines))


if __name__ == '__main__':
    run_cli(main)
