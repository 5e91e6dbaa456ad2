"""A checker of the vector contract, for the tests of every family and for its author."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode

from envs.vector import VecEnv

Make = Callable[..., VecEnv]
Trace = list[dict[str, Any]]


def check_vec_env(make: Make, steps: int = 100, seed: int = 7) -> None:
    """Check a family of vector environments; AssertionError says which promise is broken.

    Checked: spaces, shapes and dtypes; the same seed gives the same run; four environments equal two and two with
    another first_index; SAME_STEP autoreset with final observations, masks and episode records; a state resumes
    exactly in a new object; damaged and foreign states are refused.

    Args:
        make: called as make(num_envs=, seed=, first_index=), returns a new vector environment.
        steps: steps that each run takes; enough for an episode to end, or the autoreset goes unchecked.
        seed: seed of the runs.
    """
    whole = play(make(num_envs=4, seed=seed, first_index=0), steps)
    compare(whole, play(make(num_envs=4, seed=seed, first_index=0), steps), "the same seed gave another run")
    halves = [play(make(num_envs=2, seed=seed, first_index=first), steps, first) for first in (0, 2)]
    compare(whole, join(*halves), "four environments differ from two and two")
    check_ends(whole)
    check_states(make, steps, seed)


def actions_of(env: VecEnv, step: int, first_index: int = 0) -> np.ndarray:
    """Return the actions (N, ...) of a step, each a function of the step and the environment's global index."""
    space = env.single_action_space
    draws = [np.random.default_rng([step, first_index + i]) for i in range(env.num_envs)]
    if isinstance(space, Discrete):
        return np.array([draw.integers(space.n) for draw in draws])
    if isinstance(space, MultiDiscrete):
        return np.array([draw.integers(space.nvec) for draw in draws])
    return np.array([draw.uniform(-1, 1, space.shape) for draw in draws], np.float32)


def play(env: VecEnv, steps: int, first_index: int = 0, from_step: int = 0) -> Trace:
    """Return what `steps` steps gave, copied; checks shapes and dtypes of everything; closes the environment."""
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.observation_space.shape == (env.num_envs, *(env.single_observation_space.shape or ()))
    family = getattr(env, "family", None)  # set where `envs.make_vec` made it
    assert family is None or {column.field for column in family.columns} <= set(env.episode_fields)
    assert family is None or {column.name for column in family.episode_columns} <= set(env.episode_fields)
    trace: Trace = []
    if from_step == 0:
        obs, infos = env.reset()
        trace.append({"obs": obs.copy(), "infos": infos})
    for step in range(from_step, steps):
        obs, rewards, terminated, truncated, infos = env.step(actions_of(env, step, first_index))
        check_step(env, obs, rewards, terminated, truncated, infos)
        row = {"obs": obs.copy(), "rewards": rewards, "terminated": terminated, "truncated": truncated, "infos": infos}
        trace.append(row)
    env.close()
    env.close()
    return trace


def check_step(
    env: VecEnv,
    obs: np.ndarray,
    rewards: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    infos: dict[str, Any],
) -> None:
    """Check the shapes and dtypes of one step, and that the infos agree with the flags."""
    count, single = env.num_envs, env.single_observation_space
    assert obs.shape == env.observation_space.shape and obs.dtype == single.dtype, (obs.shape, obs.dtype)
    assert all(single.contains(one) for one in obs), "an observation is outside its space"
    assert rewards.shape == (count,) and rewards.dtype == np.float32
    assert infos["env_reward"].shape == (count,) and infos["env_reward"].dtype == np.float64
    for flags in (terminated, truncated):
        assert flags.shape == (count,) and flags.dtype == np.bool_
    assert not (terminated & truncated).any(), "terminated and truncated at once"
    ended = terminated | truncated
    assert ("final_obs" in infos) == ("_final_obs" in infos) == bool(ended.any())
    if ended.any():
        assert infos["final_obs"].shape == obs.shape and infos["final_obs"].dtype == obs.dtype
        assert np.array_equal(infos["_final_obs"], ended)
    owners = [row["env"] - env.first_index for row in infos["episodes"]]
    assert owners == [i for i in np.flatnonzero(ended) if i in owners or not env.ends_within_episodes]
    for row in infos["episodes"]:
        assert set(row) == set(env.episode_fields), set(row) ^ set(env.episode_fields)
        assert row["terminated"] is bool(terminated[row["env"] - env.first_index])
        assert all(type(value) in (int, float, bool, str) for value in row.values()), row


def check_ends(trace: Trace) -> None:
    """Check that the records of the episodes are the sums of the steps, and that numbers of episodes follow."""
    count = len(trace[0]["obs"])
    sums, lengths, episode = np.zeros((2, count)), np.zeros(count, int), np.zeros(count, int)
    for row in trace[1:]:
        sums += np.stack([row["infos"]["env_reward"], row["rewards"]])
        lengths += 1
        for record in row["infos"]["episodes"]:
            i = record["env"]
            assert record["episode"] == episode[i], "an episode's number is wrong"
            assert record["ep_len"] == lengths[i], "ep_len is not the number of steps"
            assert np.allclose([record["ep_ret"], record["train_ret"]], sums[:, i]), (
                "a return is not the sum of rewards"
            )
            sums[:, i], lengths[i], episode[i] = 0.0, 0, episode[i] + 1


def check_states(make: Make, steps: int, seed: int) -> None:
    """Check that a state resumes exactly in a new object, and that bad bytes are refused."""
    half = steps // 2
    env = make(num_envs=2, seed=seed, first_index=1)
    env.reset()
    for step in range(half):
        obs = env.step(actions_of(env, step, 1))[0]
    obs, states = obs.copy(), env.get_state()
    assert all(isinstance(state, bytes) for state in states)
    rest = play(env, steps, 1, half)
    other = make(num_envs=2, seed=seed + 1, first_index=1)  # the state brings its own seed
    assert np.array_equal(other.set_state(states), obs), "set_state returned another observation"
    assert other.get_state() == states, "a restored environment saves another state"
    compare(rest, play(other, steps, 1, half), "a restored environment went another way")
    fresh = make(num_envs=2, seed=seed, first_index=1)
    damaged = bytearray(states[0])
    damaged[-1] ^= 1
    for bad in ([bytes(damaged), states[1]], [b"", states[1]], states[:1], states[::-1], [states[0][:-1], states[1]]):
        try:
            fresh.set_state(bad)
        except ValueError:
            continue
        raise AssertionError("a damaged, missing or foreign state was accepted")
    fresh.close()


def join(first: Trace, second: Trace) -> Trace:
    """Return the trace of both vectors' environments side by side."""
    rows = []
    for a, b in zip(first, second, strict=True):
        row = {key: np.concatenate([a[key], b[key]]) for key in a if key != "infos"}
        ended = [x.get("_final_obs", np.zeros(len(x["env_reward"]), bool)) for x in (a["infos"], b["infos"])]
        infos = {"episodes": a["infos"]["episodes"] + b["infos"]["episodes"]}
        for key in set(a["infos"]) & set(b["infos"]) - {"episodes", "final_obs", "_final_obs"}:
            infos[key] = np.concatenate([a["infos"][key], b["infos"][key]])
        if np.concatenate(ended).any():
            finals = [x["infos"].get("final_obs", x["obs"]) for x in (a, b)]
            infos["final_obs"], infos["_final_obs"] = np.concatenate(finals), np.concatenate(ended)
        rows.append({**row, "infos": infos})
    return rows


def compare(first: Trace, second: Trace, message: str) -> None:
    """Check that two traces are equal, bit for bit; final observations only where they mean something."""
    assert len(first) == len(second), message
    for step, (a, b) in enumerate(zip(first, second, strict=True)):
        flat_a, flat_b = {**a, **a["infos"]}, {**b, **b["infos"]}
        assert set(flat_a) == set(flat_b), f"{message}: step {step}, {set(flat_a) ^ set(flat_b)}"
        for key in set(flat_a) - {"infos"}:
            x, y = flat_a[key], flat_b[key]
            if key == "final_obs":
                x, y = x[flat_a["_final_obs"]], y[flat_b["_final_obs"]]
            same = x == y if isinstance(x, list) else np.array_equal(x, y)
            assert same, f"{message}: step {step}, {key}"
