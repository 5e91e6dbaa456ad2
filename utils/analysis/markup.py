"""Pieces of the report's page: style, escaped text, tables and pictures.

Every word from a folder is escaped, and the page's content policy forbids it to load anything or to run a script, so
that a shared run folder cannot bring either along. Every figure is there in light and in dark colours.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

from utils.analysis import figures
from utils.command import printable

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
table { border-collapse: separate; border-spacing: 0; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; } th:first-child, td:first-child { position: sticky; left: 0; background: var(--page); }
td.free { white-space: normal; min-width: 14rem; }
figure { margin: 0 0 1rem; } figure img, figure video { display: block; max-width: 100%; height: auto; }
figure video { width: 100%; max-width: 32rem; background: #000; }
pre { margin: 0; padding: .5rem .7rem; background: var(--soft); font-size: .88rem; white-space: pre-wrap;
  overflow-wrap: anywhere; } pre span { display: inline-block; max-width: 100%; }
@media (max-width: 40rem) { th, td { padding-right: .5rem; } th { white-space: normal; } td.free { min-width: 7rem; }
  td.free ~ td { white-space: normal; } }
figure img.paper { background: #fff; }
.grid { display: grid; gap: 1rem 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
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
    cells = [
        "".join(f"<td{' class=free' if i in wrap else ''}>{text(cell)}</td>" for i, cell in enumerate(row))
        for row in rows[1:]
    ]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
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


def document(title: str, heading: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """Return the whole page.

    Args:
        title: of the page, plain text.
        heading: what stands below the title, plain text.
        sections: (address on the page, title, HTML) of each; one without content is left out.
    """
    shown = [section for section in sections if section[2]]
    links = "".join(f"<a href='#{key}'>{name}</a>" for key, name, _ in shown)
    body = "".join(f"<section id='{key}'><h2>{name}</h2>{content}</section>" for key, name, content in shown)
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{text(title)}</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body><header><h1>{text(title)}</h1>"
        f"<p class='dim'>{text(heading)}</p><nav>{links}</nav></header>"
        f"<main>{body}</main></body></html>\n"
    )
