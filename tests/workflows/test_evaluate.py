"""What `vol3d evaluate` of a tiny run writes and says."""

import contextlib
import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

from vol3d.cache import Cache


@pytest.fixture(scope="module")
def evaluated(tiny, vol3d, tmp_path_factory):
    """The validation studies of the tiny run, evaluated once for all tests."""
    out, printed = tmp_path_factory.mktemp("evaluated"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert vol3d("evaluate", tiny.run, tiny.cache, "--split", "val", "--samples", "20", "--out", out) == 0
    cache = Cache(tiny.cache)
    entries = [cache.entry(study) for study in cache.select("val")]
    return SimpleNamespace(out=out, printed=printed.getvalue(), entries=entries)


def test_evaluation_writes_a_row_a_phrase(evaluated):
    summary = json.loads((evaluated.out / "metrics.json").read_text())
    table = list(csv.DictReader((evaluated.out / "metrics.csv").open()))
    entries = evaluated.entries
    assert sum(r["kind"] == "absent" for r in table) == sum(len(e.absent) for e in entries)
    assert sum(r["wording"] == "seen" for r in table) == sum(len(e.masks) for e in entries)
    assert summary["probes"]["organ"] > 3
    share = np.mean([r["answered_present"] == "False" for r in table if r["kind"] == "absent"])
    assert summary["headline"]["absent_answered_empty"] == pytest.approx(share, abs=1e-4)
    dice = np.mean([float(r["dice"]) for r in table if r["kind"] == "organ" and r["wording"] == "seen"])
    assert summary["headline"]["organ_dice"] == pytest.approx(dice, abs=1e-3)
    assert (evaluated.out / "presence.png").stat().st_size > 5000


def test_the_command_says_what_was_seen(evaluated):
    seen = json.loads((evaluated.out / "metrics.json").read_text())["seen_in_training"]
    assert "are better than" in seen["statement"]
    assert seen["statement"] in evaluated.printed


def test_evaluation_holds_the_findings(evaluated):
    summary = json.loads((evaluated.out / "metrics.json").read_text())
    table = list(csv.DictReader((evaluated.out / "findings.csv").open()))
    entries = evaluated.entries
    names = {n for e in entries for n, v in e.labels.items() if v is not None}
    assert set(summary["findings"]["by_finding"]) == names
    assert len(table) == len(entries) * len(names)
    for name, row in summary["findings"]["by_finding"].items():
        own = [r for r in table if r["finding"] == name]
        assert row["positives"] == sum(r["truth"] == "1" for r in own) == sum(e.labels.get(name) == 1 for e in entries)
        right = [(r["answered_present"] == "True") == (r["truth"] == "1") for r in own if r["truth"]]
        found, wanted = row["figures"], np.array([r["truth"] == "1" for r in own if r["truth"]])
        if wanted.any():
            assert found["sensitivity"]["value"] == pytest.approx(np.mean(np.array(right)[wanted]))
    assert summary["bootstrap_samples"] == 20
    assert summary["headline"]["pairs_all_both_right"] == pytest.approx(
        summary["findings"]["pairs"]["all"]["both"]["value"], abs=1e-4
    )
    assert "finding_micro_f1" in evaluated.printed
    for name in ("findings_roc.png", "findings_pr.png"):
        assert (evaluated.out / name).stat().st_size > 5000
