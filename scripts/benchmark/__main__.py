"""The command line: `python -m scripts.benchmark [SECTION ...] [--json FILE] [--profile]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from utils import command


def main(argv: list[str] | None = None) -> int:
    """Measure and print; exit code 2 for bad input."""
    from scripts.benchmark import sections

    names = ", ".join(sections.SECTIONS)
    parser = command.Parser(
        prog="python -m scripts.benchmark", description=f"Sections: {names}; all of them if none is named."
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="what to measure")
    parser.add_argument(
        "--networks", nargs="+", default=list(sections.NETWORKS), metavar="NET", help="pairs of networks"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="for one party in one round (default 1)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each comparison (default 7)")
    parser.add_argument("--ranks", type=int, default=0, help="ranks of the whole loop (default: one per core)")
    parser.add_argument("--profile", action="store_true", help="where an epoch's time goes, instead of the sections")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    args = parser.parse_args(argv)
    return command.run_command("scripts.benchmark", lambda: benchmark(args))


def benchmark(args: Any) -> int:
    """Run the sections in order and print each as it is done."""
    import torch

    from scripts.benchmark import sections
    from scripts.benchmark.measure import table
    from utils import mpi, system

    for name in args.sections:
        if name not in sections.SECTIONS:
            raise ValueError(f"section: {name!r}, expected some of {', '.join(sections.SECTIONS)}")
    for name in args.networks:
        if name not in sections.NETWORKS:
            raise ValueError(f"networks: {name!r}, expected some of {', '.join(sections.NETWORKS)}")
    if args.rounds < 1 or not args.seconds > 0 or args.ranks < 0:
        raise ValueError("rounds must be at least 1, seconds above 0 and ranks at least 0")
    if args.json is not None:
        command.check_writable("json", args.json)
    torch.set_num_threads(1)
    system.keep_freed_memory()
    machine = system.describe(mpi.Comm().library) | {"command": ["python", "-m", "scripts.benchmark", *sys.argv[1:]]}
    print(f"{machine['processor']}, {machine['cores']} cores, torch {machine['versions']['torch']}; median (quartiles)")
    if args.profile:
        for network in args.networks:
            print("\n" + sections.profile(network), flush=True)
        return 0
    options = sections.Options(args.seconds, args.rounds, tuple(args.networks), args.ranks)
    rows = []
    for name in args.sections or sections.SECTIONS:
        found = sections.SECTIONS[name](options)
        rows += found
        print("\n" + table(found), flush=True)
    if args.json is not None:
        figures = [row.to_dict() for row in rows]
        args.json.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
