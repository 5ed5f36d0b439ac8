import logging
from pathlib import Path

import pytest

from preprocessing.sources import registry, splits
from preprocessing.sources.common import safe_id
from vol3d.errors import ConfigError, ManifestError


def study(number, patient, split=None):
    return {"study_id": f"s{number}", "patient_id": f"p{patient}", **({"split": split} if split else {})}


def test_drawn_by_patient_and_independent_of_the_other_studies():
    rows = splits.complete([study(n, n // 2) for n in range(2000)], "set")
    shares = [sum(r["split"] == s for r in rows) / 2000 for s in ("train", "val", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    assert all(a["split"] == b["split"] for a, b in zip(rows[::2], rows[1::2], strict=True))
    assert splits.complete([study(7, 3)], "set")[0]["split"] == rows[7]["split"]
    assert any(
        a["split"] != b["split"]
        for a, b in zip(rows, splits.complete([study(n, n // 2) for n in range(2000)], "other"), strict=True)
    )


def test_the_published_test_set_stays_and_validation_comes_from_training():
    rows = splits.complete(
        [*(study(n, n, "train") for n in range(500)), *(study(n, n, "test") for n in range(500, 600))], "set"
    )
    assert all(r["split"] == "test" for r in rows[500:])
    assert 20 < sum(r["split"] == "val" for r in rows[:500]) < 90
    with_val = [study(0, 0, "train"), study(1, 1, "val")]
    assert splits.complete(with_val, "set") == with_val


def test_nobody_is_in_two_splits(caplog):
    with caplog.at_level(logging.WARNING, "vol3d"):
        rows = splits.complete(
            [study(0, 0, "train"), study(1, 0, "test"), study(2, 1, "val"), study(3, 1, "train")], "set"
        )
    assert [r.get("split") for r in rows] == [None, "test", "val", None]
    assert "2 studies are in no split" in caplog.text


def test_sources_by_name():
    for name in registry.SOURCES:
        assert registry.source_of(name).summary
    with pytest.raises(ConfigError, match="did you mean 'ct_rate'"):
        registry.source_of("CT-RATE")
    with pytest.raises(ConfigError, match="vol3d sources"):
        registry.source_of("xyz")
    with pytest.raises(ConfigError, match="vol3d intake"):
        registry.rows_of("dicom_tree", Path())
    with pytest.raises(ManifestError, match="found nothing"):
        registry.rows_of("sts", Path("no-such-folder"))


def test_ids_are_safe_and_distinct():
    assert safe_id("s0001") == "s0001"
    assert safe_id("a b") != safe_id("a  b")
    assert safe_id("a b") == safe_id("a b")
