"""What the rooms may import, and what no file may call."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("ppo", "envs", "utils", "scripts")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
ALLOWED = {
    "utils": {"utils"},
    "envs": {"envs", "utils"},
    "ppo": {"ppo", "envs", "utils"},
    "scripts": {"scripts", "ppo", "envs", "utils"},
}


def imports(path):
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    """utils knows nothing of the other rooms, envs only utils, nothing imports scripts."""
    room = path.relative_to(ROOT).parts[0]
    used = {name.split(".")[0] for name in imports(path)}
    assert used & set(ROOMS) <= ALLOWED[room]
    if room == "envs":
        assert not used & {"torch", "mpi4py"}


def module_of(path):
    """Name of a file as an import names it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def without_type_checking(tree):
    """The nodes of a file, but for what stands under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"):
            yield node
            yield from without_type_checking(node)


def arrows(path, modules):
    """The files of the project that a file imports when it is loaded or when it runs."""
    for node in without_type_checking(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in inner if name in modules)
            if node.module in modules and not all(name in modules for name in inner):
                yield node.module


def circle(graph):
    """A list of modules each of which imports the next and the last the first, empty where there is none."""
    done, way = set(), []

    def visit(name):
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        way.append(name)
        for other in sorted(graph[name]):
            if found := visit(other):
                return found
        done.add(way.pop())
        return []

    return next((found for name in sorted(graph) if (found := visit(name))), [])


def test_no_file_imports_one_that_imports_it():
    """No circle over all rooms, whether files are imported at the top or inside a function."""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"] and not circle({"a": {"b"}, "b": set()})
    modules = {module_of(path): path for path in FILES}
    graph = {name: set(arrows(path, modules)) - {name} for name, path in modules.items()}
    assert graph["ppo.evaluate"] >= {"envs", "ppo.policy"}
    assert circle(graph) == []


def test_settings_know_no_framework():
    """What describes settings and families imports neither torch nor a simulator nor the procedure."""
    for name in ("utils/settings.py", "envs/family.py", "ppo/config.py", "ppo/arguments.py"):
        used = set(imports(ROOT / name))
        assert not {word.split(".")[0] for word in used} & {"torch", "gymnasium", "mpi4py", "gym"}
        assert not used & {"ppo.run", "ppo.ppo", "ppo.networks"} and not any(w.startswith("envs.mario") for w in used)


def test_a_running_job_needs_nothing_of_the_analysis():
    """Only the three commands and scripts import utils.analysis, and it imports no other room."""
    readers = {ROOT / "utils" / f"{name}.py" for name in ("plot", "compare", "report")}
    for path in FILES:
        room = path.relative_to(ROOT).parts[0]
        if room != "scripts" and path not in readers and path.parent.name != "analysis":
            assert not any(name.startswith(("utils.analysis", "utils.plot", "utils.compare")) for name in imports(path))


def test_the_maths_and_the_buffer_know_no_mpi_and_no_config():
    """ppo/core.py imports nothing of the project; the buffer only the maths."""
    assert not any(name.split(".")[0] in ROOMS for name in imports(ROOT / "ppo" / "core.py"))
    assert {name for name in imports(ROOT / "ppo" / "buffer.py") if name.split(".")[0] in ROOMS} == {"ppo"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_can_run_code_is_loaded(path):
    """No pickle, torch.load, joblib.load, eval, exec or yaml.load anywhere."""
    forbidden = {("torch", "load"), ("joblib", "load"), ("yaml", "load"), ("pickle", "load"), ("pickle", "loads")}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                assert (called.value.id, called.attr) not in forbidden
            if isinstance(called, ast.Name):
                assert called.id not in {"eval", "exec"}
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle":
                    assert isinstance(keyword.value, ast.Constant) and keyword.value.value is False


def test_lines_of_cpp_end_at_120_columns():
    """As ruff sees to for Python."""
    sources = [path for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("*.?pp")]
    assert len(sources) > 20
    lines = [(path, i, line) for path in sources for i, line in enumerate(path.read_text().splitlines(), 1)]
    long = [f"{path}:{i}" for path, i, line in lines if len(line) > 120]
    assert long == []


SCRIPTS = "sweep search evaluate play export states solve teach scoreboard benchmark.__main__".split()
COMMANDS = ("ppo.run", "utils.plot", "utils.compare", "utils.report", *(f"scripts.{name}" for name in SCRIPTS))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    """`--help` ends with 0, names the command as it is called, and shows no sign of how it was written."""
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main(["--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and name.removesuffix(".__main__") in said.splitlines()[0] and "%%" not in said


def functions(path):
    """Every function of a file, with how many lines it has."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_the_procedure_is_read_in_one_sitting():
    """No function has more than 50 lines, ppo/ppo.py not more than 360."""
    assert [(str(path), *found) for path in FILES for found in functions(path) if found[1] > 50] == []
    assert len((ROOT / "ppo" / "ppo.py").read_text().splitlines()) <= 360


def test_the_rooms_of_ppo_know_what_they_should():
    """Networks know no MPI and no settings; ppo.compute knows them and the optimiser; ppo.build alone uses it."""
    used = {path.relative_to(ROOT / "ppo"): set(imports(path)) for path in FILES if path.is_relative_to(ROOT / "ppo")}
    mine = {str(path): {name for name in names if name.split(".")[0] in ROOMS} for path, names in used.items()}
    assert mine["networks.py"] <= {"ppo", "ppo.core", "utils.imports"}
    for name, found in mine.items():
        if name.startswith("compute/"):
            others = {word for word in found if not word.startswith(("ppo.compute", "utils"))}
            assert others <= {"ppo", "ppo.networks", "ppo.optimiser"}, name
        elif name not in ("build.py", "run.py"):
            assert not any(word.startswith("ppo.compute") for word in found), name
        if name in (
            "policy.py",
            "evaluate.py",
            "monitor.py",
            "recorder.py",
            "resume.py",
            "epoch_row.py",
            "training.py",
        ):
            assert not found & {"ppo.ppo", "ppo.run", "ppo.build"}, name


def test_no_game_is_named_where_none_is_known():
    """ppo/ and utils/ have no word of a game in their code."""
    words = ("mario", "clearrate", "x_max", "xmax", "start_frames", "randomstages", "nes-py", "atari", "procgen")
    # Networks' names, the default environment, packages whose versions are recorded.
    allowed = {"ppo/networks.py", "ppo/config.py", "utils/system.py"}
    allowed |= {"utils/analysis/older_runs.py"}  # folders that do not say what newer ones do
    for path in FILES:
        room, name = path.relative_to(ROOT).parts[0], str(path.relative_to(ROOT))
        if room in ("ppo", "utils"):
            constants = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            texts = [text for text in constants if isinstance(text, str) and "\n" not in text]
            found = [text for text in texts if any(word in text.lower() for word in words)]
            assert name in allowed or found == [], (name, found)


def test_a_limit_that_two_languages_need_is_the_same_in_both():
    """How long either emulator waits for the game to come back to play."""
    from envs.mario.nespy import MAX_SKIPPED_FRAMES

    native = ROOT / "envs" / "mario" / "native"
    assert f"kMaxSkipped = {MAX_SKIPPED_FRAMES};" in (native / "game.hpp").read_text()
    assert f"within {MAX_SKIPPED_FRAMES} frames" in (native / "game.cpp").read_text()


def test_ruff_lays_out_everything_but_one_table():
    """The presets of Gymnasium's environments, a row for each, are the one place that it is kept from."""
    mark = "fmt: " + "skip"
    texts = {path: path.read_text() for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("*.py")}
    assert [str(path.relative_to(ROOT)) for path, text in texts.items() if mark in text] == ["envs/classic.py"]


def test_each_file_of_the_wing_says_what_it_is_a_drop_in_for():
    """In its first two lines; ppo/compute/__init__.py has a table of them."""
    wing = ROOT / "ppo" / "compute"
    files = [path for path in sorted(wing.iterdir()) if path.suffix in (".py", ".cpp", ".hpp")]
    heads = {path.name: "".join(path.open().readlines()[:2]).lower() for path in files if path.name != "__init__.py"}
    assert len(heads) > 6 and [name for name, head in heads.items() if "drop-in" not in head] == []
    table = (wing / "__init__.py").read_text()
    assert [name for name in heads if name not in table] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_plain(path):
    """None of behind (for after), lying, together, let go of (for release), of before, reckoned, whoever."""
    odd = re.compile(r"\b(behind|lying|together|let go of|of before|reckon\w*|whoever\w*)\b", re.IGNORECASE)
    lines = enumerate(path.read_text().splitlines(), 1)
    assert [(i, line.strip()) for i, line in lines if odd.search(line)] == []
