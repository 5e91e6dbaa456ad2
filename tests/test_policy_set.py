"""Policies that share a game: `scripts.evaluate SuperMarioBros-v0`."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import envs
from ppo.evaluate import PRETRAINED, evaluate, load_players
from ppo.policy import BadPolicy, load_policy
from ppo.policy_set import PolicySet
from scripts import evaluate as command
from scripts import play

GAME = "SuperMarioBros-v0"


class Stub:
    """A policy that always takes one action and counts its own decisions in what it remembers."""

    def __init__(self, action, buttons, size=2):
        self.info = {"env": "a", "obs_shape": [4, 84, 84], "num_actions": len(buttons), "spec": {"buttons": buttons}}
        self.ac, self.action, self.seen = SimpleNamespace(state_size=size), action, []

    def act(self, obs, uniform, state):
        self.seen.append(state[0, 0].item())
        state += 1
        return np.full(len(obs), self.action)


def test_each_stage_is_played_by_its_own_policy_with_its_own_buttons():
    """Numbers of actions are translated; what is remembered begins anew in another stage; others get the first."""
    env = envs.make_vec("SuperMarioBrosRandomStages-v0", 2, 0, actions="simple", stages=["1-1"], start_frames=0)
    one, two = Stub(1, [["NOOP"], ["left"]]), Stub(0, [["A"], ["right"], ["NOOP"]])
    players = PolicySet({"SuperMarioBros-1-1-v0": one, "SuperMarioBros-2-1-v0": two}, GAME)
    obs, _ = env.reset(seed=0)
    players.meet(env)
    state = players.start(2)
    assert env.part(0) == "SuperMarioBros-1-1-v0" and state.shape == (2, 2)
    assert players.act(obs, None, state).tolist() == [6, 6]  # left, among the seven of "simple"
    env.part = lambda i: ("SuperMarioBros-1-1-v0", "SuperMarioBros-2-1-v0")[i]
    assert players.act(obs, None, state).tolist() == [6, 5]  # A
    assert one.seen == [0, 0, 1] and two.seen == [0]
    env.part = lambda i: "SuperMarioBros-8-4-v0"
    assert players.act(obs, None, state).tolist() == [6, 6]
    env.close()


class Reader(Stub):
    """A policy that sees numbers of the memory and keeps what it was shown."""

    def __init__(self, names, size):
        super().__init__(0, [["A"]])
        options = {"ram_obs": names, "max_episode_steps": 9}
        self.info |= {"obs_shape": [size], "spec": {"buttons": [["A"]], "options": options}}

    def act(self, obs, uniform, state):
        self.seen.append(obs[0].tolist())
        return np.zeros(len(obs), np.int64)


def test_policies_that_see_fewer_numbers_are_shown_those():
    """The game is shown as the one that sees the most asks for; what another one lacks there is named."""
    one, two = Reader(["player_y", "near"], 424), Reader(["near", "player_x", "player_y"], 425)
    players = PolicySet({"SuperMarioBros-1-1-v0": one, "SuperMarioBros-2-1-v0": two}, GAME)
    options = players.info["spec"]["options"]
    assert options == {"ram_obs": ["near", "player_x", "player_y"]}  # and a stage's limit is none of the game
    env = envs.make_vec("SuperMarioBrosRandomStages-v0", 1, 0, stages=["1-1"], actions="simple", **options)
    players.meet(env)
    obs, _ = env.reset(seed=0)
    players.act(obs, None, players.start(1))
    assert one.seen == [[obs[0, 424], *obs[0, :423]]]
    env.part = lambda i: "SuperMarioBros-2-1-v0"
    players.act(obs, None, players.start(1))
    assert two.seen == [obs[0].tolist()]
    other = PolicySet({"SuperMarioBros-1-1-v0": one, "SuperMarioBros-2-1-v0": Reader(["near", "player_x"], 424)}, GAME)
    with pytest.raises(BadPolicy, match="^a: ram_obs: near, player_x are not all among player_y, near"):
        other.meet(envs.make_vec("SuperMarioBros-1-1-v0", 1, 0, actions="simple", ram_obs=["player_y", "near"]))


def test_a_part_without_a_policy_is_played_by_the_one_of_all_parts():
    """Where the set has such a one; otherwise by the first."""
    one, two = Stub(0, [["A"]]), Stub(0, [["right"]])
    players = PolicySet({"SuperMarioBros-1-1-v0": one, "SuperMarioBrosRandomStages-v0": two}, GAME)
    env = envs.make_vec("SuperMarioBrosRandomStages-v0", 1, 0, actions="simple", stages=["2-2"])
    players.meet(env)
    assert players.act(env.reset(seed=0)[0], None, players.start(1)).tolist() == [1] and len(two.seen) == 1


def test_buttons_that_the_environment_lacks_are_refused():
    """By name, before anything is played."""
    env = envs.make_vec(GAME, 1, 0, actions="right_only")
    players = PolicySet({"SuperMarioBros-1-3-v0": load_policy(PRETRAINED / "SuperMarioBros-1-3-v0")}, GAME)
    with pytest.raises(BadPolicy, match="left"):
        players.meet(env)
    env.close()
    echo = envs.make_vec("Echo-v0", 1, 0)
    with pytest.raises(BadPolicy, match="take turns"):
        players.meet(echo)


def test_the_shipped_policies_play_the_whole_game_alike_however_the_work_is_shared():
    """The same records from one and two processes; the set sees as its members do and can press what each can."""
    assert load_players(PRETRAINED, env_id=GAME).info["spec"]["options"]["actions"] == "simple"
    one, two = (evaluate(PRETRAINED, 5, jobs=jobs, env=GAME, max_episode_steps=30) for jobs in (1, 2))
    assert one == two and [r["world"] for r in one] == [1] * 5 and {r["cause"] for r in one} == {"step_limit"}


def test_policies_that_see_otherwise_cannot_play_together():
    """One line that names the odd one."""
    odd = Stub(0, [["A"]])
    odd.info["obs_shape"] = [1, 84, 84]
    with pytest.raises(BadPolicy, match="^b: "):
        PolicySet({"a": Stub(0, [["A"]]), "b": odd}, GAME)


def test_the_commands_take_the_game_or_a_folder_of_policies(tmp_path, capsys):
    """An id of a game, or a folder and --env; a folder alone is refused in one line."""
    limit = ["--max-episode-steps", "20"]
    assert command.main([GAME, "--episodes", "2", "--jobs", "1", *limit]) == 0
    assert GAME in capsys.readouterr().out
    assert play.main([GAME, "--gif", str(tmp_path / "a.gif"), "--overlay", "--scale", "1", *limit]) == 0
    assert (tmp_path / "a.gif").stat().st_size > 0
    assert command.main([str(PRETRAINED), "--episodes", "2"]) == 2
    assert "--env" in capsys.readouterr().err
    assert command.main([str(PRETRAINED), "--env", GAME, "--episodes", "2", "--jobs", "1", *limit]) == 0


def test_a_set_has_one_policy_for_each_part(tmp_path):
    """Two for the same stage, or one that does not say what it plays, are refused in one line."""
    shutil.copytree(PRETRAINED / "SuperMarioBros-1-1-v0", tmp_path / "a")
    shutil.copytree(PRETRAINED / "SuperMarioBros-1-1-v0", tmp_path / "b")
    with pytest.raises(BadPolicy, match="b is a second policy for SuperMarioBros-1-1-v0"):
        load_players(tmp_path, env_id=GAME)
    for missing in ("env", "spec"):
        info = json.loads((PRETRAINED / "SuperMarioBros-1-1-v0" / "policy.json").read_text())
        del info[missing]
        (tmp_path / "b" / "policy.json").write_text(json.dumps(info))
        with pytest.raises(BadPolicy, match=r"b: .*"):
            load_players(tmp_path, env_id=GAME)


def test_a_member_that_is_damaged_is_named(tmp_path):
    """As for one policy alone."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "policy.json").write_text("{}")
    with pytest.raises(BadPolicy, match="format"):
        load_players(tmp_path, env_id=GAME)
