"""The planner clears stages under disturbance, and a network learns from it."""

import json
import os
import signal

import numpy as np
import pytest
import torch

import envs
from envs.mario.planner import GROUND, Planner
from ppo.config import build
from ppo.networks import ActorCritic
from ppo.policy import load_policy, save_policy
from ppo.run import train
from scripts import teach
from utils.seeding import Purpose, generator

STAGE = "SuperMarioBros-1-1-v0"
SIMPLE = [0, 128, 129, 130, 131, 1, 64]
TINY = "--num-envs 2 --minibatch-size 32".split()


def test_the_planner_clears_a_stage_under_disturbance():
    """Most of a few episodes of 1-1 with sticky buttons after random ones; a plan that knows nothing of them fails."""
    planner, draws = Planner(STAGE, SIMPLE), generator(0, 0, Purpose.ACTION, 0)

    def play(sticky: float) -> bool:
        planner.begin(bytes(draws.choice(SIMPLE, size=draws.integers(31)).tolist()))
        last, ended = 0, False
        for _ in range(500):
            advised, frames = planner.advise(), []
            for _ in range(4):
                last = last if draws.random() < sticky else advised
                frames.append(last)
            if ended := planner.follow(frames):
                break
        return ended and planner.far > planner.length - 100

    assert play(0.0)
    assert sum(play(0.25) for _ in range(4)) >= 2


@pytest.mark.parametrize(("stage", "extra"), [("4-4", []), ("7-4", []), ("8-4", [32])])
def test_the_planner_finds_its_way_through_a_maze(stage, extra):
    """Along the floors of the shipped way, back where it goes back, and down a pipe where that can be pressed."""
    planner = Planner(f"SuperMarioBros-{stage}-v0", [*SIMPLE, *extra])
    planner.begin(bytes([128] * 8))
    ended = (planner.follow([planner.advise()] * 4) for _ in range(700))
    assert any(ended) and planner.far > planner.length - 100


def test_the_planner_follows_an_environment():
    """Told what was pressed in every frame of a disturbed episode, its console holds the same memory."""
    env = envs.make_vec(STAGE, 2, 3, actions="simple", sticky=0.25, start_mode="random", max_episode_steps=40)
    env.reset()
    planners = [Planner(STAGE, env.buttons) for _ in range(2)]
    for i, planner in enumerate(planners):
        planner.begin(env.start_buttons(i))
    draws, ends = generator(1, 0, Purpose.ACTION, 0), 0
    for _ in range(150):
        _, _, terminated, truncated, _ = env.step(draws.integers(7, size=2))
        for i, planner in enumerate(planners):
            if terminated[i] or truncated[i]:
                ends += 1
                planner.begin(env.start_buttons(i))
            else:
                assert not planner.follow(env.pressed_frames(i))
            assert np.array_equal(planner._console.ram, env._rams[i])
    assert ends  # some episodes ended and began with other buttons


def test_manoeuvres_that_cannot_be_pressed_are_left_out():
    """Without left and A alone there are fewer; without right nothing leads on."""
    assert 0 < len(Planner(STAGE, SIMPLE[:5])._ground) < len(Planner(STAGE, SIMPLE)._ground) < len(GROUND)
    with pytest.raises(ValueError, match=r"128 \(right\)"):
        Planner(STAGE, [0, 1])


def test_a_way_is_explored_where_none_is_shipped(tmp_path, monkeypatch, capfd):
    """Then the planner measures ground along that one: the Lost Levels ship none."""
    monkeypatch.setattr(teach.demonstrations, "SHIPPED", tmp_path)
    way = teach.known_way("SuperMarioBros-1-4-v0")
    assert "no way is shipped" in capfd.readouterr().out
    assert Planner(way.env, SIMPLE, way=way).length > 2000


def test_a_network_learns_what_the_planner_does(tmp_path, capfd, monkeypatch):
    """Agreement grows, the policy loads, says what it is, and a run starts from it."""
    monkeypatch.setattr(teach, "ROUND", 512)
    out = tmp_path / "taught"
    assert teach.main([STAGE, "--out", str(out), "--labels", "1536", "--seed", "2"]) == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if "agrees" in line]
    agrees = [int(line.split("agrees ")[1].split("%")[0]) for line in lines]
    assert len(agrees) == 3 and agrees[-1] > agrees[0] + 10, lines
    policy = load_policy(out)
    assert policy.info["env"] == STAGE and policy.has_value and policy.info["labels"] == 1536
    assert policy.info["command"] == f"python -m scripts.teach {STAGE} --labels 1536 --seed 2"  # other flags too
    given = dict(env=STAGE, actions="simple", init_from=str(out), data_dir=str(tmp_path), num_envs=2)
    small = dict(steps_per_epoch=32, minibatch_size=16, train_pi_iters=1, train_v_iters=1, epochs=1)
    train(build(**given, **small, exp_name="after"))
    assert json.loads((tmp_path / "after" / "after_s0" / "config.json").read_text())["init_from"] == str(out)
    monkeypatch.setattr(teach, "STEP_SIZE", 0.0)
    monkeypatch.setattr(teach, "LEAST_STEP_SIZE", 0.0)
    again = tmp_path / "again"  # goes on from what it is given: with steps of zero nothing changes
    assert teach.main([STAGE, "--out", str(again), "--labels", "32", "--init-from", str(out)]) == 0
    before, after = policy.ac.state_dict(), load_policy(again).ac.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_signal_ends_the_lessons_and_what_was_learned_is_kept(tmp_path, capfd, monkeypatch):
    """Exit code 128 + the signal; the policy says at how many moments it was taught."""
    monkeypatch.setattr(teach, "ROUND", 64)
    play, rounds = teach.Lesson.play, []

    def third_round_is_interrupted(lesson, count):
        rounds.append(count)
        if len(rounds) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return play(lesson, count)

    monkeypatch.setattr(teach.Lesson, "play", third_round_is_interrupted)
    flags = ["--ram-obs", "near", "--network", "mlp"]
    assert teach.main([STAGE, "--out", str(tmp_path / "taught"), "--labels", "100000", *flags]) == 128 + signal.SIGTERM
    assert load_policy(tmp_path / "taught").info["labels"] == 64 + 64 + 8  # one step of eight environments more
    assert "136 moments: the critic learns" in capfd.readouterr().out


def test_a_policy_that_sees_the_memory_teaches_one_that_sees_pictures(tmp_path, capfd, monkeypatch):
    """With other actions than the pupil's; what it would press, in the pupil's numbers, is what is learned."""
    monkeypatch.setattr(teach, "ROUND", 512)
    small = dict(steps_per_epoch=64, minibatch_size=32, num_envs=2, train_pi_iters=1, train_v_iters=1, epochs=1)
    right = [["right"], ["right", "A"]]
    run = train(build(env=STAGE, preset="near", actions=right, exp_name="near", data_dir=str(tmp_path), **small))
    policy = load_policy(run / "policy" / "last")
    with torch.no_grad():
        policy.ac.pi[-1].bias.copy_(torch.tensor([0.0, 9.0]))  # it nearly always jumps
    save_policy(tmp_path / "jumps", policy.ac, policy.info)
    out = tmp_path / "taught"
    flags = ["--teacher", str(tmp_path / "jumps"), "--labels", "1024", "--num-envs", "4"]
    assert teach.main([STAGE, "--out", str(out), *flags]) == 0
    assert "--teacher" in load_policy(out).info["command"]
    env = envs.make_vec(STAGE, 2, 0, actions="simple")
    shown, _ = load_policy(out).look(env.reset()[0])
    assert shown[:, 2].min() > 0.9  # right with A
    assert teach.main([STAGE, "--out", str(tmp_path / "x"), "--teacher", str(tmp_path / "nobody")]) == 2
    assert "no policy found" in capfd.readouterr().err and not (tmp_path / "x").exists()


def test_each_stage_has_its_own_teacher(tmp_path, capfd):
    """From a folder of policies: the advice is that of the stage which is shown, in the pupil's numbers."""
    presses = {"SuperMarioBros-1-1-v0": [["right"], ["NOOP"]], "SuperMarioBros-1-4-v0": [["A"], ["right"]]}
    for stage, buttons in presses.items():
        info = {"env": stage, "spec": {"options": {}, "preprocess_version": 1, "buttons": buttons}, "network": "mario"}
        ac = ActorCritic("mario", (4, 84, 84), 2, "orthogonal", 0)
        with torch.no_grad():
            ac.pi[-1].bias.copy_(torch.tensor([9.0, 0.0]))  # the first
        save_policy(tmp_path / "both" / stage, ac, info | {"obs_shape": [4, 84, 84], "num_actions": 2})
    game = "SuperMarioBrosRandomStages-v0"
    env = envs.make_vec(game, 8, 0, actions="simple", stages=["1-1", "1-4"])
    expert = teach.Expert(str(tmp_path / "both"), env)
    advice, advised = expert.advise(env.reset()[0], generator(0, 0, Purpose.ACTION, 0))
    shown = [env.part(i) for i in range(8)]
    assert set(shown) == set(presses)
    assert [SIMPLE[best] for best in advice.argmax(axis=1)] == [128 if part == STAGE else 1 for part in shown]
    assert advice.sum(axis=1) == pytest.approx(1.0) and advice[np.arange(8), advised].min() > 0
    flags = ["--out", str(tmp_path / "x"), "--teacher", str(tmp_path / "both"), "--num-envs", "2"]
    assert teach.main([game, *flags, "--stages", "1-1,1-2"]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "no policy for SuperMarioBros-1-2-v0" in said and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spec": "x"}, "env and spec must say"),
        ({"spec": {"options": 5}}, "env and spec must say"),
        ({"spec": {"options": {"ram_obs": ["nothing"]}, "preprocess_version": 1}}, "nothing"),
        ({"spec": {"options": {}, "preprocess_version": 1, "buttons": [["right"], ["B"]]}}, "not all among"),
        ({"obs_shape": [2, 84, 84]}, "takes [2, 84, 84], here it would see [4, 84, 84]"),
    ],
)
def test_a_teacher_that_cannot_play_here_is_one_line(changes, words, tmp_path, capfd):
    """A damaged file, other actions, other pictures: code 2, and nothing is written."""
    spec = {"options": {}, "preprocess_version": 1, "buttons": [["right"], ["right", "A"]]}
    info = {"env": STAGE, "spec": spec, "network": "mario", "obs_shape": [4, 84, 84], "num_actions": 2} | changes
    ac = ActorCritic("mario", tuple(info["obs_shape"]), 2, "orthogonal", 0)
    save_policy(tmp_path / "teacher", ac, info)
    flags = ["--teacher", str(tmp_path / "teacher"), "--labels", "8", "--num-envs", "2"]
    assert teach.main([STAGE, "--out", str(tmp_path / "x"), *flags]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and words in said and not (tmp_path / "x").exists(), said


def test_a_folder_that_cannot_be_made_is_named_before_anything_is_taught(tmp_path, capfd):
    """A file in its way, or a link that leads nowhere."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out in (tmp_path / "file" / "x", tmp_path / "link"):
        assert teach.main([STAGE, "--out", str(out), "--labels", "8", *TINY]) == 2
        found = capfd.readouterr()
        assert found.err.count("\n") == 1 and "moments" not in found.out, found


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([STAGE], ["--out"]),
        ([STAGE, "--out", "x", "--labels", "0"], ["labels", "0"]),
        ([STAGE, "--out", "x", "--env", "CartPole-v1"], ["--env", "scripts.teach"]),
        ([STAGE, "--out", "x", "--gamma", "9"], ["gamma", "9"]),
        (["CartPole-v1", "--out", "x"], ["CartPole-v1"]),
        (["SuperMarioBros-v0", "--out", "x"], ["one stage of Mario"]),
        ([STAGE, "--out", ".", *TINY], ["out", "exists"]),
    ],
)
def test_bad_input_is_one_line(args, words, capfd, tmp_path, monkeypatch):
    """Exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    try:
        code = teach.main(args)
    except SystemExit as end:
        code = end.code
    said = capfd.readouterr().err
    assert code == 2 and said.count("\n") == 1 and all(word in said for word in words), said
    assert list(tmp_path.iterdir()) == []
