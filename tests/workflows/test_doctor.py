import json

import numpy as np
import pytest

from preprocessing.manifest import write_manifest
from vol3d.config import SHIPPED
from vol3d.export.nifti import write_nifti
from vol3d.geometry import Grid
from vol3d.workflows import doctor
from vol3d.workflows.prepare import prepare

REPORT = """
op name ................ installed .. compatible
cpu_adam ............... \x1b[93m[NO]\x1b[0m ....... \x1b[92m[OKAY]\x1b[0m
fused_adam ............. \x1b[93m[NO]\x1b[0m ....... \x1b[93m[NO]\x1b[0m
cpu_lion ............... \x1b[93m[NO]\x1b[0m ....... \x1b[92m[OKAY]\x1b[0m
"""


def states(checks):
    return {check.name: check.state for check in checks}


def test_this_machine_can_run_the_package():
    checks = doctor.examine(ops=False)
    found = states(checks)
    assert found["packages"] == found["text model"] == found["vol3d"] == "ok"
    assert "packages missing" not in found
    assert doctor.exit_code(checks) == 0
    assert all(check.next_step for check in checks if check.state != "ok")


def test_what_deepspeed_reports_is_understood():
    assert doctor.ops_in(REPORT) == {"cpu_adam": True, "fused_adam": False}


@pytest.mark.slow
def test_deepspeeds_own_report_names_our_ops():
    (check,) = doctor._ops()
    assert check.name == "deepspeed ops"
    assert "cpu_adam" in check.found


def test_a_text_model_that_is_not_here_fails_with_what_to_get(tmp_path):
    checks = doctor.examine(text_model=str(tmp_path / "no-model"), ops=False)
    failed = [c for c in checks if c.state == "fail"]
    assert [c.name for c in failed] == ["text model"]
    assert doctor.exit_code(checks) == 1


def test_a_cache_and_what_is_wrong_with_it(tmp_path, vol3d, capsys):
    grid = Grid.from_spacing((8, 10, 12), (3.0, 3.0, 3.0))
    array = np.where(np.indices(grid.shape)[2] > 5, 40, -1000) + np.indices(grid.shape)[0]
    write_nifti(tmp_path / "ct.nii.gz", array.astype(np.int16), grid)
    rows = [{"study_id": f"s{n}", "ct": "ct.nii.gz", "split": "train"} for n in range(2)]
    recipe = SHIPPED / "preprocess" / "demo.yaml"
    prepare(write_manifest(rows, tmp_path / "m.jsonl"), recipe, tmp_path / "sound", show_progress=False)
    assert vol3d("doctor", "--no-ops", "--cache", tmp_path / "sound", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    (cache,) = [c for c in record["checks"] if c["name"] == "cache"]
    assert "2 studies (2 train)" in cache["found"]
    broken = tmp_path / "cache"
    (broken / "studies" / "s1.zarr").mkdir(parents=True)
    (broken / "cache.json").write_text((tmp_path / "sound" / "cache.json").read_text())
    (broken / "quarantine.jsonl").write_text('{"study_id": "s2", "reason": "no CT"}\n')
    assert vol3d("doctor", "--no-ops", "--cache", broken) == 1
    printed = capsys.readouterr().out
    assert "1 cannot be read" in printed
    assert "cache: quarantined" in printed
    assert vol3d("doctor", "--no-ops", "--cache", tmp_path / "nothing") == 1
    assert "vol3d preprocess makes one" in capsys.readouterr().out
