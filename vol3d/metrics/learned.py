"""Report metrics that need a model of their own: RaTEScore, GREEN, RadGraph. Optional, and from a local path only.

Nothing is downloaded, and no code that lies beside a model's weights is run: a folder with Python files, with
``auto_map`` in a config or with pickled weights is refused. RaTEScore (Zhao et al. 2024) can be loaded so. GREEN's
package turns ``trust_remote_code`` on, and RadGraph's weights are published as pickles only: their scores, like those
of any other program, are taken from a file that was made in an environment of its own (`read_scores`).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vol3d.errors import Vol3dError

Scorer = Callable[[Sequence[str], Sequence[str]], list[float]]
"""(hypotheses, references) -> one score a report, larger is better."""

_RATESCORE = ("Angelakeke/RaTE-NER-Deberta", "FremyCompany/BioLORD-2023-C")
_BY_FILE = {
    "green": "its package green_score loads StanfordAIMI/GREEN-RadLlama2-7b with trust_remote_code",
    "radgraph": "the weights of its package radgraph, radgraph-xl.tar.gz, are a pickle",
}
_CODE = (".py", ".pyc", ".so")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".th", ".tar", ".tar.gz", ".zip")


class LearnedMetricError(Vol3dError):
    """A metric's model is not there, or may not be loaded."""


def load_scorer(name: str, folder: Path) -> Scorer:
    """The scorer of a metric, with the models of a local folder.

    Args:
        name: ``ratescore``.
        folder: holds its two models, ``RaTE-NER-Deberta`` and ``BioLORD-2023-C``.

    Raises:
        LearnedMetricError: unknown, not there, or a folder that could run code; the message says what to get where.
    """
    if name in _BY_FILE:
        raise LearnedMetricError(
            f"expected a metric that runs no code of its model, found {name} ({_BY_FILE[name]}); score in an "
            f"environment of its own and pass the scores as JSON lines {{study_id, score}}"
        )
    if name != "ratescore":
        raise LearnedMetricError(f"expected ratescore, or scores of another program in a file, found {name!r}")
    for model in _RATESCORE:
        where = Path(folder) / model.rsplit("/", 1)[-1]
        if not (where / "config.json").is_file():
            raise LearnedMetricError(
                f"expected the model {model} at {where} (config.json, *.safetensors), found none; download it from "
                f"huggingface.co/{model} to that folder"
            )
        refuse_code(where)
    try:
        module = importlib.import_module("RaTEScore")
    except ImportError:
        raise LearnedMetricError(
            "expected the package RaTEScore, found none; pip install RaTEScore (vol3d does not depend on it)"
        ) from None
    return _ratescore(module, Path(folder))


class Learned(NamedTuple):
    """Learned metrics by name, ready."""

    scorers: Mapping[str, Scorer]
    given: Mapping[str, Mapping[str, float]]
    """Scores of another program, by study."""


def open_learned(named: Mapping[str, Path], studies: Sequence[str]) -> Learned:
    """A metric's path is a folder with its models, or a file of scores.

    Args:
        named: paths by metric.
        studies: which a file has to score.

    Raises:
        LearnedMetricError: see `load_scorer` and `read_scores`.
    """
    scorers: dict[str, Scorer] = {}
    given: dict[str, dict[str, float]] = {}
    for name, path in named.items():
        if path.is_dir():
            scorers[name] = load_scorer(name, path)
        else:
            given[name] = dict(zip(studies, read_scores(path, studies), strict=True))
    return Learned(scorers, given)


def refuse_code(folder: Path) -> None:
    """Raises unless a model folder holds data alone.

    Raises:
        LearnedMetricError: Python files, ``auto_map`` in a JSON file, or weights that are not safetensors.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for path in files:
        name = path.name.lower()
        if name.endswith(_CODE):
            raise LearnedMetricError(f"expected a model without code, found {path}; remove it or take another model")
        if name.endswith(_PICKLES):
            raise LearnedMetricError(
                f"expected weights as safetensors, found {path}, which runs code when it is read; convert it elsewhere"
            )
        if name.endswith(".json") and '"auto_map"' in path.read_text(errors="replace"):
            raise LearnedMetricError(f"expected a model without code of its own, found auto_map in {path}; remove it")
    if not any(p.suffix == ".safetensors" for p in files):
        raise LearnedMetricError(f"expected weights (*.safetensors) in {folder}, found none; download them")


def read_scores(path: Path, studies: Sequence[str]) -> list[float]:
    """Scores of another program, in the order of `studies`.

    Args:
        path: JSON lines ``{"study_id": ..., "score": ...}``.
        studies: which are wanted.

    Raises:
        LearnedMetricError: no such file, a broken line, or a study without a score.
    """
    try:
        rows = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
        scores = {str(row["study_id"]): float(row["score"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LearnedMetricError(f"expected JSON lines {{study_id, score}} at {path}, found {error!r}") from None
    missing = [s for s in studies if s not in scores]
    if missing:
        raise LearnedMetricError(
            f"expected a score of each of {len(studies)} studies in {path}, found none of {len(missing)}: "
            f"{', '.join(missing[:5])}; score them, too"
        )
    return [scores[s] for s in studies]


def _ratescore(module: Any, folder: Path) -> Scorer:
    ner, similarity = (str(folder / model.rsplit("/", 1)[-1]) for model in _RATESCORE)
    scorer = module.RaTEScore(bert_model=ner, eval_model=similarity, use_gpu=False)

    def score(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
        return [float(s) for s in scorer.compute_score(list(hypotheses), list(references))]

    return score
