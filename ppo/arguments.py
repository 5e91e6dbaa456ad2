"""The command line of `ppo.run`: flags made from the algorithm's settings and the chosen family's options.

Which flags there are depends on the environment, and their defaults on preset and file, so these three are read first.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Container
from pathlib import Path
from typing import Any, NoReturn

import envs
from envs.family import Option
from ppo import config
from ppo.config import PPOConfig
from utils.folder import read_json
from utils.settings import FACTS, Setting

# Group of the help -> its first setting; the others follow in the order of the config.
GROUPS = {
    "what is run": "env",
    "collecting": "num_envs",
    "learning": "algo",
    "saving and watching": "save_every",
    "machine": "device",
}
CODE = re.compile(r"[\w.]+:[\w.-]+")  # MODULE:NAME
# A colon in these names no code, or (env) is looked at before.
PLACES = ("env", "device", "exp_name", "data_dir", "init_from")
STARTING = ("cpu", "resume", "overwrite", "allow_mismatch", "config", "print_config", "presets")

EXAMPLES = """\
Train PPO or PPG.

    python -m ppo.run                                                      # Super Mario Bros, stage 1-1
    python -m ppo.run --resume                                             # continue it
    python -m ppo.run --env CartPole-v1 --seed 1 --exp-name cartpole
    python -m ppo.run --env SuperMarioBros-2-1-v0 --preset near --cpu 2    # from console memory, on two ranks
    python -m ppo.run --env BreakoutNoFrameskip-v4 --presets               # the settings that there are for it
"""


class Parser(argparse.ArgumentParser):
    """Raises its errors as ValueError."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError(message)."""
        raise ValueError(message)


def parse(argv: list[str]) -> tuple[PPOConfig, argparse.Namespace]:
    """Return the checked config and the flags of STARTING.

    Raises:
        ValueError: a flag, a value or a file that cannot be used.
        SystemExit: code 0, for --help.
    """
    scout = Parser(add_help=False, allow_abbrev=False)
    for name in ("--env", "--preset", "--config"):
        scout.add_argument(name, default=argparse.SUPPRESS)
    chosen = vars(scout.parse_known_args(argv)[0])
    flags = {word.partition("=")[0] for word in argv}
    file = read_settings(Path(chosen.pop("config")), chosen.get("env"), flags) if "config" in chosen else {}
    if str(chosen.get("preset")).lower() == "none":
        chosen["preset"] = None
    default = config.build(**config.override(file, chosen))  # what the command would use without further flags
    parser = build_parser(default)
    namespace, rest = parser.parse_known_args(argv)
    if rest:
        flag = next((word for word in rest if word.startswith("-")), None)
        if flag is None:
            raise ValueError(f"{rest[0]!r} is not a flag: values come after the flag that they belong to")
        name = flag.lstrip("-").partition("=")[0].removeprefix("no-").replace("-", "_")
        raise ValueError(config.unknown(name, default.env) + f" ({flag})")
    given = vars(namespace)
    options = argparse.Namespace(**{name: given.pop(name) for name in STARTING})
    return config.build(**config.override(file, given)), options


def build_parser(default: PPOConfig) -> Parser:
    """Return the parser for the environment of `default`, whose values the help shows as defaults."""
    family = envs.find_family(default.env)
    parser = Parser(
        prog="python -m ppo.run",
        usage="python -m ppo.run [--env ID] [--preset NAME] [--cpu N] [--resume] [--FLAG VALUE ...]",
        description=f"{EXAMPLES}\nEvery size counts over all ranks. The defaults shown are those of "
        f"--env {default.env}\n--preset {default.preset}.",
        epilog=list_presets(default.env),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    values = default.to_dict()
    titles = {first: title for title, first in GROUPS.items()}
    for setting in config.settings():
        if setting.name in titles:
            group = parser.add_argument_group(titles[setting.name])
        setting.add_flag(group, values[setting.name])
    add_starting(parser.add_argument_group("starting"))
    if family.options:
        group = parser.add_argument_group(f"environments of the family {family.name}")
        for option in family.options:
            option.add_flag(group, values[option.name])
    return parser


def add_starting(group: argparse._ArgumentGroup) -> None:
    """Add the flags that are no settings of the run."""
    group.add_argument("--cpu", type=int, default=1, metavar="N", help="start N ranks with mpirun")
    group.add_argument("--resume", action="store_true", help="continue the run in its folder, or start it")
    group.add_argument("--overwrite", action="store_true", help="move an old run in the folder aside and start")
    group.add_argument("--allow-mismatch", action="store_true", help="resume although settings or versions differ")
    group.add_argument("--config", metavar="FILE", help="take settings from a run's config.json; flags win over it")
    group.add_argument("--print-config", action="store_true", help="print the settings as JSON and stop")
    group.add_argument("--presets", action="store_true", help="print the presets side by side and stop")


def add_option_flags(group: argparse._ActionsContainer, *names: str) -> None:
    """Add flags for options of environments of any family, None where they are not used; the help says whose they are.

    Bounds are checked when the environment is built, whose family is not known before.
    """
    for name in names:
        owners = {f.name: option for f in envs.families() for option in f.options if option.name == name}
        standards = [f.evaluation[name] for f in envs.families() if name in f.evaluation]
        option = next(iter(owners.values()))
        whose = "; ".join([", ".join(owners), *(f"default {value}" for value in standards)])
        text = f"{option.help} ({whose})".replace("%", "%%")
        group.add_argument(option.flag, type=option.read, metavar=option.metavar, help=text)


def read_settings(path: Path, env: str | None, flags: Container[str] = ()) -> dict[str, Any]:
    """Return the settings in a run's config.json, or in what --print-config printed.

    Args:
        path: the file.
        env: the environment id of the command line, which replaces the file's; the name of an experiment that was
            made from the file's id then does not count.
        flags: of the command line.

    Raises:
        ValueError: the file cannot be read, holds an unknown name or a value of the wrong kind, or names code of which
            the command line says nothing: the file may be a stranger's.
    """
    found = {name: value for name, value in read_json(path).items() if name not in FACTS}
    own = found.get("env", PPOConfig.env)
    try:
        if ":" in str(own) and env != own:
            raise ValueError(_untrusted("env", own))
        known = {setting.name: setting for setting in config.all_settings(own)}
    except ValueError as error:
        raise ValueError(f"config {path}: {error}") from None
    if env not in (None, own) and found.get("exp_name") == PPOConfig(env=own).experiment:
        del found["exp_name"]
    for name, value in list(found.items()):
        if name not in known:
            if not _unused(name, value):
                raise ValueError(f"config {path}: {config.unknown(name, own)}")
            del found[name]  # older files held every family's options
        elif not known[name].accepts(value):
            raise ValueError(f"config {path}: {name} must be {known[name].allowed}, got {value!r}")
        elif _names_code(known[name], value) and known[name].flag not in flags:
            raise ValueError(f"config {path}: {_untrusted(name, value)}")
    return found


def _names_code(setting: Setting, value: Any) -> bool:
    """Return whether a value may have a module imported: a network, a reward, what an evaluation asks for again."""
    confirmed = isinstance(setting, Option) and setting.confirmed and value != setting.default
    return confirmed or (setting.name not in PLACES and isinstance(value, str) and bool(CODE.fullmatch(value)))


def _untrusted(name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{name} is {text[:200]!r}: if you trust it, add --{name.replace('_', '-')} {text[:200]!r}"


def _unused(name: str, value: Any) -> bool:
    """Return whether this is some family's option at its default."""
    options: list[Setting] = [option for family in envs.families() for option in family.options]
    return any(option.name == name and option.default == value for option in options)


def list_presets(env: str) -> str:
    """Return the presets of an environment with the sources of their numbers."""
    lines = ["presets (--presets compares them):"]
    for preset in config.presets(env):
        text = f"{preset.name}: {preset.source}"
        lines += textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def compare_presets(env: str) -> str:
    """Return a table of the settings in which an environment's presets differ, a column for each."""
    columns = {p.name: config.build(env=env, preset=p.name).to_dict() for p in config.presets(env)}
    rows = [["setting", *columns]]
    for setting in config.all_settings(env):
        values = [shown(column[setting.name]) for column in columns.values()]
        if setting.name != "preset" and len(set(values)) > 1:
            rows.append([setting.flag[2:], *values])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"These are of {env}; --env ID --presets shows another's."])


def shown(value: Any) -> str:
    """Return a value as the command line takes it."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
