"""Keys that dataset layouts write: several labels a mask, channels, places, absences, options in the row, refusals."""

import numpy as np
import pytest

from preprocessing.build_cache import preprocess
from preprocessing.manifest import MaskRow, Row, parse_row, write_manifest
from preprocessing.options import CtRescale
from preprocessing.study import fingerprint
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Cache
from vol3d.errors import ManifestError
from vol3d.export.nifti import write_nifti
from vol3d.geometry import Grid

GRID = Grid.from_spacing((8, 10, 12), (3.0, 3.0, 3.0))
RECIPE = PreprocessConfig(
    spacing_mm=(3.0, 3.0, 3.0), extent="ct", body_crop=False, body_margin_mm=0, levels=1, chunk=16
)


@pytest.fixture
def folder(tmp_path):
    ct = np.full(GRID.shape, -1000, np.int16)
    ct[2:6, 2:8, 2:10] = 40 + np.arange(8, dtype=np.int16)
    labels = np.zeros(GRID.shape, np.uint8)
    labels[2:4, 2:4, 2:4], labels[4:5, 2:4, 2:4] = 1, 2
    write_nifti(tmp_path / "ct.nii.gz", ct, GRID)
    write_nifti(tmp_path / "labels.nii.gz", labels, GRID)
    return tmp_path


def row(**mask):
    return {"study_id": "s1", "ct": "ct.nii.gz", "masks": [{"path": "labels.nii.gz", "phrases": ["x"], **mask}]}


def test_several_labels_are_one_mask(folder):
    summary = preprocess(
        write_manifest([row(value=[1, 2])], folder / "m.jsonl"), RECIPE, folder / "c", show_progress=False
    )
    assert not summary.quarantined
    assert Cache(folder / "c").entry("s1").masks[0].voxels == 12


def test_an_empty_mask_says_absent_or_nothing(folder):
    for number, (if_empty, absent) in enumerate([("absent", ["x"]), ("unknown", [])]):
        record = {**row(value=9, if_empty=if_empty), "absent": ["y"]}
        out = folder / str(number)
        preprocess(write_manifest([record], folder / "m.jsonl"), RECIPE, out, show_progress=False)
        assert Cache(out).entry("s1").absent == ["y", *absent]


def test_options_may_stand_in_the_row(folder):
    parsed = parse_row({**row(value=1), "reading": {"rescale": {"slope": 1.0, "intercept": -1024.0}}}, folder)
    assert parsed.reading.rescale == CtRescale(slope=1.0, intercept=-1024.0)
    with pytest.raises(ManifestError, match="did you mean 'rescale'"):
        parse_row({**row(value=1), "reading": {"rescal": {}}}, folder)
    with pytest.raises(ManifestError, match="slope: expected more than 0"):
        parse_row({**row(value=1), "reading": {"rescale": {"slope": 0.0, "intercept": 0.0}}}, folder)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"value": [1, 0]}, "label of its file"),
        ({"value": []}, "label of its file"),
        ({"channel": -1}, "count from 0"),
        ({"channel": 0, "value": 1}, "without a 'value'"),
        ({"placed": "somewhere"}, "header, array, turned, found 'somewhere'"),
        ({"if_empty": "maybe"}, "absent, unknown, found 'maybe'"),
    ],
)
def test_faults_of_a_mask_are_named(folder, mask, words):
    with pytest.raises(ManifestError, match=words):
        parse_row(row(**mask), folder)


def test_a_refused_study_is_quarantined_with_the_reason(folder):
    rows = [{"study_id": "s0", "refused": "expected labels, found nothing there"}, row(value=1)]
    summary = preprocess(write_manifest(rows, folder / "m.jsonl"), RECIPE, folder / "c", show_progress=False)
    assert summary.quarantined == {"s0": "expected labels, found nothing there"}
    assert summary.built == ["s1"]


def test_keys_of_older_caches_stay(folder):
    """Fields that came later, at their defaults, are no part of the key; set, they are."""
    plain = MaskRow(path=folder / "labels.nii.gz", phrases=("x",), value=1)
    base = Row(study_id="s", patient_id="s", ct=folder / "ct.nii.gz", masks=(plain,))
    keys = {fingerprint(base, RECIPE)}
    for field in ({"if_empty": "unknown"}, {"placed": "array"}, {"channel": 0}):
        mask = MaskRow(path=plain.path, phrases=("x",), value=1, **field)
        keys.add(fingerprint(Row(study_id="s", patient_id="s", ct=base.ct, masks=(mask,)), RECIPE))
    assert len(keys) == 4
