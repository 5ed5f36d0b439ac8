"""A real Chromium, headless with software WebGL and without any network but this machine's, driven over its DevTools
protocol."""

import base64
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

FLAGS = [
    "--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-extensions", "--disable-dev-shm-usage", "--force-device-scale-factor=1", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-allow-origins=*",
]  # fmt: skip


class Tab:
    """One page of the browser."""

    def __init__(self, address: str, size: tuple[int, int]) -> None:
        self._socket = websocket.create_connection(address, timeout=60, max_size=None)
        self._numbers = itertools.count(1)
        self.console: list[str] = []
        """Errors and warnings that the page wrote, exceptions that nobody caught, and loads that failed."""
        self.requests: list[str] = []
        """Addresses that the page asked for, but for those inside it."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        width, height = size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        kind, data = message.get("method"), message.get("params", {})
        if kind == "Runtime.consoleAPICalled" and data["type"] in ("error", "warning", "assert"):
            self.console.append(" ".join(str(a.get("value", a.get("description"))) for a in data["args"]))
        elif kind == "Runtime.exceptionThrown":
            details = data["exceptionDetails"]
            self.console.append(f"{details['text']} {details.get('exception', {}).get('description', '')}")
        elif kind == "Log.entryAdded" and data["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{data['entry']['text']} {data['entry'].get('url', '')}")
        elif kind == "Network.requestWillBeSent" and not data["request"]["url"].startswith(("data:", "blob:")):
            self.requests.append(data["request"]["url"])

    def open(self, url: str, seconds: float = 60) -> float:
        """Waits until the images are drawn; milliseconds from the start of the load until then."""
        self.call("Page.navigate", url=url)
        self.wait("document.body?.dataset.ready || document.querySelector('#loading.failed')", seconds)
        failed = self.run("document.querySelector('#loading.failed')?.textContent ?? null")
        assert failed is None, failed
        return float(self.run("document.body.dataset.ready"))

    def run(self, script: str) -> Any:
        """The value of an expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"still not so after {seconds} s: {condition}; console: {self.console}"
            time.sleep(0.05)

    def drawn(self) -> None:
        """Waits for two frames: what was asked for is on the screen."""
        self.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r(true))))")

    def click(self, selector: str) -> None:
        """A real click of the mouse on the middle of an element."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'nearest'}})")
        x, y = self.run(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        self.click_at(x, y)

    def click_at(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.drawn()

    def press(self, key: str) -> None:
        """A real key."""
        text = key if len(key) == 1 else ""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.drawn()

    def crosshair_mm(self) -> list[float]:
        """World (x, y, z), RAS+, as the page says it."""
        return [float(v) for v in self.run("document.querySelector('#at').dataset.mm").split(",")]

    def picture(self, path: Path) -> Path:
        """A screenshot, kept with the test's output."""
        self.drawn()
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="session")
def chromium(program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running browser's DevTools."""
    profile = tmp_path_factory.mktemp("chromium")
    log = (profile / "log").open("w")
    process = subprocess.Popen(
        [program("chromium"), *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"],
        stdout=log, stderr=log,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not (port := profile / "DevToolsActivePort").exists() or not port.read_text():
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"Chromium did not start: {(profile / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port.read_text().split()[0]}"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        log.close()


@pytest.fixture(scope="session")
def new_tab(chromium: str) -> Iterator[Callable[..., Tab]]:
    """Opens tabs the size of a laptop's window."""
    tabs = []

    def make(size: tuple[int, int] = (1366, 768)) -> Tab:
        found = requests.put(f"{chromium}/json/new?about:blank", timeout=30).json()
        tabs.append(Tab(found["webSocketDebuggerUrl"], size))
        return tabs[-1]

    yield make
    for tab in tabs:
        tab.close()
