"""The plan's arithmetic, by hand, and that the page's tables are those of the costs beside it."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks/scaling.py")
scaling = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = scaling  # dataclasses look there
_spec.loader.exec_module(scaling)

COSTS = scaling.Costs(
    study_cpu_s=36.0, memory_gb=2.0, raw_mb=150.0, cache_mb=50.0, files=10, folders=20, sample_cpu_s=0.5,
    sample_mb=20.0, forward_tflop=5.0,
)  # fmt: skip
CHOSEN = argparse.Namespace(
    studies=[25_000, 200_000], nodes=[1, 8, 32], cores=64, gpus=[8, 32, 128], gpu_tflops=100.0, patches_per_study=64.0,
    storage_gb_s=20.0,
)  # fmt: skip


def test_hours_of_preprocessing_are_decided_by_cores_or_by_the_file_system():
    # 1000 x 36 s on 10 cores; 1000 x 0.2 GB at 20 GB/s
    computed, moved = scaling.build_hours(COSTS, 1000, 1, argparse.Namespace(cores=10, storage_gb_s=20.0))
    assert computed == pytest.approx(1.0)
    assert moved == pytest.approx(10 / 3600)


def test_a_patch_takes_four_forward_passes():
    assert scaling.samples_per_s(COSTS, 100.0) == pytest.approx(5.0)


def test_the_tables_of_round_numbers():
    text = "\n".join(scaling.tables("round", COSTS, CHOSEN))
    assert "| 25,000 | 3.8 TB | 1.2 TB | 0.8 million | 250 | 3.9 h | 29 min | 7 min |" in text
    assert "5.00 patches/s, 100 MB/s from the cache, 2.5 cores" in text
    # 25,000 x 64 / (8 x 5) s = 11.1 h; 8 x 0.1 GB/s
    assert "| 25,000 | 1.6 million | 11.1 h, 0.8 GB/s | 2.8 h, 3.2 GB/s | 42 min, 12.8 GB/s |" in text


def test_the_page_shows_what_its_costs_give():
    page = (ROOT / "docs/scaling.md").read_text()
    for name, costs in json.loads((ROOT / "docs/scaling-costs.json").read_text()).items():
        for line in scaling.tables(name, scaling.Costs(**costs), CHOSEN):
            assert line.strip() in page, line
