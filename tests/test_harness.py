"""The harness of the speed benchmarks: turns, ratios of what ran next to each other, goals, the table, memory."""

import argparse
import json
import os
import time

import numpy as np
import pytest

from benchmarks import harness


def test_a_ratio_compares_what_ran_next_to_each_other():
    one, other = harness.Timing(wall=[2.0, 20.0, 4.0]), harness.Timing(wall=[1.0, 10.0, 4.0])
    assert harness.ratio(one, other) == 2.0  # the slow round was slow for both


def test_sides_take_turns_and_each_is_first_once():
    order = []
    sides = {name: lambda name=name: order.append(name) for name in "abc"}
    times = harness.in_turns(sides, 3, warm_up=0)
    assert order == list("abc") + list("bca") + list("cab")
    assert {name: len(t.wall) for name, t in times.items()} == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize(("value", "goal", "met"), [(1.1, "<= 1.1", True), (2.0, ">= 2", True), (0.3, "< 0.3", False)])
def test_goals(value, goal, met):
    assert harness.meets(value, goal) is met


def test_growth_is_an_exponent():
    assert harness.slope([1, 10, 100], [3, 300, 30_000]) == pytest.approx(2)
    assert harness.slope([1, 2, 4], [5, 5, 5]) == pytest.approx(0)


def test_rows_become_json_and_a_table(tmp_path):
    settings = argparse.Namespace(out=tmp_path / "out", results=tmp_path, rounds=1)
    bench = harness.Bench("some", settings)
    bench.row("reading", 2.5, ">= 2", against="a rival", ms=1.23456789)
    bench.row("writing", 0.5, unit="s")
    record = json.loads(bench.write().read_text())
    assert record["rows"][0]["detail"] == {"ms": 1.235}
    assert record["command"] == "python -m benchmarks.some"
    assert str(tmp_path) not in json.dumps(record)  # no paths of the machine
    lines = harness.table(tmp_path).splitlines()
    assert lines[4] == "| `some` | reading, against a rival | 2.5x | >= 2 | yes |"
    assert lines[5] == "| `some` | writing | 0.5 s |  |  |"


def test_peak_memory_is_what_was_added():
    with harness.Peak() as peak:
        block = np.ones(64 << 20, np.uint8)
        time.sleep(0.1)
        del block
    assert 60e6 < peak.bytes < 120e6


def test_a_fresh_process_is_another():
    assert harness.alone(os.getpid) != os.getpid()
