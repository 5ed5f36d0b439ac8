"""A report's record (``report.json``) as the text that a reader gets: technique, findings by organ, impression, and
what could not be seen."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 100


def report_text(record: Mapping[str, Any], keep_all: bool = False) -> str:
    """The text; sentences that the image does not support only on demand, and then marked.

    Args:
        record: as in ``report.json``.
        keep_all: print every sentence, with its status in brackets unless it is supported.
    """
    context = record.get("context") or {}
    parts = [
        _block("Indication", [context["indication"]] if context.get("indication") else []),
        _block("Technique", [record["technique"]]),
        _block("Comparison", _comparison(record)),
        _block("Findings", _findings(record, keep_all)),
        _block("Impression", _impression(record, keep_all)),
        _block("Not assessed", [f"- {line}" for line in record["not_assessed"]]),
        "Written by software from measured masks; not a medical device. Every number of findings and impression is "
        "measured in the masks that report.json names.",
    ]
    wrapped = [_wrap(part) for part in parts if part]
    return "\n\n".join(wrapped) + "\n"


def _findings(record: Mapping[str, Any], keep_all: bool) -> list[str]:
    by_section: dict[str, list[str]] = {}
    for sentence in record["sentences"]:
        if sentence["section"] != "impression" and (text := _printed(sentence, keep_all)):
            by_section.setdefault(sentence["section"], []).append(text)
    return [f"{section.capitalize()}: {' '.join(texts)}" for section, texts in by_section.items()]


def _impression(record: Mapping[str, Any], keep_all: bool) -> list[str]:
    texts = [_printed(s, keep_all) for s in record["sentences"] if s["section"] == "impression"]
    lines = [text for text in texts if text] + [c["text"] for c in _changes(record) if c["change"] != "unchanged"]
    return [f"{i}. {line}" for i, line in enumerate(dict.fromkeys(lines), 1)] or ["No finding was confirmed."]


def _comparison(record: Mapping[str, Any]) -> list[str]:
    context = record.get("context") or {}
    change = record.get("change")
    lines = [context["comparison"]] if context.get("comparison") else []
    if change:
        lines.append(change["statement"])
        lines += [c["text"] for c in _changes(record)]
    return lines


def _changes(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list((record.get("change") or {}).get("lesions", []))


def _printed(sentence: Mapping[str, Any], keep_all: bool) -> str:
    if sentence["status"] == "supported":
        return str(sentence["text"])
    if not keep_all:
        return ""
    sure = "" if sentence["probability"] is None else f", probability {sentence['probability']:.2f}"
    return f"[{sentence['status']}{sure}: {sentence['text']}]"


def _block(title: str, lines: list[str]) -> str:
    return "\n".join([title.upper(), *lines]) if lines else ""


def _wrap(part: str) -> str:
    return "\n".join(
        textwrap.fill(line, WIDTH, subsequent_indent="  " if line[:2] == "- " else "", break_on_hyphens=False)
        for line in part.splitlines()
    )
