"""Density and uptake measured in phantoms; a model that hears no such words still answers with the right thing."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from preprocessing.build_cache import preprocess
from preprocessing.phantom import PhantomOptions, write_phantoms
from vol3d.cache import Cache
from vol3d.checkpoint import Calibration
from vol3d.text.looks import plain_of, without_size
from vol3d.workflows.appearances import appearance_of
from vol3d.workflows.calibrate import calibrate, calibrate_as_asked
from vol3d.workflows.evidence import Evidences
from vol3d.workflows.known import Known
from vol3d.workflows.looks import ask_measured, plain_phrase, sort_parts
from vol3d.workflows.prepare import load_recipe

_spec = importlib.util.spec_from_file_location("oracle", Path(__file__).with_name("oracle.py"))
oracle_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle_module)

KNOWN = Known(oracle_module.TRAINED)
PLACE = {"lung": "{} lung lesion", "kidney": "{} renal lesion", "liver": "liver lesion", "spleen": "spleen lesion",
         "mediastinum": "mediastinal lesion", "spine": "bone lesion",
         "soft tissue": "{} paraspinal lesion"}  # fmt: skip

LIES = {"lung": {"calcified", "ground-glass"}, "mediastinum": {"calcified"}, "spine": {"lytic", "sclerotic"}}
LIES |= {organ: {"hypodense", "calcified"} for organ in ("kidney", "liver", "spleen", "soft tissue")}
"""What a measurement can refute there."""
CORED = 80
"""Voxels from which on a ball surely has a core; the density of smaller things is drawn towards their surroundings."""


def deaf(entry, phrases):
    """Right about things and places, and without ears for density and uptake."""
    return oracle_module.oracle(entry, [plain_of(p) for p in phrases])


@pytest.fixture(scope="module")
def evidences(tmp_path_factory):
    """Evidence of six PET/CTs and one CT."""
    folder = tmp_path_factory.mktemp("looks")
    recipe = load_recipe(Path(__file__).parents[2] / "configs" / "preprocess" / "phantom.yaml")
    for seed, count, kind in ((41, 6, "petct"), (42, 1, "ct")):
        options = PhantomOptions(ct_spacing_mm=(4.0, 4.0), pet_spacing_mm=((4.0, 4.07, 4.07),))
        splits = (0.0, 1.0, 0.0)
        manifest = write_phantoms(folder / kind, count, seed, kind=kind, splits=splits, options=options)
        preprocess(manifest, recipe, folder / "cache", show_progress=False)
    cache = Cache(folder / "cache")
    return [Evidences(deaf, Calibration()).of(cache.entry(study)) for study in cache.study_ids]


def lesions(evidences):
    for evidence in evidences:
        for finding in evidence.entry.findings:
            if finding["present"]:
                yield evidence, finding, PLACE[finding["organ"]].format(finding["side"])


def truth(evidence, finding):
    entry = evidence.entry
    name = next(m.name for m in entry.masks if m.finding_id == finding["id"])
    return entry.read_mask(name, (0, 0, 0), entry.grid.shape) > 0


def shows(part, mask_ZYX):
    return (mask_ZYX[part.window] & part.member_ZYX).sum() > 0.5 * part.voxels


def test_every_lesion_looks_as_it_was_drawn(evidences):
    seen = set()
    for evidence, finding, phrase in lesions(evidences):
        mask_ZYX = truth(evidence, finding)
        part = next(p for p in evidence.parts(phrase) if shows(p, mask_ZYX))
        looks = appearance_of(part, evidence, KNOWN)
        assert looks.density.words[0] == finding["density"], (finding["name"], looks)
        assert looks.density.certain or part.voxels < CORED, (finding["name"], looks)
        assert looks.uptake == finding["uptake"], (finding["name"], looks)
        assert (looks.suv is None) == ("pet" not in evidence.entry.images)
        seen.add(finding["density"])
    assert len(seen) >= 6  # of the eight that phantoms have


def test_words_that_the_model_does_not_hear_pick_the_right_ones(evidences):
    picked = 0
    for evidence, finding, plain in lesions(evidences):
        words = [w for w in (finding["uptake"], finding["density"]) if w]
        phrase = " ".join([*words, plain])
        found = sort_parts(phrase, None, evidence, KNOWN)
        same = [f for e, f, p in lesions(evidences) if e is evidence and p == plain
                and (f["uptake"], f["density"]) == (finding["uptake"], finding["density"])]  # fmt: skip
        for part in found.fitting:
            assert any(shows(part, truth(evidence, f)) for f in same), phrase
        assert found.fitting, phrase
        picked += len(found.other)
    assert picked > 3  # there were others to be told apart


def test_a_lie_about_looks_fits_nothing(evidences):
    for evidence, finding, plain in lesions(evidences):
        here = {f["density"] for e, f, p in lesions(evidences) if e is evidence and p == plain}
        if any(part.voxels < CORED for part in evidence.parts(plain)):
            continue
        for lie in LIES[finding["organ"]] - here:
            assert not sort_parts(f"{lie} {plain}", None, evidence, KNOWN).fitting, (lie, finding["name"])


def test_masks_and_presence_follow_what_was_measured(evidences):
    calibration, changed = Calibration(scale=0.5, bias=-1.0), 0
    for evidence, finding, plain in lesions(evidences):
        entry = evidence.entry
        words = [w for w in (finding["uptake"], finding["density"]) if w]
        phrase, lie = " ".join([*words, plain]), f"part-solid {plain}"
        probability, presence = ask_measured(deaf, entry, [phrase, plain, lie], KNOWN, calibration)
        meant_ZYX = oracle_module.oracle(entry, [phrase])[0][0] > 0
        assert np.array_equal(probability[0] >= calibration.mask_level, meant_ZYX), phrase
        assert presence[0] == 8
        raw, _ = deaf(entry, [plain])
        assert np.array_equal(probability[1], raw[0])  # says nothing of looks: as the model says
        assert np.array_equal(probability[2], raw[0])  # nobody measures this
        changed += int((meant_ZYX != (raw[0] > 0)).any())
        here = {f["density"] for e, f, p in lesions(evidences) if e is evidence and p == plain}
        other = next(iter(sorted(LIES[finding["organ"]] - here)), None)
        if other is None or any(part.voxels < CORED for part in evidence.parts(plain)):
            continue
        refuted, absent = ask_measured(deaf, entry, [f"{other} {plain}"], KNOWN, calibration)
        assert not (refuted >= calibration.mask_level).any()
        assert calibration.probability(absent[0]) == pytest.approx(0.01)
    assert changed > 3


def test_thresholds_are_chosen_for_the_answers_that_are_given(evidences):
    """The model alone answers most phrases that lie about looks; measured, every absence is told from every finding."""
    entries = [evidence.entry for evidence in evidences]
    said = Known({p for entry in entries for mask in entry.masks for p in mask.phrases})
    alone, measured = calibrate(deaf, entries), calibrate_as_asked(deaf, entries, said)
    point = measured.calibration
    assert point.probability(8.0) > 0.9
    assert point.presence_threshold < 0.9
    assert alone.calibration.probability(8.0) < point.probability(8.0)  # it has seen lies with a sure mask
    assert calibrate_as_asked(deaf, entries, KNOWN) == alone  # no phrase that it was trained on says how a lesion looks


def test_words_for_size_pick_by_diameter(evidences):
    """For a checkpoint that knows what its training meant by them; for others they are left to the model."""

    def deaf_to_sizes(entry, phrases):
        return deaf(entry, [without_size(p) for p in phrases])

    sized = Known(oracle_module.TRAINED, sizes={"small": (0, 29), "medium": (29, 42), "large": (42, 1e6)})
    sizes = {"small": "small", "medium": "medium-sized", "large": "large"}
    told_apart = 0
    for evidence in evidences:
        asked = Evidences(deaf_to_sizes, Calibration()).of(evidence.entry)
        for _, finding, plain in lesions([evidence]):
            same = [f for _, f, p in lesions([evidence]) if p == plain]
            for word, said in sizes.items():
                meant = [f for f in same if f["size"] == word]
                found = sort_parts(f"{said} {plain}", None, asked, sized).fitting
                others = [p for p in found if not any(shows(p, truth(asked, f)) for f in meant)]
                assert len(found) - len(others) == len(meant), (said, plain)
                for part in others:  # too near a boundary to be told
                    assert word not in appearance_of(part, asked, sized).sizes
                told_apart += len(found) < len(same)
            if len(same) > 1:
                assert len(sort_parts(f"{sizes[finding['size']]} {plain}", None, asked, KNOWN).fitting) == len(same)
    assert told_apart > 20


def test_a_phrase_that_says_nothing_of_looks_is_asked_alone():
    assert plain_phrase("lesion in the liver", KNOWN) is None
    assert plain_phrase("ground-glass opacity", KNOWN) is None  # without the words no thing is left
    assert plain_phrase("hypodense lesion in the liver", Known([])) == "lesion in the liver"
    assert plain_phrase("hypodense finding in the liver", Known([])) == "finding in the liver"
    assert plain_phrase("sclerotic vertebral anomaly", Known([])) == "vertebral anomaly"
