import json

import numpy as np
import pytest

from preprocessing.manifest import parse_row
from preprocessing.reading import read_image, read_mask
from preprocessing.sources import multilabel, sts
from vol3d.errors import ManifestError


def test_sts_rows_are_manifest_rows(data_dir):
    rows = list(sts.rows(data_dir / "sts"))
    assert len(rows) == 26
    assert [r["split"] for r in rows].count("val") == 6
    parsed = parse_row(rows[0], data_dir)
    assert {m.finding_id for m in parsed.masks} == {"tumour"}
    assert len(parsed.masks) == 2
    assert len({m.phrases for m in parsed.masks}) == 1


def test_sts_without_ct_and_without_studies(data_dir, tmp_path):
    rows = list(sts.rows(data_dir / "sts_pet_only"))
    assert len(rows) == 5
    assert all("ct" not in r and len(r["masks"]) == 1 for r in rows)
    with pytest.raises(ManifestError, match=r"STS_\*"):
        list(sts.rows(tmp_path))


def test_label_map_matches_the_ct(data_dir):
    """The label numbers are TotalSegmentator's, version 2: the mean HU of what they name says so."""
    folder = data_dir / "totalsegmentator"
    row = multilabel.row("sm", folder / "example_ct_sm.nii.gz", folder / "example_seg.nii.gz", min_voxels=20)
    masks = {m.label: m for m in parse_row(json.loads(json.dumps(row)), folder).masks}
    ct = read_image(folder / "example_ct_sm.nii.gz", "ct").volume
    for name, hu in {"liver": 45, "spleen": 33, "lung_lower_lobe_left": -740, "lung_lower_lobe_right": -740}.items():
        member = read_mask(masks[name].path, value=masks[name].value).volume
        assert member.grid.same_as(ct.grid, 0.1)
        assert ct.array_ZYX[member.array_ZYX > 0].mean() == pytest.approx(hu, abs=25)
    left, right = (
        np.argwhere(read_mask(masks[f"kidney_{side}"].path, value=masks[f"kidney_{side}"].value).volume.array_ZYX)
        for side in ("left", "right")
    )
    assert ct.grid.index_to_mm(left)[:, 0].mean() < ct.grid.index_to_mm(right)[:, 0].mean()


@pytest.mark.parametrize("text", ["[]", "{"])
def test_a_broken_split_of_sts_is_told(tmp_path, text):
    (tmp_path / "STS_001").mkdir()
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(ManifestError, match=r"expected split\.json with train and val lists"):
        list(sts.rows(tmp_path))
