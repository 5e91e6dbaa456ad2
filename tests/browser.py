"""A real headless Chromium for tests, driven by chromedriver's HTTP interface with nothing but the standard library."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars "
    "--autoplay-policy=no-user-gesture-required"
).split()


class Browser:
    """One session of one browser."""

    def __init__(self, address: str, binary: str) -> None:
        """Open a session on a running chromedriver."""
        options = {"binary": binary, "args": ARGUMENTS}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self._address = address
        self._address += "/session/" + self.post("/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def post(self, path: str, body: dict[str, Any], method: str = "POST") -> Any:
        """Send one command and return its value."""
        data = json.dumps(body).encode() if method == "POST" else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Run one command of the Chrome DevTools protocol."""
        return self.post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, path: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a local page on a screen of this size and colour scheme, with the network switched off."""
        metrics = {
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": width < 600,
        }
        self.devtools("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self.post("/url", {"url": path.resolve().as_uri()})

    def script(self, code: str) -> Any:
        """Return what a function body returns in the page."""
        return self.post("/execute/sync", {"script": code, "args": []})

    def log(self) -> list[dict[str, Any]]:
        """Return what the console has shown since the last call."""
        return self.post("/se/log", {"type": "browser"})

    def screenshot(self, path: Path) -> None:
        """Write the whole page, not only the window, as a PNG."""
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def chromium(log: Path) -> Iterator[Browser]:
    """Start a browser and end it afterwards; the test skips where there is none."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium and chromedriver on this machine (Debian: apt-get install chromium chromium-driver)")
    with log.open("w") as output:
        process = subprocess.Popen([driver, "--port=0"], stdout=output, stderr=subprocess.STDOUT)
        try:
            browser = Browser(f"http://127.0.0.1:{_port(log, process)}", binary)
            try:
                yield browser
            finally:
                browser.post("", {}, method="DELETE")
        finally:
            process.terminate()
            process.wait(timeout=30)


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    """Return the port that chromedriver chose, from what it printed."""
    for _ in range(300):
        for line in log.read_text().splitlines():
            if "started successfully on port" in line:
                return int(line.rstrip(".").split()[-1])
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"chromedriver did not start: {log.read_text()[-500:]}")
