"""The native emulator and environments: equal to nes-py, whole states, clear errors.

The long form of the first tests is `python -m tests.identity`.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest

import envs
from envs import checks
from envs.mario import native, stages
from envs.mario.emulator import Cartridge, Emulator
from envs.mario.native_game import NativeBackend
from envs.mario.native_vector import read_states, write_states
from envs.mario.preprocess import Preprocess
from tests import identity, programs

ROMS = [f"SuperMarioBros{lost}-v{v}" for lost, count in (("", 4), ("2", 2)) for v in range(count)]


def rom(env_id: str = "SuperMarioBros-v0"):
    game = stages.parse(env_id)
    assert game is not None
    return stages.rom_path(game)


def agree(task: identity.Task, seed: int = 0) -> None:
    for frame, (wanted, shown) in enumerate(identity.play_task(task, seed, True, True)):
        assert wanted == shown, f"{task} differs in frame {frame}"


@pytest.mark.reference
@pytest.mark.parametrize("env_id", ROMS)
def test_frames_equal_nes_py(env_id):
    """RAM and pixels equal nes-py's after every frame, whatever is pressed, reset or restored, on all six ROMs."""
    agree(identity.Task(env_id, "raw", 200))


@pytest.mark.reference
@pytest.mark.parametrize(
    ("env_id", "kind"),
    [("SuperMarioBros-1-1-v0", "skilled"), ("SuperMarioBros-2-2-v0", "any"), ("SuperMarioBros-8-4-v1", "right")]
    + [("SuperMarioBros-v0", "right"), ("SuperMarioBros2-4-1-v0", "right")],
)
def test_rules_equal_gym_super_mario_bros(env_id, kind):
    """RAM, pixels, reward, end and info equal gym-super-mario-bros' after every frame."""
    agree(identity.Task(env_id, kind, 250))


def two_cores(cartridge, monkeypatch):
    """Two consoles with one game: one that translates the program, and one that interprets it."""
    translating = Emulator(cartridge)
    monkeypatch.setenv("NES_TRANSLATE", "0")
    interpreting = Emulator(cartridge)
    monkeypatch.delenv("NES_TRANSLATE")
    if not translating.cartridge.translates:
        pytest.skip("this machine has no translator")
    assert not interpreting.cartridge.translates
    return translating, interpreting


@pytest.mark.parametrize("env_id", ROMS)
def test_translated_games_equal_interpreted_ones(env_id, monkeypatch):
    """The whole state is the same after every frame, whatever is pressed."""
    one, other = two_cores(rom(env_id), monkeypatch)
    rng = np.random.default_rng(3)
    for frame in range(800):
        buttons = (8 if frame % 40 < 4 else 0) if frame < 200 else int(rng.choice([130, 131, 129, rng.integers(256)]))
        one.step(buttons, draw=frame % 3 > 0)
        other.step(buttons, draw=frame % 3 > 0)
        assert np.array_equal(one.ram, other.ram) and (frame % 20 or one.save() == other.save()), frame


def test_a_forked_process_leaves_the_translated_code_alone():
    """Parent and child go on from the same moment in different ways, and neither disturbs the other."""
    one, other = Emulator(rom()), Emulator(rom("SuperMarioBros-v0"))
    pid = os.fork()
    if pid == 0:
        for frame in range(300):
            one.step(8 if frame % 40 < 4 else 130)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    for _ in range(300):
        one.step(130)
        other.step(130)
        assert np.array_equal(one.ram, other.ram)


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(1000), marks=pytest.mark.slow)])
def test_translated_nonsense_equals_interpreted_nonsense(seeds, monkeypatch):
    """Random instructions, documented or not, with addresses of every kind: the same state after each frame."""
    for seed in seeds:
        one, other = two_cores(programs.nonsense(seed), monkeypatch)
        for frame in range(6):
            one.step(seed & 255)
            other.step(seed & 255)
            assert one.save() == other.save(), (seed, frame)


@pytest.mark.reference
@pytest.mark.parametrize("seeds", [[*range(8), 113], pytest.param(range(1000), marks=pytest.mark.slow)])
def test_random_programs_equal_nes_py(seeds, tmp_path):
    """Programs that use the picture unit as no game does show the same on both, drawn or not."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        data = programs.cartridge(rng)
        (tmp_path / "program.nes").write_bytes(data)
        nespy, emulator, undrawn = identity.RawNesPy(str(tmp_path / "program.nes")), Emulator(data), Emulator(data)
        nespy.reset()
        for frame, byte in enumerate(rng.integers(256, size=10).tolist()):
            nespy.step(byte)
            emulator.step(byte)
            undrawn.step(byte, draw=frame % 4 == 3)
            assert np.array_equal(nespy.ram, emulator.ram), f"program {seed}: RAM in frame {frame}"
            assert np.array_equal(undrawn.ram, emulator.ram), f"program {seed}: RAM when not drawn, frame {frame}"
            assert np.array_equal(nespy.screen[:, :, 2::-1], emulator.screen), (
                f"program {seed}: pixels in frame {frame}"
            )
            assert frame % 4 != 3 or np.array_equal(undrawn.indices, emulator.indices)
        nespy.close()


@pytest.mark.reference
def test_nes_py_is_undefined_where_a_colour_is_above_63(tmp_path):
    """It reads past its table of 64 colours then, so its pixels are whatever is there; the console, and this core,
    use the low six bits. The games never write such a byte: the random programs above stay below 64 as well."""
    shown = {}
    for colour in (*range(64), 64, 65, 100, 200, 255):
        data = programs.backdrop(colour)
        (tmp_path / "program.nes").write_bytes(data)
        nespy, emulator = identity.RawNesPy(str(tmp_path / "program.nes")), Emulator(data)
        nespy.reset()
        for _ in range(4):
            nespy.step(0)
            emulator.step(0)
        shown[colour] = (nespy.screen[100, 100].tolist(), emulator.screen[100, 100].tolist())
        nespy.close()
    assert all(shown[colour][0] == [*shown[colour][1][::-1], 0] for colour in range(64))
    real = [shown[colour][0] for colour in range(64)]
    assert any(shown[colour][0] not in real for colour in (64, 65, 100, 200, 255))
    assert all(shown[colour][1] == shown[colour & 63][1] for colour in (64, 65, 100, 200, 255))


@pytest.mark.reference
@pytest.mark.slow
def test_many_frames_equal_nes_py():
    """The same over 100,000 frames of all stages and kinds of players."""
    for number, task in enumerate(identity.tasks(100_000)):
        agree(task, number)


def test_undrawn_frames_change_nothing_else():
    """A drawn frame is the same whether the frames before it were drawn, and so is RAM."""
    drawn, undrawn = Emulator(rom()), Emulator(rom())
    for frame, byte in enumerate(identity.any_buttons(np.random.default_rng(0), 3000)):
        byte = 8 if frame in (40, 60) else byte
        drawn.step(byte)
        undrawn.step(byte, draw=frame % 7 == 0)
        assert np.array_equal(drawn.ram, undrawn.ram)
        assert frame % 7 or np.array_equal(drawn.indices, undrawn.indices)


def test_a_state_restores_exactly_in_another_process(tmp_path):
    """A saved state goes on in another process as in this one."""
    emulator = Emulator(rom())
    for frame in range(300):
        emulator.step(8 if frame in (40, 60) else 131)
    (tmp_path / "state").write_bytes(emulator.save())
    code = f"""
from envs.mario.emulator import Emulator
emulator = Emulator({str(rom())!r})
emulator.load(open({str(tmp_path / "state")!r}, "rb").read())
for _ in range(100): emulator.step(130)
open({str(tmp_path / "later")!r}, "wb").write(emulator.save())
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    for _ in range(100):
        emulator.step(130)
    assert (tmp_path / "later").read_bytes() == emulator.save()


def test_bad_states_are_refused_and_change_nothing():
    """Damaged, cut, foreign states, and states of another version or ROM are one ValueError each."""
    emulator = Emulator(rom())
    for _ in range(50):
        emulator.step()
    state = emulator.save()
    damaged = bytearray(state)
    damaged[len(state) // 2] ^= 4
    other = Emulator(rom("SuperMarioBros2-v0")).save()
    version = state[:4] + b"\xff" + state[5:]
    for bad in (b"", b"NES", state[:-1], state[:20], bytes(damaged), other, version, b"x" * 100):
        with pytest.raises(ValueError, match="^state: "):
            emulator.load(bad)
    assert emulator.save() == state


def test_impossible_registers_are_refused():
    """A state whose checksum is right but whose numbers no console has is refused."""
    emulator = Emulator(rom())
    core, size = native.library(), emulator._state_size
    raw = ctypes.create_string_buffer(size)
    core.machine_save(emulator._address, raw, size)
    for at, value in ((2051, 127), (2048 + 12, 9), (2048 + 29, 200), (size - 1, 64)):
        bad = bytearray(raw.raw)
        bad[at] = value
        with pytest.raises(ValueError, match="^state: "):
            native.checked("machine_load", emulator._address, bytes(bad), size, True)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda data: b"", "iNES"),
        (lambda data: b"ABCD" + data[4:], "iNES"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: data[:16], "truncated"),
        (lambda data: data[:6] + b"\x11" + data[7:], "mapper 1"),
        (lambda data: data[:9] + b"\x01" + data[10:], "PAL"),
        (lambda data: data[:4] + b"\x09" + data[5:], "program banks"),
        (lambda data: data[:5] + b"\x00" + data[6:], "character banks"),
        (lambda data: data[:6] + b"\x05" + data[7:], "trainer"),
    ],
)
def test_bad_roms_are_refused(change, word):
    """What is no NTSC NROM file is one ValueError that says why."""
    with pytest.raises(ValueError, match=word) as caught:
        Emulator(change(rom().read_bytes()))
    assert "\n" not in str(caught.value)


def test_buttons_outside_a_byte_are_refused():
    """Buttons are a byte."""
    for bad in (-1, 256):
        with pytest.raises(ValueError, match="0..255"):
            Emulator(rom()).step(bad)


def test_arrays_outlive_their_emulator():
    """The memory of a console stays as long as an array looks into it."""
    emulator = Emulator(rom())
    emulator.step()
    ram = emulator.ram
    copy = ram.copy()
    del emulator
    gc.collect()
    assert np.array_equal(ram, copy)


def test_instances_are_independent_across_threads():
    """Four consoles in four threads do what one does alone."""
    cartridge = Cartridge(rom())
    results = [b""] * 4

    def work(i: int) -> None:
        emulator = Emulator(cartridge)
        for byte in identity.any_buttons(np.random.default_rng(i % 2), 1500):
            emulator.step(byte)
        results[i] = emulator.save()

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results[0] == results[2] and results[1] == results[3] and results[0] != results[1]


def both(env_id: str, steps: int, num_envs: int = 2, **options) -> None:
    """Check that the native vector equals the Python one over nes-py, step by step."""
    make = {name: envs.make_vec(env_id, num_envs, 3, emulator=name, **options) for name in ("native", "nes-py")}
    traces = {}
    for name, env in make.items():
        obs, infos = env.reset()
        traces[name] = [{"obs": obs.copy(), "infos": infos}]
        rng = np.random.default_rng(0)
        for _ in range(steps):
            right = np.where(rng.random(num_envs) < 0.5, 3, 4)
            actions = np.where(rng.random(num_envs) < 0.7, right, rng.integers(5, size=num_envs))
            obs, rewards, terminated, truncated, infos = env.step(actions)
            row = {
                "obs": obs.copy(),
                "rewards": rewards,
                "terminated": terminated,
                "truncated": truncated,
                "infos": infos,
            }
            traces[name].append(row)
        env.close()
    checks.compare(traces["native"], traces["nes-py"], f"{env_id}: the native vector differs")


@pytest.mark.reference
@pytest.mark.parametrize(
    ("env_id", "steps", "options"),
    [
        ("SuperMarioBros-1-1-v0", 60, {}),
        (
            "SuperMarioBros-1-2-v1",
            40,
            {"reward": "score-rules", "max_episode_steps": 15, "skip": 5, "start_frames": 10},
        ),
        ("SuperMarioBros-7-4-v0", 60, {"reward": "score-rules", "skip": 2, "actions": "complex", "crop_hud": True}),
        ("SuperMarioBros-v0", 80, {"reward": "score", "sticky": 0.25, "start_frames": 30, "start_mode": "random"}),
        ("SuperMarioBrosRandomStages-v2", 40, {"skip": 3, "stack": 2, "ram_info": ["player_x", "0x0009"]}),
    ],
)
def test_vector_equals_the_python_path_over_nes_py(env_id, steps, options):
    """Observations, rewards, flags, infos and records of episodes are the same, bit for bit."""
    both(env_id, steps, **options)


def put(memory, x):
    """Move Mario and both edges of the screen."""
    for (page, low), value in {(0x6D, 0x86): x, (0x71A, 0x71C): x - 100, (0x71B, 0x71D): x + 155}.items():
        memory[page], memory[low] = divmod(value, 256)


@pytest.mark.parametrize("reward", ["score-rules", "score-loops"])
@pytest.mark.parametrize(
    ("env_id", "x", "lost"),
    [
        *(("SuperMarioBros-1-2-v0", 2700, False), ("SuperMarioBros-1-2-v0", 2725, True)),
        *(("SuperMarioBros-4-2-v0", 3040, False), ("SuperMarioBros-4-2-v0", 3060, True)),
    ],
)
def test_the_native_rule_of_the_warp_zones(env_id, x, lost, reward):
    """Put past the last pipe under ground, Mario has lost by the native rule as by `rules._past_the_pipe`."""
    env = envs.make_vec(env_id, 1, 0, reward=reward)
    env.reset()
    put(env._rams[0], x)
    _, rewards, terminated, _, infos = env.step(np.array([0]))
    assert terminated[0] == lost and rewards[0] == (-5.0 if lost else 0.0)
    assert [record["cause"] for record in infos["episodes"]] == ["rule"] * lost
    env.close()


@pytest.mark.parametrize(("to", "area", "lost"), [(250, 0, True), (700, 0, False), (250, 1, False)])
def test_the_native_rule_of_loops(to, area, lost):
    """Moved back by 900 pixels Mario has lost, by 450 or into another area he has not."""
    env = envs.make_vec("SuperMarioBros-4-4-v0", 1, 0, reward="score-loops")
    env.reset()
    put(env._rams[0], 1150)
    assert not env.step(np.array([0]))[2][0]
    put(env._rams[0], to)
    env._rams[0][0xE7] += area
    _, _, terminated, _, infos = env.step(np.array([0]))
    assert terminated[0] == lost and [record["cause"] for record in infos["episodes"]] == ["rule"] * lost
    env.close()


@pytest.mark.parametrize(("to", "paid"), [(250, -90.0), (2700, 155.0)])
def test_the_native_rule_of_the_loops_of_8_4(to, paid):
    """The same ground is paid as by `rules.reward_score_loops`, and the episode goes on."""
    env = envs.make_vec("SuperMarioBros-8-4-v0", 1, 0, reward="score-loops")
    env.reset()
    put(env._rams[0], 1150)
    env.step(np.array([0]))
    put(env._rams[0], to)
    _, rewards, terminated, _, _ = env.step(np.array([0]))
    assert not terminated[0] and rewards[0] == pytest.approx(paid)
    env.close()


def make(env_id, options, num_envs, seed, first_index):
    return envs.make_vec(env_id, num_envs, seed, first_index=first_index, **options)


@pytest.mark.parametrize("options", [{}, {"threads": 2, "sticky": 0.25, "start_frames": 20, "skip": 6}])
def test_vector_contract(options):
    """The native vector keeps the contract of all families, states in a new object included."""
    env_id = "SuperMarioBrosRandomStages-v0" if options else "SuperMarioBros-1-1-v0"
    checks.check_vec_env(functools.partial(make, env_id, options), 120)


def test_a_python_reward_runs_on_the_native_core():
    """A user's reward function gets the same transitions on the native core as a built-in one computes natively."""
    vectors = [
        envs.make_vec("SuperMarioBros-1-1-v0", 1, 0, reward=name) for name in ("score", "envs.mario.rules:reward_score")
    ]
    for env in vectors:
        env.reset()
    for step in range(60):
        results = [env.step(np.array([step // 8 % 2 + 3])) for env in vectors]
        assert np.array_equal(results[0][0], results[1][0]) and np.array_equal(results[0][1], results[1][1])


def test_episodes_can_start_from_a_state(tmp_path):
    """reset(options={"state": ...}) and the option start_states begin where the state was taken, sums empty."""
    env = envs.make_vec("SuperMarioBros-1-1-v0", 2, 0, ram_info=["player_x"])
    env.reset()
    for step in range(40):
        infos = env.step(np.array([3, 4 if step % 9 else 3]))[-1]
    states = env.get_state()
    screens, seen = env.render(), env._obs.copy()
    obs, _ = env.reset(options={"state": states})
    assert all(np.array_equal(one, other) for one, other in zip(env.render(), screens, strict=True))
    assert np.array_equal(obs, seen) and env.episodes.ep_len.tolist() == [0, 0]
    write_states(tmp_path / "starts", states)
    assert read_states(tmp_path / "starts") == states
    practice = envs.make_vec(
        "SuperMarioBros-1-1-v0", 8, 1, start_states=str(tmp_path / "starts"), ram_info=["player_x"]
    )
    _, started = practice.reset()
    away = set(infos["player_x"].tolist())  # half of the episodes start there, the others at the stage's start
    assert away < set(started["player_x"].tolist()) and len(away | {40}) == len(set(started["player_x"].tolist()))
    everywhere = envs.make_vec(
        "SuperMarioBros-1-1-v0",
        8,
        1,
        start_states=str(tmp_path / "starts"),
        start_share=1.0,
        start_frames=30,
        ram_info=["player_x"],
    )
    _, started = everywhere.reset()
    assert set(started["player_x"].tolist()) == away  # and without start frames, in which he might die
    other = envs.make_vec("SuperMarioBros-1-1-v1", 1, 0)
    with pytest.raises(ValueError, match="ROM"):
        other.reset(options={"state": states[0]})
    other = envs.make_vec("SuperMarioBros-1-2-v0", 1, 0)
    with pytest.raises(ValueError, match=r"one of stage \(1, 1\), expected \(1, 2\)"):
        other.reset(options={"state": states[0]})
    assert envs.make_vec("SuperMarioBrosRandomStages-v0", 1, 0).reset(options={"state": states[0]})[0].any()
    (tmp_path / "starts").write_bytes((tmp_path / "starts").read_bytes()[:-3])
    with pytest.raises(ValueError, match="start_states"):
        envs.make_vec("SuperMarioBros-1-1-v0", 1, 0, start_states=str(tmp_path / "starts"))


def test_a_full_disk_leaves_the_states_that_were_there(tmp_path):
    """As `scripts.states --append` may meet it: an OSError, the old file whole, and nothing beside it."""
    env = envs.make_vec("SuperMarioBros-1-1-v0", 2, 0)
    env.reset()
    states, path = env.get_state(), tmp_path / "states"
    write_states(path, states)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            write_states(path, states * 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_states(path) == states and list(tmp_path.iterdir()) == [path]


def test_an_episode_from_a_state_sees_what_was_seen_before_it(tmp_path):
    """It begins with the saved frame stack, four different frames in mid-jump; with another crop, with equal ones."""
    options = {"start_states": str(tmp_path / "starts"), "start_share": 1.0}
    env = envs.make_vec("SuperMarioBros-1-1-v0", 1, 0)
    env.reset()
    for _ in range(12):
        obs = env.step(np.array([4]))[0].copy()
    assert len({frame.tobytes() for frame in obs[0]}) == 4
    write_states(tmp_path / "starts", env.get_state())
    first = envs.make_vec("SuperMarioBros-1-1-v0", 2, 1, **options)
    assert all(np.array_equal(frames, obs[0]) for frames in first.reset()[0])
    assert np.array_equal(first.step(np.array([4, 4]))[0][0], env.step(np.array([4]))[0][0])
    saved = first.get_state()
    first.step(np.array([4, 4]))
    assert np.array_equal(first.set_state(saved)[1, :3], obs[0, 1:])
    for other in ({"crop_hud": True}, {"stack": 2}, {"skip": 3}):
        equal = envs.make_vec("SuperMarioBros-1-1-v0", 1, 1, **options, **other).reset()[0]
        assert len({frame.tobytes() for frame in equal[0]}) == 1, other


def test_a_held_console_plays_the_same_frames_undrawn_and_goes_back():
    """hold(buttons, 4) is four steps, says how the episode ends, and load() is back where save() was."""
    game = stages.parse("SuperMarioBros-1-1-v0")
    held, stepped = NativeBackend(game, (1, 1)), NativeBackend(game, (1, 1))
    for number in range(60):
        byte = (130, 131, 128)[number % 3]
        assert held.hold(byte, 4) == 0
        for _ in range(4):
            stepped.step(byte)
        if number == 30:
            saved, ram = held.save(), stepped.ram.copy()
        assert np.array_equal(held.ram, stepped.ram) and held.judged == stepped.judged
    while not (ended := held.hold(128, 4)):
        pass
    assert ended == 1  # he runs into something
    held.load(saved)
    assert np.array_equal(held.ram, ram) and held.hold(130, 1) == 0
    for wrong in (b"", saved[:-1], saved + b"\0"):
        with pytest.raises(ValueError, match="state"):
            held.load(wrong)


def test_the_frames_before_an_episode_can_be_given():
    """reset(options={"start": bytes}) plays them, one controller byte each."""
    env = envs.make_vec("SuperMarioBros-1-1-v0", 1, 0, ram_info=["player_x"])
    infos = env.reset(options={"start": bytes([130] * 20)})[1]
    assert infos["player_x"][0] > 40 and env._reports["start_frames"][0] == 20
    assert env.reset()[1]["player_x"][0] == 40


def test_gray_equals_the_python_preprocessing():
    """The first observation is what preprocess.py makes of the screen, with and without the score line."""
    for crop in (False, True):
        env = envs.make_vec("SuperMarioBros-2-1-v0", 1, 0, crop_hud=crop)
        obs, _ = env.reset()
        bgra = np.dstack([env.render()[0][:, :, ::-1], np.zeros((240, 256), np.uint8)])
        assert np.array_equal(obs[0, 0], Preprocess(crop)(bgra))


def test_special_instructions_change_nothing():
    """Plain C++ and the processor's special instructions observe the same."""
    rng = np.random.default_rng(0)
    for top in (0, 32):
        screens = rng.integers(64, size=(2, 240, 256)).astype(np.uint8)
        results = np.zeros((2, 84, 84), np.uint8)
        for portable, result in enumerate(results):
            pointers = [array.ctypes.data for array in (*screens, result)]
            native.library().observe(*pointers[:2], top, bool(portable), pointers[2])
        assert np.array_equal(results[0], results[1])


def test_ten_thousand_resets_leak_nothing():
    """Memory does not grow with resets, nor with emulators made and thrown away."""
    env = envs.make_vec("SuperMarioBros-1-1-v0", 1, 0)
    cartridge = Cartridge(rom())

    def work(count: int) -> int:
        for _ in range(count):
            env._begin(0, 0)
            Emulator(cartridge).step(0, draw=False)
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = work(500)
    assert work(9_500) - before < 4096  # KiB; one emulator has 70


def test_no_simulator_package_is_imported():
    """The native environment runs without gym, gym_super_mario_bros and nes_py."""
    code = """
import sys, envs, numpy as np
env = envs.make_vec("SuperMarioBros-1-1-v0", 1, 0)
env.reset()
env.step(np.array([0]))
raise SystemExit(any(name in sys.modules for name in ("gym", "nes_py", "gym_super_mario_bros")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("env_id", "digest"),
    [
        ("SuperMarioBros-1-1-v0", "0baf6fb4e66ccea1"),
        ("SuperMarioBros-8-4-v0", "f37a72d936ad6f42"),
        ("SuperMarioBros2-v0", "dc46dd50095d2bc8"),
    ],
)
def test_every_python_and_numpy_plays_the_same(env_id, digest):
    """400 random decisions of four environments give the recorded SHA-256, without gym and nes-py imported.

    `python -m tests.trace ID` gave the same under Python 3.13 with numpy 2.5 and gym-super-mario-bros 9.1.0.
    """
    done = subprocess.run([sys.executable, "-m", "tests.trace", env_id], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [digest, "gym", "False", "nes_py", "False"]


def test_equal_consoles_have_equal_states():
    """A console that was restored stays equal, in every byte of its state, to one that has played all the time."""
    rng = np.random.default_rng(0)
    first = envs.make_vec("SuperMarioBros-1-1-v0", 8, 0, sticky=0.1, start_frames=20)
    first.reset()
    for _ in range(30):
        second = envs.make_vec("SuperMarioBros-1-1-v0", 8, 0, sticky=0.1, start_frames=20)
        second.set_state(first.get_state())
        for _ in range(10):
            actions = rng.integers(7, size=8)
            first.step(actions)
            second.step(actions)
        assert first.get_state() == second.get_state()
