"""Model cards carry the metadata that the model hub reads, whatever words a policy's file holds."""

import json

import pytest

from ppo.networks import ActorCritic
from ppo.policy import load_policy, save_policy
from scripts import export, model_card, scoreboard
from tests.conftest import ROOT

PRETRAINED = ROOT / "data" / "pretrained"
MEASURED = sorted(path.parent.relative_to(PRETRAINED).as_posix() for path in PRETRAINED.rglob("evaluation.json"))


def metadata(card):
    """The table between the two lines of three dashes: each line a key and a value in JSON."""
    before, yaml, _ = card.split("---\n", 2)
    assert before == ""
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in yaml.splitlines())}


@pytest.mark.parametrize("name", MEASURED)
def test_shipped_cards_are_those_of_their_evaluations(name):
    """Metadata, facts and figures follow from policy.json and evaluation.json; none was written by hand."""
    folder = PRETRAINED / name
    found = scoreboard.read(folder)
    card = (folder / "README.md").read_text()
    policy, filmed = load_policy(folder), (folder / "play.mp4").exists()
    assert card == scoreboard.card(name, policy.info, found, filmed, policy.has_value)
    results = metadata(card)["model-index"][0]["results"]
    values = [{m["type"]: m["value"] for m in result["metrics"]} for result in results]
    assert [v["clear_rate"] for v in values] == [round(line["clear_rate"], 4) for line in found["lines"]]
    assert values[0]["mean_reward"].split(" +/- ")[0] == f"{found['lines'][0]['ep_ret']['mean']:.2f}"


def test_an_exported_folder_can_be_pushed_as_it_is(tmp_path):
    """Weights, policy.json and a card whose metadata names library, task and environment, but no result."""
    info = {"env": "Echo-v0", "spec": {"options": {}}, "network": "mlp", "obs_shape": [4], "num_actions": 4}
    save_policy(tmp_path / "policy", ActorCritic("mlp", (4,), 4, "orthogonal", 0), info)
    out = tmp_path / "out"
    assert export.main([str(tmp_path / "policy"), "--out", str(out), "--check-steps", "8"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "policy.json", "policy.safetensors"]
    found = metadata((out / "README.md").read_text())
    assert found["library_name"] == "mario-ppo" and "model-index" not in found
    assert found["pipeline_tag"] == "reinforcement-learning" and {"reinforcement-learning", "Echo-v0"} <= {
        *found["tags"]
    }


def test_words_of_a_file_cannot_add_a_key():
    """A name with line ends and quotes stays one value on one line."""
    lines = model_card.front_matter({"env": 'x"\nlicense: evil\n---'})
    assert len(lines) == 5 and metadata("\n".join(lines) + "\n")["tags"][-1] == 'x" license: evil ---'
    assert not any("\n" in line for line in model_card.facts({"env": "a\nb", "network": "n", "hours": "x"}, False))
