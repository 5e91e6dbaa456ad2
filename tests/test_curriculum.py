"""Where the next episodes start: at the places along the ways where the policy fails, whatever the number of ranks."""

import csv
import json

import numpy as np
import pytest

import envs
from envs import checks
from envs.mario import demonstrations
from envs.mario.curriculum import FLOOR, LEAST_START, MOST_START, NEAR, NEVER, SPAN, Curriculum, Position, Way
from envs.mario.native_vector import write_states
from ppo.config import build
from ppo.run import train
from tests.conftest import run
from tests.same_logs import differences
from utils.folder import Refused

STAGE = "SuperMarioBros-1-1-v0"
TINY = {
    "num_envs": 6,
    "steps_per_epoch": 6 * 64,
    "minibatch_size": 6 * 32,
    "network": "small",
    "train_pi_iters": 1,
    "train_v_iters": 1,
    "precision": "float32",
    "start_mode": "random",
    "sticky": 0.25,
}


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """A file of states along the shipped way through 1-1."""
    path = tmp_path_factory.mktemp("states") / "states"
    way = demonstrations.read(demonstrations.SHIPPED / demonstrations.file_name(STAGE))
    write_states(path, [moment.state for moment in demonstrations.moments(way, 8)])
    return str(path)


def line(length=1200, step=10):
    """A curriculum over one straight way."""
    return Curriculum([(k, Position(0, x)) for k, x in enumerate(range(0, length + 1, step))])


def record(begin, end, cause="enemy", start=None):
    """An episode's record."""
    place = int(begin / SPAN) if start is None else start
    return {"start_place": place, "way_begin": begin, "way_end": end, "flag": cause == "flag", "cause": cause}


def test_a_way_counts_new_ground_only():
    """40 to 90 is 50 pixels, going back counts nothing, a new area 50, and what a pipe passes over is ground."""
    way = Way([Position(1, 40), Position(1, 90), Position(1, 60), Position(1, 100), Position(2, 10), Position(2, 1010)])
    assert way.length == 50 + 10 + 50 + 1000
    assert way.far(Position(1, 0)) == 0.0 and way.far(Position(1, 65)) == 25.0 and way.far(Position(1, 500)) == 60.0
    assert way.far(Position(2, 10)) == 110.0 and way.far(Position(2, 510)) == 610.0
    assert way.far(Position(3, 10)) is None and way.far(None) is None


def test_several_ways_share_the_places_of_the_first():
    """Where the decision number falls another way begins; what leaves the first one is no place to start from."""
    moments = [(k, Position(0, 50 * k)) for k in range(5)] + [(0, Position(0, 120)), (1, Position(9, 0)), (2, None)]
    assert Curriculum(moments).members == [[0, 1], [2, 3, 4, 5]]  # 200 pixels; the end belongs to the last place
    with pytest.raises(ValueError, match="no state"):
        Curriculum([(0, None)])


def test_the_hardest_place_gets_the_most_starts_and_a_mastered_one_few():
    """All fail at x = 650, from wherever they come: the places whose goal is beyond it, and no others."""
    curriculum = line()
    curriculum.learn([record(50 * k, 650) for k in range(13)] * 10 + [record(700, 1200, "flag")] * 100)
    weights = curriculum.weights()
    assert np.argmax(weights) in (3, 4, 5, 6) and weights[6] > 0.9
    assert all(weights[place] < 0.15 for place in (0, 1, 7, 11)) and min(weights) > FLOOR
    assert curriculum.columns()["Frontier"] == np.argmax(weights) / 12


def test_goals_move_away_where_they_are_reached_and_back_where_they_are_not():
    """At last only the flag is far enough; the least distance is NEAR places."""
    curriculum = line()
    assert curriculum.goal(2) == (2 + NEAR) * SPAN and curriculum.goal(9) == NEVER
    for _ in range(8):
        curriculum.learn([record(0, 1200, "flag", start=-1)] * 40)
    assert all(curriculum.goal(place) == NEVER for place in range(12))
    for _ in range(12):
        curriculum.learn([record(200, 250)] * 40)
    assert curriculum.reach[2] == NEAR


def test_what_was_cut_is_no_failure():
    """An episode that was cut at its goal says nothing of places whose goals are further on."""
    curriculum = line()
    curriculum.learn([record(250, 600, "goal")])
    assert curriculum.trials == [float(place == 2) for place in range(12)]
    assert curriculum.successes == curriculum.trials


def test_the_share_from_the_start_grows_with_the_clear_rate_there():
    """From the least to the most; clears of episodes that started further on do not count."""
    curriculum = line()
    assert curriculum.start_share == LEAST_START
    curriculum.learn([record(900, 1200, "flag")] * 10 + [record(0, 100, start=-1)] * 10)
    assert curriculum.start_share == LEAST_START
    curriculum.learn([record(0, 1200, "flag", start=-1)] * 10000)
    assert curriculum.start_share == pytest.approx(MOST_START, abs=1e-3)
    draws = np.random.default_rng(0)
    assert np.mean([curriculum.draw(draws) is None for _ in range(1000)]) == pytest.approx(MOST_START, abs=0.04)


def test_its_counts_survive_json_and_others_are_refused():
    """Bit for bit; of another number of places, or not numbers, they are refused."""
    one, other = line(), line()
    one.learn([record(70 * k, 650) for k in range(9)] + [record(0, 1200, "flag", start=-1)])
    saved = json.loads(json.dumps(one.state()))
    other.check(saved)
    other.load(saved)
    assert other.state() == one.state() and np.array_equal(other.weights(), one.weights())
    wrong = [
        None,
        {},
        {**saved, "trials": saved["trials"][1:]},
        {**saved, "reach": [1.5] * 12},
        {**saved, "starts": "many"},
        {**saved, "successes": [-1.0] * 12},
        {**saved, "clears": float("nan")},
    ]
    for state in wrong:
        with pytest.raises(ValueError, match="curriculum"):
            other.check(state)


def test_environments_keep_the_contract_with_it(states):
    """Same draws whichever rank owns them, states restore exactly; an episode is cut at its goal and only there."""
    options = {"start_curriculum": states, "start_frames": 10, "start_mode": "random"}
    checks.check_vec_env(lambda **place: envs.make_vec(STAGE, **place, **options), steps=60)
    env = envs.make_vec(STAGE, 8, 0, **options)
    env.reset()
    found, rng = [], np.random.default_rng(0)
    for _ in range(400):
        _, _, terminated, truncated, infos = env.step(rng.integers(5, size=8))
        ended = {r["env"]: r for r in infos["episodes"]}
        assert all((ended[i]["cause"] == "goal") == truncated[i] != terminated[i] for i in ended)
        found += ended.values()
    cut = [r for r in found if r["cause"] == "goal"]
    assert len(cut) > 2 and all(r["way_end"] >= (r["start_place"] + NEAR) * SPAN and r["start_place"] >= 0 for r in cut)
    assert {-1} < {r["start_place"] for r in found} and all(r["way_end"] >= r["way_begin"] for r in found)
    env.learn_from(found)
    saved = env.get_state()
    other = envs.make_vec(STAGE, 8, 0, **options)
    other.set_state(saved)
    assert other.get_state() == saved
    with pytest.raises(ValueError, match="along the way|options"):
        plain = envs.make_vec(STAGE, 8, 0, start_frames=10, start_mode="random")
        plain.reset()
        other.set_state(plain.get_state())


def episodes(folder):
    """The rows of episodes.csv."""
    with (folder / "episodes.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.mpi
def test_the_same_starts_are_drawn_on_one_two_and_three_ranks(tmp_path, states):
    """With a policy that does not change, every episode of four epochs is the same, and so are the columns."""
    found = []
    for ranks in (1, 2, 3):
        settings = TINY | {"env": STAGE, "start_curriculum": states, "pi_lr": 0.0, "v_lr": 0.0, "epochs": 4}
        settings |= {"exp_name": f"r{ranks}", "data_dir": str(tmp_path)}
        if ranks == 1:
            found.append(train(build(**settings)))
        else:
            flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
            done = run(["-m", "ppo.run", *flags], ranks=ranks)
            assert done.code == 0, done.err
            found.append(tmp_path / f"r{ranks}" / f"r{ranks}_s0")
    rows = [episodes(folder) for folder in found]
    assert rows[0] == rows[1] == rows[2] and len({row["start_place"] for row in rows[0]}) > 5
    heads = [(folder / "progress.txt").read_text().splitlines() for folder in found]
    names = ("StartShare", "Frontier", "FrontierRate", "PlaceRate")
    logs = [[[row.split("\t")[head[0].split("\t").index(n)] for n in names] for row in head[1:]] for head in heads]
    assert logs[0] == logs[1] == logs[2]


def test_a_resumed_run_equals_one_in_one_go(tmp_path, states):
    """The counts are in the checkpoint: logs, episodes and last checkpoint are the same."""
    settings = TINY | {"start_curriculum": states, "anneal_lr": False, "anneal_ent": False, "env": STAGE}
    whole = train(build(**settings, epochs=4, data_dir=str(tmp_path / "whole")))
    train(build(**settings, epochs=2, data_dir=str(tmp_path / "cut")))
    cut = train(build(**settings, epochs=4, data_dir=str(tmp_path / "cut")), resume=True)
    assert differences(whole, cut) == []
    names = [column["name"] for column in json.loads((cut / "config.json").read_text())["columns"]]
    assert names[-len(envs.find_family(STAGE).learned) :] == [c.name for c in envs.find_family(STAGE).learned]


def test_a_goal_for_what_it_adds_is_one_of_a_run_that_has_it(tmp_path, states):
    """`--stop-at` takes its columns; a run without it, which would never reach such a goal, is refused."""
    sizes = {"env": STAGE, "network": "small", "num_envs": 2, "steps_per_epoch": 64, "minibatch_size": 32}
    sizes |= {"epochs": 3, "stop_at": "StartShare<=1", "max_episode_steps": 8, "data_dir": str(tmp_path)}
    folder = train(build(**sizes, start_curriculum=states, exp_name="with"))
    assert len((folder / "progress.txt").read_text().splitlines()) == 2
    with pytest.raises(Refused, match=r"stop_at is 'StartShare<=1', whose column only environments that learn have"):
        train(build(**sizes, exp_name="without"))
    assert not (tmp_path / "without").exists()


def test_what_cannot_be_is_refused_in_one_line(tmp_path, states):
    """With start_states too, on nes-py, or from a file that holds no states."""
    for options in ({"start_states": states}, {"reward": "tests.test_mario:reward"}):
        with pytest.raises(ValueError, match="start_curriculum|reward"):
            envs.check_options(STAGE, start_curriculum=states, **options)
    (tmp_path / "text").write_text("no states")
    with pytest.raises(ValueError, match=r"start_curriculum: .* not a file of states"):
        envs.check_options(STAGE, start_curriculum=str(tmp_path / "text"))


def test_areas_are_told_apart_where_pipes_lead_on(tmp_path):
    """1-2: 2,601 pixels under the ground, 50 for the pipe, 259 to the flag; every place has states of the way."""
    way = demonstrations.read(demonstrations.SHIPPED / demonstrations.file_name("SuperMarioBros-1-2-v0"))
    write_states(tmp_path / "states", [moment.state for moment in demonstrations.moments(way, 4)])
    env = envs.make_vec("SuperMarioBros-1-2-v0", 1, 0, start_curriculum=str(tmp_path / "states"))
    assert env._curriculum.way.length == pytest.approx(2601 + 50 + 259, abs=32)
    assert all(env._curriculum.members) and len(env._curriculum.members) == 30
