"""One page that can be mailed: `python -m utils.report DIR... --out report.html`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.analysis import arguments, page
from utils.command import printable
from utils.command import run as run_command

PROG = "python -m utils.report"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    description = "Write one self-contained page about experiments."
    p = arguments.parser(PROG, description, ("value", "smooth", "threshold", "target", "mixed"))
    p.add_argument("-o", "--out", required=True, metavar="FILE.html", help="the page")
    p.add_argument("--title", default="Training report", help="default: %(default)s")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command(PROG, lambda: _main(parser().parse_args(argv)))


def _main(args: argparse.Namespace) -> None:
    arguments.check(args)
    if Path(args.out).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out must end in .html, got {args.out!r}")
    groups, notes = arguments.load(args, None)  # every column: a family's own are known only from its folders
    arguments.check_columns(groups, [args.value])
    document = page.page(
        groups,
        notes,
        title=args.title,
        y=args.value,
        smooth=args.smooth,
        threshold=args.threshold,
        target=args.target,
        mixed=args.mixed,
    )
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(document, encoding="utf-8")
    count = sum(len(group.runs) for group in groups)
    print(f"{printable(args.out, 1000)}: {len(document) / 1e6:.1f} MB, {count} runs")


if __name__ == "__main__":
    raise SystemExit(main())
