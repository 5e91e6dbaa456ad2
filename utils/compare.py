"""Which experiment is better, and how sure are we: `python -m utils.compare A B ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.analysis import arguments, comparison, comparison_figure, comparison_text, figures
from utils.command import printable, run_command

PROG = "python -m utils.compare"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    description = "Compare experiments seed by seed, with 95% intervals."
    p = arguments.parser(PROG, description, ("value", "threshold", "target", "mixed"))
    p.add_argument("-o", "--out", metavar="FILE", help="figure: PNG, SVG or PDF")
    p.add_argument("--json", metavar="FILE", help="every number")
    p.add_argument("--markdown", metavar="FILE", help="the table, for a README")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command(PROG, lambda: _main(parser().parse_args(argv)))


def _main(args: argparse.Namespace) -> None:
    arguments.check(args)
    if args.out:
        figures.figure_format(args.out)
    groups, notes = arguments.load(args, comparison.wanted_columns(args.value))
    arguments.check_columns(groups, [args.value])
    result = comparison.compare(groups, args.value, threshold=args.threshold, target=args.target, mixed=args.mixed)
    remarks = [note for group in groups for note in group.notes()]
    result.notes = list(dict.fromkeys([*notes, *remarks, *result.notes]))
    for path, text in ((args.json, comparison_text.as_json), (args.markdown, comparison_text.markdown)):
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text(result), encoding="utf-8")
    if args.out:
        with figures.style():
            figures.save(comparison_figure.draw(result), args.out)
        print(printable(args.out, 1000), file=sys.stderr)
    print(comparison_text.console(result))  # last: its reader may go (`| head`)


if __name__ == "__main__":
    raise SystemExit(main())
