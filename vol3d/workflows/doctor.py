"""`vol3d doctor`: is this machine ready, and if not, what to do next. Reads; changes nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vol3d.cache import Cache
from vol3d.cache_write import abandoned
from vol3d.errors import Vol3dError

State = Literal["ok", "warn", "fail"]

PACKAGES = (
    "torch", "monai", "deepspeed", "transformers", "nnunetv2", "dynamic-network-architectures", "zarr", "tensorstore",
    "nibabel", "pydicom", "highdicom", "SimpleITK", "numpy", "scipy", "typer",
)  # fmt: skip
OPS = ("cpu_adam", "fused_adam")
"""DeepSpeed's own kernels that training uses: the first for ZeRO with the optimizer on the CPU, the second on a GPU."""

PROGRAMS = {"dcm2niix": "tests of DICOM", "Orthanc": "tests of delivery to a PACS", "dcmdump": "tests of DICOM"}
LEAST_FREE_GB = 20.0
LEAST_FREE_SHARE = 0.05
DEEPSPEED_SECONDS = 300


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    state: State
    found: str
    next_step: str = ""
    """What to do where the state is not ok."""


def examine(cache: Path | None = None, text_model: str | None = None, *, ops: bool = True) -> list[Check]:
    """Every check, in the order in which one would mend them.

    Args:
        cache: whose health is looked at too; reads records, not voxels (that is `vol3d verify`).
        text_model: name or folder of the text encoder; the one that comes with the package by default.
        ops: ask DeepSpeed for its ops, which takes some seconds.
    """
    checks = [_python(), *_versions(), _compiler(), _gpu(), _threads()]
    checks += _ops() if ops else []
    checks += [_text_model(text_model), _site_key(), *_programs(), *_disks(cache)]
    return checks + (list(_cache(cache)) if cache is not None else [])


def as_records(checks: list[Check]) -> list[dict[str, Any]]:
    """JSON-ready."""
    return [asdict(check) for check in checks]


def lines(checks: list[Check]) -> Iterator[str]:
    """For a reader: a line a check, the next step under it."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        yield f"{check.state:4s}  {check.name:{width}s}  {check.found}"
        if check.state != "ok" and check.next_step:
            yield f"{'':4s}  {'':{width}s}  -> {check.next_step}"


# -- software --------------------------------------------------------------------------------------------------


def _python() -> Check:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    return Check("python", "ok", found)


def _versions() -> Iterator[Check]:
    yield Check("vol3d", "ok", importlib.metadata.version("vol3d"))
    missing, found = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    yield Check("packages", "ok", ", ".join(found))
    if missing:
        yield Check("packages missing", "fail", ", ".join(missing), f"pip install {' '.join(missing)}")


def _compiler() -> Check:
    """DeepSpeed builds its ops, and torch its compiled graphs, with a C++ compiler and ninja."""
    programs = {name: shutil.which(name) for name in ("g++", "ninja")}
    if missing := [name for name, path in programs.items() if path is None and not _ninja_package(name)]:
        step = f"install {', '.join(missing)}; DeepSpeed builds its ops with it"
        return Check("compiler", "warn", f"no {' and no '.join(missing)}", step)
    return Check("compiler", "ok", "g++ and ninja found")


def _ninja_package(name: str) -> bool:
    return name == "ninja" and importlib.util.find_spec("ninja") is not None


def _gpu() -> Check:
    import torch

    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        driver = "a driver is installed" if shutil.which("nvidia-smi") else "no NVIDIA driver"
        step = "commands run on the CPU; for a GPU: a driver that is new enough, and a torch built for it"
        return Check("gpu", "warn", f"none ({built}; {driver})", step)
    cards = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        cards.append(f"{about.name}, {about.total_memory / 2**30:.0f} GiB, compute {about.major}.{about.minor}")
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
    return Check("gpu", "ok", f"{len(cards)}: {'; '.join(cards)} ({bf16}, CUDA {torch.version.cuda})")


def _threads() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    named = os.environ.get("OMP_NUM_THREADS")
    return Check("cpu", "ok", f"{cores} cores usable, OMP_NUM_THREADS {named or 'not set'}")


def _ops() -> list[Check]:
    """By DeepSpeed's own report, in a process of its own: importing it takes seconds and it prints as it likes."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "deepspeed.env_report"], capture_output=True, text=True, timeout=DEEPSPEED_SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        step = "run python -m deepspeed.env_report to see where it hangs"
        return [Check("deepspeed ops", "warn", f"no report within {DEEPSPEED_SECONDS} s", step)]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [Check("deepspeed ops", "fail", last, "run python -m deepspeed.env_report for the whole message")]
    states = ops_in(done.stdout)
    unusable = [name for name in OPS if not states.get(name, False)]
    found = ", ".join(f"{name} {'can be built' if ok else 'cannot be built'}" for name, ok in states.items())
    step = "training works without it, slower with the optimizer on the CPU; see python -m deepspeed.env_report"
    return [Check("deepspeed ops", "warn" if unusable else "ok", found or "no op in the report", step)]


def ops_in(report: str) -> dict[str, bool]:
    """Op -> installed or can be built, of `OPS`, from DeepSpeed's report."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", report)
    out = {}
    for name, installed, compatible in re.findall(r"^(\w+) [. ]*\[(\w+)\] [. ]*\[(\w+)\]", plain, re.M):
        if name in OPS:
            out[name] = "YES" in installed or "OKAY" in compatible
    return out


def _text_model(name: str | None) -> Check:
    from vol3d.model.text import MINILM, TextConfig, resolve_text

    wanted = name or MINILM
    try:
        found = resolve_text(TextConfig(name=wanted))
    except Vol3dError as error:
        return Check("text model", "fail", f"{wanted}: {error}", "the message says what to get, and from where")
    return Check("text model", "ok", f"{wanted}: {found.width} wide, revision {found.revision}")


def _site_key() -> Check:
    path = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "vol3d" / "site.key"
    if os.environ.get("VOL3D_SITE_KEY"):
        return Check("site key", "ok", "from VOL3D_SITE_KEY")
    if path.exists():
        return Check("site key", "ok", f"from {path}")
    step = f"it is made at the first preprocessing in {path}; keep it, or patients cannot be linked to a later cache"
    return Check("site key", "warn", "none yet", step)


def _programs() -> Iterator[Check]:
    missing = [f"{name} ({use})" for name, use in PROGRAMS.items() if not _which(name)]
    if missing:
        step = "make setup-system, if you run the tests"
        yield Check("programs", "warn", f"not installed: {', '.join(missing)}", step)
    else:
        yield Check("programs", "ok", ", ".join(PROGRAMS))


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")


# -- disk and cache --------------------------------------------------------------------------------------------


def _disks(cache: Path | None) -> Iterator[Check]:
    places = {"here": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    if cache is not None and cache.is_dir():
        places["cache"] = cache
    for name, path in places.items():
        usage = shutil.disk_usage(path)
        free, share = usage.free / 1e9, usage.free / usage.total
        low = free < LEAST_FREE_GB or share < LEAST_FREE_SHARE
        found = f"{free:.0f} GB free of {usage.total / 1e9:.0f} GB ({path})"
        yield Check(f"disk: {name}", "warn" if low else "ok", found, "free some, or set TMPDIR to a larger disk")
    shared = Path("/dev/shm")
    if shared.is_dir() and (free := shutil.disk_usage(shared).free / 1e9) < 1:
        step = "DataLoader workers need it: docker run --shm-size=8g, or data.workers: 0"
        yield Check("shared memory", "warn", f"{free:.2f} GB free in {shared}", step)


def _cache(root: Path) -> Iterator[Check]:
    try:
        cache = Cache(root)
    except Vol3dError as error:
        yield Check("cache", "fail", str(error), "vol3d preprocess makes one")
        return
    faults, splits = {}, {"train": 0, "val": 0, "test": 0, None: 0}
    for study in cache.study_ids:
        try:
            splits[cache.entry(study).attributes.get("split")] += 1
        except (Vol3dError, KeyError) as error:
            faults[study] = str(error)
    counted = ", ".join(f"{count} {split or 'in no split'}" for split, count in splits.items() if count)
    state: State = "fail" if faults or not cache.study_ids else "ok"
    found = f"{len(cache.study_ids)} studies ({counted or 'none'}), recipe {cache.recipe_digest}"
    step = next(iter(faults.values()), "preprocess a manifest into it")
    yield Check("cache", state, found + (f"; {len(faults)} cannot be read" if faults else ""), step)
    yield from _leftovers(cache)


def _leftovers(cache: Cache) -> Iterator[Check]:
    counts: tuple[tuple[str, int, str], ...] = (
        ("cache: quarantined", len(cache.quarantine()), f"reasons in {cache.root / 'quarantine.jsonl'}"),
        ("cache: stale", len(cache.stale), "entries of studies that were quarantined since; vol3d verify names them"),
        (
            "cache: unfinished",
            sum(len(abandoned(r)) for r in cache.roots),
            "of writers that died; the next preprocessing removes them",
        ),
    )
    for name, count, step in counts:
        if count:
            yield Check(name, "warn", str(count), step)


def exit_code(checks: list[Check]) -> int:
    """1 if anything fails; a warning is none."""
    return int(any(check.state == "fail" for check in checks))
