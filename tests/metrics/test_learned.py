import json
from pathlib import Path

import pytest

from vol3d.metrics.learned import LearnedMetricError, load_scorer, read_scores, refuse_code


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("RaTE-NER-Deberta", "BioLORD-2023-C"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_a_missing_model_says_what_to_download_where(tmp_path: Path):
    with pytest.raises(LearnedMetricError, match=r"RaTE-NER-Deberta.*download it from huggingface.co/Angelakeke"):
        load_scorer("ratescore", tmp_path)


def test_a_missing_package_is_named(models: Path):
    with pytest.raises(LearnedMetricError, match="pip install RaTEScore"):
        load_scorer("ratescore", models)


@pytest.mark.parametrize(
    ("name", "content", "fragment"),
    [
        ("modeling.py", "print('run')", "without code"),
        ("config.json", json.dumps({"auto_map": {"AutoModel": "modeling.X"}}), "auto_map"),
        ("pytorch_model.bin", "pickle", "safetensors"),
    ],
)
def test_a_folder_that_could_run_code_is_refused(models: Path, name: str, content: str, fragment: str):
    (models / "BioLORD-2023-C" / name).write_text(content)
    with pytest.raises(LearnedMetricError, match=fragment):
        load_scorer("ratescore", models)


def test_weights_must_be_there(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LearnedMetricError, match="expected weights"):
        refuse_code(tmp_path)


def test_the_package_gets_local_folders_and_no_gpu(models: Path, monkeypatch: pytest.MonkeyPatch):
    code = (
        "class RaTEScore:\n"
        "    def __init__(self, bert_model, eval_model, use_gpu):\n"
        "        assert not use_gpu\n"
        "        self.models = bert_model, eval_model\n"
        "    def compute_score(self, candidate_list, reference_list):\n"
        "        return [float(c == r) for c, r in zip(candidate_list, reference_list)]\n"
    )
    package = models / "site"
    package.mkdir()
    (package / "RaTEScore.py").write_text(code)
    monkeypatch.syspath_prepend(str(package))
    assert load_scorer("ratescore", models)(("a", "b"), ("a", "c")) == [1.0, 0.0]


@pytest.mark.parametrize(("name", "why"), [("green", "trust_remote_code"), ("radgraph", "pickle"), ("magic", "magic")])
def test_metrics_that_run_code_are_taken_from_a_file_only(name: str, why: str, tmp_path: Path):
    with pytest.raises(LearnedMetricError, match=why):
        load_scorer(name, tmp_path)


def test_scores_of_another_program(tmp_path: Path):
    path = tmp_path / "green.jsonl"
    path.write_text('{"study_id": "b", "score": 0.5}\n{"study_id": "a", "score": 1}\n')
    assert read_scores(path, ["a", "b"]) == [1.0, 0.5]
    with pytest.raises(LearnedMetricError, match="none of 1: c"):
        read_scores(path, ["a", "c"])
    path.write_text("a 1\n")
    with pytest.raises(LearnedMetricError, match="JSON lines"):
        read_scores(path, ["a"])
