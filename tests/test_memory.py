"""Memory-v0: what it shows, when it pays, and that only a memory helps."""

import numpy as np
import pytest

import envs
from envs import checks
from envs.memory import CUES


def play(choose, steps=3100, **options):
    """Play with choose(obs, state) -> actions, state; the returns and lengths of the episodes that ended."""
    env = envs.make_vec("Memory-v0", 8, 3, **options)
    obs, state, ended = env.reset()[0], np.zeros(8, np.int64), []
    for _ in range(steps):
        act, state = choose(obs, state)
        obs, _, _, _, infos = env.step(act)
        ended += [(row["ep_ret"], row["ep_len"], row["terminated"]) for row in infos["episodes"]]
    return np.array(ended)


def remember(obs, state):
    """Keep the cue that was shown last, and name it."""
    seen = obs[:, :CUES].any(axis=1)
    state = np.where(seen, obs[:, :CUES].argmax(axis=1), state)
    return state, state


@pytest.mark.parametrize("options", [{}, {"delay": 3}, {"max_episode_steps": 5}, {"delay": 4, "max_episode_steps": 5}])
def test_contract(options):
    """It keeps the vector contract, states included, whichever way its episodes end."""
    checks.check_vec_env(lambda **place: envs.make_vec("Memory-v0", **place, **options), steps=80)


def test_an_episode_by_hand():
    """Cue, 29 blanks, question: 31 decisions, of which the last one alone pays; the next episode follows at once."""
    env = envs.make_vec("Memory-v0", 2, 0)
    obs = env.reset()[0].copy()
    cue = obs.argmax(axis=1)
    assert (obs.sum(axis=1) == 1).all() and (cue < CUES).all()
    for t in range(1, 31):
        obs, rewards, terminated, _, _ = env.step(cue)
        assert not rewards.any() and not terminated.any()
        assert np.array_equal(obs, np.tile(np.eye(CUES + 1)[CUES] * (t == 30), (2, 1)))
    wrong = (cue + 1) % CUES
    obs, rewards, terminated, truncated, infos = env.step(np.array([cue[0], wrong[1]]))
    assert rewards.tolist() == [1.0, 0.0] and terminated.all() and not truncated.any()
    assert [row["ep_len"] for row in infos["episodes"]] == [31, 31] and (obs[:, :CUES].sum(axis=1) == 1).all()


def test_a_memory_earns_everything_and_the_present_alone_a_quarter():
    """An agent that keeps the cue is always right; one answer to all questions is right one time in four."""
    assert (play(remember) == [1.0, 31.0, 1.0]).all()
    alone = play(lambda obs, state: (np.full(8, 2), state))
    assert len(alone) == 800 and abs(alone[:, 0].mean() - 0.25) < 0.05


def test_a_limit_before_the_question_pays_nothing():
    """The episode is truncated there; at the question's own step it still terminates."""
    cut = play(remember, 100, max_episode_steps=10)
    assert (cut == [0.0, 10.0, 0.0]).all() and len(cut) == 80
    assert (play(remember, 100, delay=4, max_episode_steps=5) == [1.0, 5.0, 1.0]).all()


def test_options_and_states_are_checked():
    """A delay out of range and a state with a fifth cue are refused."""
    with pytest.raises(ValueError, match="delay"):
        envs.make_vec("Memory-v0", 1, 0, delay=0)
    env = envs.make_vec("Memory-v0", 1, 0)
    env.reset()
    env._cues[0] = CUES
    with pytest.raises(ValueError, match="its cue is 4"):
        env.set_state(env.get_state())
