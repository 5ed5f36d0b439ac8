"""How well generated reports read and, above all, whether what they say is right.

Overlap with references: BLEU (Papineni et al. 2002) and METEOR through NLTK; ROUGE-L (Lin 2004) and CIDEr-D (Vedantam
et al. 2015) as computed by the COCO caption evaluation (Chen et al. 2015, github.com/tylin/coco-caption), whose package
is no longer kept and wants Java. METEOR is NLTK's of 2007 (Lavie and Agarwal: alpha 0.9, beta 3, gamma 0.5) with exact
and stem matches, without WordNet; it is not the Java scorer 1.5.

Texts are lower-cased and split at white space and around punctuation (`tokens`).
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vol3d.errors import Vol3dError

References = Sequence[Sequence[str]]
"""One or more reference texts for each hypothesis."""

_TOKEN = re.compile(r"<\w+>|\w+(?:[.,]\d+)*|[^\w\s]")


class TextMetricError(Vol3dError):
    """Texts that cannot be compared."""


def tokens(text: str) -> list[str]:
    """Lower-case words, numbers and punctuation marks."""
    return _TOKEN.findall(text.lower())


def bleu(hypotheses: Sequence[str], references: References) -> tuple[float, float, float, float]:
    """Corpus BLEU 1 to 4: clipped n-gram precision with the brevity penalty of the closest reference, no smoothing."""
    _check(hypotheses, references)
    words, truths = [tokens(h) for h in hypotheses], [[tokens(r) for r in rs] for rs in references]
    return _bleu(words, truths, 1), _bleu(words, truths, 2), _bleu(words, truths, 3), _bleu(words, truths, 4)


def _bleu(words: list[list[str]], truths: list[list[list[str]]], n: int) -> float:
    from nltk.translate.bleu_score import corpus_bleu

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no n-gram in common is a score of 0, not an incident
        score = float(corpus_bleu(truths, words, weights=[1 / n] * n))
    return score if score > 1e-12 else 0.0


def rouge_l(hypotheses: Sequence[str], references: References) -> float:
    """Mean F-score (beta 1.2) of the longest common subsequence, best precision and best recall over references."""
    _check(hypotheses, references)
    beta2 = 1.2**2
    scores = []
    for hypothesis, truths in zip(hypotheses, references, strict=True):
        words = tokens(hypothesis)
        common = [(_lcs(words, tokens(t)), max(1, len(tokens(t)))) for t in truths]
        precision = max(c for c, _ in common) / max(1, len(words))
        recall = max(c / n for c, n in common)
        both = precision and recall
        scores.append((1 + beta2) * precision * recall / (recall + beta2 * precision) if both else 0.0)
    return float(np.mean(scores))


def meteor(hypotheses: Sequence[str], references: References) -> float:
    """Mean METEOR, best reference; exact and stem matches (see the module's head)."""
    from nltk.translate.meteor_score import meteor_score

    _check(hypotheses, references)
    pairs = zip(hypotheses, references, strict=True)
    return float(np.mean([meteor_score([tokens(r) for r in rs], tokens(h), wordnet=_NoWordNet()) for h, rs in pairs]))


def cider(hypotheses: Sequence[str], references: References) -> float:
    """Mean CIDEr-D (sigma 6, times 10): cosine of TF-IDF n-grams, 1 to 4; document frequency over these references."""
    _check(hypotheses, references)
    truths = [[_ngrams(tokens(r)) for r in rs] for rs in references]
    frequency = Counter(gram for rs in truths for gram in {g for grams in rs for g in grams})
    documents = float(np.log(len(references)))
    scores = []
    for hypothesis, rs in zip(hypotheses, truths, strict=True):
        mine = _tf_idf(_ngrams(tokens(hypothesis)), frequency, documents)
        scores.append(float(np.mean([_cider_pair(mine, _tf_idf(r, frequency, documents)) for r in rs])) * 10)
    return float(np.mean(scores))


@dataclass(frozen=True)
class Diversity:
    """How much a set of generated reports differ from each other; template collapse shows in all of them."""

    distinct_1: float
    distinct_2: float
    """Different n-grams per n-gram written."""
    identical_share: float
    """Texts that another text repeats word for word."""
    most_common_share: float
    """Texts equal to the most frequent one."""
    self_bleu: float
    """Mean BLEU-4 of each text against the others (Zhu et al. 2018); 1 if all are the same."""


def diversity(texts: Sequence[str], most: int = 50) -> Diversity:
    """Diversity of texts; self-BLEU over the first `most` of them."""
    if not texts:
        raise TextMetricError("no texts. Expected: at least one.")
    words = [tokens(t) for t in texts]
    counts = Counter(map(tuple, words))
    some = words[:most]
    scores = [_bleu([some[i]], [some[:i] + some[i + 1 :]], 4) for i in range(len(some))] if len(some) > 1 else []
    return Diversity(
        distinct_n(texts, 1),
        distinct_n(texts, 2),
        sum(n for n in counts.values() if n > 1) / len(texts),
        max(counts.values()) / len(texts),
        float(np.mean(scores)) if scores else float("nan"),
    )


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams over all n-grams (Li et al. 2016); NaN if there is none."""
    grams = [g for t in texts for g in _all_ngrams(tokens(t), n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


@dataclass(frozen=True)
class Agreement:
    """Precision, recall and F1; NaN where nothing was there to find or nothing was found."""

    precision: float
    recall: float
    f1: float
    true_positive: int
    false_positive: int
    false_negative: int


@dataclass(frozen=True)
class FindingScores:
    """Finding-level agreement of reports."""

    micro: Agreement
    macro_precision: float
    macro_recall: float
    macro_f1: float
    """Means over findings that occur in the truth."""
    per_finding: dict[str, Agreement]


def finding_scores(
    truth: Sequence[Mapping[str, int | None]],
    predicted: Sequence[Mapping[str, int]],
    names: Sequence[str] | None = None,
) -> FindingScores:
    """Compare labels report by report; a truth of None, or a finding that a truth does not name, is left out.

    A finding that the prediction does not name counts as absent.

    Raises:
        TextMetricError: different numbers of reports.
    """
    if len(truth) != len(predicted):
        raise TextMetricError(f"{len(truth)} truths and {len(predicted)} predictions. Expected: one each per report.")
    names = list(dict.fromkeys(n for t in truth for n in t)) if names is None else names
    per = {}
    for name in names:
        pairs = [(t.get(name), p.get(name, 0)) for t, p in zip(truth, predicted, strict=True)]
        known = [(bool(t), bool(p)) for t, p in pairs if t is not None]
        per[name] = _agreement(
            sum(t and p for t, p in known), sum(p and not t for t, p in known), sum(t and not p for t, p in known)
        )
    total = [sum(getattr(a, k) for a in per.values()) for k in ("true_positive", "false_positive", "false_negative")]
    present = [a for a in per.values() if a.true_positive + a.false_negative]
    macro = [
        float(np.mean([np.nan_to_num(getattr(a, k)) for a in present])) if present else float("nan")
        for k in ("precision", "recall", "f1")
    ]
    return FindingScores(_agreement(*total), macro[0], macro[1], macro[2], per)


def numeric_agreement(
    truth: Sequence[Mapping[str, Sequence[float]]],
    written: Sequence[Mapping[str, Sequence[float]]],
    tolerance: Mapping[str, float],
) -> Agreement:
    """Numbers of reports against the true ones, by kind (``size``, ``suv_max``): each true number answers one at most.

    A written number is right if an unused true one of its kind lies within the kind's absolute tolerance.

    Raises:
        TextMetricError: different numbers of reports, or a kind without tolerance.
    """
    if len(truth) != len(written):
        raise TextMetricError(f"{len(truth)} truths and {len(written)} reports. Expected: one each per report.")
    right = wrong = missed = 0
    for true, mine in zip(truth, written, strict=True):
        for kind in {*true, *mine}:
            if kind not in tolerance:
                raise TextMetricError(f"no tolerance for {kind}; given: {', '.join(tolerance)}. Add one, in its unit.")
            open_values = sorted(true.get(kind, ()))
            for value in sorted(mine.get(kind, ())):
                hit = next((t for t in open_values if abs(t - value) <= tolerance[kind] + 1e-9), None)
                right, wrong = right + (hit is not None), wrong + (hit is None)
                if hit is not None:
                    open_values.remove(hit)
            missed += len(open_values)
    return _agreement(right, wrong, missed)


def _agreement(tp: int, fp: int, fn: int) -> Agreement:
    nan = float("nan")
    return Agreement(
        tp / (tp + fp) if tp + fp else nan,
        tp / (tp + fn) if tp + fn else nan,
        2 * tp / (2 * tp + fp + fn) if tp + fp + fn else nan,
        tp, fp, fn,
    )  # fmt: skip


def _check(hypotheses: Sequence[str], references: References) -> None:
    if not hypotheses or len(hypotheses) != len(references) or not all(references):
        raise TextMetricError(
            f"{len(hypotheses)} hypotheses, {len(references)} sets of references. Expected: as many of both, at least "
            "one, and at least one reference in each set."
        )


def _lcs(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def _all_ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(g for n in range(1, 5) for g in _all_ngrams(words, n))


@dataclass(frozen=True)
class _Vector:
    grams: list[dict[tuple[str, ...], float]]
    norms: list[float]
    length: int


def _tf_idf(grams: Counter[tuple[str, ...]], frequency: Counter[tuple[str, ...]], documents: float) -> _Vector:
    vector: list[dict[tuple[str, ...], float]] = [{} for _ in range(4)]
    for gram, count in grams.items():
        vector[len(gram) - 1][gram] = count * (documents - float(np.log(max(1, frequency[gram]))))
    norms = [float(np.sqrt(sum(v * v for v in part.values()))) for part in vector]
    return _Vector(vector, norms, sum(c for g, c in grams.items() if len(g) == 2))


def _cider_pair(mine: _Vector, truth: _Vector) -> float:
    """The COCO scorer counts bigrams for the length penalty; so do we, to agree with it."""
    penalty = float(np.exp(-((mine.length - truth.length) ** 2) / (2 * 6.0**2)))
    values = []
    for n in range(4):
        dot = sum(min(v, truth.grams[n].get(g, 0.0)) * truth.grams[n].get(g, 0.0) for g, v in mine.grams[n].items())
        norm = mine.norms[n] * truth.norms[n]
        values.append(dot / norm * penalty if norm else dot * penalty)
    return float(np.mean(values))


class _NoWordNet:
    """Synonyms are left out: WordNet is no package and cannot be fetched offline."""

    def synsets(self, word: str) -> list[str]:
        return []
