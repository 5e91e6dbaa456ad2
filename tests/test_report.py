"""The report: one page with everything in it, that a real browser shows without a complaint."""

from __future__ import annotations

import io
import json
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import chromium
from tests.run_folders import write_monitor, write_run
from utils import report
from utils.analysis import videos
from utils.analysis.arguments import load_groups


def write_gif(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    frames = [Image.new("P", (64, 60), i * 20) for i in range(8)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=80, loop=0)


def write_webm(path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    source = ["-f", "lavfi", "-i", "testsrc=size=96x90:rate=10:duration=1"]
    subprocess.run([ffmpeg, "-loglevel", "error", "-y", *source, "-c:v", "libvpx-vp9", str(path)], check=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for seed in range(4):
        write_run(root, "slow", seed, level=200, lr=1e-4, epochs=15)
        write_run(root, "fast", seed, level=400, lr=3e-4, epochs=15)
    write_gif(root / "fast" / "fast_s0" / "videos" / "best.gif")
    write_webm(root / "fast" / "fast_s0" / "videos" / "last.webm")
    return root


def make(folders: Path, out: Path, *more: str) -> str:
    assert report.main([str(folders), "--out", str(out), *more]) == 0
    return out.read_text()


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory) -> str:
    return make(folders, tmp_path_factory.mktemp("page") / "a.html", "--threshold", "150", "--target", "500")


def test_the_page_is_self_contained_and_repeats(folders, page, tmp_path):
    assert page == make(folders, tmp_path / "b.html", "--threshold", "150", "--target", "500")
    addresses = re.findall(r"(?:src|srcset|href|poster|action)=['\"]([^'\"]*)['\"]", page)
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert "<script" not in page and "default-src 'none'" in page


def test_differences_come_first_and_every_seed_has_a_row(page):
    assert page.index(">lr</th>") < page.index("Settings in common")
    assert all(page.count(f">{name}_s{seed}</td>") == 1 for name in ("slow", "fast") for seed in range(4))
    assert "fast is better than slow" in page and "KL(old || new) per update" in page and "Test CPU" in page


def test_words_from_folders_cannot_become_markup(tmp_path):
    folder = write_run(tmp_path, "a", 0)
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    config = json.loads((folder / "config.json").read_text()) | {"exp_name": evil, "lr": evil, evil: evil}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "system.json").write_text(json.dumps({"processor": evil, "host": "secret-host"}))
    (folder / "exit.json").write_text(json.dumps({"reason": evil}))
    page = make(tmp_path, tmp_path / "a.html")
    assert "<script" not in page and "<img src=x" not in page and "&lt;script&gt;" in page
    assert "secret-host" not in page, "the page is made to be mailed"


def test_only_real_videos_inside_the_folder_are_embedded(tmp_path):
    folder = write_run(tmp_path / "data", "a", 0)
    write_gif(tmp_path / "outside.gif")
    (folder / "videos").mkdir()
    (folder / "videos" / "page.webm").write_text("<script>alert(1)</script>")
    (folder / "videos" / "link.gif").symlink_to(tmp_path / "outside.gif")
    shown, notes = videos.videos(load_groups([str(tmp_path)], [])[0])
    assert shown == "" and notes == ["video a_s0/page.webm left out: not a WebM, MP4 or GIF file"]
    write_gif(folder / "videos" / "real.gif")
    assert "data:image/gif" in videos.videos(load_groups([str(tmp_path)], [])[0])[0]


def test_what_cannot_be_compared_is_said_and_the_rest_is_shown(tmp_path):
    write_run(tmp_path, "a", 0, epochs=5)
    write_run(tmp_path, "b", 0, epochs=5, spec={"env_id": "Acrobot-v1"})
    page = make(tmp_path, tmp_path / "a.html")
    assert "Not compared: experiments differ in environment" in page and "data:image/svg+xml" in page


def test_a_run_without_rows_and_foreign_folders_make_a_page(tmp_path):
    write_monitor(tmp_path / "sb3" / "ppo_1")
    page = make(tmp_path, tmp_path / "a.html")
    assert "The logs hold no diagnostic columns" in page
    folder = write_run(tmp_path / "new", "a", 0, epochs=0, reason=None)
    assert "No rows to draw yet" in make(folder, tmp_path / "b.html")


def test_bad_input_is_one_line_and_code_2(folders, tmp_path, capsys):
    assert report.main([str(folders), "--out", str(tmp_path / "a.pdf")]) == 2
    error = capsys.readouterr().err
    assert "--out must end in .html" in error and error.count("\n") == 1


LOOK = """
const shown = [...document.images].map(i => i.complete && i.naturalWidth > 0 && i.getBoundingClientRect().width > 50);
const links = [...document.querySelectorAll('a')].map(a => document.getElementById(a.getAttribute('href').slice(1)));
const small = [...document.querySelectorAll('p,td,li,a')].filter(e => parseFloat(getComputedStyle(e).fontSize) < 12);
return {images: shown.length, shown: shown.every(Boolean), links: links.length, linked: links.every(Boolean),
  videos: [...document.querySelectorAll('video')].map(v => v.readyState >= 2 && v.videoWidth > 0 && !v.error),
  wide: document.documentElement.scrollWidth - innerWidth, small: small.length,
  page: getComputedStyle(document.body).backgroundColor, requests: performance.getEntriesByType('resource')
    .map(e => e.name).filter(n => !n.startsWith('data:'))};
"""


def test_a_browser_shows_all_of_it_on_desk_and_phone_light_and_dark(page, tmp_path):
    (tmp_path / "a.html").write_text(page)
    with chromium(tmp_path / "driver.log") as browser:
        pages = {}
        for width, dark in ((1200, False), (390, False), (390, True)):
            browser.open(tmp_path / "a.html", width, 900, dark)
            seen = browser.script(LOOK)
            assert browser.log() == [], "no word on the console"
            assert seen["images"] >= 12 and seen["shown"] and seen["videos"] == [True], seen
            assert seen["links"] >= 6 and seen["linked"] and seen["requests"] == []
            assert seen["wide"] <= 0 and seen["small"] == 0, "readable without zooming or scrolling sideways"
            shot = tmp_path / "shot.png"
            browser.screenshot(shot)
            pages[width, dark] = Image.open(io.BytesIO(shot.read_bytes())).convert("RGB").getpixel((3, 3))
        assert pages[390, False] == (255, 255, 255) and max(pages[390, True]) < 64
        browser.script("document.querySelector('a[href=\"#diagnostics\"]').click()")
        assert browser.script("return location.hash + (scrollY > 500)") == "#diagnosticstrue"
