"""A real Chromium, headless with software WebGL and without any network but this machine's, driven over its DevTools
protocol."""

import base64
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
import websocket

FLAGS = [
    "--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-extensions", "--disable-dev-shm-usage", "--force-device-scale-factor=1", "--hide-scrollbars",
    "--disable-renderer-backgrounding",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-allow-origins=*",
]  # fmt: skip


class Tab:
    """One page of the browser."""

    def __init__(self, address: str, size: tuple[int, int]) -> None:
        self._socket = websocket.create_connection(address, timeout=120)
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

    def go(self, url: str, ready: str, seconds: float = 20) -> None:
        """Loads a page and waits until it is ready; the one before, which may be the same, is not taken for it."""
        self.run("window.left = true")
        self.call("Page.navigate", url=url)
        self.wait(f"!window.left && document.readyState === 'complete' && ({ready})", seconds)

    def open(self, url: str, seconds: float = 110) -> float:
        """Waits until the images are drawn; milliseconds from the start of the load until then."""
        self.go(url, "document.body?.dataset.ready || document.querySelector('#loading.failed')", seconds)
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
        code = {"Escape": 27, "Enter": 13, "ArrowUp": 38, "ArrowDown": 40}.get(key, 0)
        text = key if len(key) == 1 else ""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        self.drawn()

    def crosshair_mm(self) -> list[float]:
        """World (x, y, z), RAS+, as the page says it."""
        return [float(v) for v in self.run("document.querySelector('#at').dataset.mm").split(",")]

    def picture(self, path: Path) -> Path:
        """A screenshot, kept with the test's output."""
        self.drawn()
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def front(self) -> None:
        """Before the others: the browser draws no frames of a tab that is behind."""
        self.call("Page.bringToFront")


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
def new_tab(chromium: str) -> Callable[..., Tab]:
    """Opens tabs the size of a laptop's window."""

    def make(size: tuple[int, int] = (1366, 768)) -> Tab:
        found = requests.put(f"{chromium}/json/new?about:blank", timeout=30).json()
        return Tab(found["webSocketDebuggerUrl"], size)

    return make


# -- a study of which everything is known ---------------------------------------------------------------------------


SENTENCES = [ # text, section, status, reason, lesions
    ("There is a nodule in the right lung.", "lungs", "supported", "segmented", [1]),
    ("No mediastinal lymphadenopathy.", "mediastinum", "supported", "absent, the place is in view", []),
    ("Two lesions in the liver.", "liver", "supported", "segmented", [2, 3]),
    ("A lesion in the left kidney.", "kidneys", "contradicted", "its mask lies on the right", []),
    ("Enlarged spleen.", "spleen", "not supported", "absent with probability 0.80", []),
    ("Bilateral hip replacement.", "other", "cannot be checked", "it states nothing that a mask could show", []),
    ("Lesions in lung and liver.", "impression", "supported", "segmented", [4]),
]  # fmt: skip
CENTRES_MM = [(60, 40, 120), (-30, -20, 60), (-55, 10, 95), (20, 60, 35), (0, -45, 150), (70, -40, 60), (-70, 50, 140),
              (35, 0, 90)]  # fmt: skip
RADIUS_MM = {"ct": 16.0, "pet": 13.0}
"""So that the CT voxel at any member of the PET's mask is a member, too."""


@dataclass(frozen=True)
class Known:
    """A study written to disk, and where its hottest points lie."""

    source: Path
    folder: Path
    """As the commands write it: records and masks."""
    hottest_mm: list[np.ndarray]
    """Of the eight masks, by nibabel's own affine."""
    ct_spacing_mm: float
    pet_spacing_mm: float
    mark_mm: np.ndarray
    """Middle of a block of bone at the patient's right, in front."""


def affine_of(spacing: float, degrees: tuple[float, float], flips: tuple[int, int, int]) -> np.ndarray:
    """nibabel's affine (x, y, z) about the patient's middle: turned about z, then x; axes flipped."""
    a, b = np.radians(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    out = np.eye(4)
    out[:3, :3] = about_z @ about_x @ np.diag(flips) * spacing
    return out


def write_known(root: Path, *, ct_degrees=(0, 0), ct_flips=(1, 1, 1), pet_degrees=(0, 0), pet_flips=(1, 1, 1)) -> Known:
    """CT and PET with eight balls, and the records of all commands; no model is needed for what they say."""
    rng = np.random.default_rng(7)
    middle = np.array([0.0, 0.0, 95.0])
    points, images = {}, {}
    for name, spacing, shape, degrees, flips in (
        ("ct", 3.0, (84, 70, 72), ct_degrees, ct_flips), ("pet", 5.0, (50, 42, 44), pet_degrees, pet_flips),
    ):  # fmt: skip
        affine = affine_of(spacing, degrees, flips)
        affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        index = np.moveaxis(np.indices(shape), 0, -1).astype(np.float64)
        points[name] = index @ affine[:3, :3].T + affine[:3, 3]
        images[name] = (spacing, affine)
    body = {name: (np.abs(p[..., 0]) < 100) & (np.abs(p[..., 1]) < 80) for name, p in points.items()}
    mark = np.array([80.0, 60.0, 95.0])
    hu = np.where(body["ct"], 40.0, -1000.0) + rng.normal(0, 12, body["ct"].shape)
    hu[(np.abs(points["ct"] - mark) < 14).all(axis=-1)] = 1500
    suv = np.where(body["pet"], 1.0, 0.05) + rng.uniform(0, 0.3, body["pet"].shape)
    folder, source = root / "out" / "known", root / "known"
    for path in (folder / "report", folder / "masks", folder / "findings", source):
        path.mkdir(parents=True)
    lesions, answers, findings, hottest = [], [], [], []
    for number, centre in enumerate(CENTRES_MM, 1):
        inside = {name: np.linalg.norm(p - centre, axis=-1) <= RADIUS_MM[name] for name, p in points.items()}
        voxels = np.argwhere(inside["pet"])
        hot = tuple(voxels[rng.integers(len(voxels))]) if number <= 4 else tuple(
            voxels[np.linalg.norm(points["pet"][inside["pet"]] - centre, axis=-1).argmin()]
        )  # fmt: skip
        suv[inside["pet"]] += 4
        suv[hot] = 9 + number
        hottest.append(points["pet"][hot])
        kind = "report" if number <= 4 else "masks" if number <= 6 else "findings"
        file = f"{kind}/{number:02d}.nii.gz"
        nib.save(nib.Nifti1Image(inside["ct"].astype(np.uint8), images["ct"][1]), folder / file)
        figures = {
            "volume_ml": 9.2,
            "suv_max": float(np.float32(9 + number)),
            "suv_mean": 5.1,
            "suv_peak": 6.0,
            "tlg_g": 47.0,
        }
        if kind == "report":
            pet_file = f"report/{number:02d}-pet.nii.gz"
            nib.save(nib.Nifti1Image(inside["pet"].astype(np.uint8), images["pet"][1]), folder / pet_file)
            measured = {**figures, "series": "ct", "longest_diameter_mm": 26.0, "short_diameter_mm": 25.5, "slice": 40}
            lesions.append({"id": number, "phrase": f"lesion {number}", "probability": 0.9, "file": file,
                            "pet_file": pet_file, "measurement": measured, "mentioned": True})  # fmt: skip
        elif kind == "masks":
            where = {"series": "ct", "first": 30, "last": 44, "largest": 37}
            answers.append({"prompt": f"organ {number}", "file": file, "state": "present", "probability": 0.99,
                            **figures, "slices": where})  # fmt: skip
        else:
            findings.append({
                "name": f"finding_{number}", "state": "present", "probability": 0.83, "threshold": 0.4,
                "spread": {"low": 0.7, "high": 0.9},
                "operating_point": {
                    "criterion": "youden", "sensitivity": 0.91, "specificity": 0.84, "positives": 11, "negatives": 19,
                },
                "evidence": {"mask": file, "heat_map": None, **figures, "slices": None},
            })  # fmt: skip
    findings.append({
        "name": "pleural_effusion", "state": "absent", "probability": 0.06, "threshold": 0.5, "spread": None,
        "operating_point": None, "evidence": {"mask": None, "heat_map": None},
    })  # fmt: skip
    answers.append({"prompt": "spleen", "file": "masks/09.nii.gz", "state": "absent", "probability": 0.02})
    nib.save(nib.Nifti1Image(np.rint(hu).astype(np.int16), images["ct"][1]), source / "ct.nii.gz")
    nib.save(nib.Nifti1Image(suv.astype(np.float32), images["pet"][1]), source / "pet.nii.gz")
    shared = {
        "study_id": "known",
        "grid": "ct",
        "created": "2026-01-02T03:04:05",
        "provenance": {"vol3d": "0", "weights_sha256": "ab" * 32},
    }
    sentences = [
        {"text": t, "section": s, "organ": None, "status": status, "reason": reason, "lesions": ids,
         "probability": None if status == "cannot be checked" else 0.8}
        for t, s, status, reason, ids in SENTENCES
    ]  # fmt: skip
    records = {
        "report": {**shared, "sentences": sentences, "lesions": lesions, "technique": "PET/CT.", "change": None,
                   "context": {"indication": "Staging. </script><img src=x onerror=alert(1)>"}, "writer": "Templates",
                   "not_assessed": ["Nothing was looked for but in: liver."]},
        "segmentation": {**shared, "answers": answers},
        "findings": {**shared, "point": "youden", "findings": findings},
    }  # fmt: skip
    for name, record in records.items():
        (folder / f"{name}.json").write_text(json.dumps(record))
    return Known(source, folder, hottest, 3.0, 5.0, mark)


@pytest.fixture(scope="session")
def known() -> Any:
    """Makes studies: ``known.write(folder, ...)``."""
    return SimpleNamespace(write=write_known, sentences=SENTENCES)
