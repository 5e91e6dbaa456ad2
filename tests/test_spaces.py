"""Observations and actions of every space: what the agent sees and what the environment gets."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

import envs
from envs import checks, spaces
from ppo import config
from ppo.networks import ActorCritic
from ppo.run import train
from tests.conftest import run

TASKS = ("Levers", "Switches", "Grid", "Table", "Cube", "Number", "Bytes", "Counts", "Parts", "Nested", "Photo")


@pytest.mark.parametrize("name", TASKS)
def test_contract(name):
    """Environments with spaces of every kind keep the vector contract, saved states included."""
    checks.check_vec_env(lambda **place: envs.make_vec(f"tests.tasks:{name}-v0", **place), steps=24)


@pytest.mark.parametrize(
    ("space", "obs", "seen"),
    [
        (Discrete(3, start=5), 6, [0, 1, 0]),
        (Box(-1, 1, (2, 2), np.float64), np.array([[0.5, 1], [-1, 0]]), [0.5, 1, -1, 0]),
        (Box(-1, 1, (), np.float32), np.float32(0.25), [0.25]),
        (Box(0, 255, (2,), np.uint8), np.array([0, 255], np.uint8), [0, 1]),
        (Box(-5, 5, (2,), np.int16), np.array([-5, 3], np.int16), [-5, 3]),
        (MultiBinary(3), np.array([1, 0, 1], np.int8), [1, 0, 1]),
        (MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
        (Tuple([Discrete(2), Box(0, 255, (1,), np.uint8)]), (1, np.array([51], np.uint8)), [0, 1, 0.2]),
        (Dict({"b": Discrete(2), "a": Box(0, 1, (1,), np.float32)}), {"b": 0, "a": np.array([0.5])}, [0.5, 1, 0]),
    ],
)
def test_observations_become_vectors(space, obs, seen):
    """Flattened, one-hot, bytes scaled to [0, 1], parts in the order of the space."""
    mine = spaces.observation_space("X-v0", space)
    array = spaces.observe(space, obs)
    assert array.dtype == np.float32 and array.tolist() == pytest.approx(seen) and mine.contains(array)


def test_images_stay_images_with_their_channels_first():
    """Three dimensions of uint8; where the channels come last they are moved, where they come first they are not."""
    for shape in ((40, 36, 3), (3, 40, 36)):
        space = Box(0, 255, shape, np.uint8)
        obs = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
        assert spaces.observation_space("X-v0", space).shape == spaces.observe(space, obs).shape == (3, 40, 36)
        assert np.array_equal(spaces.observe(space, obs)[1], obs[..., 1] if shape[2] == 3 else obs[1])


@pytest.mark.parametrize(
    ("space", "action", "given"),
    [
        (Discrete(3, start=-1), 0, -1),
        (MultiDiscrete([2, 3], start=[1, 5]), [1, 0], [2, 5]),
        (MultiDiscrete([[2, 3], [4, 5]]), [1, 2, 3, 4], [[1, 2], [3, 4]]),
        (MultiBinary([2, 1]), [1, 0], [[1], [0]]),
        (Box(0, 10, (2,), np.float64), [-1.0, 0.5], [0, 7.5]),
        (Box(0, 10, (2,), np.float64), [-7.0, 7.0], [0, 10]),
        (Box(np.array([-2, 0], np.float32), np.array([2, np.inf], np.float32)), [0.5, 3.0], [1, 3]),
        (Box(-3e38, 3e38, (1,), np.float32), [5.0], [5]),
        (Box(0, 1, (2, 2), np.float32), [-1, 0, 1, 1], [[0, 0.5], [1, 1]]),
    ],
)
def test_actions_become_those_of_the_environment(space, action, given):
    """Counted from the space's start, shaped, -1 and 1 the bounds of a Box that has both, and clipped."""
    mine, played = spaces.action_space("X-v0", space), spaces.player(space)(np.array(action))
    assert np.allclose(played, given) and space.contains(played)
    assert mine.contains(mine.sample()) and np.shape(action) == mine.shape


@pytest.mark.parametrize(
    ("name", "words"),
    [("Words", ["Words-v0", "Text", "expected Box"]), ("Huge", ["Huge-v0", "1,000,000,000 numbers"])],
)
def test_what_cannot_be_shown_is_named(name, words):
    """One line with the environment and the space."""
    with pytest.raises(ValueError) as caught:
        envs.make_vec(f"tests.tasks:{name}-v0", 1, 0)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Table", "Parts", "Nested", "Bytes"])
def test_every_kind_of_observation_is_trained_on(tmp_path, name, wing):
    """An epoch with the MLP ends, with the wing and without it."""
    sizes = {"num_envs": 2, "steps_per_epoch": 32, "minibatch_size": 32, "train_pi_iters": 1, "train_v_iters": 1}
    train(config.build(env=f"tests.tasks:{name}-v0", epochs=1, **sizes, data_dir=str(tmp_path)))


@pytest.mark.parametrize("name", ["Photo", "Frames"])
def test_pictures_are_trained_on_with_a_cnn(tmp_path, name):
    """Channels last or first, by a network for images."""
    sizes = {"num_envs": 2, "steps_per_epoch": 16, "minibatch_size": 16, "train_pi_iters": 1, "train_v_iters": 1}
    train(config.build(env=f"tests.tasks:{name}-v0", network="small", epochs=1, **sizes, data_dir=str(tmp_path)))


def test_an_mlp_flattens_what_another_family_shows():
    """Two dimensions, of which the first is the batch's in a plain linear layer."""
    params, value = ActorCritic("mlp", (3, 5), 2, "orthogonal", 0).step(torch.randn(4, 3, 5))
    assert params.shape == (4, 2) and value.shape == (4,)


def test_a_network_for_images_on_a_vector_is_one_line(tmp_path):
    """And the MLP on an image; code 2, nothing written."""
    for env, network in (("CartPole-v1", "nature"), ("tests.tasks:Photo-v0", "mlp")):
        done = run(["-m", "ppo.run", "--env", env, "--network", network, "--data-dir", str(tmp_path)])
        assert done.code == 2 and done.err.count("\n") == 1 and "does not take observations" in done.err, done.err
    assert not list(tmp_path.iterdir())
