"""What a shell completes after `mario-ppo`, by argcomplete: commands, flags, environment ids, shipped policies, files.

`python -m scripts` asks for this where a shell has set _ARGCOMPLETE; `scripts/README.md` says how to switch it on.
"""

from __future__ import annotations

import argparse
import importlib
import os
from typing import Any, NoReturn
from unittest import mock

import argcomplete

import envs
from ppo import arguments, config

Commands = dict[str, tuple[str, str]]  # name -> (module, what it does)


class Caught(BaseException):
    """Carries a command's parser out of it."""


def complete(commands: Commands, line: str) -> NoReturn:
    """Answer the shell that asks, and end the process.

    Args:
        commands: those of `mario-ppo`.
        line: what is typed so far, from `mario-ppo` to the cursor.
    """
    words = line.split()
    if len(words) > 1 and words[1] in commands and (len(words) > 2 or line[-1].isspace()):
        os.environ["_ARGCOMPLETE"] = "2"  # words before this one are not the parser's
        parser = parser_of(commands[words[1]][0], words[2:])
    else:
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("command", choices=sorted(commands))
    for action in parser._actions:
        add_names(action)
    argcomplete.autocomplete(parser, always_complete_options="long")
    raise SystemExit(0)


def parser_of(module: str, words: list[str]) -> argparse.ArgumentParser:
    """Return the parser of a command, for the environment that its words so far name."""
    parse = argparse.ArgumentParser.parse_known_args

    def catch(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        if self.add_help:
            raise Caught(self)
        return parse(self, *args, **kwargs)  # it only looks for some words

    main = arguments.parse if module == "ppo.run" else importlib.import_module(module).main
    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", catch):
        for known in (words, words[:-1], []):  # the last words may be half written
            try:
                main(known)
            except Caught as caught:
                return caught.args[0]
            except (ValueError, OSError, SystemExit):
                continue
    raise SystemExit(1)


def add_names(action: Any) -> None:
    """Give an argument the names that it takes, where its choices do not say them."""
    files = argcomplete.completers.FilesCompleter()
    if action.dest in ("env", "stage", "stages"):
        action.completer = lambda **_: [name for family in envs.families() for name in family.ids()]
    elif action.dest == "init_from" or (action.dest == "policy" and not action.option_strings):
        action.completer = lambda prefix, **_: [*shipped(), *files(prefix)]
    elif action.dest == "network" and action.metavar != "MODULE:FUNCTION":
        action.completer = networks
    elif action.dest == "preset":
        action.completer = lambda parsed_args, **_: preset_names(getattr(parsed_args, "env", None))
    elif action.dest in (allowed := choices()):
        action.completer = lambda **_: allowed[action.dest]


def networks(**_: Any) -> list[str]:
    """Return the names of the networks; torch is imported for nothing else."""
    from ppo.networks import NETWORKS

    return list(NETWORKS)


def choices() -> dict[str, tuple[str, ...]]:
    """Return the settings of `ppo.run` that take one of some words, and these."""
    options = [option for family in envs.families() for option in family.options]
    return {setting.name: setting.choices for setting in [*config.settings(), *options] if setting.choices}


def preset_names(env: str | None) -> list[str]:
    """Return the presets of an environment, by default the one that `ppo.run` trains in by default."""
    return [preset.name for preset in config.presets(env or config.PPOConfig.env)]


def shipped() -> list[str]:
    """Return the ids that have a policy of this project."""
    from ppo.evaluate import PRETRAINED

    found = [*PRETRAINED.glob("*/policy.json"), *PRETRAINED.glob("*/*/policy.json")]  # near/ID, atari/ID
    return sorted(path.parent.relative_to(PRETRAINED).as_posix() for path in found)
