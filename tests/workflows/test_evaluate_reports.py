"""Reports made from the truth of phantoms: right in everything, then with one thing wrong at a time."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from preprocessing.phantom import PhantomOptions, write_phantoms
from preprocessing.phantom_lesions import Traits
from preprocessing.phantom_report import Measured, lesion_forms
from preprocessing.reading import read_mask
from vol3d.cache import Cache, Entry
from vol3d.errors import GeometryError, Vol3dError
from vol3d.export.nifti import write_nifti
from vol3d.export.regrid import to_source_grid
from vol3d.text.slots import take_numbers
from vol3d.workflows.evaluate_consistency import evaluate_consistency
from vol3d.workflows.evaluate_questions import evaluate_questions
from vol3d.workflows.evaluate_reports import evaluate_reports, report_tables, score_study
from vol3d.workflows.evidence import measure_masks
from vol3d.workflows.printed import printed_text, reproduced
from vol3d.workflows.records import load_record
from vol3d.workflows.slots_filled import filled
from vol3d.workflows.variants import KINDS, write_variants

ROOT = Path(__file__).parents[2]
OPTIONS = PhantomOptions(
    ct_spacing_mm=(5.0, 5.0), pet_spacing_mm=((6.0, 6.0, 6.0),), views=("abdomen",), lesions=(2, 4), resections=0.0
)


@pytest.fixture(scope="module")
def made(tmp_path_factory, vol3d):
    """Four phantoms in a cache, and a report of each that says all that is true, with its masks."""
    folder = tmp_path_factory.mktemp("reports")
    manifest = write_phantoms(folder / "studies", 4, 9, splits=(0.0, 0.0, 1.0), options=OPTIONS)
    config = ROOT / "configs" / "train" / "demo.yaml"
    assert vol3d("preprocess", manifest, "--config", config, "--out", folder / "cache") == 0
    cache = Cache(folder / "cache")
    for study in cache.study_ids:
        write_report(cache.entry(study), manifest.parent, folder / "right" / study)
    return SimpleNamespace(folder=folder, manifest=manifest, cache=cache, reports=folder / "right")


def write_report(entry: Entry, studies: Path, folder: Path) -> None:
    """A record as `vol3d report` writes it, from the true masks."""
    (folder / "report").mkdir(parents=True)
    sentences = []
    for finding in entry.findings:
        section = finding["organ"]
        if finding["present"]:
            sentences.append(true_sentence(entry, finding, studies, folder))
        else:
            place = finding["name"].removeprefix("focal lesion ")
            sentences.append(sentence(f"No focal lesion {place}.", section, [finding["name"]], []))
    record = {"study_id": entry.study_id, "grid": "ct", "sentences": sentences, "lesions": []}
    (folder / "report.json").write_text(json.dumps(record))


def true_sentence(entry: Entry, finding: dict[str, Any], studies: Path, folder: Path) -> dict[str, Any]:
    mask = read_mask(studies / entry.study_id / "masks" / f"{finding['id']}.nii.gz").volume
    grids = entry.source_grids
    common = entry.read_mask(finding["id"], (0, 0, 0), entry.grid.shape)
    on_pet = to_source_grid(common != 0, entry.grid, grids["pet"], 0.5)
    numbers = measure_masks(mask.array_ZYX, grids["ct"], "ct", entry.slice_numbers, on_pet, entry.pet_native())
    assert numbers is not None
    files = {"file": f"report/{finding['id']}.nii.gz", "pet_file": f"report/{finding['id']}-pet.nii.gz"}
    write_nifti(folder / files["file"], mask.array_ZYX, grids["ct"])
    write_nifti(folder / files["pet_file"], on_pet, grids["pet"])
    place = " ".join(w for w in (finding["side"], finding["organ"]) if w).replace("soft tissue", "paraspinal")
    traits = Traits(place, finding["size"], finding["density"], finding["uptake"])
    told = Measured(
        id="", traits=traits, diameter_mm=0.0, volume_ml=0.0, suv_max=numbers.suv_max, slice_number=numbers.slice,
        z_mm=numbers.z_mm,
    )  # fmt: skip
    text = lesion_forms(told, f"{numbers.longest_diameter_mm:.1f} mm")[0]
    done = filled(take_numbers(text).template, [numbers], several=False)
    assert done.text == text
    out = sentence(text, finding["organ"], [finding["name"]], [{**files, **asdict(numbers)}])
    return {**out, "numbers": [asdict(n) for n in done.numbers]}


def sentence(text: str, section: str, phrases: list[str], measurements: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "text": text, "section": section, "phrases": phrases, "status": "supported", "probability": 0.97,
        "measurements": measurements, "numbers": [],
    }  # fmt: skip


@pytest.fixture
def changed(made, tmp_path) -> Callable[[Callable[[dict[str, Any]], None]], dict[str, Any]]:
    """Scores reports whose records a function has changed."""

    def score(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        for study in made.cache.study_ids:
            (tmp_path / "reports").mkdir(exist_ok=True)
            (tmp_path / "reports" / study).mkdir()
            (tmp_path / "reports" / study / "report").symlink_to(made.reports / study / "report")
            record = load_record(made.reports / study)
            change(record)
            (tmp_path / "reports" / study / "report.json").write_text(json.dumps(record))
        return evaluate_reports(
            tmp_path / "reports", made.cache.root, tmp_path / "out", samples=50, show_progress=False
        )

    return score


def test_a_true_report_is_right_in_everything(made, tmp_path):
    table = evaluate_reports(made.reports, made.cache.root, tmp_path, samples=50, show_progress=False)
    for level in ("place", "place_uptake", "lesion", "denied"):
        assert table["findings"][level]["f1"]["value"] == 1, level
    numbers = table["numbers"]
    assert numbers["found"]["value"] == 1
    assert numbers["diameter_right"]["value"] == 1
    assert numbers["suv_right"]["value"] >= 0.75  # the cache's mask on a PET of another step
    assert numbers["slice_right"]["value"] == 1
    assert numbers["volume_absolute_error"]["value"] < 1e-3
    evidence = table["evidence"]
    assert evidence["masks"] >= 8
    assert evidence["numbers"] == 4 * evidence["masks"]  # size, SUVmax, slice and z
    assert evidence["numbers_not_reproduced"] == evidence["sentences_without_evidence"] == 0
    assert table["text"]["references"] == 4
    assert table["image"]["lesion"]["contributed"]["value"] > 0.3
    assert table["variety"]["unique_reports"] >= 3
    assert {"lesion", "denied", "suv_right"} <= set(table["subgroups"])
    assert {g["attribute"] for g in table["subgroups"]["lesion"]["groups"]} == {"sex", "age_band", "scanner", "centre"}
    assert json.loads((tmp_path / "reports.json").read_text())["studies"] == 4
    assert len((tmp_path / "reports.csv").read_text().splitlines()) == 5


def test_a_number_that_its_mask_does_not_have_is_named(changed):
    def lie(record):
        for told in record["sentences"]:
            told["text"] = told["text"].replace("SUVmax ", "SUVmax 1")

    evidence = changed(lie)["evidence"]
    assert evidence["numbers_not_reproduced"] == evidence["masks"]
    assert "suv_max 1" in evidence["not_reproduced"][0]


def test_a_number_of_another_figure_or_thing_is_named(changed):
    """Both are true numbers of the sentence's own masks, printed where another one belongs."""

    def swap(record):
        lesions = [s for s in record["sentences"] if s["measurements"]]
        if len(lesions) < 2:
            return
        first, second = lesions[:2]
        short = first["measurements"][0]["short_diameter_mm"]
        long = first["measurements"][0]["longest_diameter_mm"]
        first["text"] = first["text"].replace(f"{long:.1f} mm", f"{short:.1f} mm")
        second["measurements"].append(first["measurements"][0])
        for number in second["numbers"]:
            number["thing"] = 1

    evidence = changed(swap)["evidence"]
    assert any("measured longest_diameter_mm" in wrong for wrong in evidence["not_reproduced"])
    assert any("measured suv_max" in wrong for wrong in evidence["not_reproduced"])


def test_a_number_that_is_not_recorded_is_named(changed):
    def add(record):
        for told in record["sentences"]:
            told["numbers"] = told["numbers"][:-1]

    assert "numbers printed" in changed(add)["evidence"]["not_reproduced"][0]


def test_a_finding_that_nothing_was_asked_of_is_named(changed):
    def add(record):
        record["sentences"] += [
            sentence("No lesion or cirrhosis in the liver.", "liver", ["liver lesion"], []),
            sentence("No lesion in the spleen.", "spleen", ["liver lesion"], []),
            sentence("No lesion in the left kidney.", "kidneys", ["right renal lesion"], []),
        ]

    evidence = changed(add)["evidence"]
    assert evidence["sentences_without_evidence"] == 12


def test_a_recorded_measurement_that_is_not_the_masks_is_named(changed):
    def lie(record):
        for told in record["sentences"]:
            for row in told["measurements"]:
                row["volume_ml"] += 0.001

    table = changed(lie)
    assert "volume_ml is recorded as" in table["evidence"]["not_reproduced"][0]


def test_a_measurement_told_as_a_change_is_measured_again(changed):
    def compare(record):
        measured = [m for s in record["sentences"] for m in s["measurements"]]
        if not measured:
            return
        told = measured[0]
        figures = {name: value for name, value in told.items() if name not in ("file", "pet_file")}
        now = {"file": told["file"], "pet_file": told["pet_file"], "measurement": {**figures, "suv_max": 99.0}}
        record["change"] = {"lesions": [{"change": "larger", "current": now, "prior": None}]}

    evidence = changed(compare)["evidence"]
    assert any("suv_max is recorded as 99.0" in wrong for wrong in evidence["not_reproduced"])


def test_numbers_of_a_true_mask_are_judged_against_the_truth(changed):
    def enlarge(record):
        for told in record["sentences"]:
            for row in told["measurements"]:
                row["longest_diameter_mm"] += 10.1

    table = changed(enlarge)
    assert table["numbers"]["diameter_right"]["value"] == 0
    assert table["numbers"]["found"]["value"] == 1


def test_what_is_left_out_is_not_scored_as_said(changed):
    def drop(record):
        for told in record["sentences"]:
            told["status"] = "not supported"

    table = changed(drop)
    assert table["findings"]["lesion"]["recall"]["value"] == 0
    assert table["evidence"]["printed"] == 0
    assert table["numbers"]["found"]["value"] == 0
    assert table["image"]["lesion"]["own"]["value"] == 0


def test_a_sentence_without_evidence_is_named(changed):
    def bare(record):
        record["sentences"].append(sentence("The gallbladder is contracted.", "gallbladder", [], []))

    table = changed(bare)
    assert table["evidence"]["sentences_without_evidence"] == 4
    assert "gallbladder is contracted" in table["evidence"]["without_evidence"][0]


def test_a_missing_report_is_refused(made, tmp_path):
    with pytest.raises(Vol3dError, match="none of 4"):
        evaluate_reports(tmp_path, made.cache.root, tmp_path / "out", show_progress=False)


def test_masks_of_another_study_are_refused(made):
    one, other = (made.cache.entry(s) for s in made.cache.study_ids[:2])
    with pytest.raises(GeometryError, match="was the study replaced"):
        reproduced(load_record(made.reports / one.study_id), made.reports / one.study_id, other)


def test_given_scores_of_another_program_are_summarised(made, tmp_path):
    scores = {"green": dict(zip(made.cache.study_ids, (0.2, 0.4, 0.6, 0.8), strict=True))}
    table = evaluate_reports(
        made.reports, made.cache.root, tmp_path, given_scores=scores, samples=50, show_progress=False
    )
    assert table["learned"]["green"]["value"] == pytest.approx(0.5)


def test_questions_are_asked_of_entries_and_judged(made, tmp_path):
    entries = [made.cache.entry(s) for s in made.cache.study_ids]
    truth = {(e.study_id, q["q"]): q["a"] for e in entries for q in e.qa}
    right = evaluate_questions(entries, lambda e, q: truth[e.study_id, q], tmp_path, samples=50)
    assert right["all"]["micro"]["value"] == right["all"]["macro"]["value"] == 1
    assert right["all"]["made_up"]["value"] == 0
    assert right["all"]["majority_micro"] < 0.9
    assert right["seen"]["questions"] == right["unseen"]["questions"] > 30
    yes = evaluate_questions(entries, lambda e, q: "yes", tmp_path, wordings=["seen"], samples=50)
    assert set(yes) == {"all", "seen", "subgroups"}
    assert yes["all"]["by_kind"]["yes_no"]["right"]["value"] < 0.7
    assert yes["all"]["made_up"]["value"] > 0.3
    few = evaluate_questions(entries, lambda e, q: "", tmp_path, most=3, samples=10)
    assert few["all"]["questions"] == 12
    rows = (tmp_path / "questions.csv").read_text().splitlines()
    assert rows[0].startswith("study_id,patient_key,wording,kind,adversarial,question")
    assert len(rows) == 13


def test_combinations_kept_out_of_training_have_rows_of_their_own(made, tmp_path):
    scored, entries = [], []
    for study in made.cache.study_ids:
        entry = made.cache.entry(study)
        shown = [f for f in entry.findings if f["present"]]
        entry.attributes["meta"]["held_out"] = [[f["organ"], f["density"]] for f in shown[:1]]
        scored.append(score_study(entry, made.reports / study))
        entries.append(entry)
    table = report_tables(scored, samples=20)["unseen_combinations"]
    assert table["lesions_found"]["cases"] >= 3
    assert table["lesions_found"]["value"] == 1
    total = table["lesions_found"]["cases"] + table["other_lesions_found"]["cases"]
    assert total == sum(len(s.score.found) for s in scored) > table["lesions_found"]["cases"]
    asked = evaluate_questions(entries, lambda e, q: "no", tmp_path, samples=10)
    assert 0 < asked["unseen_combinations"]["questions"] < asked["all"]["questions"] / 2


def test_reports_of_equivalent_inputs_are_compared_by_what_they_state(made, tmp_path):
    def write(kind: str, change) -> Path:
        for study in made.cache.study_ids:
            record = load_record(made.reports / study)
            change(record)
            (tmp_path / kind / study).mkdir(parents=True)
            (tmp_path / kind / study / "report.json").write_text(json.dumps(record))
        return tmp_path / kind

    def renumber(record):
        for told in record["sentences"]:
            told["text"] = told["text"].replace("SUVmax ", "SUVmax 1")

    def swap(record):
        for told in record["sentences"]:
            told["text"] = told["text"].replace("with increased FDG uptake", "without FDG uptake")

    same, other = write("noise", renumber), write("shift", swap)
    table = evaluate_consistency(
        made.reports, {"noise": same, "shift": other}, made.cache.root, tmp_path / "out", samples=50
    )
    assert table["noise"]["identical"]["value"] == table["noise"]["beyond_chance"] == 1
    assert table["shift"]["overlap"]["value"] < 1
    assert {g["attribute"] for g in table["noise"]["identical_by_group"]["groups"]} >= {"sex", "centre"}
    assert any("non-avid" in name for name in table["shift"]["appeared"])
    assert table["unchanged"]["lesion_f1"] == 1 > table["shift"]["lesion_f1"]


def test_variants_move_no_voxel_in_the_world(made, tmp_path):
    study = made.manifest.parent / made.cache.study_ids[0]
    manifests = write_variants(study, tmp_path)
    assert set(manifests) == set(KINDS)
    entry = made.cache.entry(study.name)
    source = entry.source_grids["ct"]
    lesion = next(m for m in entry.masks if m.finding_id)
    point = entry.grid.index_to_mm(entry.foreground(lesion.name)[0])
    from preprocessing.reading import read_image

    old = read_image(study / "ct.nii.gz", "ct").volume
    for kind in KINDS:
        new = read_image(tmp_path / kind / study.name / "ct.nii.gz", "ct").volume
        values = []
        for volume in (old, new):
            index = np.rint(volume.grid.mm_to_index(point)).astype(int)
            values.append(float(volume.array_ZYX[tuple(index)]))
        assert abs(values[0] - values[1]) <= (60 if kind == "noise" else 0), kind
        assert new.grid.same_as(source) == (kind == "noise")
    noisy = read_image(tmp_path / "noise" / study.name / "ct.nii.gz", "ct").volume.array_ZYX.astype(float)
    assert np.std(noisy - old.array_ZYX) == pytest.approx(10, abs=0.5)
    flipped = read_image(tmp_path / "orientation" / study.name / "pet.nii.gz", "pet").volume
    assert flipped.grid.orientation != entry.source_grids["pet"].orientation


def test_printed_text_has_sections_that_are_read_again(made):
    text = printed_text(load_record(made.reports / made.cache.study_ids[0]))
    assert text.startswith("FINDINGS:\n")
    assert "Liver: " in text
