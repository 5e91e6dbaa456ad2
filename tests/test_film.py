"""Videos while it trains, and the newest policy of a running training."""

import io

import numpy as np
import pytest
from PIL import Image

from ppo import config
from ppo.networks import ActorCritic
from ppo.policy import save_policy
from ppo.run import train
from scripts import play
from tests.conftest import run
from tests.same_logs import rows, tensors
from tests.test_play import MARIO, frames
from utils.folder import Refused

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
TINY = {"num_envs": 4, "steps_per_epoch": 64, "minibatch_size": 64, "epochs": 2, "max_episode_steps": 20}


def test_a_video_changes_nothing_but_the_folder(tmp_path):
    """The same rows, weights and environments with and without; one film after each epoch that asks for one."""
    films = train(config.build(**TINY, video_every=1, data_dir=str(tmp_path / "films")))
    plain = train(config.build(**TINY, data_dir=str(tmp_path / "plain")))
    assert rows(films) == rows(plain) and tensors(films) == tensors(plain)
    assert sorted(path.name for path in (films / "videos").iterdir()) == ["epoch_00001.mp4", "epoch_00002.mp4"]
    pictures, fps = frames(films / "videos" / "epoch_00002.mp4")
    assert pictures.shape[1:] == (240, 256, 3) and fps == 60 and 4 < len(pictures) <= 80
    assert list((plain / "videos").iterdir()) == []


@pytest.mark.mpi
def test_ranks_wait_for_the_video_and_go_on(tmp_path):
    """Longer than a rank may stand still; only one of them writes."""
    flags = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    args = ["-m", "ppo.run", *flags, "--video-every", "2", "--data-dir", str(tmp_path)]
    done = run(args, ranks=2, env={"PPO_CHECK_COLLECTIVES": "1"})
    assert done.code == 0 and done.out.count("writing a video") == 1, done.err
    assert len(list(tmp_path.glob("*/*/videos/*"))) == 1


def test_a_video_that_can_never_be_made_is_refused(tmp_path):
    """Echo has no pictures: nothing is written."""
    with pytest.raises(Refused, match="video-every: env: Echo-v0 has no pictures"):
        train(config.build(env="Echo-v0", epochs=2, video_every=2, data_dir=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_breaks_off_leaves_no_file(tmp_path, capsys, monkeypatch):
    """ffmpeg ends in the middle of it, as on a full disk: neither the film nor a part of it stays."""

    def breaks(self, picture, caption):
        shown(self, picture, caption)
        raise BrokenPipeError(32, "Broken pipe")

    shown = play.video.VideoFile.show
    monkeypatch.setattr(play.video.VideoFile, "show", breaks)
    folder = train(config.build(**TINY, video_every=2, data_dir=str(tmp_path)))
    assert list((folder / "videos").iterdir()) == [] and "BrokenPipeError" in capsys.readouterr().out


def policy(folder, steps):
    """Write a policy of Mario with random weights, made in so many steps."""
    save_policy(folder, ActorCritic("mario", (4, 84, 84), 7, "orthogonal", steps), MARIO | {"steps": steps})


def test_a_film_becomes_a_gif(tmp_path):
    """Ten pictures a second of twenty, with the film's own size, or 320 pixels wide where it is wider."""
    for width, shown in ((64, (64, 48)), (640, (320, 24))):
        film = play.video.VideoFile(tmp_path / "film.mp4", fps=20)
        for i in range(40):
            film.show(np.full((48, width, 3), 6 * i, dtype=np.uint8), "")
        film.close()
        gif, *size = play.video.to_gif(film.path)
        with Image.open(io.BytesIO(gif)) as image:
            assert tuple(size) == image.size == shown and image.format == "GIF" and image.n_frames == 20


def test_the_policy_of_a_running_training_is_read_again_between_episodes(tmp_path, monkeypatch, capsys):
    """Two episodes: the first with the policy that was there, the second with what came while it was played."""
    (tmp_path / "config.json").write_text("{}")
    policy(tmp_path / "policy" / "last", 100)
    call, calls = play.Follower.__call__, []

    def newest(self):
        if calls:
            policy(tmp_path / "policy" / "last", 200)
        calls.append(call(self))
        return calls[-1]

    monkeypatch.setattr(play.Follower, "__call__", newest)
    flags = ["--follow", "--episodes", "2", "--gif", str(tmp_path / "x.gif"), "--max-episode-steps", "3"]
    assert play.main([str(tmp_path), *flags]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "episode" in line]
    assert [line.split(":")[0] for line in said] == ["after 100 steps", "after 200 steps"]


def test_what_cannot_be_followed_is_said_at_once(tmp_path, capsys):
    """No run folder, and a file without an end."""
    for flags, words in (([str(tmp_path)], "no run folder"), ([str(tmp_path), "--gif", "x.gif"], "has no end")):
        assert play.main([*flags, "--follow"]) == 2
        assert words in capsys.readouterr().err
