"""What every column of a run's files means: one table, from which plots, reports and `data/README.md` are made.

A family of environments declares the columns of its own with the same class; `config.json` keeps them, so that a plot
knows them without knowing the family. Three names follow from others and need no row: `Eval<X>` is the mean over an
evaluation's episodes, `Test<X>` over those of one on what was not trained on, and `<X>100` over the last 100 finished
episodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Column:
    """One column of `progress.txt` or `episodes.csv`.

    Attributes:
        name: as it stands in the file.
        meaning: one sentence, without a full stop.
        unit: "" for a plain number; "%" for a share between 0 and 1 that is shown in percent.
        look_for: what a healthy run shows there, and what should worry; "" where there is nothing to say.
        low, high: bounds that no value can leave; None where there is none.
        field: of a family's column of `progress.txt`: the key of an episode's record of which it is the mean.
        label: a few words for an axis or a heading; "" for the name itself.
        short: one word for the heading of a narrow column; "" for the name itself.
        success: whether it is the share of the finished episodes that reached their goal, which comparisons and
            reports name beside the return.
    """

    name: str
    meaning: str
    unit: str = ""
    look_for: str = ""
    low: float | None = None
    high: float | None = None
    field: str | None = None
    label: str = ""
    short: str = ""
    success: bool = False

    @property
    def title(self) -> str:
        """Return the label without what stands in brackets or after a comma."""
        return (self.label or self.name).split(" (")[0].split(",")[0]

    @property
    def axis(self) -> str:
        """Return the words for an axis: what, and the unit in brackets (percent are shown by the numbers)."""
        what = self.label or self.name
        return f"{what} ({self.unit})" if self.unit not in ("", "%") else what


STEPS = "TotalEnvInteracts"
AUXILIARY = ("LossAux", "LossAuxV", "CloneKL")  # only runs with --algo ppg have them
# Columns that count different episodes of an evaluation, without Eval or Test -> key of the episodes' records.
DISTINCT = {"Starts": "start", "Trajectories": "trajectory"}
RECENT = 100  # finished episodes of the columns whose names end in 100; they decide which policy is the best so far
_RETURN = "environment's reward"
_SECONDS = "seconds"

_PROGRESS = (
    # how far
    Column("Epoch", "number of the epoch, from 0", low=0, label="Epoch", short="epoch"),
    Column(
        STEPS,
        "steps so far, over all ranks (a step is one decision of the agent, whatever number of frames it stands for)",
        unit="agent decisions",
        low=0,
        label="Environment steps",
        short="steps",
    ),
    # episodes
    Column(
        "AverageEpRet",
        "mean of the environment's own undiscounted return over the episodes that ended in this epoch, over all ranks",
        unit=_RETURN,
        look_for="It should rise. Compare seeds before settings: one seed says little.",
        label="Episode return",
        short="EpRet",
    ),
    Column("StdEpRet", "standard deviation of these returns", _RETURN, low=0, label="Std. of episode return"),
    Column("MaxEpRet", "largest of these returns", _RETURN, label="Best episode return"),
    Column("MinEpRet", "smallest of these returns", _RETURN, label="Worst episode return"),
    Column(
        "EpRet100",
        "mean return of the last 100 finished episodes, fewer at the start; never empty once an episode has ended",
        _RETURN,
        label="Episode return, last 100",
    ),
    Column(
        "AverageTrainRet",
        "mean return in the rewards that PPO is shown, which may be shaped, scaled or clipped",
        "reward shown to PPO",
        label="Training return",
    ),
    Column("EpLen", "mean length of the episodes that ended in this epoch", "steps", low=0, label="Episode length"),
    Column(
        "EpLen100",
        "mean length of the last 100 finished episodes",
        "steps",
        low=0,
        label="Episode length, last 100",
    ),
    Column("EpCount", "episodes that ended in this epoch", "per epoch", low=0, label="Finished episodes"),
    Column(
        "EvalStarts",
        "different starts among the episodes of an evaluation (`--eval-every`)",
        "per evaluation",
        "Few of them, and the evaluation saw few situations, however many episodes it had.",
        low=0,
        label="Distinct starts, evaluation",
    ),
    Column(
        "EvalTrajectories",
        "different episodes, by start, actions and rewards, of an evaluation (`--eval-every`)",
        "per evaluation",
        low=0,
        label="Distinct trajectories, evaluation",
    ),
    # the critic's values
    Column(
        "AverageVVals",
        "mean of the critic's values while collecting",
        "discounted training reward",
        label="Value estimate",
    ),
    Column("StdVVals", "standard deviation of these values", low=0, label="Std. of value estimate"),
    Column("MaxVVals", "largest of these values", label="Largest value estimate"),
    Column("MinVVals", "smallest of these values", label="Smallest value estimate"),
    # the update
    Column(
        "LossPi",
        "the actor's loss in the first pass over the epoch's data (before the update, where the full batch is used)",
        "advantage units",
        label="Policy loss",
    ),
    Column(
        "LossV",
        "the critic's loss in the first pass",
        "squared or Huber units",
        "It grows with the returns, so it may rise while the policy improves: read it with the explained variance.",
        low=0,
        label="Value loss",
    ),
    Column("DeltaLossPi", "the actor's loss: last pass minus first", "advantage units", label="Change of policy loss"),
    Column(
        "DeltaLossV", "the critic's loss: last pass minus first", "squared or Huber units", label="Change of value loss"
    ),
    Column(
        "Entropy",
        "entropy of the policy, first pass",
        "nats",
        "How undecided the policy is. It starts near ln(number of actions) and should fall slowly. A fall to nearly "
        "zero early on is a policy that has stopped exploring; no fall at all, one that has not begun to learn.",
        low=0,
        label="Policy entropy",
    ),
    Column(
        "KL",
        "estimate of KL(old, new) in the actor's last pass: mean of (r - 1) - log r",
        "nats",
        "How far an update moves the policy. A few thousandths to a few hundredths is usual; a steady climb or spikes "
        "above 0.05 mean steps too large (learning rate, passes, clip ratio); next to nothing, hardly any learning.",
        low=0,
        label="KL(old || new) per update",
    ),
    Column(
        "ClipFrac",
        "share of the samples whose probability ratio is outside the clip range, in the actor's last pass",
        "%",
        "5% to 25% is usual; far more says that the passes go on where the clipped objective has no gradient left.",
        low=0,
        high=1,
        label="Clipped ratios (share of samples)",
    ),
    Column(
        "StopIter",
        "optimiser steps of the actor in this epoch",
        "per epoch",
        "Passes times minibatches, unless `target_kl` stopped the passes early: then fewer.",
        low=0,
        label="Optimiser steps of the actor",
    ),
    Column(
        "GradNormPi",
        "mean norm of the actor's gradient before clipping, first pass",
        "before clipping",
        "Single spikes are harmless with clipping; growth is not.",
        low=0,
        label="Policy gradient norm",
    ),
    Column(
        "GradNormV",
        "mean norm of the critic's gradient before clipping, first pass",
        "before clipping",
        low=0,
        label="Value gradient norm",
    ),
    Column(
        "LossAux",
        "half the squared error of the actor's auxiliary head in the first auxiliary pass (`--algo ppg`; empty but in "
        "the last epoch of a phase)",
        "squared units",
        "It should fall from phase to phase where the returns do not grow: what the actor's layers know of the value.",
        low=0,
        label="Auxiliary value loss",
    ),
    Column(
        "LossAuxV",
        "half the squared error of the critic in the first auxiliary pass",
        "squared units",
        low=0,
        label="Value loss, auxiliary phase",
    ),
    Column(
        "CloneKL",
        "mean of KL(before, now) of the policy over the last auxiliary pass; the auxiliary phase began with `before`",
        "nats",
        "How far the auxiliary phase moved the policy, which it should not: far less than the updates between.",
        low=0,
        label="KL(before, now), auxiliary phase",
    ),
    Column("LearningRate", "the actor's step size", "per step", low=0, label="Learning rate"),
    Column(
        "ExplainedVariance",
        "1 - Var(return - value) / Var(return)",
        "1 is perfect",
        "How much of the returns' variance the critic predicts: 1 is all, 0 no better than a constant, below 0 worse "
        "than one. A critic that stays near 0 gives noisy advantages.",
        high=1,
        label="Explained variance",
        short="ExplVar",
    ),
    # time and memory
    Column(
        "StepsPerSecond",
        "steps of this epoch, over all ranks, per second of collecting and updating",
        "steps/s",
        "A slow drift or sudden steps point at the machine (heat, memory, other jobs), not at the algorithm.",
        low=0,
        label="Speed",
        short="steps/s",
    ),
    Column("TimeCollect", "collecting, in this epoch, on rank 0", _SECONDS, low=0, label="Collecting"),
    Column("TimeUpdate", "updating, in this epoch, on rank 0", _SECONDS, low=0, label="Updating"),
    Column(
        "TimeLog",
        "all the rest since the row before, mostly logging, on rank 0",
        _SECONDS,
        low=0,
        label="Logging and the rest",
    ),
    Column("TimeEvaluate", "evaluating since the row before (`--eval-every`)", _SECONDS, low=0, label="Evaluating"),
    Column("TimeSave", "saving since the row before, which was of the epoch before", _SECONDS, low=0, label="Saving"),
    Column(
        "TimeWait",
        "the part of this epoch that rank 0 spent in MPI calls, waiting for slower ranks included",
        _SECONDS,
        low=0,
        label="Waiting for other ranks",
    ),
    Column("TimeWaitUpdate", "the part of `TimeWait` in the update", _SECONDS, low=0, label="Waiting in the update"),
    Column("MemoryMB", "resident memory of the largest rank", "MiB", low=0, label="Memory"),
    Column(
        "Time",
        "wall-clock time since the first epoch began, without the time between a stop and a resume; from row to row it "
        "grows by `TimeCollect + TimeUpdate + TimeLog + TimeEvaluate + TimeSave`. A process that is suspended (Ctrl-Z) "
        "counts on; what a killed process did after its last checkpoint does not count. In files without `TimeSave` it "
        "is the time of collecting, updating and evaluating",
        _SECONDS,
        low=0,
        label="Wall-clock time",
        short="time",
    ),
)

_EPISODES = (
    Column("epoch", "number of the epoch in which it ended", low=0),
    Column("steps", f"`{STEPS}` at the end of that epoch", low=0),
    Column("env", "global index of its environment", low=0),
    Column("episode", "number of the episode in that environment, from 0", low=0),
    Column("ep_ret", "sum of the environment's own rewards", _RETURN),
    Column("train_ret", "sum of the rewards that PPO is shown", "reward shown to PPO"),
    Column("ep_len", "length", "steps", low=0),
    Column("terminated", "1 where it came to its end, 0 where it was cut (truncated)", low=0, high=1),
)

PROGRESS: Mapping[str, Column] = {column.name: column for column in _PROGRESS}
EPISODES: Mapping[str, Column] = {column.name: column for column in _EPISODES}
FOREIGN: Mapping[str, Column] = {  # of Spinning Up's logs, and names that stand for a column
    "Performance": replace(PROGRESS["AverageEpRet"], name="Performance"),
    "AverageTestEpRet": Column(
        "AverageTestEpRet", "mean return of test episodes", _RETURN, label="Test episode return"
    ),
}


_TRAIN = ("VVals", "Loss", "Entropy", "KL", "ClipFrac", "StopIter", "GradNorm", "LearningRate", "ExplainedVariance")
EVALUATIONS = ("Eval", "Test")  # how the names of an evaluation's columns begin
_TIME = ("Epoch", STEPS, "StepsPerSecond", "MemoryMB")


def group(name: str) -> str:
    """Return to which group a column of `progress.txt` belongs: rollout, eval, train or time."""
    if name in _TIME or (name.startswith("Time") and name in PROGRESS):
        return "time"
    if name.startswith(EVALUATIONS):
        return "eval"
    return "train" if name in PROGRESS and any(word in name for word in _TRAIN) else "rollout"


def find_column(name: str, own: Mapping[str, Column] | None = None) -> Column:
    """Return the column of `progress.txt` with this name; one that says nothing but its name where none is known.

    Args:
        name: as in the file; `Eval<X>`, `Test<X>` and `<X>100` follow from `<X>`.
        own: the columns that a family declares, by name.
    """
    known = {**FOREIGN, **(own or {}), **PROGRESS}
    column = known.get(name)
    if column is not None and column.label:
        return column
    plain, episodes, words = name.removeprefix("Eval"), "the episodes of an evaluation (`--eval-every`)", "evaluation"
    if name.startswith("Test"):
        plain, episodes, words = name.removeprefix("Test"), "an evaluation on what was not trained on", "test"
        plain = f"Eval{plain}" if plain in DISTINCT else plain
    elif plain == name:
        plain, episodes, words = name.removesuffix(str(RECENT)), f"the last {RECENT} finished episodes", "last 100"
    origin = known.get(plain) or known.get("Average" + plain)
    if plain == name or origin is None or not origin.label:
        return column or Column(name, "")
    derived = replace(origin, name=name, meaning=f"`{origin.name}`: the mean over {episodes}")
    return replace(column or derived, label=f"{origin.title}, {words}")


def markdown(columns: Iterable[Column]) -> str:
    """Return a table of columns for a page of documentation; a heading under which nothing would stand is left out."""
    table = [("Column", "Meaning", "Unit", "What to look for")]
    for column in columns:
        unit = "share, 0 to 1" if column.unit == "%" else column.unit
        table.append((f"`{column.name}`", column.meaning, unit, column.look_for))
    used = [i for i in range(4) if any(row[i] for row in table[1:])]
    rows = ["| " + " | ".join(row[i] for i in used) + " |" for row in table]
    return "\n".join([rows[0], "|---" * len(used) + "|", *rows[1:]]) + "\n"
