"""Tables of findings by hand, pairs of phrases, and the commands that refuse leaks."""

import json
import shutil
from types import SimpleNamespace

import pytest

from preprocessing.phantom_pairs import pairs_of
from vol3d.cache import Cache
from vol3d.checkpoint import Calibration, FindingCalibration, Findings
from vol3d.metrics.operating import OperatingPoint
from vol3d.metrics.probes import PairAnswer
from vol3d.study_table import INDEX
from vol3d.text.prompts import prompts_for
from vol3d.workflows import verify
from vol3d.workflows.evaluate_findings import (
    FindingCase,
    FindingsPlan,
    findings_table,
    headline,
    pair_table,
    subgroup_tables,
)
from vol3d.workflows.scoring import Said

NAN = float("nan")
POINT = OperatingPoint(threshold=0.5, criterion="youden")


def cases_of(finding, truth, probability):
    return [
        FindingCase(f"s{i}", f"p{i}", finding, float(t), 0.0, p, 0.1, p >= 0.5, 0.5, "own")
        for i, (t, p) in enumerate(zip(truth, probability, strict=True))
    ]


A = cases_of("a", [0, 0, 1, 1, NAN], [0.1, 0.6, 0.4, 0.9, 0.7])
B = cases_of("b", [0, 1, 1, 1, 0], [0.2, 0.8, 0.7, 0.6, 0.3])
C = cases_of("c", [0, 0, 0, 0, 0], [0.2, 0.8, 0.1, 0.1, 0.1])


def test_rows_macro_and_micro_by_hand():
    table = findings_table([*A, *B, *C], dict.fromkeys("abc", POINT), samples=50)
    a, c = table["by_finding"]["a"], table["by_finding"]["c"]
    assert (a["positives"], a["negatives"], a["unknown"]) == (2, 2, 1)
    assert a["figures"]["auroc"]["value"] == 0.75  # 0.4 is below 0.6
    assert a["figures"]["f1"]["value"] == 0.5  # 0.9 found, 0.4 missed, 0.6 wrong
    assert a["figures"]["sensitivity_at_specificity_0.9"]["value"] == 0.5
    assert (c["figures"]["auroc"]["value"], c["undefined"]["auroc"]) == (None, "no present case among 5")
    assert c["figures"]["specificity"]["value"] == 0.8
    macro, micro = table["macro"], table["micro"]
    assert macro["auroc"]["value"] == pytest.approx((0.75 + 1.0) / 2)
    assert macro["auroc"]["left_out"] == {"c": "no present case among 5"}
    assert macro["specificity"]["value"] == pytest.approx((0.5 + 1.0 + 0.8) / 3)
    assert macro["f1"]["value"] == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    # all 14 known: found 1 + 3, missed 1, wrong 1 + 1
    assert micro["f1"]["value"] == pytest.approx(8 / 11)
    assert micro["sensitivity"]["value"] == pytest.approx(4 / 5)
    assert micro["f1"]["cases"] == 14
    assert macro["auroc"]["low"] <= macro["auroc"]["value"] <= macro["auroc"]["high"]
    json.dumps(table, allow_nan=False)
    assert headline(table)["finding_macro_auroc"] == 0.875


def test_pairs_by_kind():
    answers = [
        (PairAnswer("side", True, True, "p"), True), (PairAnswer("side", True, False, "q"), True),
        (PairAnswer("organ", True, False, "p"), False),
    ]  # fmt: skip
    table = pair_table(answers, samples=20)
    assert (table["side"]["pairs"], table["side"]["both"]["value"], table["side"]["ranked"]["value"]) == (2, 0.5, 1.0)
    assert table["all"]["both"]["value"] == pytest.approx(1 / 3)
    assert table["all"]["single"]["value"] == pytest.approx(4 / 6)
    assert table["all"]["one_only"] == pytest.approx(2 / 3)
    assert headline({"pairs": table})["pairs_side_both_right"] == 0.5


def test_subgroups_where_they_are_stated():
    cases = [*cases_of("a", [0, 1] * 25, [0.1, 0.9] * 25), *cases_of("b", [0, 1] * 25, [0.9, 0.1] * 25)]
    groups = {"sex": (["F", "M"] * 25) + (["F", "M"] * 25), "scanner": [None] * 100, "centre": [""] * 100}
    table = subgroup_tables(cases, groups, samples=20)
    rows = table["accuracy"]["groups"]
    assert [(r["attribute"], r["group"], r["value"], r["few"]) for r in rows] == [
        ("sex", "F", 0.5, False), ("sex", "M", 0.5, False),
    ]  # fmt: skip
    assert table["accuracy"]["gaps"][0]["value"] == 0
    assert table["auroc"]["groups"][0]["value"] is None  # every F has truth 0
    json.dumps(table, allow_nan=False)
    assert subgroup_tables(cases, {"scanner": [None] * 100}, samples=20) == {}


@pytest.fixture(scope="module")
def entries(tiny):
    cache = Cache(tiny.cache)
    return [cache.entry(s) for s in cache.study_ids]


def plan_of(entries, truthful):
    """A plan whose model knows the truth, or says "present" to everything."""
    prompts = prompts_for("liver_lesion")
    one = FindingCalibration(scale=1.0, bias=0.0, points={"youden": POINT}, prompts=prompts)
    checkpoint = SimpleNamespace(findings=Findings(by_name={"liver_lesion": one}), calibration=Calibration())
    plan = FindingsPlan(checkpoint, entries)
    for entry in entries:
        wordings = {w: n for n, v in entry.labels.items() if v == 1 for w in prompts_for(n).positive}
        true = {p.present for p in plan.pairs if p.present_study == entry.study_id} | set(wordings)
        said = {p: Said(3.0, 255) if p in true or not truthful else Said(-3.0, 255) for p in plan.phrases(entry)}
        plan.add(entry, said)
    return plan


def test_a_model_that_knows_gets_everything_right(entries):
    plan = plan_of(entries, truthful=True)
    table = plan.table(samples=20)
    liver = table["by_finding"]["liver_lesion"]
    truth = [e.labels["liver_lesion"] for e in entries]
    assert liver["positives"] == truth.count(1)
    assert liver["unknown"] == truth.count(None)
    assert liver["threshold_of"] == "own"
    assert table["by_finding"]["spleen_lesion"]["threshold_of"] == "phrases"
    assert all(row["figures"]["auroc"]["value"] in (1.0, None) for row in table["by_finding"].values())
    assert table["micro"]["f1"]["value"] == 1.0
    assert table["pairs"]["all"]["both"]["value"] == 1.0
    assert set(table["pairs"]) >= {"presence", "all"}
    assert {r["attribute"] for r in table["subgroups"]["auroc"]["groups"]} >= {"sex", "scanner"}


def test_always_present_gets_no_pair_right(entries):
    table = plan_of(entries, truthful=False).table(samples=20)
    assert table["pairs"]["all"]["both"]["value"] == 0.0
    assert table["pairs"]["all"]["single"]["value"] == 0.5
    assert table["pairs"]["all"]["ranked"]["value"] == 0.0
    assert table["micro"]["sensitivity"]["value"] == 1.0
    assert table["micro"]["specificity"]["value"] == 0.0


def test_only_phantoms_give_pairs(entries):
    assert FindingsPlan(SimpleNamespace(findings=None, calibration=Calibration()), []).pairs == []
    within = [p for e in entries for p in pairs_of(e.attributes)]
    assert [p for p in plan_of(entries, True).pairs if p.kind != "presence"] == within
    fresh = SimpleNamespace(study_id="s", attributes={**entries[0].attributes, "meta": {"centre": "elsewhere"}})
    assert FindingsPlan(SimpleNamespace(findings=None, calibration=Calibration()), [fresh]).pairs == []


# -- the real command ----------------------------------------------------------------------------------------------


def leaking(cache, to):
    """The same cache with one patient in two splits."""
    shutil.copytree(cache, to)
    first, second = (Cache(to).select(s)[0] for s in ("train", "test"))
    path = to / "studies" / f"{second}.zarr" / "zarr.json"
    record = json.loads(path.read_text())
    record["attributes"]["vol3d"]["patient_key"] = Cache(to).entry(first).patient_key
    path.write_text(json.dumps(record))
    (to / INDEX).unlink()  # as whoever writes an entry does
    return to, first, second


def test_a_patient_in_two_splits_stops_training_evaluation_and_verification(vol3d, tiny, tmp_path, capsys):
    cache, first, second = leaking(tiny.cache, tmp_path / "cache")
    for arguments in (
        ["train", tiny.config, "--cache", cache, "--out", tmp_path / "r", *tiny.settings],
        ["evaluate", tiny.run, cache, "--out", tmp_path / "e"],
    ):
        assert vol3d(*arguments) == 1
        error = capsys.readouterr().err
        assert f"cache/{first} (train) and cache/{second} (test): same patient" in error
    assert vol3d("verify", cache, "--no-near-duplicates") == 1
    assert "same patient" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_thresholds_are_not_chosen_on_test_studies(vol3d, tiny, tmp_path, capsys):
    options = [*tiny.settings, "--set", "data.val_split=test"]
    assert vol3d("train", tiny.config, "--cache", tiny.cache, "--out", tmp_path / "r", *options) == 1
    assert "validation split to choose thresholds on" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_verification_compares_volumes(vol3d, tiny, tmp_path, capsys, caplog, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(verify, "MOST_PAIRS", 1)
        assert vol3d("verify", tiny.cache) == 0
        assert "--near-duplicates compares them" in caplog.text
        caplog.clear()
    assert vol3d("verify", tiny.cache) == 0
    assert "--near-duplicates" not in caplog.text
    shutil.copytree(tiny.cache, tmp_path / "cache")
    first, second = (Cache(tmp_path / "cache").select(s)[0] for s in ("train", "test"))
    studies = tmp_path / "cache" / "studies"
    shutil.rmtree(studies / f"{second}.zarr")
    shutil.copytree(studies / f"{first}.zarr", studies / f"{second}.zarr")
    path = studies / f"{second}.zarr" / "zarr.json"
    record = json.loads(path.read_text())
    record["attributes"]["vol3d"] |= {"study_id": second, "patient_key": "another", "split": "test"}
    path.write_text(json.dumps(record))
    (tmp_path / "cache" / INDEX).unlink()
    assert vol3d("verify", tmp_path / "cache") == 1
    assert f"cache/{first} (train)" in (error := capsys.readouterr().err)
    assert "near-duplicate volume, similarity 1.00" in error
