"""`mario-ppo COMMAND ...` or `python -m scripts COMMAND ...`: each command is the module that it stands for."""

from __future__ import annotations

import importlib
import os
import signal
import sys

from utils import command

# Name of a command -> its module, and what it does.
COMMANDS = {
    "train": ("ppo.run", "train"),
    "play": ("scripts.play", "watch a policy, or play"),
    "evaluate": ("scripts.evaluate", "play episodes and count what happens"),
    "export": ("scripts.export", "make a policy that can be sent to others"),
    "plot": ("utils.plot", "draw learning curves"),
    "compare": ("utils.compare", "compare experiments"),
    "report": ("utils.report", "make a page about runs"),
    "solve": ("scripts.solve", "learn a stage from nothing, and prove it"),
    "teach": ("scripts.teach", "teach a network what a planner does, for PPO to go on from"),
    "sweep": ("scripts.sweep", "train over a grid of settings and seeds"),
    "search": ("scripts.search", "search settings by what trials before came to (Optuna)"),
    "states": ("scripts.states", "make states to start episodes from"),
}


def help_text() -> str:
    """Return what `mario-ppo --help` prints."""
    rows = [f"  {name:<9} {what} (python -m {module})" for name, (module, what) in COMMANDS.items()]
    return "\n".join(["usage: mario-ppo COMMAND ... (COMMAND --help says more)", "", *rows])


def main(argv: list[str] | None = None) -> int:
    """Run the command that the first argument names with the others; return its exit code, 2 for an unknown one."""
    argv = sys.argv[1:] if argv is None else argv
    if "_ARGCOMPLETE" in os.environ:  # a shell asks, on Tab
        from scripts import completion

        completion.complete(COMMANDS, os.environ.get("COMP_LINE", ""))
    if argv[:1] in ([], ["-h"], ["--help"]):
        print(help_text())
        return 0 if argv else command.BAD_INPUT
    if argv[0] not in COMMANDS:
        sys.stderr.write(f"mario-ppo: error: {argv[0]!r}, expected one of {', '.join(COMMANDS)}\n")
        return command.BAD_INPUT
    try:
        module = importlib.import_module(COMMANDS[argv[0]][0])
        return int(module.main(argv[1:]) or 0)
    except KeyboardInterrupt:  # while modules are imported; a command answers its own
        return command.ending(signal.SIGINT)[1]


if __name__ == "__main__":
    sys.exit(main())
