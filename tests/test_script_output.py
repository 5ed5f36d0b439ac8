"""--quiet, --json and shell completion: what scripts and shells see of the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vol3d import script_output
from vol3d.cli import main
from vol3d.script_output import taken_out


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code or 0


def test_json_is_one_object_on_standard_output(tmp_path, capsys):
    assert run("phantom", tmp_path / "p", "--studies", 1, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["command"] == "phantom"
    assert (record["ok"], record["exit"]) == (True, 0)
    assert record["messages"] == [str(tmp_path / "p" / "manifest.jsonl")]


def test_a_failure_is_in_the_object_and_in_the_exit_status(tmp_path, capsys):
    assert run("--json", "verify", tmp_path) == 1
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert (record["ok"], record["exit"]) == (False, 1)
    assert "expected a cache at" in record["error"]
    assert "expected a cache at" in captured.err


def test_numbers_that_are_none_are_null(capsys):
    """NaN is no JSON."""
    with script_output.scripted(script_output.Output(as_json=True), "evaluate"):
        script_output.facts(headline={"dice": float("nan"), "bounds": [0.5, float("inf")]}, file=Path("a"))
    record = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert record["headline"] == {"dice": None, "bounds": [0.5, None]}
    assert record["file"] == "a"


def test_quiet_leaves_errors_alone(tmp_path, capsys):
    assert run("sources", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert run("verify", tmp_path, "--quiet") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "expected a cache at" in captured.err


def test_one_command_leaves_nothing_to_the_next(capsys):
    run("sources", "--json")
    capsys.readouterr()
    run("sources")
    assert "ct_rate" in capsys.readouterr().out


def test_rows_of_a_layout_are_printed(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("study_id,ct\ns1,ct.nii.gz\n")
    assert run("sources", "table", tmp_path) == 0
    assert json.loads(capsys.readouterr().out)["study_id"] == "s1"
    assert run("sources", "tabel") == 1
    assert "did you mean 'table'" in capsys.readouterr().err


def test_the_flags_may_stand_anywhere_but_after_two_dashes():
    rest, output = taken_out(["segment", "--json", "run", "--quiet", "--", "--json"])
    assert rest == ["segment", "run", "--", "--json"]
    assert output.as_json
    assert output.quiet


def completed(words, position):
    environment = {**os.environ, "_VOL3D_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['vol3d']; from vol3d.cli import main; main()"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.split()


def test_the_shell_completes_commands_and_options():
    assert completed("vol3d pre", 1) == ["preprocess"]
    assert completed("vol3d config s", 2) == ["show", "schema"]
    assert "--source" in completed("vol3d preprocess --so", 2)
