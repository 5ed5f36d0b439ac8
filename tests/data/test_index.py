"""Which masks count as the same thing when questions are shared out."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest

from vol3d.cache import Cache, MaskRecord
from vol3d.data.index import Studies, concept
from vol3d.errors import CacheError

_PATH = Path(__file__).parents[2] / "benchmarks/index_scale.py"
_spec = importlib.util.spec_from_file_location("index_scale", _PATH)
index_scale = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(index_scale)


@pytest.mark.parametrize(
    ("label", "finding", "expected"),
    [
        ("lesion_2", "lesion_2", "lesion"),
        ("lesions_1_3", "lesion_1+lesion_3", "lesions"),
        ("pulmonary nodule 12", "n12", "pulmonary nodule"),
        ("rib_left_5", None, "rib_left_5"),
        ("7", "7", "7"),
    ],
)
def test_the_number_of_a_finding_is_no_concept(label: str, finding: str | None, expected: str) -> None:
    mask = MaskRecord(name="mask", label=label, finding_id=finding, phrases=("it",), image="ct", voxels=1)
    assert concept(mask) == expected


def test_records_are_made_from_the_table_and_one_entry_each(torso: Cache, tmp_path, monkeypatch) -> None:
    """Weights: one over the number of masks of a concept; the two lesions count as one concept."""
    ids = torso.select("train")
    cache = Cache(torso.root)
    cache.table  # noqa: B018
    opened = []
    whole = Cache.entry
    monkeypatch.setattr(Cache, "entry", lambda self, study: opened.append(study) or whole(self, study))
    studies = Studies(cache, ids)
    assert len(studies) == 5
    assert opened == []
    assert studies[1].weights == (1 / 5, 1 / 5, 1 / 5, 1 / 2)
    assert studies[1].study_id == "s1"
    assert studies[-1].study_id == "s4"
    assert studies[1] is studies[1]
    assert opened == ["s1", "s4"]
    assert studies.phrases() == {p for study in studies for p in study.phrases()}
    received = pickle.loads(pickle.dumps(studies))
    assert [s.study_id for s in received] == ids


def test_a_study_that_can_answer_nothing_is_refused_before_the_run(make_cache, make_study) -> None:
    cache = make_cache(make_study("a", absent=("ascites",)), make_study("b"))
    with pytest.raises(CacheError, match="b: expected masks with phrases or absent phrases to train on"):
        Studies(cache, cache.select())


def check_scale(tmp_path, studies: int, roots: int) -> dict[str, object]:
    cache = index_scale.make_cache(tmp_path, studies, 18, roots)
    assert all(index_scale.coverage(cache)["coverage_exact"].values())
    return index_scale.start_up(cache)


def test_every_rank_has_its_share_of_every_epoch(tmp_path) -> None:
    one, three = (check_scale(tmp_path / str(roots), 1001, roots) for roots in (1, 3))
    assert one["train"] == three["train"] == 801
    assert one["fingerprint"] == three["fingerprint"]


@pytest.mark.slow
def test_200_000_studies_start_in_ten_seconds(tmp_path) -> None:
    found = check_scale(tmp_path, 200_000, 2)
    print(found)
    assert found["start_up_s"] < 10
    assert found["memory_mb"] < 1500
    assert found["worker_mb"] < 50


def test_the_shuffle_is_another_in_every_epoch_and_process(tmp_path) -> None:
    cache = index_scale.make_cache(tmp_path, 500, 3, 1)
    one, other = index_scale.dataset_of(cache), pickle.loads(pickle.dumps(index_scale.dataset_of(cache)))
    orders = [np.array([d._study_of(i) for i in range(2 * len(one))]).reshape(2, -1) for d in (one, other)]
    assert (orders[0] == orders[1]).all()
    assert (orders[0][0] != orders[0][1]).any()
