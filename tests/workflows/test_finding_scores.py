"""Scores, probabilities and thresholds of findings, by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from vol3d.checkpoint import Calibration, FindingCalibration, Findings
from vol3d.metrics.operating import OperatingPoint
from vol3d.text.prompts import FindingPrompts
from vol3d.workflows.finding_scores import decide, fit_findings, labelled, macro_auroc, needed_to_fit, phrases_of

NODULE = FindingPrompts(name="nodule", positive=("a nodule", "round spot"), negative=("no nodule",))
LOGITS = {"a nodule": 1.0, "round spot": 3.0, "no nodule": 2.0}


def point(threshold):
    return OperatingPoint(threshold=threshold, criterion="youden")


def fitted(scale, bias, threshold, prompts=None):
    points = dict.fromkeys(("youden", "f1", "sensitivity", "specificity"), point(threshold))
    return FindingCalibration(scale=scale, bias=bias, points=points, prompts=prompts)


def checkpoint(findings=None, **calibration):
    return SimpleNamespace(findings=findings, calibration=Calibration(**calibration))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_the_mean_logit_is_calibrated():
    d = decide(NODULE, LOGITS, checkpoint(Findings(by_name={"nodule": fitted(0.5, -1.0, 0.4, NODULE)})))
    assert d.score == 2.0
    assert d.probability == pytest.approx(0.5)  # 0.5 * 2 - 1 = 0
    assert d.by_wording == pytest.approx((sigmoid(-0.5), sigmoid(0.5)))
    assert (d.present, d.calibration, d.point.threshold) == (True, "own", 0.4)


def test_negative_wordings_count_where_they_are_heard():
    findings = Findings(by_name={"nodule": fitted(1.0, 0.0, 0.5, NODULE)}, negative_weight=1.0)
    d = decide(NODULE, LOGITS, checkpoint(findings))
    assert d.score == 0.0  # (1 + 3) / 2 - 2
    assert d.by_wording == pytest.approx((sigmoid(-1), sigmoid(1)))
    without = FindingPrompts(name="other", positive=("a nodule",))
    assert decide(without, LOGITS, checkpoint(findings)).score == 1.0
    assert phrases_of([NODULE, without], negative=False) == ["a nodule", "round spot"]
    assert phrases_of([NODULE, without], negative=True) == ["a nodule", "round spot", "no nodule"]


def test_without_its_own_operating_point_the_next_best_is_named():
    general = fitted(1.0, -1.0, 0.3)
    own = fitted(1.0, 0.0, 0.9, NODULE)
    reworded = FindingPrompts(name="nodule", positive=("round spot",), negative=("no nodule",))
    d = decide(reworded, LOGITS, checkpoint(Findings(by_name={"nodule": own}, general=general)))
    assert (d.calibration, d.point.threshold) == ("all findings", 0.3)
    assert d.probability == pytest.approx(sigmoid(2.0))
    d = decide(NODULE, LOGITS, checkpoint(None, scale=2.0, bias=-5.0, presence_threshold=0.25))
    assert (d.calibration, d.point.threshold, d.present) == ("phrases", 0.25, True)
    assert d.probability == pytest.approx(sigmoid(-1.0))  # 0.27
    assert "no labels" in d.point.reason


def studies(truth, positive, negative):
    labels = [{"nodule": t} for t in truth]
    logits = [{"a nodule": p, "round spot": p, "no nodule": n} for p, n in zip(positive, negative, strict=True)]
    return labels, logits


def test_operating_points_are_chosen_on_the_scores():
    truth = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, None]
    positive = [-4, -3, -2, -1, 1, 0, 2, 3, 4, 5, 99]
    found, chosen_by = fit_findings([NODULE], *studies(truth, positive, np.zeros(11)))
    own = found.by_name["nodule"]
    assert own.prompts == NODULE
    youden, sensitive, specific = (own.points[n] for n in ("youden", "sensitivity", "specificity"))
    # at 0 or at 2 one of five is wrong; the wanted rates of 0.9 allow no fault on one side
    assert youden.sensitivity + youden.specificity == pytest.approx(1.8)
    assert (sensitive.sensitivity, sensitive.specificity) == (1.0, 0.8)
    assert own.probability(-1) < sensitive.threshold < own.probability(0)
    assert (specific.sensitivity, specific.specificity) == (0.8, 1.0)
    assert own.probability(1) < specific.threshold < own.probability(2)
    assert (youden.positives, youden.negatives) == (5, 5)
    assert chosen_by["finding_auroc"] == pytest.approx(24 / 25)  # one pair of 25 is the wrong way round
    assert found.negative_weight == 0.0


def test_a_model_that_does_not_hear_no_is_not_asked_it():
    truth = [0] * 5 + [1] * 5
    heard = [4, 3, 2, 1, 3, -1, -2, -3, -4, -1]
    noisy = [1, -1, 1, -1, 1, -1, 1, -1, 1, -1]  # positive wordings are blind
    found, chosen_by = fit_findings([NODULE], *studies(truth, noisy, heard))
    assert found.negative_weight == 1.0
    assert chosen_by["finding_auroc_with_negatives"] == 1.0 > chosen_by["finding_auroc"]
    alike = [*noisy[:5], *(n + 3 for n in noisy[5:])]
    found, chosen_by = fit_findings([NODULE], *studies(truth, alike, alike))  # "no nodule" reads as "nodule"
    assert found.negative_weight == 0.0
    assert chosen_by["finding_auroc_with_negatives"] == 0.5


def test_too_few_cases_share_one_operating_point():
    other = FindingPrompts(name="other", positive=("spot",))
    labels = [{"nodule": int(i < 4), "other": int(i == 9)} for i in range(10)]
    logits = [{"a nodule": 4.0 - i, "round spot": 4.0 - i, "no nodule": 0.0, "spot": i - 8.5} for i in range(10)]
    found, chosen_by = fit_findings([NODULE, other], labels, logits)
    assert not found.by_name
    assert chosen_by == {"findings": 0}
    assert found.general.prompts is None
    assert (found.general.points["youden"].positives, found.general.points["youden"].negatives) == (5, 15)
    assert macro_auroc([NODULE, other], labels, logits) == 1.0
    assert fit_findings([NODULE], labels[:5], logits[:5])[0] is None
    assert fit_findings([], [], []) == (None, {"findings": 0})
    assert needed_to_fit([NODULE, other], labels) == ["a nodule", "round spot", "spot"]  # no "no": it cannot be judged
    assert needed_to_fit([NODULE, other], labels[:5]) == []
    balanced = [{"nodule": i % 2} for i in range(10)]
    assert needed_to_fit([NODULE], balanced) == ["a nodule", "round spot", "no nodule"]


def test_labels_that_name_no_finding_are_left_out(caplog):
    study = SimpleNamespace(attributes={"labels": {"no_finding": 1, "liver_lesion": 0, "spleen_lesion": None}})
    assert [p.name for p in labelled([study])] == ["liver_lesion"]
    assert "no_finding" in caplog.text
    assert labelled([SimpleNamespace(attributes={})]) == []
