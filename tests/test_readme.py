"""What the pages say is so: links lead somewhere, commands exist, recipes run as they are printed."""

import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ppo import core
from ppo.buffer import PPOBuffer
from tests.conftest import ROOT

PAGES = sorted(
    ROOT / name for name in subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True).splitlines()
)
README = ROOT / "README.md"
MOST_WORDS = 1300


def names(pages):
    return [str(page.relative_to(ROOT)) for page in pages]


def blocks(text, language):
    """The fenced blocks of a page that are marked with a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for mark, block in found if mark == language]


def commands(text):
    """Every `python -m ...` of a page, in a block or in a line, without prompt, comment and what follows a pipe."""
    whole = [block.replace("\\\n", " ") for block in blocks(text, "")]  # a line that goes on after a backslash
    lines = [line.partition("  #")[0] for block in whole for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]*(?:\n[^`\n]+)?)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    for line in lines:
        if found := re.search(r"python -m (.*)", line.replace("\n", " ")):
            words = shlex.split(found[1])
            ends = [i for i, word in enumerate(words) if word in ("||", "&&", "|", ";")]
            yield words[: min(ends, default=len(words))]


def flags(module, environment):
    """The flags that a command's help names; of `ppo.run`, those of an environment."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        importlib.import_module(module).main([*environment, "--help"])
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", out.getvalue()))


def test_the_readme_is_short():
    """Five minutes of reading."""
    assert len(README.read_text().split()) <= MOST_WORDS


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_link_leads_to_a_file(page):
    """Relative links and pictures name files of the repository, and headings that their page has."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists() and linked.is_relative_to(ROOT), f"{target} in {page}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_command_exists(page):
    """Modules can be found and have the flags that the page gives them. Nothing is trained."""
    for module, *words in commands(page.read_text()):
        if not module.startswith(("ppo.", "utils.", "scripts.", "tests.")):
            continue
        assert importlib.util.find_spec(module) is not None, module
        entry = f"{module}.__main__" if module == "scripts.benchmark" else module
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        given = {re.sub("^--no-", "--", flag) for flag in given}
        known = {re.sub("^--no-", "--", flag) for flag in flags(entry, environment(words))} if given else set()
        if module in ("scripts.sweep", "scripts.search", "scripts.solve", "scripts.teach"):
            known |= flags("ppo.run", environment(words))
        assert given <= known, f"{module} has no {', '.join(given - known)} (in {page})"


def environment(words):
    """The words of a command line that choose the environment; none for one that only the reader has."""
    value = words[words.index("--env") + 1] if "--env" in words[:-1] else "SuperMarioBros-1-1-v0"
    return ["--env", value] if re.match(r"[A-Z]\w+(-\w+)*-v\d+$", value) else []


def test_the_functions_of_algorithm_1_exist():
    """Every name on the right of the pseudo-code can be found where it says."""
    modules = {"core": core, "ppo": importlib.import_module("ppo.ppo"), "PPOBuffer": PPOBuffer}
    listing = next(block for block in blocks(README.read_text(), "") if "for each epoch:" in block)
    found = re.findall(r"\b(ppo|core|PPOBuffer)\.(\w+)", listing)
    assert len(found) >= 14
    for owner, name in found:
        assert callable(getattr(modules[owner], name)), f"{owner}.{name}"


# The recipes: printed code and command, and settings so small that a run takes seconds -------------------------------

TINY = ["--num-envs", "2", "--steps-per-epoch", "16", "--minibatch-size", "8", "--epochs", "1"]
RECIPES = re.findall(
    r"^\*\*(\w+ \w+)\.\*\*.*?^```python\n(.*?)^```$\s+`python -m ([^`]+)`(?:, and.*?`python -m ([^`]+)`)?",
    README.read_text().partition("## Recipes")[2] + (ROOT / "envs" / "README.md").read_text(),
    re.DOTALL | re.MULTILINE,
)


def test_there_are_recipes():
    """A reward, a network and an environment on the front page, a wrapper where environments are."""
    assert [title for title, *_ in RECIPES] == ["A reward", "A network", "An environment", "A wrapper"]
    assert [bool(measure) for *_, measure in RECIPES] == [False, False, True, False]


@pytest.mark.parametrize(("title", "code", "command", "measure"), RECIPES, ids=[title for title, *_ in RECIPES])
def test_a_recipe_runs_as_printed(title, code, command, measure, tmp_path):
    """In an empty folder, with the file `mine.py` and the page's commands: one small epoch, logged; two episodes."""
    (tmp_path / "mine.py").write_text(code)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PMI_", "OMPI_"))}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for words in ([*shlex.split(command), *TINY], [*shlex.split(measure), "--episodes", "2"] if measure else []):
        if words:
            python = [sys.executable, "-m", *words]
            done = subprocess.run(python, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=120)
            assert done.returncode == 0, done.stderr
    (log,) = Path(tmp_path).glob("data/*/*_s0/progress.txt")
    assert len(log.read_text().splitlines()) == 2 and "mine:" in (log.parent / "config.json").read_text()


def test_the_library_works_as_printed(tmp_path):
    """What `scripts/README.md` says for a cell of one's own: training with a callback, and a policy that plays."""
    code = "\n".join(blocks((ROOT / "scripts" / "README.md").read_text(), "python"))
    assert code.count("train(build(") == 1 and code.count("policy.act(obs)") == 1
    code = code.replace("epochs=100", "epochs=2")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PMI_", "OMPI_"))} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code + "\nprint(len(returns))"], cwd=tmp_path, env=env, text=True, capture_output=True
    )
    assert done.returncode == 0 and done.stdout.endswith("\n2\n") and "'x_max'" in done.stdout, done.stderr
