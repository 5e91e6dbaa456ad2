"""Presets per environment id: the right one is the default, and its numbers fit together."""

import pytest

from envs import classic
from ppo import config

# What rl-baselines3-zoo's file has for each, by hand: environments, steps, minibatch, passes, step size, gamma, lambda.
TUNED = {
    "CartPole-v1": ("classic", 8, 32, 256, 20, 1e-3, 0.98, 0.8),
    "Acrobot-v1": ("acrobot", 16, 256, 64, 4, 3e-4, 0.99, 0.94),
    "MountainCar-v0": ("mountaincar", 16, 16, 64, 4, 3e-4, 0.99, 0.98),
    "Pendulum-v1": ("pendulum", 4, 1024, 64, 10, 1e-3, 0.9, 0.95),
    "LunarLander-v3": ("lunarlander", 16, 1024, 64, 4, 3e-4, 0.999, 0.98),
    "LunarLanderContinuous-v3": ("lunarlander", 16, 1024, 64, 4, 3e-4, 0.999, 0.98),
    "BipedalWalker-v3": ("bipedalwalker", 32, 2048, 64, 10, 3e-4, 0.999, 0.95),
    "HalfCheetah-v5": ("halfcheetah", 1, 512, 64, 20, 2.0633e-5, 0.98, 0.92),
    "Hopper-v4": ("hopper", 1, 512, 32, 5, 9.80828e-5, 0.999, 0.99),
    "Walker2d-v5": ("walker2d", 1, 512, 32, 20, 5.05041e-5, 0.99, 0.95),
}


@pytest.mark.parametrize("env", TUNED)
def test_the_preset_made_for_an_id_is_its_default(env):
    """Chosen by the id, whatever its version; the config it gives is valid."""
    cfg = config.build(env=env)
    found = (
        cfg.preset,
        cfg.num_envs,
        cfg.steps_per_env,
        cfg.minibatch_size,
        cfg.train_pi_iters,
        cfg.pi_lr,
        cfg.gamma,
        cfg.lam,
    )
    assert found == TUNED[env] and cfg.v_lr == cfg.pi_lr and cfg.train_v_iters == cfg.train_pi_iters


def test_others_keep_the_general_one_and_may_take_any_that_is_for_all():
    """An id without a preset of its own starts from `classic`; `continuous` is there for it, Hopper's is not."""
    assert config.build(env="CliffWalking-v1").preset == "classic"
    assert config.build(env="Ant-v5", preset="continuous").norm_obs
    with pytest.raises(ValueError, match="preset must be one of classic, continuous, spinup, got 'hopper'"):
        config.build(env="Ant-v5", preset="hopper")


def test_a_module_in_front_of_the_id_changes_nothing():
    """MODULE:Hopper-v5 is Hopper."""
    assert classic.FAMILY.presets_of("mine.envs:Hopper-v5")[0].name == "hopper"


def test_every_preset_names_its_source():
    """File and commit."""
    for preset in classic.PRESETS:
        assert ".yml at 00128b5" in preset.source or "ppo_continuous_action.py at 016ca33" in preset.source
