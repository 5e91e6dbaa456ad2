"""One page that can be mailed: `python -m utils.report DIR... --out report.html`.

The page holds its figures, videos and style, and its content policy forbids it to load anything or to run a script, so
that a shared run folder cannot smuggle either in: every word from a folder is escaped, every video is recognised by
its first bytes. Every figure is there in light and in dark colours. The same folders give the same page.
"""

from __future__ import annotations

import argparse
import base64
import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from utils import compare, figures, plot, runs
from utils.command import Parser, printable
from utils.command import run as run_command

PROG = "python -m utils.report"
LARGEST_VIDEO = 16 << 20  # bytes; mail servers refuse much more
LARGEST_PAGE = 48 << 20  # bytes of videos in all
VIDEOS_PER_EXPERIMENT = 2
CURVES = ("ClearRate", "XMax", "Score", "EpLen")

# column -> what a reader should look for
DIAGNOSTICS = {
    "KL": "How far an update moves the policy. A few thousandths to a few hundredths is usual; a steady climb or "
    "spikes above 0.05 mean steps too large (learning rate, passes, clip ratio); next to nothing, hardly any learning.",
    "Entropy": "How undecided the policy is. It starts near ln(number of actions) and should fall slowly. A fall to "
    "nearly zero early on is a policy that has stopped trying things; no fall at all, one that has not begun to learn.",
    "ClipFrac": "Share of samples whose probability ratio left the clip range. 5% to 25% is usual; far more says that "
    "the passes go on where the surrogate has nothing left to say.",
    "ExplainedVariance": "How much of the returns' variance the critic predicts: 1 is all, 0 no better than a "
    "constant, below 0 worse than one. A critic that stays near 0 gives noisy advantages.",
    "StepsPerSecond": "Environment steps per second, learning included. A slow drift or sudden steps point at the "
    "machine (heat, memory, other jobs), not at the algorithm.",
    "LossV": "The critic's loss. It grows with the returns, so it may rise while the policy improves: read it with the "
    "explained variance.",
    "GradNormPi": "Length of the policy's gradient before clipping. Single spikes are harmless with clipping; growth "
    "is not.",
}

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --dim: #5b626b; --page: #ffffff; --line: #d5d9de; --soft: #f4f6f8;
  --link: #0060a0; --warn: #8a4b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --dim: #a4abb3; --page: #15181c; --line: #363c44;
  --soft: #1e2329; --link: #7cc0f5; --warn: #f0b060; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 68rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1rem 0 .2rem; }
a { color: var(--link); } nav a { display: inline-block; padding: .35rem .9rem .35rem 0; }
p, li { max-width: 48rem; } .dim, figcaption { color: var(--dim); font-size: .9rem; } .warn { color: var(--warn); }
.wide { overflow-x: auto; margin-bottom: 1rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; } th:first-child, td:first-child { position: sticky; left: 0; background: var(--page); }
td.free { white-space: normal; min-width: 14rem; }
figure { margin: 0 0 1rem; } figure img, figure video { display: block; max-width: 100%; height: auto; }
figure video { width: 100%; max-width: 32rem; background: #000; }
.grid { display: grid; gap: 1rem 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
details { margin: .6rem 0; } summary { cursor: pointer; padding: .3rem 0; }
li.verdict { font-weight: 600; }
@media print { body { max-width: none; } details > * { display: block; } }
"""

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def text(value: object) -> str:
    """Return a value from a folder as safe HTML text."""
    return html.escape(printable(value, 300))


def table(rows: Sequence[Sequence[object]], free: Iterable[int] = ()) -> str:
    """Return an HTML table; the first row is the heading, columns in `free` may wrap."""
    wrap = set(free)
    head = "".join(f"<th scope='col'>{text(cell)}</th>" for cell in rows[0])
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=free' if i in wrap else ''}>{text(cell)}</td>" for i, cell in enumerate(row))
        + "</tr>"
        for row in rows[1:]
    )
    return f"<div class='wide' tabindex='0'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def embedded(data: bytes, kind: str) -> str:
    """Return bytes as a data address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def picture(figure: Figure, alt: str, caption: str = "") -> str:
    """Return a figure that follows the reader's colour scheme."""
    with figures.style():
        svg = figures.encode(figure, "svg")
    day, night = embedded(svg, "image/svg+xml"), embedded(figures.darkened(svg), "image/svg+xml")
    source = f"<source media='(prefers-color-scheme: dark)' srcset='{night}'>"
    words = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure><picture>{source}<img src='{day}' alt='{text(alt)}'></picture>{words}</figure>"


# ---------------------------------------------------------------------------------------------- sections


def what_was_run(groups: Sequence[runs.Group]) -> str:
    """Return the differences between the experiments first, then what they share."""
    every = [run for group in groups for run in group.runs]
    differing = runs.differences([group.runs[0] for group in groups])
    rows: list[list[object]] = [
        [
            "experiment",
            "seeds",
            "state",
            "steps",
            *[n.removeprefix("spec.") for n in differing],
        ]
    ]
    for group in groups:
        own = runs.settings(group.runs[0])
        rows.append(
            [
                group.label,
                len(group.runs),
                _states(group),
                _reach(group),
                *[own.get(n, "-") for n in differing],
            ]
        )
    shared = {name: value for name, value in runs.settings(every[0]).items() if name not in differing}
    common = table([["setting", "value"], *sorted(shared.items())], free=[1]) if shared else "<p>none recorded</p>"
    said = (
        ""
        if differing
        else "<p class='dim'>No setting differs between these experiments.</p>"
        if len(groups) > 1
        else ""
    )
    return table(rows) + said + f"<details><summary>Settings in common ({len(shared)})</summary>{common}</details>"


def _states(group: runs.Group) -> str:
    states = [run.state or "not told" for run in group.runs]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _reach(group: runs.Group) -> str:
    last = [float(x[-1]) for x in (run.columns.get(runs.STEPS) for run in group.runs) if x is not None and len(x)]
    if not last:
        return "-"
    return (
        runs.compact(max(last)) if min(last) == max(last) else f"{runs.compact(min(last))}..{runs.compact(max(last))}"
    )


def curves(groups: Sequence[runs.Group], columns: Sequence[str], smooth: int) -> tuple[str, list[str]]:
    """Return a figure for each column that has rows, and the notes."""
    parts: list[str] = []
    notes: list[str] = []
    for column in columns:
        drawn = _curve(groups, column, smooth)
        if drawn is not None:
            what = f"{figures.axis_label(column)} over {figures.axis_label(runs.STEPS)}"
            parts.append(picture(drawn[0], what))
            notes += [] if column in CURVES else drawn[1]
    if not parts:
        return "<p>No rows to draw yet.</p>", notes
    words = "Lines: mean over n seeds. Bands: pointwise 95% bootstrap intervals over seeds, none for one seed."
    words += f" Smoothed over {smooth} rows." if smooth > 1 else ""
    return f"<p class='dim'>{words}</p><div class='grid'>{''.join(parts)}</div>", notes


def _curve(groups: Sequence[runs.Group], column: str, smooth: int) -> tuple[Figure, list[str]] | None:
    """Return the figure of one column and its notes, None where no run has rows of it."""
    if not any(len(run.series(runs.STEPS, column)[0]) >= 2 for group in groups for run in group.runs):
        return None
    with figures.style():
        try:
            return plot.draw(groups, plot.Options(y=(column,), smooth=smooth, small=True), caption=False)
        except ValueError:  # rows, but no common range
            return None


def comparison(groups: Sequence[runs.Group], result: compare.Comparison | None, refusal: str) -> str:
    """Return the verdicts, the figure of intervals and the table; or why there is no comparison."""
    if result is None:
        return f"<p class='warn'>Not compared: {text(refusal)}</p>"
    verdicts = "".join(f"<li class='verdict'>{text(pair.verdict)}</li>" for pair in result.pairs[:20])
    with figures.style():
        drawn = compare.draw_apart(result)
    parts = [picture(figure, what, what) for what, figure in drawn]
    shown = f"<div class='grid'>{''.join(parts)}</div>"
    chances = [["first", "second", "P(first > second)", "difference of means", "conclusion"]]
    chances += [
        [
            p.a,
            p.b,
            compare.written(p.probability),
            compare.written(p.difference),
            p.verdict,
        ]
        for p in result.pairs
    ]
    notes = "".join(f"<li>{text(note)}</li>" for note in compare.footnotes(result))
    pairs = table(chances, free=[4]) if result.pairs else ""
    return f"<ul>{verdicts}</ul>{shown}{table(compare.rows(result))}{pairs}<ul class='dim'>{notes}</ul>"


def per_seed(groups: Sequence[runs.Group], result: compare.Comparison | None, y: str) -> str:
    """Return one row for each run."""
    finals = {}
    if result is not None:
        finals = {id(run): v for one in result.summaries for run, v in zip(one.runs, one.final, strict=True)}
    rows: list[list[object]] = [
        [
            "run",
            "seed",
            "state",
            "steps",
            "h:mm:ss",
            "final",
            "best row",
            "clear rate",
            "steps/s",
        ]
    ]
    for run in (run for group in groups for run in group.runs):
        best = run.series(runs.STEPS, y)[1]
        clear = _last(run, "ClearRate")
        rows.append(
            [
                run.label,
                run.seed or "-",
                run.state or "not told",
                runs.compact(_last(run, runs.STEPS)),
                compare.clock(_last(run, "Time") / 3600),
                compare.number(finals.get(id(run), math.nan)),
                compare.number(float(best.max()) if len(best) else math.nan),
                "-" if math.isnan(clear) else f"{100 * clear:.3g}%",
                compare.number(_last(run, "StepsPerSecond")),
            ]
        )
    used = [column for column in range(len(rows[0])) if any(row[column] != "-" for row in rows[1:])]
    rows = [[row[column] for column in used] for row in rows]
    return table(rows) + "<p class='dim'>Clear rate and speed: last row. Final: as in the comparison.</p>"


def _last(run: runs.Run, column: str) -> float:
    values = run.series(runs.STEPS, column)[1]
    return float(values[-1]) if len(values) else math.nan


def diagnostics(groups: Sequence[runs.Group], smooth: int) -> str:
    """Return a figure with an explanation for each diagnostic column that the runs have."""
    parts = []
    for column, words in DIAGNOSTICS.items():
        drawn = _curve(groups, column, smooth)
        if drawn is not None:
            title = figures.COLUMNS[column][0]
            shown = picture(drawn[0], f"{title} over environment steps", words)
            parts.append(f"<div><h3>{html.escape(title)}</h3>{shown}</div>")
    return f"<div class='grid'>{''.join(parts)}</div>" if parts else "<p>The logs hold no diagnostic columns.</p>"


# ---------------------------------------------------------------------------------------------- videos


def video_kind(data: bytes) -> str:
    """Return the media type that the first bytes of a file show; "" for anything but WebM, MP4 and GIF."""
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "video/webm"
    if data[4:8] == b"ftyp":
        return "video/mp4"
    return "image/gif" if data[:6] in (b"GIF87a", b"GIF89a") else ""


def videos(groups: Sequence[runs.Group]) -> tuple[str, list[str]]:
    """Return the newest videos of each experiment (by name), and notes on those left out."""
    parts, notes, total = [], [], 0
    for group in groups:
        shown = 0
        for path in (path for run in group.runs for path in _video_files(run)):
            if shown == VIDEOS_PER_EXPERIMENT:
                break
            size = path.stat().st_size
            name = f"{path.parent.parent.name}/{path.name}"
            if size > LARGEST_VIDEO or total + size > LARGEST_PAGE:
                notes.append(f"video {name} left out: {size >> 20} MiB would make the page too large to mail")
                continue
            data = path.read_bytes()
            kind = video_kind(data)
            if not kind:
                notes.append(f"video {name} left out: not a WebM, MP4 or GIF file")
                continue
            parts.append(_video(data, kind, name))
            shown, total = shown + 1, total + size
    return (f"<div class='grid'>{''.join(parts)}</div>" if parts else ""), notes


def _video_files(run: runs.Run) -> list[Path]:
    """Return the video files of a run, newest name first; links, which could point anywhere, are left out."""
    folder = run.path / "videos"
    if folder.is_symlink() or not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.suffix.lower() in (".webm", ".mp4", ".gif"))
    return sorted((p for p in found if p.is_file() and not p.is_symlink()), reverse=True)


def _video(data: bytes, kind: str, name: str) -> str:
    address, words = embedded(data, kind), f"<figcaption>{text(name)}</figcaption>"
    if kind == "image/gif":
        return f"<figure><img src='{address}' alt='Video {text(name)}'>{words}</figure>"
    return f"<figure><video controls autoplay muted loop playsinline src='{address}'></video>{words}</figure>"


# ---------------------------------------------------------------------------------------------- page


def system(groups: Sequence[runs.Group]) -> str:
    """Return what the runs were made with, one row for each machine and set of versions."""
    seen: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in (run for group in groups for run in group.runs):
        facts = dict(_facts(runs.read_json(run.path / "system.json")))
        facts |= {key: str(run.config[key]) for key in ("commit", "world_size") if key in run.config}
        seen.setdefault(tuple(sorted(facts.items())), []).append(run.label)
    parts = []
    for entry, labels in seen.items():
        rows = [["what", "value"], *entry] if entry else [["what", "value"], ["system.json", "none"]]
        who = "all runs" if len(seen) == 1 else runs.shortened(labels)
        parts.append(f"<h3>{text(who)}</h3>{table(rows, free=[1])}")
    return "".join(parts)


def _facts(document: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield what system.json says, flat; the name of the host and the command stay at home."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _facts(value, f"{prefix}{key} ")
        elif key not in ("host", "hostname", "command"):
            yield f"{prefix}{key}", str(value)


def page(groups: Sequence[runs.Group], notes: Sequence[str], options: argparse.Namespace) -> str:
    """Return the whole document."""
    result, refusal = None, ""
    try:
        result = compare.compare(
            groups,
            options.value,
            threshold=options.threshold,
            target=options.target,
            mixed=options.mixed,
        )
    except ValueError as error:
        refusal = str(error)
    drawn, said = curves(groups, [options.value, *CURVES], options.smooth)
    shown, left_out = videos(groups)
    remarks = list(dict.fromkeys([*notes, *[n for g in groups for n in g.notes()], *said, *left_out]))
    sections = [
        ("run", "What was run", what_was_run(groups)),
        ("curves", "Learning curves", drawn),
        ("comparison", "Comparison", comparison(groups, result, refusal)),
        ("videos", "Videos", shown),
        ("seeds", "Every seed", per_seed(groups, result, options.value)),
        ("diagnostics", "Diagnostics", diagnostics(groups, options.smooth)),
        ("system", "System and versions", system(groups)),
        (
            "notes",
            "Notes on the data",
            "".join(f"<p class='warn'>{text(note)}</p>" for note in remarks),
        ),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f"<a href='#{key}'>{title}</a>" for key, title, _ in sections)
    body = "".join(f"<section id='{key}'><h2>{title}</h2>{content}</section>" for key, title, content in sections)
    count = sum(len(group.runs) for group in groups)
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{text(options.title)}</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body><header><h1>{text(options.title)}</h1>"
        f"<p class='dim'>{count} runs in {len(groups)} experiments</p><nav>{links}</nav></header>"
        f"<main>{body}</main></body></html>\n"
    )


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = Parser(prog=PROG, description="Write one self-contained page about experiments.")
    p.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        help="folder with runs below it, or the beginning of folder names",
    )
    p.add_argument("-o", "--out", required=True, metavar="FILE.html", help="the page")
    p.add_argument("--title", default="Training report", help="default: %(default)s")
    p.add_argument(
        "-y",
        "--value",
        default=runs.PERFORMANCE,
        metavar="COLUMN",
        help="default: the episode return",
    )
    p.add_argument(
        "--threshold",
        type=float,
        metavar="RETURN",
        help="also compare steps and hours to this value",
    )
    p.add_argument(
        "--target",
        type=float,
        metavar="RETURN",
        help="value that counts as solved, for the optimality gap",
    )
    p.add_argument(
        "-s",
        "--smooth",
        type=int,
        default=1,
        metavar="K",
        help="curves: mean over a window of K rows",
    )
    p.add_argument("-l", "--legend", nargs="+", metavar="NAME", help="one name for each DIR")
    p.add_argument(
        "--select",
        nargs="+",
        default=[],
        metavar="WORD",
        help="only runs whose path holds all of these",
    )
    p.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        metavar="WORD",
        help="no run whose path holds one of these",
    )
    p.add_argument(
        "--mixed",
        action="store_true",
        help="compare across environments, rewards or versions, labelled",
    )
    p.add_argument(
        "--data-dir",
        default="data",
        help="where prefixes are looked for; default: %(default)s",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command(PROG, lambda: _main(parser().parse_args(argv)))


def _main(args: argparse.Namespace) -> int:
    if Path(args.out).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out must end in .html, got {args.out!r}")
    if args.smooth < 1:
        raise ValueError(f"--smooth must be >= 1, got {args.smooth}")
    columns = [*compare.wanted_columns(args.value), *CURVES, *DIAGNOSTICS]
    groups, said = plot.load(
        args.folders,
        columns,
        legend=args.legend,
        select=args.select,
        exclude=args.exclude,
        data_dir=args.data_dir,
    )
    plot.check_columns(groups, [args.value])
    document = page(groups, said, args)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(document, encoding="utf-8")
    print(f"{args.out}: {len(document) / 1e6:.1f} MB, {sum(len(g.runs) for g in groups)} runs")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
