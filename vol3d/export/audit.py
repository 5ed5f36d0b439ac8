"""Audit of weak labels: pages that show every sentence with its mask to a human, and the decisions that come back.

A page is one self-contained HTML file: pictures are embedded, nothing is fetched. It cannot write files, so its
button saves ``decisions-NNNN.jsonl`` through the browser's download; laid into the audit's folder, the next run reads
it. One decision a line: ``{"id", "mask", "study_id", "decision": "accept" | "reject", "time"}``, the time in ISO 8601.
"""

from __future__ import annotations

import base64
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Literal

from vol3d.errors import Vol3dError
from vol3d.export.audit_page import PAGE
from vol3d.export.figures import save_overlay_png
from vol3d.files import write_whole
from vol3d.types import Array
from vol3d.volume import Volume

Verdict = Literal["accept", "reject"]
ITEMS_A_PAGE = 25

log = logging.getLogger("vol3d")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One label to look at."""

    id: str
    """Of study, sentence and place."""
    mask: str
    """Digest of the mask: an acceptance holds for this mask alone."""
    study_id: str
    sentence: str
    phrase: str
    facts: dict[str, str] = field(default_factory=dict)
    png: bytes = b""
    verdict: Verdict | None = None
    time: datetime | None = None
    """Of the verdict."""


@dataclass(frozen=True)
class Decision:
    """What a human said of a label."""

    id: str
    mask: str
    verdict: Verdict
    time: datetime
    """When it was made; the file's time of change where the line tells none."""


def read_decisions(folder: Path) -> dict[str, Decision]:
    """All decisions in ``decisions*.jsonl`` of a folder, by label id; of several on one label the latest counts, of
    equally late ones the last read. Where files contradict each other, the log says so.

    Raises:
        Vol3dError: a line is no decision.
    """
    read: list[tuple[Decision, str]] = []
    for path in sorted(Path(folder).glob("decisions*.jsonl")):
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
            if line.strip():
                read.append((_decision(line, f"{path}, line {number}", changed), path.name))
    read.sort(key=lambda each: each[0].time)  # keeps the order of equals
    found: dict[str, Decision] = {}
    said: dict[str, dict[str, Verdict]] = {}  # by label and file
    for decision, name in read:
        found[decision.id] = decision
        said.setdefault(decision.id, {}).pop(name, None)
        said[decision.id][name] = decision.verdict
    _tell_contradictions(said)
    return found


def _tell_contradictions(said: dict[str, dict[str, Verdict]]) -> None:
    against = {label: by_file for label, by_file in said.items() if len(set(by_file.values())) > 1}
    if against:
        label, by_file = next(iter(against.items()))
        shown = ", ".join(f"{name}: {verdict}" for name, verdict in by_file.items())
        log.warning(
            "the files of decisions contradict each other on %d labels; the latest counts. Of label %s, earliest "
            "first: %s", len(against), label, shown,
        )  # fmt: skip


def _decision(line: str, where: str, changed: datetime) -> Decision:
    try:
        row = json.loads(line)
        told = datetime.fromisoformat(row["time"]) if row.get("time") is not None else changed
        decision = Decision(str(row["id"]), str(row["mask"]), row["decision"], told)
    except (ValueError, KeyError, TypeError, AttributeError):
        decision = Decision("", "", "accept", changed)
    if not decision.id or decision.verdict not in ("accept", "reject") or decision.time.tzinfo is None:
        raise Vol3dError(
            f'expected a decision {{"id": .., "mask": .., "decision": "accept" or "reject"}}, its "time", if any, in '
            f"ISO 8601 with its zone, in {where}, found {line[:120]!r}; correct or remove the line"
        )
    return decision


def picture(ct: Volume | None, pet: Volume, mask_ZYX: Array, title: str) -> bytes:
    """PNG of the slices through a mask and the projection; all on one canonical grid."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "label.png"
        save_overlay_png(path, ct, pet, [("label", mask_ZYX)], title)
        return path.read_bytes()


def write_pages(folder: Path, items: Sequence[Item], refused: Sequence[tuple[str, str, str]]) -> list[Path]:
    """Writes ``index.html``, ``page-0002.html``, ...; the sentences that got no label are listed on the last.

    Args:
        folder: made if missing; decisions in it are left alone. Pages of an earlier, longer run are removed.
        items: labels, in order.
        refused: (study id, sentence, reason).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("page-*.html"):
        old.unlink()
    pages = [items[i : i + ITEMS_A_PAGE] for i in range(0, len(items), ITEMS_A_PAGE)] or [[]]
    names = ["index.html", *(f"page-{n:04d}.html" for n in range(2, len(pages) + 1))]
    for number, (name, shown) in enumerate(zip(names, pages, strict=True), 1):
        links = " ".join(
            f"<b>{n}</b>" if n == number else f'<a href="{other}">{n}</a>' for n, other in enumerate(names, 1)
        )
        body = "\n".join(_card(item) for item in shown) or "<p>No sentence of these reports got a label.</p>"
        rest = _table(refused) if number == len(pages) else ""
        page = (
            PAGE.replace("{{LINKS}}", links).replace("{{PAGE}}", f"{number:04d}").replace("{{COUNT}}", str(len(items)))
        )
        write_whole(folder / name, page.replace("{{REFUSED}}", rest).replace("{{CARDS}}", body))
    return [folder / name for name in names]


def _card(item: Item) -> str:
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in item.facts.items())
    data = base64.b64encode(item.png).decode()
    image = f'<img alt="slices and projection with the mask" src="data:image/png;base64,{data}">'
    told = item.time.isoformat(timespec="milliseconds") if item.verdict and item.time else ""
    return (
        f'<article tabindex="0" data-id="{escape(item.id)}" data-mask="{escape(item.mask)}" '
        f'data-study="{escape(item.study_id)}" data-verdict="{item.verdict or ""}" data-time="{told}">'
        f"<h2>{escape(item.study_id)}</h2><blockquote>{escape(item.sentence)}</blockquote>"
        f"<p>trains as: <em>{escape(item.phrase)}</em></p>{image if item.png else ''}<dl>{facts}</dl>"
        '<p><button data-say="accept">accept (a)</button> <button data-say="reject">reject (r)</button></p></article>'
    )


def _table(refused: Sequence[tuple[str, str, str]]) -> str:
    if not refused:
        return ""
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in refused)
    head = "<tr><th>study</th><th>sentence</th><th>why not</th></tr>"
    return f"<h2>{len(refused)} sentences without a label</h2><table>{head}{rows}</table>"
