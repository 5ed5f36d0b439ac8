"""Fixtures for the whole suite: where the real data lies, and quiet determinism."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("VOL3D_SITE_KEY", "test-suite-key")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real CT and PET/CT, named by VOL3D_DATA."""
    if not os.environ.get("VOL3D_DATA"):
        pytest.skip("VOL3D_DATA is not set: the real data is needed for this test")
    return Path(os.environ["VOL3D_DATA"]).resolve(strict=True)
