from types import SimpleNamespace

import numpy as np
import pytest

from vol3d.errors import Vol3dError
from vol3d.workflows.embed_split import score_retrieval
from vol3d.workflows.evaluate_retrieval import Embedded, by_parts, evaluate_retrieval, text_groups


def embedded(n: int, noise: float, texts=None) -> Embedded:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, 32))
    own = images + noise * rng.normal(size=(n, 32))
    return Embedded(images, own * 7.0, texts or [f"report {'x' * i}" for i in range(n)], [f"p{i}" for i in range(n)])


def test_pairs_find_each_other_and_strangers_do_not():
    good = evaluate_retrieval(embedded(40, 0.1), samples=50)["all"]
    for way in ("image_to_text", "text_to_image"):
        assert good[way]["recall"]["1"]["value"] == 1
        assert good[way]["median_rank"] == 1
    bad = evaluate_retrieval(embedded(40, 100.0), samples=50)["all"]["image_to_text"]
    assert bad["recall"]["10"]["value"] < 0.5
    assert bad["chance"]["10"] == pytest.approx(0.25)


def test_one_embedding_for_all_scores_nothing():
    same = Embedded(
        np.ones((20, 4)), np.ones((20, 4)), [f"text {'x' * i}" for i in range(20)], list("abcdefghijklmnopqrst")
    )
    assert evaluate_retrieval(same, samples=20)["all"]["image_to_text"]["recall"]["10"]["value"] == 0


def test_texts_that_differ_in_numbers_alone_are_right_for_each_other():
    assert text_groups(["Nodule of 12 mm.", "nodule of  31 mm.", "No nodule."]) == [0, 0, 1]
    rng = np.random.default_rng(1)
    images = rng.normal(size=(12, 16))
    texts = images[np.r_[6:12, 0:6]]  # each image has the text embedding of its partner
    own = [f"Lesion {'abcdef'[i % 6]}, {10 + i} mm." for i in range(12)]
    table = evaluate_retrieval(Embedded(images, texts, own, [str(i) for i in range(12)]), samples=20)["all"]
    assert table["different_texts"] == 6
    assert table["image_to_text"]["recall"]["1"]["value"] == 1


def test_parts_meet_their_organs():
    east, north = np.eye(2)
    images = np.stack([[east, north], [north, north]])  # two images, as the liver and as the spleen see them
    organs, texts = [[0, 1], [0]], [np.stack([east, north]), north[None]]
    np.testing.assert_allclose(by_parts(images, organs, texts), [[1.0, 0.0], [0.5, 1.0]])
    own = Embedded(np.ones((2, 2)), np.ones((2, 2)), ["both", "liver"], ["p0", "p1"])
    table = evaluate_retrieval(own, parts_NN=by_parts(images, organs, texts), ranks=(1,), samples=20)
    assert table["all"]["image_to_text"]["recall"]["1"]["value"] == 0
    assert table["by_parts"]["image_to_text"]["recall"]["1"]["value"] == 1


def test_organs_and_subgroups():
    whole = embedded(30, 0.1)
    organs = {"liver": embedded(8, 0.1), "spleen": embedded(1, 0.1)}
    meta = [{"sex": "F" if i % 2 else "M", "scanner": None} for i in range(30)]
    table = evaluate_retrieval(whole, organs, meta, samples=50)
    assert set(table["by_organ"]) == {"liver"}
    assert table["by_organ"]["liver"]["image_to_text"]["recall"]["10"]["value"] is None  # 10 of 8 is no choice
    assert [(g["attribute"], g["group"], g["value"]) for g in table["subgroups"]["groups"]] == [
        ("sex", "F", 1.0), ("sex", "M", 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_embeddings_that_point_nowhere_are_refused(bad: float):
    own = embedded(5, 0.1)
    own.images_NE[3] = bad
    with pytest.raises(Vol3dError, match="for study 3"):
        evaluate_retrieval(own)


def test_shapes_must_agree():
    with pytest.raises(Vol3dError, match=r"\(4, 2\), \(3, 2\)"):
        Embedded(np.ones((4, 2)), np.ones((3, 2)), ["a"] * 4, ["p"] * 4)
    with pytest.raises(Vol3dError, match="at least two"):
        evaluate_retrieval(Embedded(np.ones((1, 2)), np.ones((1, 2)), ["a"], ["p"]))


def test_reports_without_findings_are_named():
    entries = [SimpleNamespace(study_id=str(n), masks=[], report={"indication": "Cough."}, labels=None, absent=[],
                               attributes={}, patient_key=str(n), findings=None) for n in range(2)]  # fmt: skip
    asker = SimpleNamespace(embed=lambda entry, organs: np.ones((1 + len(organs), 4), np.float32))
    with pytest.raises(Vol3dError, match="found none"):
        score_retrieval(asker, entries, samples=10)
