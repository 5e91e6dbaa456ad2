"""Watching and playing: what is shown is what happened, every frame of it, and bad input is one line."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from envs.mario.actions import BUTTONS
from ppo.evaluate import evaluate
from ppo.networks import ActorCritic
from ppo.policy import save_policy
from scripts import play
from tests.conftest import ROOT, run
from utils import video

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
MARIO = {
    "env": "SuperMarioBros-1-1-v0",
    "spec": {"options": {"actions": "simple"}, "preprocess_version": 1},
    "network": "mario",
    "obs_shape": [4, 84, 84],
    "num_actions": 7,
}


@pytest.fixture
def mario(tmp_path):
    """A policy for Mario with random weights."""
    save_policy(tmp_path / "mario", ActorCritic("mario", (4, 84, 84), 7, "orthogonal", 0), MARIO)
    return str(tmp_path / "mario")


def frames(path):
    """Return the frames of a video, (N, H, W, 3) uint8, and its rate."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return np.stack([np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in reader]), meta["fps"]


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_a_video_holds_every_frame(mario, tmp_path, capsys, suffix):
    """30 decisions of 4 frames are 120 pictures at 60 Hz; Mario starts at the left and the pictures change."""
    path = tmp_path / f"v.{suffix}"
    assert play.main([mario, "--video", str(path), "--scale", "1", "--max-episode-steps", "30"]) == 0
    pictures, fps = frames(path)
    assert pictures.shape == (120, 240, 256, 3) and fps == 60
    assert np.abs(pictures[0, 40, 200] - np.array([104, 136, 252])).max() < 12  # the sky of the native palette
    changed = [(a != b).any() for a, b in zip(pictures[60:], pictures[61:], strict=False)]
    assert np.mean(changed) > 0.5
    assert "120 frames" in capsys.readouterr().out


def test_the_first_episode_is_that_of_evaluate(mario, tmp_path, capsys):
    """Same seed, same policy: play and evaluate tell of the same episode."""
    wanted = {"max_episode_steps": 50, "start_frames": 20, "start_mode": "random", "sticky": 0.2}
    flags = "--max-episode-steps 50 --start-frames 20 --start-mode random --sticky 0.2 --seed 5".split()
    assert play.main([mario, "--gif", str(tmp_path / "x.gif"), *flags]) == 0
    record = evaluate(tmp_path / "mario", 1, seed=5, num_envs=1, **wanted)[0]
    expected = f"return {record['ep_ret']:.0f}, {record['ep_len']} steps, furthest x {record['x_max']}"
    assert expected in capsys.readouterr().out


def test_a_gif_keeps_the_time(mario, tmp_path):
    """60 pictures of a second become 20 of 50 ms."""
    path = tmp_path / "x.gif"
    assert play.main(["--random", "--gif", str(path), "--scale", "1", "--max-episode-steps", "15"]) == 0
    image = Image.open(path)
    total = 0
    for i in range(image.n_frames):
        image.seek(i)
        total += image.info["duration"]
    assert total == 1000 and image.size == (256, 240)


def test_overlay_shows_beside_the_picture(mario, tmp_path):
    """The panel is to the right, in both files the game's part is untouched."""
    flags = [mario, "--scale", "1", "--max-episode-steps", "5"]
    assert play.main([*flags, "--video", str(tmp_path / "a.mp4")]) == 0
    assert play.main([*flags, "--video", str(tmp_path / "b.mp4"), "--overlay"]) == 0
    plain, with_panel = frames(tmp_path / "a.mp4")[0], frames(tmp_path / "b.mp4")[0]
    assert with_panel.shape == (20, 240, 256 + video.PANEL, 3)
    assert np.abs(plain[10, :, :240].astype(int) - with_panel[10, :, :240]).mean() < 2
    assert with_panel[10, :, 260:].max() > 150


def test_the_panel_has_room_for_twelve_actions():
    """A bar is drawn for each of the twelve, the chosen one in its own colour."""
    panel = video.draw_panel([f"a{i}" for i in range(12)], [1.0] * 12, 3, -1.5, 240, 1)
    assert panel.shape == (240, video.PANEL, 3)
    column = [tuple(pixel) for pixel in panel[:, video.PANEL - 10].tolist()]
    starts = [colour for before, colour in zip(column, column[1:], strict=False) if colour != before]
    assert starts.count((120, 160, 220)) == 11 and starts.count((255, 176, 0)) == 1


def test_half_blocks_are_two_pixels_each():
    """Red above blue is one character with red as its colour on blue."""
    picture = np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8)
    assert video.half_blocks(picture, 1, 1) == "\x1b[38;2;255;0;0;48;2;0;0;255m\u2580\x1b[0m\x1b[K"
    lines = video.half_blocks(np.zeros((240, 256, 3), np.uint8), 80, 24).split("\n")
    assert len(lines) == 24 and max(line.count("\u2580") for line in lines) <= 80


def test_the_terminal_is_given_back(mario, capsys):
    """The cursor is hidden while it draws and shown at the end; the caption names the action."""
    assert play.main([mario, "--terminal", "--speed", "0", "--max-episode-steps", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("\x1b[?25l") and out.rstrip().endswith("\x1b[?25h") and "value" in out


def test_the_clock_keeps_the_rate():
    """Thirty waits at 300 Hz take a tenth of a second, and no time is owed after a long delay."""
    clock, begun = video.Clock(300), time.monotonic()
    for _ in range(30):
        clock.wait()
    assert 0.09 < time.monotonic() - begun < 1.0
    assert video.Clock(0).wait() is None


@pytest.mark.reference
def test_a_recording_is_replayed_exactly(tmp_path, capsys):
    """The buttons of a recording lead to the recorded state on both emulators; another button does not."""
    buttons = bytes(
        [BUTTONS["right"] | BUTTONS["B"] * (i % 50 > 10) | BUTTONS["A"] * (i % 40 < 20) for i in range(150)]
    )
    console = play.build_console("SuperMarioBros-1-1-v0", "native")
    show = type("Nothing", (), {"window": None, "viewers": [], "show": lambda self, picture: None})()
    pressed, given = bytearray(), iter(buttons)
    play.play_console(console, lambda: next(given, None), pressed, show)
    facts = {"format": 1, "env": "SuperMarioBros-1-1-v0", "emulator": "native", "episodes": [pressed.hex()]}
    path = tmp_path / "r.json"
    path.write_text(json.dumps(facts | {"checks": [zlib.crc32(console.ram.tobytes())]}))
    for emulator in ("native", "nes-py"):
        video_file = str(tmp_path / "r.gif")
        assert play.main(["--replay", str(path), "--gif", video_file, "--emulator", emulator, "--scale", "1"]) == 0
    other = bytes(150).hex()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"episodes": [other]}))
    assert play.main(["--replay", str(path), "--gif", str(tmp_path / "r.gif")]) == 2
    assert "ended in another state" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected one of: a policy"),
        (["--random", "--human"], "expected one of"),
        (["--random", "--video", "x.avi"], "must end in .mp4 or .webm"),
        (["--random", "--video", "nowhere/x.mp4"], "cannot be written"),
        (["--random", "--overlay"], "only with a policy"),
        (["--random", "--speed", "-1"], "--speed"),
        (["--random", "--episodes", "0"], "--episodes"),
        (["--random", "--env", "Echo-v0", "--gif", "x.gif"], "has no pictures"),
        (["--random", "--env", "tests.hostile:Changing-v0", "--gif", "x.gif"], "has no pictures: it has no render()"),
        (["--random", "--video", "x.gif"], "or --gif instead"),
        (["--random", "--env", "SuperMarioBros-9-9-v0", "--gif", "x.gif"], "unknown id"),
        (["--human", "--env", "CartPole-v1"], "cannot be played with a keyboard"),
        (["--human", "--env", "SuperMarioBrosRandomStages-v0"], "draws its stages"),
        (["run", "--follow", "--checkpoint", "614400", "--gif", "x.gif", "--episodes", "1"], "expected best or last"),
        (["--replay", "nowhere.json"], "no such file"),
        (["nowhere", "--gif", "x.gif"], "no policy found"),
    ],
)
def test_bad_input_is_one_line(flags, message, capsys, monkeypatch, tmp_path):
    """Code 2, one line, and no file."""
    monkeypatch.chdir(tmp_path)
    assert play.main(flags) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and message in err[0]
    assert not list(tmp_path.iterdir())


def test_without_a_display_the_window_says_so(capsys, monkeypatch):
    """One line that names the other ways to watch."""
    pytest.importorskip("pyglet")
    monkeypatch.delenv("DISPLAY", raising=False)
    code = "import sys; from scripts.play import main; sys.exit(main(['--random']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "--video FILE or --terminal" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_imageio_ffmpeg_is_optional(monkeypatch, tmp_path, capsys):
    """Without it, --video says what to install."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert play.main(["--random", "--video", str(tmp_path / "x.mp4")]) == 2
    assert "pip install imageio-ffmpeg" in capsys.readouterr().err


def test_terminal_needs_no_real_terminal():
    """Any text stream will do."""
    out = io.StringIO()
    terminal = video.Terminal(out)
    terminal.show(np.zeros((4, 4, 3), np.uint8), "caption")
    terminal.close()
    assert "caption" in out.getvalue()


@pytest.mark.slow
def test_a_window_takes_real_keys(tmp_path):
    """Under a virtual display: keys that are held reach the console, Esc ends, the recording is replayed exactly."""
    if not (shutil.which("Xvfb") and shutil.which("xdotool")):
        pytest.skip("needs Xvfb and xdotool")
    display = f":{os.getpid() % 1000 + 100}"
    server = subprocess.Popen(["Xvfb", display, "-screen", "0", "640x560x24"], stderr=subprocess.DEVNULL)
    env, record = os.environ | {"DISPLAY": display}, tmp_path / "r.json"

    def key(*words):
        subprocess.run(["xdotool", *words], env=env, check=True, stdout=subprocess.DEVNULL)

    try:
        time.sleep(1)
        command = [sys.executable, "-m", "scripts.play", "--human", "--record", str(record)]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
        key("search", "--sync", "--name", "SuperMario", "windowfocus")
        time.sleep(1)
        key("keydown", "Right", "keydown", "z")
        time.sleep(1)
        key("keyup", "Right", "keyup", "z", "key", "Escape")
        assert process.wait(timeout=20) == 0
    finally:
        server.terminate()
        server.wait()
    pressed = bytes.fromhex(json.loads(record.read_text())["episodes"][0])
    assert pressed.count(BUTTONS["right"] | BUTTONS["B"]) > 10
    assert play.main(["--replay", str(record), "--gif", str(tmp_path / "x.gif")]) == 0


UNDRAWN = """
import gymnasium


class Undrawn(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, seed=None, options=None):
        return self.observation_space.low, {}

    def step(self, act):
        return self.observation_space.low, 0.0, True, False, {}

    def render(self):
        raise RuntimeError("no OpenGL here")


gymnasium.register("Undrawn-v0", Undrawn)
"""


def test_what_a_simulator_cannot_draw_is_one_line(tmp_path, monkeypatch, capsys):
    """Whatever it raises: a graphics library that is missing is no traceback."""
    (tmp_path / "undrawn.py").write_text(UNDRAWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "x.gif"
    assert play.main(["--random", "--env", "undrawn:Undrawn-v0", "--gif", str(out)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "scripts.play: error: env: undrawn:Undrawn-v0 cannot be drawn: no OpenGL here"
    ]
    assert not out.exists()


def test_an_environment_may_have_a_watch_of_its_own(tmp_path, monkeypatch):
    """What a user's wrapper calls so is no emulator's: it is drawn once per step."""
    wrapper = "def wrapped(env):\n    return type('Kept', (gymnasium.Wrapper,), {'watch': 1})(env)\n"
    drawn = UNDRAWN.replace('raise RuntimeError("no OpenGL here")', "return numpy.zeros((8, 8, 3), numpy.uint8)")
    (tmp_path / "drawn.py").write_text("import numpy\n" + drawn.replace("Undrawn", "Drawn") + wrapper)
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "x.gif"
    flags = ["--env", "drawn:Drawn-v0", "--wrapper", "drawn:wrapped", "--episodes", "3", "--gif", str(out)]
    assert play.main(["--random", *flags]) == 0
    assert out.exists()


@pytest.mark.parametrize(
    ("env", "needs"), [("CartPole-v1", "pygame"), ("LunarLander-v3", "Box2D"), ("HalfCheetah-v5", "mujoco")]
)
def test_gymnasiums_environments_are_drawn_without_a_display(env, needs, tmp_path):
    """In a process of its own, as the graphics library is chosen once: a picture per step, and no complaint."""
    pytest.importorskip(needs, reason="needs the extra classic, box2d or mujoco")
    out = tmp_path / "x.gif"
    args = ["-m", "scripts.play", "--random", "--env", env, "--max-episode-steps", "5", "--gif", str(out)]
    done = run(args, env={"DISPLAY": "", "WAYLAND_DISPLAY": ""})
    assert done.code == 0 and done.out.endswith(f"{out}: 5 frames\n") and "error" not in done.err, done.err
