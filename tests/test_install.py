"""What an installation brings: ROM files by content from any of three packages, and the commands under one name."""

import importlib
import importlib.util
import itertools
import os
import runpy
import shutil
import subprocess
import sys

import pytest
import setuptools

from envs.mario import nespy, stages
from scripts.__main__ import COMMANDS, main
from tests.conftest import ROOT

GAMES = [stages.parse(f"SuperMarioBros{lost}-v{v}") for lost, count in (("", 4), ("2", 2)) for v in range(count)]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Put packages with ROM files where imports find them, and hide the real ones: install(package, {name: file})."""
    real = {game.rom_file: stages.rom_path(game) for game in GAMES}
    find = importlib.util.find_spec
    packages = {}

    def install(package, files):
        folder = tmp_path / package / "_roms"
        folder.mkdir(parents=True)
        for name, content in files.items():
            shutil.copy(real[content], folder / name) if content in real else (folder / name).write_bytes(content)
        packages[package] = importlib.util.spec_from_file_location(
            package, tmp_path / package / "__init__.py", submodule_search_locations=[str(tmp_path / package)]
        )
        return folder

    hidden = stages.ROM_PACKAGES
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: packages.get(name) if name in hidden else find(name))
    return install


def test_six_games_have_six_files():
    """Each of the hashes is that of an installed file, and no two are the same."""
    assert sorted(game.rom_file for game in GAMES) == sorted(stages.ROM_SHA256)
    assert len(set(stages.ROM_SHA256.values())) == 6
    assert all(stages.rom_path(game).stat().st_size == stages.ROM_SIZE for game in GAMES)


def test_a_rom_is_known_by_its_content(installed):
    """Another game under the name of the Lost Levels, as in version 9, is passed over; the name of the file is free."""
    lost = "super-mario-bros-2.nes"
    folder = installed("gym_super_mario_bros", {lost: bytes(stages.ROM_SIZE), "lost-levels.nes": lost})
    assert stages.rom_path(stages.parse("SuperMarioBros2-v0")) == folder / "lost-levels.nes"


def test_a_rom_is_taken_from_whichever_package_has_it(installed):
    """One package has the game of v0 only, the other one has v1."""
    names = [stages.parse(f"SuperMarioBros-v{v}").rom_file for v in (0, 1)]
    first = installed("gym_super_mario_bros", {names[0]: names[0]})
    second = installed("gymnasium_mariobros", {name: name for name in names})
    assert stages.rom_path(stages.parse("SuperMarioBros-1-1-v0")) == first / names[0]
    assert stages.rom_path(stages.parse("SuperMarioBros-1-1-v1")) == second / names[1]
    with pytest.raises(ValueError, match="super-mario-bros-pixel.nes not found in gym_super_mario_bros and gymnasium_"):
        stages.rom_path(stages.parse("SuperMarioBros-v2"))


def test_without_roms_one_line_says_what_to_install(installed):
    """The message names a command that brings them."""
    with pytest.raises(ValueError, match="no package.*`pip install --no-deps gymnasium-mariobros==1.0.1`") as caught:
        stages.rom_path(GAMES[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("found", "numpy", "message"),
    [
        ({}, "1.26.4", "needs gym-super-mario-bros 7.4.0, which is not installed: pip install gym==0.26.2"),
        ({"gym-super-mario-bros": "9.1.0"}, "1.26.4", "needs gym-super-mario-bros 7.4.0, found 9.1.0: pip install"),
        ({"gym-super-mario-bros": "7.4.0", "nes-py": "8.2.1"}, "2.5.5", "needs numpy < 2 .*, found 2.5.5: pip install"),
    ],
)
def test_without_the_reference_one_line_says_what_to_install(monkeypatch, found, numpy, message):
    """The emulator nes-py names what is missing and the command that brings it."""

    def version(name):
        if name not in found:
            raise nespy.metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(nespy.metadata, "version", version)
    monkeypatch.setattr(nespy.np, "__version__", numpy)
    with pytest.raises(ValueError, match=message) as caught:
        nespy.versions()
    assert "\n" not in str(caught.value)


def test_the_commands_are_the_modules(monkeypatch, capsys):
    """`mario-ppo plot ARGS` is utils.plot.main(ARGS), with its exit code."""
    given = []
    monkeypatch.setattr("utils.plot.main", lambda argv: given.append(argv) or 3)
    assert main(["plot", "data/x", "-y", "KL"]) == 3 and given == [["data/x", "-y", "KL"]]
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and module in shown for name, (module, _) in COMMANDS.items())


def test_an_unknown_command_is_named():
    """One line, code 2, and what there is."""
    done = subprocess.run([sys.executable, "-m", "scripts", "fly"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "'fly', expected one of train, play" in done.stderr


def test_a_wheel_holds_every_package(monkeypatch):
    """setup.py lists every folder of modules in the rooms, and the data that the code reads."""
    given = {}
    monkeypatch.setattr("setuptools.setup", lambda **keywords: given.update(keywords))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    rooms = ("ppo", "envs", "utils", "scripts")
    files = [path for room in rooms for path in ROOT.glob(f"{room}/**/__init__.py")]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in files}
    assert set(given["packages"]) == found | {"data"}
    held = {path for pattern in given["package_data"]["data"] for path in (ROOT / "data").glob(pattern)}
    assert {path.name for path in held} >= {"policy.safetensors", "policy.json", "SuperMarioBros-8-4-v0.json"}


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ("mario-ppo ", {"train", "play", "evaluate", "plot", "compare", "report", "solve"}, {"--help"}),
        ("mario-ppo pl", {"play", "plot"}, {"train"}),
        ("mario-ppo train --env SuperMarioBros-8-", {"SuperMarioBros-8-4-v0"}, {"SuperMarioBros-1-1-v0"}),
        ("mario-ppo train --env Echo-v0 --num-", {"--num-envs"}, {"--resume"}),
        ("mario-ppo train --preset ", {"mario", "near"}, {"README.md", "atari"}),
        ("mario-ppo train --env CartPole-v1 --preset ", {"classic"}, {"mario"}),
        ("mario-ppo train --network m", {"mlp", "mario"}, {"nature"}),
        ("mario-ppo train --policy ", {"feedforward", "lstm"}, {"README.md", "SuperMarioBros-1-1-v0"}),
        ("mario-ppo train --start-mode ", {"noop", "random"}, {"README.md"}),
        ("mario-ppo train --st", {"--start-frames", "--sticky"}, {"--steps"}),
        ("mario-ppo evaluate SuperMarioBros-1-", {"SuperMarioBros-1-1-v0"}, {"SuperMarioBros-1-1-v1"}),
        ("mario-ppo solve SuperMarioBros2-1-", {"SuperMarioBros2-1-1-v0"}, {"SuperMarioBros-1-1-v0"}),
        ("mario-ppo play --rand", {"--random"}, {"--human"}),
        ("mario-ppo compare --j", {"--json"}, {"--out"}),
        ("mario-ppo plot REA", {"README.md"}, {"Makefile"}),
        ("mario-ppo report --ga", {"--gallery"}, {"--out"}),
    ],
)
def test_a_shell_completes(tmp_path, line, offered, not_offered):
    """Commands, the flags of the family that the line names, ids, shipped policies, and files."""
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SHELL": "bash",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
    }
    done = subprocess.run([sys.executable, "-m", "scripts"], cwd=ROOT, env=os.environ | asked, capture_output=True)
    found = {word.strip() for word in answer.read_text().split("\n")}
    assert offered <= found and not found & not_offered, (found, done.stderr)


def test_ctrl_c_while_a_command_is_imported_is_no_traceback(monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["plot", "data"]) == 130


def test_a_changed_source_of_the_libraries_is_compiled_again(tmp_path, monkeypatch):
    """Headers too: make installs again, and setup.py names each for the library that includes it."""
    stamp = tmp_path / ".installed"
    stamp.touch()
    os.utime(stamp, (2**32, 2**32))
    sources = [*(ROOT / "envs/mario/native").glob("*.?pp"), *(ROOT / "ppo/compute").glob("*.?pp")]
    listed = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **given: listed.update(given))
    runpy.run_path("setup.py", run_name="__main__")
    compiled = {ROOT / name for library in listed["ext_modules"] for name in (*library.sources, *library.depends)}
    assert set(sources) == compiled and any(path.suffix == ".hpp" for path in sources)
    for changed in ([], *([f"-W{path.relative_to(ROOT)}"] for path in sources)):
        asked = subprocess.run(["make", "-q", *changed, f"VENV={tmp_path}", str(stamp)], cwd=ROOT, capture_output=True)
        assert asked.returncode == bool(changed), (changed, asked.stderr)


def test_make_help_says_all_that_the_makefile_begins_with():
    """Not half of it: the lines in a row that begin with #, without it."""
    lines = (ROOT / "Makefile").read_text().splitlines()
    head = itertools.takewhile(lambda line: line.startswith("#"), lines)
    done = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines() == [line[1:].removeprefix(" ") for line in head]
    assert all(f"\n  {name} " in done.stdout for name in ("PYTHON", "TORCH", "NP", "ARGS"))


@pytest.mark.parametrize("name", ["utils", "envs"])
def test_a_file_that_hides_a_package_is_named(tmp_path, name):
    """`utils.py` beside a user's own code: one line and code 2 from a command, an exception in Python."""
    (tmp_path / f"{name}.py").write_text("x = 1\n")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for words in (["-m", "ppo.run", "--env", "Echo-v0"], ["-m", "scripts.evaluate", "x"]):
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, text=True, capture_output=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert f"{name}.py hides the package '{name}'" in done.stderr
    code = "try:\n    import ppo\nexcept ImportError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, text=True, capture_output=True)
    assert "rename it, or start in another folder" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] in ([f"{name}.py"], ["__pycache__", f"{name}.py"])
