import json

import pytest

from vol3d.workflows import doctor

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


def test_a_cache_and_what_is_wrong_with_it(tiny, tmp_path, vol3d, capsys):
    assert vol3d("doctor", "--no-ops", "--cache", tiny.cache, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    (cache,) = [c for c in record["checks"] if c["name"] == "cache"]
    assert "6 studies (3 train" in cache["found"]
    (tiny_copy := tmp_path / "cache").mkdir()
    (tiny_copy / "cache.json").write_text((tiny.cache / "cache.json").read_text())
    (tiny_copy / "studies" / "s1.zarr").mkdir(parents=True)
    (tiny_copy / "quarantine.jsonl").write_text('{"study_id": "s2", "reason": "no CT"}\n')
    assert vol3d("doctor", "--no-ops", "--cache", tiny_copy) == 1
    printed = capsys.readouterr().out
    assert "1 cannot be read" in printed
    assert "cache: quarantined" in printed
    assert vol3d("doctor", "--no-ops", "--cache", tmp_path / "nothing") == 1
    assert "vol3d preprocess makes one" in capsys.readouterr().out
