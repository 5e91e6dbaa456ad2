"""Super Mario Bros: what the family declares. Nothing here imports a simulator.

The game's modules never import this one, so that it may name them all.
"""

from __future__ import annotations

import importlib
from typing import Any

from envs.family import Family, Preset
from envs.mario import actions, ram, rules, stages
from envs.mario.backends import EMULATORS, versions
from envs.mario.columns import EPISODES, LEARNED, LEARNED_EPISODES, PROGRESS
from envs.mario.options import OPTIONS
from envs.mario.preprocess import PREPROCESS_VERSION
from envs.vector import VecEnv


def known(env_id: str) -> bool:
    """Return whether there is such an environment."""
    return stages.parse(env_id) is not None


def has_parts(env_id: str) -> bool:
    """Return whether an id is that of a whole game, or of a stage drawn for every episode."""
    game = stages.parse(env_id)
    return game is not None and game.target is None


def drawn_parts(env_id: str) -> tuple[str, ...]:
    """Return the keys of an episode's record that name the stage which was drawn for it."""
    game = stages.parse(env_id)
    return ("world", "stage") if game is not None and game.random else ()


def check(env_id: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as `make` takes them: what their bounds cannot say is checked here.

    Raises:
        ValueError: an unknown action, reward, address, stage or emulator, or an emulator whose packages are missing.
    """
    game = stages.parse(env_id)
    assert game is not None
    checked = {**options, "emulator": options["emulator"] or "native", "ram_info": list(options["ram_info"] or ())}
    if isinstance(checked["actions"], str):
        checked["actions"] = actions.parse(checked["actions"])
    actions.resolve(checked["actions"])
    rules.find_reward(checked["reward"])
    for name in checked["ram_info"]:
        rules.ram_address(name)
    if checked["ram_obs"] is not None:
        checked["ram_obs"] = list(checked["ram_obs"])
        ram.Values(checked["ram_obs"])
    if checked["ram_planes"] is not None:
        checked["ram_planes"] = list(checked["ram_planes"])
        ram.Planes(checked["ram_planes"])
        if checked["ram_obs"] is not None:
            raise ValueError("ram_planes stand beside the picture, and ram_obs in its place: expected one of them")
    if checked["stages"] is not None:
        if not game.random:
            raise ValueError(
                f"stages: {checked['stages']!r} given for {env_id}, only RandomStages ids draw stages: "
                "--env SuperMarioBrosRandomStages-v0"
            )
        stages.parse_stages(checked["stages"], game)
    if checked["test_stages"] is not None:
        _check_test(game, checked["stages"], checked["test_stages"])
    _check_emulator(checked)
    return checked


def _check_test(game: stages.Game, trained: Any, tested: Any) -> None:
    if not game.random:
        raise ValueError(f"test_stages: {tested!r}, only RandomStages ids draw stages")
    both = set(stages.parse_stages(trained, game)) & set(stages.parse_stages(tested, game, "test_stages"))
    if both:
        world, stage = min(both)
        raise ValueError(f"test_stages: {world}-{stage} is trained on, expected none of --stages")


def _check_emulator(options: dict[str, Any]) -> None:
    name = options["emulator"]
    if name not in EMULATORS:
        raise ValueError(f"emulator: {name!r}, expected one of {', '.join(EMULATORS)}")
    versions(name)
    given = [option for option in ("start_states", "start_curriculum") if options[option] is not None]
    if len(given) > 1:
        raise ValueError("start_curriculum: goes without start_states; expected one of them")
    for option in given:
        if name != "native" or options["reward"] not in rules.REWARDS:
            raise ValueError(f"{option}: emulator {name} with reward {options['reward']} cannot start from states")
        importlib.import_module("envs.mario.native_vector").read_states(options[option], option)


def make(env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> VecEnv:
    """Return the fastest implementation for these options: C++, unless emulator or reward are Python's."""
    if options["emulator"] == "native" and options["reward"] in rules.REWARDS:
        from envs.mario.native_vector import NativeMarioVec

        return NativeMarioVec(env_id, num_envs, seed, first_index, options)
    from envs.mario.python_vector import MarioVec

    return MarioVec(env_id, num_envs, seed, first_index, options)


def draw(env_id: str, seed: int, options: dict[str, Any]) -> VecEnv:
    """Return one environment whose screen can be seen in every frame: the implementation in Python."""
    from envs.mario.python_vector import MarioVec

    return MarioVec(env_id, 1, seed, 0, options)


PRESETS = (
    Preset(
        "mario",
        "gamma 0.9, Huber and normalised advantages are what the repositories that clear most stages agree on "
        "(CVHvn/Mario_PPO, vietnh1009/Super-mario-bros-PPO-pytorch). Found by measuring on 1-1 (data/results/tuning): "
        "the network of Mnih et al. 2013, eight passes over small minibatches with twice the step size, five actions "
        "that all lead to the right, and random starts. 16 environments x 256 steps = 4,096; 366 epochs are "
        "1.50 million decisions",
        {
            "network": "small",
            "num_envs": 16,
            "steps_per_epoch": 16 * 256,
            "minibatch_size": 128,
            "gamma": 0.9,
            "lam": 0.95,
            "pi_lr": 5e-4,
            "v_lr": 5e-4,
            "anneal_lr": True,
            "train_pi_iters": 8,
            "train_v_iters": 8,
            "ent_coef": 0.01,
            "anneal_ent": True,
            "v_loss": "huber",
            "reward": "score",
            "actions": "right_only",
            "start_frames": 30,
            "epochs": 366,
        },
    ),
    Preset(
        "near",
        "our own: what is near Mario in the console's memory, in the picture's place (envs/mario/near.py), through a "
        "small network, five times as many decisions in the same time. Disturbed as evaluations are, sticky buttons "
        "beside it (Machado et al. 2018, JAIR 61). Otherwise as mario, with fewer passes over larger minibatches",
        {
            "network": "mlp_wide",
            "ram_obs": ["near"],
            "num_envs": 64,
            "steps_per_epoch": 64 * 256,
            "minibatch_size": 1024,
            "chunk_size": 1024,
            "gamma": 0.95,
            "lam": 0.95,
            "pi_lr": 5e-4,
            "v_lr": 5e-4,
            "anneal_lr": True,
            "train_pi_iters": 4,
            "train_v_iters": 4,
            "ent_coef": 0.002,
            "anneal_ent": True,
            "v_loss": "huber",
            "reward": "score",
            "actions": "simple",
            "sticky": 0.25,
            "start_frames": 30,
            "start_mode": "random",
            "total_steps": 2_000_000,
        },
    ),
    Preset(
        "tianchi",
        "the Tianchi course (gaoxiaos/Supermariobros-PPO-pytorch): spinup's procedure, gamma 0.999, both lr 0.001, "
        "10,000 steps per epoch for 150 epochs, complex actions, Xavier weights. One environment there, four here: "
        "4 x 2,500",
        {
            "network": "mario",
            "init": "xavier",
            "num_envs": 4,
            "steps_per_epoch": 4 * 2500,
            "minibatch_size": 10000,
            "gamma": 0.999,
            "lam": 0.97,
            "pi_lr": 1e-3,
            "v_lr": 1e-3,
            "adam_eps": 1e-8,
            "train_pi_iters": 80,
            "train_v_iters": 80,
            "target_kl": 0.01,
            "max_grad_norm": None,
            "value_target": "rewards-to-go",
            "actions": "complex",
            "reward": "score",
            "epochs": 150,
        },
    ),
    Preset(
        "modelarts",
        "the ModelArts tutorial (Huawei Cloud): one network with two heads, smooth L1 of weight 1, gamma 0.9, lambda 1 "
        "(its tau), advantages as they are, 8 environments x 512 steps = 4,096 in 16 minibatches of 256, 10 passes. It "
        "starts from a policy that it downloads, and says that 1,500 rounds clear most stages without one. Other than "
        "there: a ReLU after the 512 units, small weights in the actor's head, GAE cut where an episode ends",
        {
            "network": "mario",
            "shared": True,
            "num_envs": 8,
            "steps_per_epoch": 8 * 512,
            "minibatch_size": 256,
            "gamma": 0.9,
            "lam": 1.0,
            "pi_lr": 1e-4,
            "adam_eps": 1e-8,
            "train_pi_iters": 10,
            "ent_coef": 0.01,
            "v_loss": "huber",
            "v_coef": 1.0,
            "adv_norm": "none",
            "actions": "simple",
            "reward": "score-rules",
            "epochs": 1500,
        },
    ),
)

FAMILY = Family(
    name="mario",
    known=known,
    ids=stages.ids,
    make="envs.mario:make",
    draw="envs.mario:draw",
    options=OPTIONS,
    check=check,
    presets=PRESETS,
    defaults={"network": "mario"},
    columns=PROGRESS,
    episode_columns=EPISODES,
    learned=LEARNED,
    learned_episode_columns=LEARNED_EPISODES,
    evaluated=("ClearRate", "XMax"),
    evaluation={"start_frames": 30, "start_mode": "random"},
    best_by="ClearRate",
    has_parts=has_parts,
    drawn_parts=drawn_parts,
    # The native core plays what nes-py plays, frame by frame: `make identity`, data/results/identity.json.
    plays_as={"native": "nes-py", "core 1": "gym-super-mario-bros 7.4.0, nes-py 8.2.1"},
    spec={"preprocess_version": PREPROCESS_VERSION},
)
