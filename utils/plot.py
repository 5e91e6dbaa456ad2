"""Learning curves: `python -m utils.plot DIR...`, in the manner of Spinning Up's plotter."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import matplotlib
from matplotlib.backends import BackendFilter, backend_registry
from matplotlib.figure import Figure

from utils.analysis import arguments, comparison, experiments, figures, learning_curves
from utils.command import printable, run_command

PROG = "python -m utils.plot"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    description = "Plot learning curves of run folders, seeds joined with a 95% band."
    p = arguments.parser(PROG, description, ("xaxis", "values", "smooth", "est", "count"))
    p.add_argument("-o", "--out", metavar="FILE", help="PNG, SVG or PDF; without it a window opens")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command(PROG, lambda: _main(parser().parse_args(argv)))


def _main(args: argparse.Namespace) -> None:
    arguments.check(args)
    if args.out:
        figures.figure_format(args.out)
    elif matplotlib.get_backend().lower() not in backend_registry.list_builtin(BackendFilter.INTERACTIVE):
        raise ValueError("no display for a window: give --out FILE.png")
    options = learning_curves.Options(args.xaxis, tuple(args.value), args.est, args.smooth, args.count)
    groups, notes = arguments.load(args, [args.xaxis, *args.value])
    arguments.check_columns(groups, [args.xaxis, *args.value])
    with figures.style():
        mixed = [note for note in comparison.comparable(groups, args.value[0], True) if note.startswith("MIXED")][:1]
        figure, remarks = learning_curves.draw(groups, options, notes=mixed)
        arguments.print_notes([*notes, *(note for group in groups for note in group.notes()), *remarks])
        if args.out:
            figures.save(figure, args.out)
            print(f"{printable(args.out, 1000)}: {experiments.counted(groups)}")
        else:
            _show(figure)


def _show(figure: Figure) -> None:
    """Open a window on the figure and wait until it is closed."""
    import matplotlib.pyplot as plt

    shell = plt.figure()
    shell.canvas.manager.canvas.figure = figure  # type: ignore[union-attr]
    figure.set_canvas(shell.canvas)
    plt.show()


if __name__ == "__main__":
    raise SystemExit(main())
