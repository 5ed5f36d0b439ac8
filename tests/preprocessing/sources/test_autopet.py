import json

import numpy as np
import pytest

from preprocessing.sources import autopet
from vol3d.errors import ManifestError
from vol3d.export.nifti import write_nifti

FDG = "fdg_af547fa618_03-11-2006-NA-PET-CT Ganzkoerper  primaer mit KM-94971"
PSMA = "psma_69ea0c011af2e2d4_2014-05-01"


def study(make, folder, case, lesion):
    pet = np.full(make.grid.shape, 0.5, np.float32)
    pet[10:14, 18:22, 10:14] = 9.0
    make.ct(folder / "imagesTr" / f"{case}_0000.nii.gz")
    write_nifti(folder / "imagesTr" / f"{case}_0001.nii.gz", pet + np.arange(40, dtype=np.float32) * 0.001, make.grid)
    mask = make.box((10, 18, 10), (14, 22, 14)) if lesion else np.zeros(make.grid.shape)
    make.mask(folder / "labelsTr" / f"{case}.nii.gz", mask)


@pytest.fixture
def folder(tmp_path, make):
    root = tmp_path / "PSMA-FDG-PET-CT-Lesions"
    study(make, root, FDG, lesion=True)
    study(make, root, PSMA, lesion=False)
    (root / "splits_final.json").write_text(json.dumps([{"train": [FDG], "val": [PSMA]}]))
    make.csv(
        root / "fdg_metadata.csv", "Subject ID,diagnosis,age,sex,Study Date", "PETCT_af547fa618,LUNG_CANCER,061Y,M,x"
    )
    make.csv(root / "psma_metadata.csv", "Subject ID,Study Date,age", "PSMA_69ea0c011af2e2d4,2014-05-01,71")
    return root


def test_merged_release(folder, tmp_path, make):
    rows = autopet.rows(folder)
    assert [row["split"] for row in rows] == ["train", "val"]
    ids = [row["study_id"] for row in rows]
    assert ids[0].startswith("fdg_af547fa618_")
    assert not any(part in "".join(ids) for part in ("2006", "2014", " "))
    assert rows[0]["meta"] == {"tracer": "FDG", "sex": "M", "age_band": "60-69", "diagnosis": "LUNG_CANCER"}
    assert rows[1]["meta"] == {"tracer": "PSMA", "sex": "M", "age_band": "70-79"}
    cache, summary = make.cached(rows, tmp_path)
    assert not summary.quarantined
    with_lesion, without = (cache.entry(i) for i in ids)
    assert with_lesion.masks[0].voxels == 64
    assert set(with_lesion.images) == {"ct", "pet"}
    assert with_lesion.pet_native().array_ZYX[with_lesion.native_mask("lesion") > 0].min() >= 9.0
    assert set(without.absent) == set(autopet.PHRASES["psma"])


def test_first_release(tmp_path, make):
    place = tmp_path / "PETCT_0117d7f11f" / "09-06-2001-NA-CT"
    make.ct(place / "CTres.nii.gz")
    make.ct(place / "CT.nii.gz")
    write_nifti(place / "SUV.nii.gz", np.ones(make.grid.shape, np.float32), make.grid)
    make.mask(place / "SEG.nii.gz", make.box((1, 1, 1), (3, 3, 3)))
    (row,) = autopet.rows(tmp_path)
    assert row["ct"].endswith("/CT.nii.gz")
    assert row["patient_id"] == "fdg_0117d7f11f"
    assert "2001" not in row["study_id"]


def test_missing_pieces_are_named(folder, tmp_path):
    (folder / "imagesTr" / f"{PSMA}_0001.nii.gz").unlink()
    assert "found no PET" in autopet.rows(folder)[1]["refused"]
    with pytest.raises(ManifestError, match="found neither"):
        autopet.rows(tmp_path)
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(ManifestError, match="fdg_PATIENT"):
        autopet.rows(tmp_path)


def test_splits_of_another_make_are_told(tmp_path, make):
    make.ct(tmp_path / "imagesTr" / "fdg_ab12_x_0000.nii.gz")
    (tmp_path / "splits_final.json").write_text('{"train": []}')
    with pytest.raises(ManifestError, match="expected folds with train and val"):
        autopet.rows(tmp_path)
