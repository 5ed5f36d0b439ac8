"""Which text is true of which image, and how much of a study a patch shows."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vol3d.cache import MaskRecord
from vol3d.data.augment import Motion, Placement
from vol3d.data.contrast import Contrast, TextPool, draw_contrast, pair_targets, text_hash
from vol3d.data.cover import inside, organ_masks
from vol3d.data.statements import Knowledge, Section
from vol3d.text.claims import claims_of, is_normal, untrue


def section(text: str, organ: str | None = "lung") -> Section:
    return Section(text, organ, is_normal(text))


def image(*texts: str, shown: float = 1.0, flips: tuple[int, ...] = (), count: int = 4) -> Contrast:
    """What one study that says `texts` brings."""
    known = Knowledge(facts=tuple(c for t in texts for c in claims_of(t)), sections=tuple(section(t) for t in texts))
    cover = SimpleNamespace(of=lambda organ: shown)
    return draw_contrast(np.random.default_rng(0), count, known, TextPool([known]), cover, 0.9, flips)  # type: ignore[arg-type]


def target(study: Contrast, text: str, normal: float = 0.7) -> float:
    """Of a text by another study."""
    other = image(text, count=2)
    row = other.texts.index(text)
    return pair_targets(study.study_C[None], other.text_SC[row : row + 1], normal).item()


NODULE = "Solid nodule in the right lung."


def test_targets_rule_by_rule() -> None:
    assert target(image(NODULE), NODULE) == 1
    assert np.isnan(target(image(NODULE, shown=0.5), NODULE))  # it may lie outside of the patch
    assert np.isnan(target(image(NODULE), "Nodule in the left lung."))  # nobody denied it
    assert target(image(NODULE), "No pulmonary nodule.") == 0
    assert np.isnan(target(image(NODULE, shown=0.5), "No pulmonary nodule."))  # true of this patch, perhaps
    assert target(image("No pulmonary nodule."), NODULE) == 0
    assert target(image("No pulmonary nodule.", shown=0.5), NODULE) == 0  # not there, so not in any part
    assert target(image("Both lungs are clear."), "No pulmonary nodule.") == pytest.approx(0.7)
    assert np.isnan(target(image("Both lungs are clear.", shown=0.5), "No pulmonary nodule."))
    assert np.isnan(target(image(NODULE), "Mosaic attenuation."))


def test_a_mirrored_patch_brings_mirrored_texts_and_facts() -> None:
    mirrored = image(NODULE, "No nodule in the left lung.", flips=(2,))
    assert "Solid nodule in the left lung." in mirrored.texts
    assert target(mirrored, "Solid nodule in the left lung.") == 1
    assert target(mirrored, "Nodule in the right lung.") == 0
    upside = image("Nodule in the upper lobe of the right lung.", flips=(0,))
    assert set(upside.study_C[:32].tolist()) == {0}  # its own text may not hold any more


def test_no_text_is_no_target() -> None:
    cover = SimpleNamespace(of=lambda organ: 1.0)
    nothing = draw_contrast(np.random.default_rng(0), 2, Knowledge(), TextPool([]), cover, 0.9, ())  # type: ignore[arg-type]
    assert nothing.texts == ("", "")
    assert torch.isnan(pair_targets(nothing.study_C[None], nothing.text_SC, 1.0)).all()


def test_numbers_decide_as_words_do() -> None:
    said = [
        NODULE, "No pulmonary nodule.", "Both lungs are clear.", "Mass in the left lung.",
        "No nodule in the left lung.",        "FDG-avid nodule in the left lung.",
        "Ground-glass nodule in the left lung.", "No solid pulmonary nodule.",
        "No pleural effusion.", "Pleural effusion on the right.", "No suspicious pulmonary nodule.",
    ]  # fmt: skip
    wrong = 0
    for own, other in itertools.permutations(said, 2):
        expected = untrue(other, claims_of(own))
        wrong += expected
        assert (target(image(own), other) == 0) == expected, (own, other)
    assert 10 < wrong < 60


def test_the_same_words_have_the_same_number() -> None:
    assert text_hash("No  Nodule") == text_hash("no nodule") != text_hash("nodule")


def still(matrix: np.ndarray, shift: tuple[float, float, float] = (0, 0, 0)) -> Motion:
    place = Placement(matrix, np.array(shift, float))
    return Motion(place, place, place, (), True)


def test_a_patch_shows_the_voxels_inside_it_as_it_is_moved() -> None:
    points = np.stack(np.meshgrid(*[np.arange(-2, 12)] * 3, indexing="ij"), -1).reshape(-1, 3)
    start, size, spacing = (2, 3, 4), (4, 5, 6), (4.0, 2.0, 1.0)
    plain = inside(points, start, size, spacing, still(np.eye(3)))
    stop = np.add(start, size)
    np.testing.assert_array_equal(plain, ((points >= start) & (points < stop)).all(1))
    np.testing.assert_array_equal(inside(points, start, size, spacing, still(np.diag([-1.0, 1, -1]))), plain)
    # half the source extent along every axis: a patch that magnifies twice
    assert inside(points, start, size, spacing, still(np.eye(3) / 2)).sum() == 2 * 3 * 4
    moved = inside(points, start, size, spacing, still(np.eye(3), (4.0, -2.0, 1.0)))
    np.testing.assert_array_equal(moved, inside(points - [1, -1, 1], start, size, spacing, still(np.eye(3))))


def test_masks_that_are_an_organ() -> None:
    def mask(label: str, finding: str | None = None) -> MaskRecord:
        return MaskRecord(name=label, image="ct", phrases=("x",), label=label, finding_id=finding)

    found = organ_masks(
        [
            mask("liver"),
            mask("lung_left"),
            mask("kidney_left"),
            mask("kidney_right"),
            mask("rib_left_5"),
            mask("spleen", "f1"),
            mask("body"),
        ]
    )
    assert found == {"liver": ("liver",), "kidney": ("kidney_left", "kidney_right")}
