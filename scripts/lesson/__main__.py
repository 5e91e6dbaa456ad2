"""Make the notebooks of the course: `python -m scripts.lesson` writes `en/*.ipynb` and `zh/*.ipynb` from `source/*.md`.

A source is a Markdown page. Each block of text stands in it twice, after a line `<!-- en -->` and after a line
`<!-- zh -->`; each block fenced as ```python is a cell of code and stands in it once. Links are written as from
`source/`, which is as deep as the folders of the notebooks.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LANGUAGES = ("en", "zh")
CODE = re.compile(r"^```python\n(.*?)^```$\n?", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"^<!-- (\w+) -->$\n?", re.MULTILINE)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main() -> int:
    """Write every notebook; return the exit code."""
    for path, text in notebooks().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


def notebooks() -> dict[Path, str]:
    """Return the notebooks as their files hold them, by path."""
    found = {}
    for source in sorted((HERE / "source").glob("*.md")):
        blocks = parse(source.read_text(encoding="utf-8"), source.name)
        for language in LANGUAGES:
            found[HERE / language / f"{source.stem}.ipynb"] = notebook(blocks, language)
    return found


def parse(page: str, name: str) -> list[str | dict[str, str]]:
    """Return the blocks of a page in order: code as a text, text as one text per language.

    Raises:
        ValueError: a block of text that has not each language once, or text that has none.
    """
    blocks: list[str | dict[str, str]] = []
    for i, part in enumerate(CODE.split(page)):
        if i % 2:
            blocks.append(part.strip("\n"))
        elif part.strip():
            pieces = MARK.split(part)  # what comes before the first mark, then a language and its text in turn
            languages, texts = tuple(pieces[1::2]), pieces[2::2]
            if pieces[0].strip() or languages != LANGUAGES or not all(text.strip() for text in texts):
                words = " ".join(part.split())[:60]
                raise ValueError(f"{name}: expected text in {' and '.join(LANGUAGES)} each once, at {words!r}")
            blocks.append(dict(zip(LANGUAGES, (text.strip("\n") for text in texts), strict=True)))
    return blocks


def notebook(blocks: list[str | dict[str, str]], language: str) -> str:
    """Return the notebook of one language, in Jupyter's format 4.5, without outputs."""
    cells: list[dict[str, Any]] = []
    for i, block in enumerate(blocks):
        cell: dict[str, Any] = {"cell_type": "markdown", "id": f"cell-{i}", "metadata": {}}
        if isinstance(block, str):
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
        text = block if isinstance(block, str) else block[language]
        cells.append(cell | {"source": text.splitlines(keepends=True)})
    whole = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
