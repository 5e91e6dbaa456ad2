"""Policies as files: what was saved is loaded, and a stranger's file can neither run code nor take the memory."""

import json
import pickle
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from envs import make_vec
from ppo.config import build
from ppo.evaluate import environment, find_policy
from ppo.networks import ActorCritic
from ppo.normalise import Normaliser
from ppo.policy import BadPolicy, load_policy, save_policy, write_policy
from ppo.resume import init_from
from ppo.run import train
from scripts import evaluate, export, play
from utils import checkpoint
from utils.folder import Refused

INFO = {"env": "Echo-v0", "spec": {"options": {}}, "network": "mlp", "obs_shape": [4], "num_actions": 4}
MARIO = {
    "env": "SuperMarioBros-1-1-v0",
    "spec": {"options": {"actions": "simple"}, "preprocess_version": 1},
    "network": "mario",
    "obs_shape": [4, 84, 84],
    "num_actions": 7,
}


@pytest.fixture
def echo(tmp_path):
    """A policy for Echo-v0 with random weights."""
    save_policy(tmp_path / "echo", ActorCritic("mlp", (4,), 4, "xavier", 0), INFO)
    return tmp_path / "echo"


@pytest.fixture
def mario(tmp_path):
    """A policy for Mario with random weights that favour no action much."""
    save_policy(tmp_path / "mario", ActorCritic("mario", (4, 84, 84), 7, "orthogonal", 0), MARIO)
    return tmp_path / "mario"


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def edit(folder, **changes):
    path = folder / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def craft(folder, tensors, data=b""):
    """Write a safetensors file by hand: {name: (dtype, shape, [begin, end])}."""
    table = {name: {"dtype": d, "shape": s, "data_offsets": o} for name, (d, s, o) in tensors.items()}
    header = json.dumps(table).encode()
    (folder / "policy.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# What is saved is loaded ----------------------------------------------------------------------------------------------


def test_both_networks_come_back_exactly(mario):
    """Logits and values of the loaded policy equal those of the saved networks."""
    ac, policy = ActorCritic("mario", (4, 84, 84), 7, "orthogonal", 0), load_policy(mario)
    obs = np.random.default_rng(0).integers(256, size=(3, 4, 84, 84), dtype=np.uint8)
    logits, values = ac.step(torch.from_numpy(obs))
    probs, value = policy.look(obs)
    assert policy.has_value and np.array_equal(value, values.numpy())
    assert np.array_equal(probs, torch.softmax(logits, -1).numpy())


@pytest.mark.parametrize("flags", [[], ["--half"], ["--half", "--with-critic"]])
def test_an_exported_policy_plays_the_same(mario, tmp_path, capsys, flags):
    """The folder is smaller, chooses the same actions, and has no value unless the critic was kept."""
    assert export.main([str(mario), "--out", str(tmp_path / "out"), "--check-steps", "40", *flags]) == 0
    assert "same actions in 40 of 40 decisions" in capsys.readouterr().out
    policy, size = load_policy(tmp_path / "out"), (tmp_path / "out" / "policy.safetensors").stat().st_size
    whole = (mario / "policy.safetensors").stat().st_size
    assert size / whole == pytest.approx(0.5 if flags != ["--half"] else 0.25, abs=0.01)
    assert policy.has_value == ("--with-critic" in flags)
    assert (policy.look(np.zeros((1, 4, 84, 84), np.uint8))[1] is None) != policy.has_value
    assert export.main([str(mario), "--out", str(tmp_path / "out")]) == 2  # never replaces a folder


def test_a_cooler_policy_draws_the_most_probable_action_more_often(mario, tmp_path):
    """At temperature 1/2 probabilities are squared and made to sum to one; twice 1/2 is 1/4; zero is refused."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    for source, out in (mario, once), (once, twice):
        assert export.main([str(source), "--out", str(out), "--temperature", "0.5", "--check-steps", "8"]) == 0
    obs = np.random.default_rng(0).integers(256, size=(3, 4, 84, 84), dtype=np.uint8)
    warm = load_policy(mario).look(obs)[0].astype(float)
    for out, power in (once, 2), (twice, 4):
        expected = warm**power / (warm**power).sum(axis=1, keepdims=True)
        assert np.allclose(load_policy(out).look(obs)[0], expected, atol=1e-5)
        assert load_policy(out).info["temperature"] == 1 / power
    assert "- Temperature: 0.25" in (twice / "README.md").read_text()
    assert export.main([str(mario), "--out", str(tmp_path / "no"), "--temperature", "0"]) == 2
    assert not (tmp_path / "no").exists()


def test_observations_of_ones_own_loop(echo):
    """Python's own floats are taken; one without its batch, or no array, is one line."""
    policy, obs = load_policy(echo), np.eye(4, dtype=np.float32)
    np.testing.assert_array_equal(policy.act(obs.astype(np.float64)), policy.act(obs))
    for wrong in (obs[0], {"a": obs}, np.zeros((1, 5), np.float32)):
        with pytest.raises(ValueError, match="^obs: .* expected an array"):
            policy.act(wrong)


def test_a_checkpoint_of_a_run_is_a_policy(echo, tmp_path):
    """`--checkpoint K` finds the weights after K steps; other numbers are answered with those that there are."""
    run, ac = tmp_path / "run", ActorCritic("mlp", (4,), 4, "xavier", 1)
    (run / "policy").mkdir(parents=True)
    echo.rename(run / "policy" / "last")
    tensors = {f"ac/{name}": p.detach() for name, p in ac.state_dict().items()} | {"env/0": torch.zeros(3)}
    checkpoint.save_checkpoint(run / "checkpoints", 640, tensors, {}, 2)
    policy = load_policy(find_policy(str(run), "640"))
    assert all(torch.equal(p, ac.state_dict()[name]) for name, p in policy.ac.state_dict().items())
    (run / "checkpoints" / "step_\u00b2").mkdir()  # a digit that is no decimal one
    for which in ("641", "x", "-1", "\u00b2"):
        with pytest.raises(BadPolicy, match="expected best, last or the steps of one in .*: 640"):
            find_policy(str(run), which)


def test_starting_from_an_actor_alone_keeps_the_own_critic(echo, tmp_path):
    """--init-from takes the actor and leaves the critic; other shapes are refused with both shapes."""

    class Run:
        ac, normaliser = ActorCritic("mlp", (4,), 4, "xavier", 5), Normaliser()

    old = {name: p.clone() for name, p in Run.ac.state_dict().items()}
    weights = {name: p for name, p in load_policy(echo).ac.state_dict().items() if name.startswith("pi.")}
    write_policy(tmp_path / "actor", weights, INFO)
    assert "the actor of" in init_from(Run, tmp_path / "actor")
    for name, p in Run.ac.state_dict().items():
        assert torch.equal(p, weights[name] if name in weights else old[name])
    save_policy(tmp_path / "other", ActorCritic("mlp", (5,), 4, "xavier", 0), INFO | {"obs_shape": [5]})
    with pytest.raises(ValueError, match=r"\(64, 5\) there and \(64, 4\) here"):
        init_from(Run, tmp_path / "other")


def test_a_run_says_what_it_started_from(echo, tmp_path, capsys):
    """Folder, run or id of a shipped policy; it is part of the settings, and nothing is written where there is none."""
    settings = {"env": "Echo-v0", "num_envs": 2, "steps_per_epoch": 64, "minibatch_size": 64, "data_dir": str(tmp_path)}
    run = train(build(**settings, epochs=1, exp_name="one", init_from=str(echo), train_pi_iters=1, pi_lr=0.0))
    assert json.loads((run / "config.json").read_text())["init_from"] == str(echo)
    made = load_policy(run / "policy" / "last")
    assert f"--init-from {echo}" in made.info["command"]
    weights = load_policy(echo).ac.state_dict()
    assert all(torch.equal(p, weights[name]) for name, p in made.ac.state_dict().items() if name.startswith("pi."))
    assert f"starting from the weights of {echo}" in capsys.readouterr().out
    train(build(**settings, epochs=1, exp_name="two", init_from=str(run)))
    assert "starting from the weights of" in capsys.readouterr().out
    with pytest.raises(Refused, match="no policy found at SuperMarioBros-9-9-v0"):
        train(build(**settings, epochs=1, exp_name="three", init_from="SuperMarioBros-9-9-v0"))
    assert not (tmp_path / "three").exists()


# Strangers' files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["policy.safetensors", "policy.json"])
def test_no_command_runs_a_pickle(echo, tmp_path, file, capsys):
    """A pickle under the name of a policy's file is one line and exit code 2 everywhere, and never executed."""
    (echo / file).write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    (echo / "vars.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    name = str(echo)
    film, copy = str(tmp_path / "x.mp4"), str(tmp_path / "o")
    for main, flags in (evaluate.main, ["--jobs", "1"]), (export.main, ["--out", copy]), (play.main, ["--video", film]):
        assert main([name, *flags]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(ValueError):
        init_from(None, echo)
    assert not (tmp_path / "marker").exists() and not (tmp_path / "o").exists()


def test_a_checkpoint_with_a_pickle_and_a_matching_manifest_is_damaged(tmp_path):
    """Checksums that agree do not make a pickle loadable."""
    folder = checkpoint.save_checkpoint(tmp_path, 8, {"ac/x": torch.zeros(2)}, {}, 2)
    (folder / "state.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    data = (folder / "state.safetensors").read_bytes()
    manifest["files"]["state.safetensors"] = {
        "bytes": len(data),
        "sha256": __import__("hashlib").sha256(data).hexdigest(),
    }
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    checkpoint.verify(folder)
    for load in (checkpoint.load_checkpoint, load_policy):
        with pytest.raises(ValueError):
            load(folder)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"obs_shape": [2**32, 2**32]},  # whose product is 0 in 64 bits
        {"network": "mario", "obs_shape": [4, 2**31, 2**31]},
        {"obs_shape": [1] * 40},
        {"obs_shape": [4.0]},
        {"obs_shape": [True, 4]},
        {"obs_shape": [1024, 1024], "num_actions": 4096},  # allowed sizes, but not the file's
        {"network": "nature", "obs_shape": [4, 3, 3]},  # too small for its convolutions
        {"network": "impala", "obs_shape": [1, 1024, 1024]},
        {"network": ["mlp"]},
        {"num_actions": 10**18},
        {"num_actions": "7"},
        {"num_actions": True},
    ],
)
def test_sizes_are_refused_before_anything_is_allocated(echo, changes):
    """Whatever sizes policy.json claims, the answer is one error, and memory hardly grows."""
    edit(echo, **changes)
    before = peak_mb()
    with pytest.raises(BadPolicy):
        load_policy(echo)
    assert peak_mb() - before < 50


def test_crafted_tensor_files_are_refused(echo):
    """A header with 10^12 elements, another type, unknown, missing or twice used tensors, cut data: one error each."""
    shapes = {name: list(p.shape) for name, p in load_policy(echo).ac.state_dict().items()}
    good, end = {}, 0
    for name, shape in shapes.items():
        good[name] = ("F32", shape, [end, end + 4 * int(np.prod(shape))])
        end += 4 * int(np.prod(shape))
    first = next(iter(good))
    crafted = [
        ({"x": ("F32", [10**6, 10**6], [0, 4 * 10**12])}, b""),
        ({"x": ("F32", [10**12], [0, 4])}, b"1234"),
        ({n: ("I32", s, o) for n, (_, s, o) in good.items()}, bytes(end)),
        ({n: ("I32" if n == first else "F32", s, o) for n, (_, s, o) in good.items()}, bytes(end)),
        (good | {"extra": ("F32", [1], [end, end + 4])}, bytes(end + 4)),
        ({n: v for n, v in good.items() if n != list(good)[-1]}, bytes(good[list(good)[-1]][2][0])),
        ({n: ("F32", s, [0, o[1] - o[0]]) for n, (_, s, o) in good.items()}, bytes(end)),
        (good, bytes(end - 4)),
    ]
    before = peak_mb()
    for tensors, data in crafted:
        craft(echo, tensors, data)
        with pytest.raises(BadPolicy):
            load_policy(echo)
    assert peak_mb() - before < 50


def test_weights_that_are_not_finite_are_refused(echo):
    """NaN in a file does not become a policy."""
    ac = load_policy(echo).ac
    with torch.no_grad():
        next(ac.parameters())[0, 0] = float("nan")
    save_policy(echo, ac, INFO)
    with pytest.raises(BadPolicy, match="not finite"):
        load_policy(echo)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 1', "\xff", '{"format": NaN}', " " * (2 << 20)])
def test_hostile_json_is_refused(echo, text):
    """Deeply nested, cut, foreign or huge: one error."""
    (echo / "policy.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadPolicy):
        load_policy(echo)


def test_devices_and_pipes_are_not_read(echo):
    """A link to an endless device in a shared folder neither hangs nor fills the memory."""
    for name in ("policy.json", "policy.safetensors"):
        kept = (echo / name).read_bytes()
        (echo / name).unlink()
        (echo / name).symlink_to("/dev/zero")
        with pytest.raises(BadPolicy, match="no such file"):
            load_policy(echo)
        (echo / name).unlink()
        (echo / name).write_bytes(kept)


def test_an_environment_id_in_a_file_imports_no_module(echo, tmp_path, monkeypatch):
    """Gymnasium would import what stands in front of a colon."""
    (tmp_path / "evil.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'marker')!r}).touch()")
    monkeypatch.syspath_prepend(str(tmp_path))
    edit(echo, env="evil:CartPole-v1")
    with pytest.raises(BadPolicy, match="names a module"):
        environment(load_policy(echo))
    assert not (tmp_path / "marker").exists()


def test_paths_and_unknown_options_in_a_file_are_ignored(mario):
    """Only the options that shape what the policy sees and does are taken over; nothing is written anywhere."""
    spec = {
        "options": {
            "actions": "simple",
            "start_states": "/etc/passwd",
            "output_dir": "/etc",
            "reward": "os:system",
            "threads": 10**9,
            "emulator": "evil",
        },
        "preprocess_version": 1,
    }
    edit(mario, spec=spec, output_dir="/etc", data_dir="/etc")
    env_id, options = environment(load_policy(mario))
    assert (env_id, options) == ("SuperMarioBros-1-1-v0", {"actions": "simple"})


@pytest.mark.parametrize("options", [{"skip": 10**9}, {"stack": 10**9}, {"actions": [["right"]] * 2}, {"crop_hud": 3}])
def test_options_out_of_range_are_refused(mario, options):
    """Options in a file are checked like those of the command line."""
    edit(mario, spec={"options": options, "preprocess_version": 1})
    with pytest.raises(BadPolicy):
        environment(load_policy(mario))


def test_a_policy_for_other_spaces_is_refused_with_both(mario, echo):
    """Observations and number of actions must be the environment's."""
    env = make_vec("Echo-v0", 1, 0)
    with pytest.raises(BadPolicy, match=r"shows \[4\], the policy takes \[4, 84, 84\]"):
        load_policy(mario).check_spaces(env.single_observation_space, env.single_action_space)
    load_policy(echo).check_spaces(env.single_observation_space, env.single_action_space)


def test_a_network_of_ones_own_is_never_imported_for_a_file(tmp_path, monkeypatch, capsys):
    """Refused in one line that says how; evaluated, exported and a start for runs once the user gives the same name."""
    tiny = {"env": "Echo-v0", "num_envs": 4, "steps_per_epoch": 128, "minibatch_size": 128, "epochs": 1}
    name = "tests.test_library:my_network"
    cfg = build(**tiny, network=name, exp_name="own", data_dir=str(tmp_path))
    train(cfg)
    run, out = str(cfg.run_dir), str(tmp_path / "out")
    for command in (evaluate.main, play.main, export.main):
        rest = {export.main: ["--out", out], play.main: ["--gif", str(tmp_path / "x.gif")], evaluate.main: []}[command]
        assert command([run, *rest]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f"if you trust it, add --network {name}" in said
        assert command([run, *rest, "--network", "os:system"]) == 2
        assert "network: 'os:system' given, the policy's is" in capsys.readouterr().err
    assert export.main([run, "--out", out, "--check-steps", "8", "--with-critic", "--network", name]) == 0
    card = (Path(out) / "README.md").read_text()
    assert f"`python -m scripts.play FOLDER --network {name}` shows it" in card
    assert evaluate.main([out, "--episodes", "2", "--jobs", "1", "--network", name]) == 0
    again = build(**tiny, init_from=out, network=name, exp_name="again", data_dir=str(tmp_path))
    train(again)
    plain = build(**tiny, init_from=out, exp_name="plain", data_dir=str(tmp_path))
    with pytest.raises(Refused, match=f"add --network {name}"):
        train(plain)
    monkeypatch.setattr("ppo.policy.find_network", None)  # whatever a file names, nothing is looked for
    info = json.loads(Path(out, "policy.json").read_text())
    Path(out, "policy.json").write_text(json.dumps(info | {"network": "antigravity:fly"}))
    with pytest.raises(BadPolicy, match="names a module to import"):
        load_policy(Path(out))
