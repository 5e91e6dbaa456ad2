"""Play episodes with a saved policy and count what happened. Knows nothing of training.

Episode quotas are fixed beforehand, one share per environment, so that short episodes (early deaths) are not counted
more often than long ones. Each environment draws from streams of its own: the result depends on the policy, the seed,
the number of environments and the options, not on how many processes shared the work.

Episodes of a deterministic game may be the same one many times over. Each record tells which it was:
    "start"         digest of what the episode began with
    "trajectory"    digest of its start, and of every action and reward after it
    "independent"   the start; the episode's own name where the environment draws random numbers within episodes.
                    Episodes that have it in common are not independent: an interval must not count each of them
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from envs.family import Family
from envs.vector import VecEnv
from ppo.policy import GROUP, BadPolicy, Policy, load_policy, present
from ppo.policy_set import PolicySet, load_policies
from utils.mpi import Comm, agreed
from utils.seeding import evaluation_uniforms

PRETRAINED = Path(__file__).resolve().parent.parent / "data" / "pretrained"
LONGEST = 500_000  # steps of an episode, beyond which an evaluation takes it to have no end
NUM_ENVS = 16  # that an evaluation steps at a time, unless another number is asked for


def find_policy(name: str | Path, which: str = "best") -> Path:
    """Return the policy folder that `name` stands for.

    Args:
        name: a policy's folder, a run's, that of an experiment with one run, or the id of an environment with a shipped
            policy, one that sees pictures where there is a choice; near/ID for the one that sees the memory.
        which: of a run: "best", "last", or the number of steps of one of its checkpoints.

    Raises:
        BadPolicy: there is none.
    """
    folder, word = Path(name), str(name).strip("/")
    found = {path.parents[2] for path in folder.glob("*/policy/*/policy.json")}  # of an experiment's folder
    runs = sorted(path for path in found if ".old-" not in path.name)  # --overwrite moves a run aside
    run = runs[0] if len(runs) == 1 else folder
    if which not in ("best", "last"):
        return find_checkpoint(run, which)
    candidates = [folder, run / "policy" / which, run / "policy" / "last"]
    if word.strip("."):  # the id of an environment
        inside = PRETRAINED.glob(f"*/{glob.escape(word.replace('/', '-'))}")  # ALE/Breakout-v5 too
        candidates += [PRETRAINED / word, *sorted(inside)]
    for candidate in candidates:
        if (present(candidate) / "policy.json").is_file():
            return candidate
    such = f", such as {runs[0]}" if runs else ""
    raise BadPolicy(f"no policy found at {name}: expected a run folder{such}, a policy folder or an id in {PRETRAINED}")


def find_players(name: str, which: str = "best") -> tuple[Path, str | None]:
    """As `find_policy`; where `name` is the id of a game of several parts, the folder of shipped policies for it.

    A folder whose folders are policies is found as it is: its policies share one game.
    """
    folder = Path(name)
    single = (folder / "policy").exists() or (folder / "policy.json").exists()
    if which == "best" and not single and any(folder.glob("*/policy.json")):
        return folder, None
    try:
        return find_policy(name, which), None
    except BadPolicy:
        shared = PRETRAINED / "near"
        if which != "best" or folder.exists() or not envs.has_parts(name):
            raise
        if not any(shared.glob(f"{name.partition('-')[0]}-*/policy.json")):  # another game
            raise
        return shared, name


def load_players(folder: Path, network: str | None = None, env_id: str | None = None) -> Policy | PolicySet:
    """Return the policy in a folder, or those in its folders as a set that plays `env_id`. Raises BadPolicy."""
    if (folder / "policy.json").exists() or not any(folder.glob("*/policy.json")):
        return load_policy(folder, network)
    if env_id is None:
        raise BadPolicy(f"{folder}: holds several policies: --env must name the game that they share")
    return load_policies(folder, env_id, network)


def find_checkpoint(run: Path, which: str) -> Path:
    """Return the run's checkpoint after `which` steps. Raises BadPolicy, which names those that there are."""
    steps = {int(path.name[5:]): path for path in run.glob("checkpoints/step_*") if path.name[5:].isdecimal()}
    if not which.isdecimal() or int(which) not in steps:
        there = ", ".join(map(str, sorted(steps))) or "none"
        raise BadPolicy(f"checkpoint: {which!r}, expected best, last or the steps of one in {run}/checkpoints: {there}")
    return steps[int(which)]


def environment(policy: Policy | PolicySet, **wanted: Any) -> tuple[str, dict[str, Any]]:
    """Return the id and the options of the environment that the policy was made for, `wanted` replacing them.

    Raises:
        BadPolicy: the file names an environment, an option or a preprocessing that is not known here.
        ValueError: `wanted` does.
    """
    spec = policy.info.get("spec")
    env_id = policy.info.get("env")
    if not isinstance(spec, dict) or not isinstance(env_id, str) or not isinstance(spec.get("options"), dict):
        raise BadPolicy("policy.json: env and spec must say what the policy was made for")
    given = wanted.pop("env", None)
    if given is None and ":" in env_id:  # its module would be imported: only who runs this may name one
        raise BadPolicy(
            f"policy.json: env is {env_id!r}, which names a module to import: if you trust it, add --env {env_id}"
        )
    env_id = given or env_id
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if given is not None or wanted:
        envs.check_options(env_id, **wanted)  # what the caller asked for is no fault of the file
    try:
        family = envs.find_family(env_id)
        kept = [option.name for option in family.options if option.portable and fnmatch.fnmatchcase(env_id, option.ids)]
        options = {name: spec["options"][name] for name in kept if spec["options"].get(name) is not None}
        options |= wanted
        envs.check_options(env_id, **options)
    except (ValueError, TypeError, KeyError) as error:
        raise BadPolicy(f"policy.json: {error}") from None
    confirm(family, spec["options"], wanted)
    for name, mine in family.spec.items():
        if spec.get(name) != mine:
            raise BadPolicy(f"policy.json: {name} is {spec.get(name)!r}, here it is {mine!r}")
    return env_id, options


def confirm(family: Family, options: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise BadPolicy where a file holds an option of the kind that only the user may give, and the user did not."""
    for option in family.options:
        value = options.get(option.name, option.default)
        if option.confirmed and value != option.default and option.name not in wanted:
            name, shown = option.name.replace("_", "-"), value if isinstance(value, str) else json.dumps(value)
            raise BadPolicy(f"policy.json: {name} is {shown[:300]}: if you trust it, add --{name} {shown[:300]!r}")


def evaluation_defaults(env_id: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the options with which the family evaluates, but for those to which `wanted` gives another value."""
    family = envs.find_family(env_id)
    return {name: value for name, value in family.evaluation.items() if wanted.get(name) is None}


def evaluate(
    folder: Path,
    episodes: int,
    seed: int = 0,
    num_envs: int = NUM_ENVS,
    greedy: bool = False,
    jobs: int = 1,
    comm: Comm | None = None,
    network: str | None = None,
    **wanted: Any,
) -> list[dict[str, Any]]:
    """Play `episodes` episodes and return their records in the order of environments.

    Args:
        folder: policy folder.
        episodes: how many, >= 1.
        seed: of starts, sticky actions and sampled actions, >= 0.
        num_envs: environments; environment i plays episodes i, i + num_envs, ...
        greedy: take the most probable action instead of sampling.
        jobs: processes that share the environments; more than one per GROUP environments would stand idle.
        comm: ranks that share them instead; all call this, and rank 0 gets the records, the others none.
        network: see `load_policy`.
        wanted: options of the environment that replace the policy's own and the family's for evaluations, and `env`,
            another id.

    Raises:
        ValueError: a number out of range, or a bad policy.
    """
    policy = load_players(folder, network, wanted.get("env"))
    env_id, options = environment(policy, **wanted)  # what is wrong with it shows before processes start
    options |= evaluation_defaults(env_id, wanted)
    if comm is not None and comm.world_size > 1:
        mine = share_of(comm, episodes, seed, num_envs)
        played = agreed(
            comm, lambda: play_shares(policy, env_id, options, mine, seed, greedy), (ValueError,), ValueError
        )
        return joined(comm, played)
    import joblib  # here, not at the top: a training run imports this file, and has no processes of its own

    tasks = [
        joblib.delayed(_play_from_folder)(folder, env_id, options, share, quotas, seed, greedy, network=network)
        for share, quotas in shares(episodes, seed, num_envs, jobs)
    ]
    return [record for records in joblib.Parallel(n_jobs=len(tasks))(tasks) for record in records]


def evaluate_on_ranks(
    policy: Policy | PolicySet,
    env_id: str,
    options: dict[str, Any],
    episodes: int,
    seed: int,
    num_envs: int,
    greedy: bool,
    comm: Comm,
    alive: Callable[[], None] = lambda: None,
    waiting: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> list[dict[str, Any]]:
    """As `evaluate`, for a policy that every rank holds. Rank 0 gets the records.

    Args:
        policy, env_id, options, episodes, seed, num_envs, greedy: see `evaluate` and `play_share`.
        comm: the ranks.
        alive: called at every step.
        waiting: around the time in which a rank has played its episodes and others still play theirs.
    """
    mine = share_of(comm, episodes, seed, num_envs)
    records = play_shares(policy, env_id, options, mine, seed, greedy, alive)
    with waiting():
        comm.barrier()
    return joined(comm, records)


def share_of(comm: Comm, episodes: int, seed: int, num_envs: int) -> list[tuple[range, list[int]]]:
    """Return what this rank plays, see `shares`: nothing where ranks are many."""
    return shares(episodes, seed, num_envs, comm.world_size)[comm.rank : comm.rank + 1]


def joined(comm: Comm, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of all ranks on rank 0, none elsewhere."""
    gathered = comm.gather(records)
    return [record for part in gathered for record in part] if gathered is not None else []


def shares(episodes: int, seed: int, num_envs: int, parts: int) -> list[tuple[range, list[int]]]:
    """Return who plays what: for each of at most `parts` players its environments and how many episodes each plays.

    Raises:
        ValueError: a number out of range.
    """
    if episodes < 1 or num_envs < 1 or seed < 0:
        raise ValueError(
            f"episodes and num-envs must be at least 1, seed at least 0, got {episodes}, {num_envs}, {seed}"
        )
    num_envs = min(num_envs, episodes)
    groups = -(-num_envs // GROUP)
    parts = max(1, min(parts, groups))
    quotas = [(episodes - i + num_envs - 1) // num_envs for i in range(num_envs)]
    bounds = [min(num_envs, j * groups // parts * GROUP) for j in range(parts)] + [num_envs]
    return [(range(a, b), quotas[a:b]) for a, b in itertools.pairwise(bounds)]


def play_shares(
    policy: Policy | PolicySet,
    env_id: str,
    options: dict[str, Any],
    mine: list[tuple[range, list[int]]],
    seed: int,
    greedy: bool,
    alive: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Return the records of these shares; see `play_share`."""
    return [
        r for share, quotas in mine for r in play_share(policy, env_id, options, share, quotas, seed, greedy, alive)
    ]


def _play_from_folder(folder: Path, env_id: str, *args: Any, network: str | None) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    return play_share(load_players(folder, network, env_id), env_id, *args)


def play_share(
    policy: Policy | PolicySet,
    env_id: str,
    options: dict[str, Any],
    share: range,
    quotas: list[int],
    seed: int,
    greedy: bool,
    alive: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Play each environment of `share` (global indices) until it has finished its quota of episodes."""
    env = envs.make_vec(env_id, len(share), seed, first_index=share.start, **options)
    with contextlib.closing(env):
        policy.meet(env)
        obs, _ = env.reset()
        digests = Digests(env)
        state = policy.start(len(share))
        done: list[list[dict[str, Any]]] = [[] for _ in share]
        uniforms = evaluation_uniforms(seed, share, policy.num_uniforms)
        since = np.zeros(len(share), np.int64)  # steps of the running episodes
        while any(waited_for := [len(records) < quota for records, quota in zip(done, quotas, strict=True)]):
            alive()
            if since[waited_for].max() >= LONGEST:
                raise ValueError(
                    f"{env_id}: no end after {LONGEST:,} steps of an episode: --max-episode-steps sets one"
                )
            uniform = next(uniforms)
            actions = policy.act_in_groups(obs, None if greedy else uniform, state)
            obs, _, terminated, truncated, infos = env.step(actions)
            state[terminated | truncated] = 0.0
            since = np.where(terminated | truncated, 0, since + 1)
            digests.add(actions, infos["env_reward"])
            for record in infos["episodes"]:
                i = record["env"] - share.start
                told = digests.end(i, record)
                if len(done[i]) < quotas[i]:
                    done[i].append(record | told)
    return [record for records in done for record in records]


class Digests:
    """Digests of what the running episodes of an environment began with, and of what happened in them since."""

    def __init__(self, env: VecEnv) -> None:
        """Begin with the episodes that a reset has just begun."""
        self._env = env
        self._starts = [self._start(i) for i in range(env.num_envs)]
        self._trajectories = [hashlib.blake2b(start.encode(), digest_size=8) for start in self._starts]

    def _start(self, i: int) -> str:
        return hashlib.blake2b(self._env.start_bytes(i), digest_size=8).hexdigest()

    def add(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Add a step of all environments: actions (N, ...), rewards (N,)."""
        for trajectory, action, reward in zip(self._trajectories, actions, rewards, strict=True):
            trajectory.update(action.tobytes() + reward.tobytes())

    def end(self, i: int, record: dict[str, Any]) -> dict[str, str]:
        """Return what belongs into the record of environment i's episode besides; the next one has begun."""
        start, trajectory = self._starts[i], self._trajectories[i].hexdigest()
        self._starts[i] = self._start(i)
        self._trajectories[i] = hashlib.blake2b(self._starts[i].encode(), digest_size=8)
        independent = f"{record['env']}.{record['episode']}" if self._env.chance_within_episodes else start
        return {"start": start, "trajectory": trajectory, "independent": independent}
