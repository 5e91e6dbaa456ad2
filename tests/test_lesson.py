"""The course: its notebooks are made from the sources, hold the same code in both languages, and run to their end."""

import ast
import json
import re

import pytest

from scripts import minimal_ppo
from scripts.lesson.__main__ import HERE, LANGUAGES, notebook, notebooks, parse
from tests.conftest import ROOT

MADE = notebooks()
NAMES = [path.stem for path in MADE if path.parent.name == "en"]
by_path = pytest.mark.parametrize("path", MADE, ids=lambda path: f"{path.parent.name}-{path.stem}")


def cells(text, kind):
    """The sources of a notebook's cells of one kind."""
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == kind]


def test_there_is_a_lesson_for_each_step_of_the_way():
    """Numbered without a gap, and listed in order on the page of the course."""
    assert [name.partition("_")[0] for name in NAMES] == [str(i) for i in range(1, len(NAMES) + 1)]
    page = (HERE / "README.md").read_text()
    for language in LANGUAGES:
        assert re.findall(rf"\]\({language}/(\w+)\.ipynb\)", page) == NAMES


@by_path
def test_a_notebook_is_what_its_source_says(path):
    """Byte for byte, so without outputs; `python -m scripts.lesson` makes them again. No other notebook is there."""
    assert path.read_text(encoding="utf-8") == MADE[path]
    assert set(path.parent.glob("*.ipynb")) == {other for other in MADE if other.parent == path.parent}


@pytest.mark.parametrize("name", NAMES)
def test_both_languages_have_the_same_code(name):
    """And as many blocks of text, with the same formulas, and questions with hidden answers at the end."""
    en, zh = (MADE[HERE / language / f"{name}.ipynb"] for language in LANGUAGES)
    assert cells(en, "code") == cells(zh, "code")
    assert len(cells(en, "markdown")) == len(cells(zh, "markdown"))
    for one, other in zip(cells(en, "markdown"), cells(zh, "markdown"), strict=True):
        assert re.findall(r"\$\$.*?\$\$", one, re.DOTALL) == re.findall(r"\$\$.*?\$\$", other, re.DOTALL)
        assert one.count("<details>") == other.count("<details>") == one.count("</details>")
    assert "<details>" in en and "<details>" in zh


@by_path
def test_a_notebook_can_be_read(path):
    """Jupyter's format; every cell of code compiles; links lead to files."""
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.reads(MADE[path], as_version=4))
    for code in cells(MADE[path], "code"):
        compile(code, path.name, "exec")
    for text in cells(MADE[path], "markdown"):
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            assert re.match(r"[a-z]+:", target) or (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize(
    "page",
    [
        "no language\n",
        "<!-- en -->\nonly one\n",
        "<!-- zh -->\n两\n<!-- en -->\nin the wrong order\n",
        "<!-- en -->\nempty\n<!-- zh -->\n\n```python\n1\n```\n",
    ],
)
def test_a_source_without_both_languages_is_refused(page):
    """With the page's name and what stands there."""
    with pytest.raises(ValueError, match="page.md: expected text in en and zh"):
        parse(page, "page.md")


def test_text_and_code_are_put_where_they_belong():
    """Each language gets its own text and the same code; a fence that is not marked python stays text."""
    page = "<!-- en -->\nOne\n\n```\nshell\n```\n<!-- zh -->\n一\n\n```python\nx = 1\n\ny = 2\n```\n"
    blocks = parse(page, "page.md")
    assert blocks == [{"en": "One\n\n```\nshell\n```", "zh": "一"}, "x = 1\n\ny = 2"]
    assert cells(notebook(blocks, "zh"), "markdown") == ["一"] and cells(notebook(blocks, "en"), "code") == [blocks[1]]


def test_ppo_by_hand_is_the_hundred_lines():
    """The functions of the lesson and of scripts/minimal_ppo.py that have the same name and job are the same."""
    lesson = "\n".join(cells(MADE[HERE / "en" / "4_ppo_by_hand.ipynb"], "code"))
    with open(minimal_ppo.__file__) as file:
        both = [
            {node.name: ast.dump(node) for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
            for text in (lesson, file.read())
        ]
    for name in ("network", "advantages", "losses", "update"):
        assert both[0][name] == both[1][name], name


QUICK = HERE / "en" / "2_observation.ipynb"  # seconds, without any training


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path == QUICK else pytest.mark.slow) for path in MADE],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_a_notebook_runs_to_its_end(path, tmp_path, monkeypatch):
    """In five minutes; no cell fails, and none prints without showing a picture, a table or a video."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    page = nbformat.reads(MADE[path], as_version=4)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    nbclient.NotebookClient(page, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = [output for cell in page.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 3
    for cell in page.cells:
        kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        assert kinds & {"image/png", "text/html"} or not cell.get("outputs"), cell.source
