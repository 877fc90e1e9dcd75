"""The picture of docs/how_an_image_flows.md: the stereo pair at every step from LR to SR.

    python tests/benchmarks/flow_figure.py --figure docs/images/flow.jpg

What ``defsr-upscale`` does with the left image, reduced x4, and the right one; each box names the
file in ``defsr/`` that the step is in, and what of it. Maps, matches and the reference are shown
whole, the other images in one window.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from enhancer_cases import lq_of, stereo_images
from torch import Tensor
from torch.nn import functional as F

from defsr.archs.interface import Reference
from defsr.config.files import load_options
from defsr.diffusion.degradation import Degradation
from defsr.diffusion.reference_null_space import NullSpaces, gated
from defsr.images.figures import match_lines, save_figure
from defsr.images.levels import to_levels
from defsr.methods.build import Restorer
from defsr.ops.evidence import evidence_of
from defsr.utils.cli import run_cli

WINDOW = slice(188, 340), slice(150, 378)  # of the result
STEPS = {  # column and row, what it is, file and what of it
    'input': (0, 0, '1  input y', 'images/form.py', 'ImageForm'),
    'clean': (1, 0, '2  cleaned, if need be', 'methods/cleaning.py', 'Cleaner'),
    'de': (2, 0, '3  enhanced, I_DE', 'archs/sisr_enhancer_arch.py', 'SISREnhancer'),
    'reference': (3, 0, 'the reference', 'images/form.py', 'image_forms'),
    'matches': (3, 1, '4  confirmed matches', 'rectify/search.py', 'find, confirm'),
    'rectified': (2, 1, '5  field and flow: W', 'rectify/rectifier.py', 'Rectifier'),
    'index': (1, 1, '7  keys, confidence c', 'methods/matched.py', 'Matched.prepare, .align'),
    'textures': (0, 1, '8  transferred textures', 'archs/transfer_arch.py', 'DCNTransferArch'),
    'network': (0, 2, '9  aggregated', 'archs/ttsr_aggregator_arch.py', 'TTSRAggregator'),
    'gated': (1, 2, '10  gate, null space', 'diffusion/reference_null_space.py', 'gated'),
    'rho': (2, 2, '6  evidence, rho', 'ops/evidence.py', 'evidence_of'),
    'result': (3, 2, '11  projected: the result', 'methods/inputs.py', 'Inputs.consistent'),
}
ARROWS = (
    ('input', 'clean'),
    ('clean', 'de'),
    ('de', 'matches'),
    ('de', 'index'),
    ('reference', 'matches'),
    ('matches', 'rectified'),
    ('rectified', 'index'),
    ('rectified', 'rho'),
    ('index', 'textures'),
    ('textures', 'network'),
    ('network', 'gated'),
    ('rho', 'gated'),
)
INK, BOX, EDGE = '#1c2733', '#f4f6f8', '#9aa7b4'
WIDTH, HEIGHT, GAP_X, GAP_Y = 2.5, 2.42, 0.3, 0.42  # inches: of a box, and between two
IMAGE = 1.56  # inches


@dataclass(frozen=True)
class Run:
    """What the steps make, as pictures: uint8 (H, W, 3), or (H, W) in [0, 1]."""

    pictures: dict[str, np.ndarray]

    @classmethod
    def of_stereo_pair(cls) -> Run:
        degradation = Degradation('matlab', 4)
        left, right = (degradation.cut(image) for image in stereo_images())
        lq, ref = lq_of(left), Reference(right)
        restorer = Restorer.build(
            load_options('options/upscale.yml'), torch.device('cpu'), degradation
        )
        method, net_g = restorer.method, restorer.net_g
        found = method.super_resolve(net_g, lq, [ref], tile=restorer.tile)
        valid = torch.stack([view.valid for view in found.views]).any(dim=0)
        prepared = method.prepare(net_g, [Reference(found.rectified, valid=valid)])
        inside = method.restore(net_g, lq, prepared, found.de)
        evidence = evidence_of(lq, degradation.operator.A(found.rectified), valid)
        spaces = NullSpaces.of(lq, found.rectified, evidence, degradation.operator)
        shown = to_levels(F.interpolate(lq, scale_factor=4))[WINDOW]
        places = found.views[0].confirmed.matches
        return cls(
            {
                'input': shown,
                'clean': shown,
                'de': to_levels(found.de)[WINDOW],
                'reference': to_levels(right),
                'matches': match_lines(found.de, right, *(x[::4] for x in places)),
                'rectified': to_levels(found.rectified)[WINDOW],
                'index': _enlarged(inside.confidence[:, None]),
                'textures': _energy(inside.textures['relu1_1'])[WINDOW],
                'network': to_levels(inside.sr.clamp(0, 1))[WINDOW],
                'gated': to_levels(gated(found.de, inside.sr, spaces).clamp(0, 1))[WINDOW],
                'rho': _enlarged(found.rho),
                'result': to_levels(found.sr)[WINDOW],
            }
        )


def _enlarged(chart: Tensor) -> np.ndarray:
    """(1, 1, h, w) of the input's size -> (H, W) in [0, 1]."""
    return F.interpolate(chart, scale_factor=4)[0, 0].clamp(0, 1).numpy()


def _energy(texture: Tensor) -> np.ndarray:
    """(1, C, H, W) -> (H, W) in [0, 1], the length of each position's feature."""
    length = texture.norm(dim=1)[0]
    return (length / length.quantile(0.99)).clamp(0, 1).numpy()


def _corner(step: str) -> tuple[float, float]:
    """(x, y) of a box's lower left corner, inches."""
    column, row = STEPS[step][:2]
    return GAP_X / 2 + column * (WIDTH + GAP_X), GAP_Y + (2 - row) * (HEIGHT + GAP_Y)


def _ends(start: str, end: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow leaves a box and where it enters the other."""
    (x, y), (to_x, to_y) = _corner(start), _corner(end)
    if y == to_y:
        forth = to_x > x
        middle = y + HEIGHT - 0.15 - IMAGE / 2
        return (x + WIDTH * forth, middle), (to_x + WIDTH * (not forth), middle)
    lean = 0.3 * WIDTH * ((to_x > x) - (to_x < x))
    return (x + WIDTH / 2 + lean, y), (to_x + WIDTH / 2 - lean, to_y + HEIGHT)


def draw(run: Run, path: Path) -> None:
    from matplotlib import patches
    from matplotlib.figure import Figure

    size = 4 * (WIDTH + GAP_X), 3 * (HEIGHT + GAP_Y) + 0.1
    figure = Figure(figsize=size, dpi=125, facecolor='white')
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, size[0]), ylim=(0, size[1]))
    page.axis('off')
    for step, (_, _, title, file, part) in STEPS.items():
        x, y = _corner(step)
        look = dict(boxstyle='round,pad=0,rounding_size=0.08', fc=BOX, ec=EDGE, lw=1.2)
        page.add_patch(patches.FancyBboxPatch((x, y), WIDTH, HEIGHT, **look))
        place = (x + 0.08, y + HEIGHT - 0.08 - IMAGE, WIDTH - 0.16, IMAGE)
        axis = figure.add_axes([v / size[i % 2] for i, v in enumerate(place)])
        axis.imshow(run.pictures[step], cmap='gray', vmin=0, vmax=1, aspect='equal')
        axis.axis('off')
        left = x + 0.1
        page.text(left, y + 0.63, title, size=11.5, weight='bold', color=INK, va='center')
        page.text(left, y + 0.38, file, size=8.6, family='monospace', color=INK, va='center')
        page.text(left, y + 0.15, part, size=8.6, family='monospace', color='#44566b', va='center')
    arrow = dict(arrowstyle='-|>', mutation_scale=16, color=INK, lw=1.8, shrinkA=0, shrinkB=0)
    for start, end in ARROWS:
        page.annotate('', *reversed(_ends(start, end)), arrowprops=arrow)
    (x, y), (to_x, _) = _corner('gated'), _corner('result')
    low = y - GAP_Y / 2
    around = [(x + WIDTH / 2, y), (x + WIDTH / 2, low), (to_x + WIDTH / 2, low)]
    page.plot(*zip(*around, strict=True), color=INK, lw=1.8, solid_joinstyle='miter')
    page.annotate('', (to_x + WIDTH / 2, y), around[-1], arrowprops=arrow)
    save_figure(figure, path, 'jpg')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--figure', type=Path, required=True)
    args = parser.parse_args()
    draw(Run.of_stereo_pair(), args.figure)


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
