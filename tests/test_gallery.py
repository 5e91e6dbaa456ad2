"""The gallery of policies: everything that is known of each on one page, and nothing of a stranger's that runs."""

import html
import json
import re

import pytest

from tests.browser import chromium
from tests.conftest import ROOT
from tests.test_report import LOOK
from utils import report

PRETRAINED = ROOT / "data" / "pretrained"


def test_every_shipped_policy_has_film_rates_and_commands(tmp_path, capsys):
    """Each with its film, its rates with intervals, and the commands that watch and train it."""
    out = tmp_path / "gallery.html"
    assert report.main([str(PRETRAINED), "--gallery", "--out", str(out)]) == 0
    page = re.sub("</?span>", "", out.read_text())  # around each word of a command
    names = [
        *sorted(path.parent.name for path in PRETRAINED.glob("*/policy.json")),
        *sorted(str(path.parent.relative_to(PRETRAINED)) for path in PRETRAINED.glob("*/*/policy.json")),
    ]
    assert re.findall(r"<h2>(\S+)</h2>", page) == names and len(names) > 25
    assert page.count("<video") == page.count("alt='Learning curve'") == len(names)
    for name in names:
        info = json.loads((PRETRAINED / name / "policy.json").read_text())
        assert f"python -m scripts.play {name}</pre>" in page and f">{html.escape(info['command'])}</pre>" in page
        evaluation = PRETRAINED / name / "evaluation.json"
        if evaluation.exists():  # a game without a flag has none
            low, high = json.loads(evaluation.read_text())["lines"][0]["clear_rate_95"]
            assert f">{100 * low:.0f}% to {100 * high:.0f}%</td>" in page
    assert "autoplay" not in page and "<script" not in page and "http:" not in page and "https:" not in page


def test_a_strangers_policy_cannot_bring_a_script(tmp_path):
    """Words are escaped, a command of control characters too; damaged files and other kinds are named in a note."""
    folder = tmp_path / "policies" / "<b>x"
    folder.mkdir(parents=True)
    (folder / "policy.json").write_text(json.dumps({"env": "<script>", "command": "<script>\x1b[2J", "steps": True}))
    (folder / "evaluation.json").write_text('{"lines": [3, {"clear_rate": "<i>"}, {"clear_rate": NaN, "episodes": 1}]}')
    (folder / "play.mp4").write_text("<script>")
    (folder / "curve.png").symlink_to("/etc/passwd")
    out = tmp_path / "g.html"
    assert report.main([str(tmp_path / "policies"), "--gallery", "--out", str(out)]) == 0
    page = re.sub("</?span>", "", out.read_text())
    assert "<script" not in page and "\x1b" not in page and "<b>" not in page and "root:" not in page
    assert "play.mp4 left out" in page and "curve.png left out" in page and "scripts.play POLICY" in page


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_without_policies_is_one_line(tmp_path, folder, capsys):
    """Code 2, and no page."""
    (tmp_path / "empty").mkdir()
    assert report.main([str(tmp_path / folder), "--gallery", "--out", str(tmp_path / "g.html")]) == 2
    assert "no policy in" in capsys.readouterr().err and not (tmp_path / "g.html").exists()


def test_a_browser_shows_every_film_on_desk_and_phone_light_and_dark(tmp_path):
    """Nothing is fetched, nothing is wider than the screen."""
    assert report.main([str(PRETRAINED), "--gallery", "--out", str(tmp_path / "g.html")]) == 0
    with chromium(tmp_path / "driver.log") as browser:
        for width, dark in ((1200, False), (390, False), (390, True)):
            browser.open(tmp_path / "g.html", width, 900, dark)
            seen = browser.script(LOOK)
            assert browser.log() == [] and seen["requests"] == [] and seen["linked"]
            assert (
                len(seen["videos"]) == len([*PRETRAINED.glob("*/play.mp4")])
                and all(seen["videos"])
                and seen["wide"] <= 0
                and seen["small"] == 0
            )
