"""One page that can be mailed: `python -m utils.report DIR... --out report.html`, or with --gallery of policies."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.analysis import arguments, gallery, page
from utils.command import printable, run_command

PROG = "python -m utils.report"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    description = "Write one self-contained page about experiments."
    p = arguments.parser(PROG, description, ("value", "smooth", "threshold", "target", "mixed"))
    p.add_argument("-o", "--out", default="report.html", metavar="FILE.html", help="the page; default: %(default)s")
    p.add_argument("--title", help="default: Training report, or Policies")
    p.add_argument(
        "--gallery",
        action="store_true",
        help="of folders of policies, such as data/pretrained, instead of "
        "runs: film, clear rates, curve and commands of each",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command(PROG, lambda: _main(parser().parse_args(argv)))


def _main(args: argparse.Namespace) -> None:
    arguments.check(args)
    if Path(args.out).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out must end in .html, got {args.out!r}")
    if args.gallery:
        document = gallery.page(args.folders, args.title or "Policies")
        write(args.out, document)
        return
    groups, notes = arguments.load(args, None)  # every column: a family's own are known only from its folders
    arguments.check_columns(groups, [args.value])
    document = page.page(
        groups,
        notes,
        title=args.title or "Training report",
        y=args.value,
        smooth=args.smooth,
        threshold=args.threshold,
        target=args.target,
        mixed=args.mixed,
    )
    write(args.out, document, f", {sum(len(group.runs) for group in groups)} runs")


def write(out: str, document: str, more: str = "") -> None:
    """Write the page and say how large it is."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(document, encoding="utf-8")
    print(f"{printable(out, 1000)}: {len(document) / 1e6:.1f} MB{more}")


if __name__ == "__main__":
    raise SystemExit(main())
