"""Training curves as a picture, from the TensorBoard logs that trainings write.

defsr-plot-training tb_logger/small_EDSR_x4 tb_logger/small_best_x4 --out curves.png
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from defsr.utils.cli import run_cli, tell
from defsr.utils.files import atomic_path

Curve = tuple[list[int], list[float]]  # steps, values


def read_curves(folder: str | Path) -> dict[str, Curve]:
    """Every scalar of a run: tag -> steps and values, by step.

    A run that was resumed has several event files whose steps overlap; of a step that comes more
    than once the value written last counts.

    Args:
        folder: of event files, as ``tb_logger/<name>``.

    Raises:
        ValueError: if there is no scalar in it.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not Path(folder).is_dir():
        raise ValueError(f'{folder} is no folder. Name one that a training wrote to tb_logger/.')
    events = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    events.Reload()
    curves = {}
    for tag in events.Tags()['scalars']:
        latest = {}
        for event in sorted(events.Scalars(tag), key=lambda event: event.wall_time):
            latest[event.step] = event.value
        steps = sorted(latest)
        curves[tag] = (steps, [latest[step] for step in steps])
    if not curves:
        raise ValueError(
            f'{folder} holds no TensorBoard scalars. Train with logger:use_tb_logger: true.'
        )
    return curves


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last ``window`` values; over fewer at the start."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    spans = ((max(0, end - window), end) for end in range(1, len(sums)))
    return [(sums[end] - sums[first]) / (end - first) for first, end in spans]


def draw(
    runs: Mapping[str, Mapping[str, Curve]],
    tags: Sequence[Sequence[str]],
    path: str | Path,
    window: int = 10,
) -> None:
    """A panel per group of tags, a line per run that has one of them.

    Args:
        runs: label -> its curves.
        tags: for each panel the names of a quantity; of each run the first that it has is drawn.
        path: of the PNG.
        window: of the moving average of losses; validations are drawn as they are.

    Raises:
        ValueError: if no run has any tag of a panel.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(tags))
    rows = math.ceil(len(tags) / columns)
    figure = Figure(figsize=(5 * columns, 3.4 * rows + 0.3), dpi=110, layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, names in zip(axes, tags, strict=False):
        found = {label: next((c[n] for n in names if n in c), None) for label, c in runs.items()}
        if not any(found.values()):
            known = sorted({tag for curves in runs.values() for tag in curves})
            raise ValueError(f'No run has {" or ".join(names)}. There are: {", ".join(known)}.')
        is_loss = names[0].startswith('losses/')
        for number, (label, curve) in enumerate(found.items()):
            if curve is None:
                continue
            steps, values = curve
            colour = f'C{number}'
            if is_loss:
                axis.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
                values = smoothed(values, window)
            axis.plot(steps, values, color=colour, label=label, marker='' if is_loss else 'o', ms=3)
        axis.set(title=names[0], xlabel='iteration')
        axis.grid(alpha=0.3)
    for axis in axes[len(tags) :]:
        axis.axis('off')
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines()}
    shown = {label: line for label, line in lines.items() if label in runs}
    entry = 0.6 + 0.07 * max(map(len, shown))  # inches of a legend's entry, at 9 points
    columns = max(1, min(len(shown), int(figure.get_figwidth() / entry)))
    figure.set_figheight(figure.get_figheight() + 0.19 * math.ceil(len(shown) / columns))
    figure.legend(shown.values(), shown, loc='outside lower center', ncols=columns, fontsize=9)
    with atomic_path(path) as temporary:  # not by images/figures.py: it would import PyTorch
        figure.savefig(temporary, format='png')


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='defsr-plot-training',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('folders', nargs='+', help='tb_logger/<name> of each run')
    add('--out', required=True, help='PNG to write')
    add('--labels', nargs='+', help='of the runs; default: the names of the folders')
    add(
        '--tags', nargs='+', default=['losses/l_g_pix,losses/l_pix'],
        help='panels; of several tags joined by commas each run shows the first that it has',
    )  # fmt: skip
    add('--window', type=int, default=10, help='log lines that losses are averaged over')
    return parser.parse_args()


def run() -> None:
    """Read the command line, draw."""
    args = parse_arguments()
    labels = args.labels or [Path(folder).name for folder in args.folders]
    if len(labels) != len(args.folders):
        raise ValueError(f'--labels has {len(labels)} names for {len(args.folders)} folders.')
    if same := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(
            f'Runs would share the label {", ".join(same)}. Give each its own with --labels.'
        )
    if args.window < 1:
        raise ValueError(f'--window is {args.window}, but must be at least 1.')
    runs = {n: read_curves(folder) for n, folder in zip(labels, args.folders, strict=True)}
    draw(runs, [tag.split(',') for tag in args.tags], args.out, args.window)
    tell(f'{args.out}: {len(runs)} runs')


def main() -> None:
    """Entry point of ``defsr-plot-training``."""
    run_cli(run)


if __name__ == '__main__':
    main()
