"""What the recipes of containers say fits the project. They are not built here."""

import re

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "scripts" / "containers"
RECIPES = {name: (FOLDER / name).read_text() for name in ("Dockerfile", "mario-ppo.def")}
DOCKER = [line for line in RECIPES["Dockerfile"].splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_uses_a_python_and_a_torch_of_this_project(name):
    """The interpreter is one that setup.py takes and that a lock file is for; torch is the lock file's."""
    text, lock = RECIPES[name], (ROOT / "requirements.lock").read_text()
    (minor,) = set(re.findall(r"(?:ARG PYTHON=3\.|python:3\.)(\d+)", text))
    (least,) = re.findall(r'python_requires=">=3\.(\d+)"', (ROOT / "setup.py").read_text())
    assert int(least) <= int(minor) <= 14 and f"3.{minor}" in lock.splitlines()[0]
    (torch,) = set(re.findall(r"torch==[\d.]+", text))
    assert torch in lock.splitlines()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sets_up_as_make_does(name):
    """By the same target, with what it needs: a compiler."""
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(), re.M)
    assert re.search(r"make PYTHON=python3 \$\{(TORCH|torch):\+TORCH=\"\$\1\"\} setup", RECIPES[name])
    assert "g++ make" in RECIPES[name]


def test_the_image_is_nobodys_root():
    """The last stage changes the user before anything is run, and what it runs is eight ranks."""
    stage = DOCKER[max(i for i, line in enumerate(DOCKER) if line.startswith("FROM")) :]
    assert "USER player" in stage and "--chown=player" in "".join(stage)
    assert stage[-1] == 'CMD ["mpirun", "-np", "8", "python", "-m", "ppo.run", "--resume"]'


def test_runs_and_builds_stay_out_of_the_image():
    """Shipped policies go in, the runs of this checkout and its .venv do not."""
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {".venv", ".git", "**/*.so", "data/*", "!data/pretrained"} <= set(ignored)
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert {f"data/{name}" for name in ("README.md", "pretrained", "demonstrations", "results")} == kept
