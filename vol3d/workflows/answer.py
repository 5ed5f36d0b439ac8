"""`vol3d answer`: a question about a raw study, answered by measurement where it asks for a number, and never against
what was found.

The order is always the same: what the question is about is segmented; if it is not there or out of view, that is the
answer. Counts, sizes, sides, places and yes or no come from the mask. What no mask can tell is left to the checkpoint's
writer, and the answer says that it was not checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from preprocessing.manifest import Row
from vol3d.cache import Entry
from vol3d.checkpoint import load_checkpoint
from vol3d.errors import ConfigError
from vol3d.files import write_whole
from vol3d.text.asked import asked_about, asks_for_absence
from vol3d.text.mentions import laterality
from vol3d.text.organs import SIDES, structure_in
from vol3d.text.questions import QuestionKind, question_kind
from vol3d.text.reports import organs_in, sentences
from vol3d.text.slots import SLOT, slot_names
from vol3d.text.statements import families_in, loose_numbers
from vol3d.workflows.drafts import Context, Draft, Writer
from vol3d.workflows.evidence import Evidence, body_sides, shared_voxels
from vol3d.workflows.ground import ground
from vol3d.workflows.lesions import Lesion, Lesions
from vol3d.workflows.reading import writer_of
from vol3d.workflows.report import Reporter
from vol3d.workflows.slots_filled import CannotFill, fill_measured
from vol3d.workflows.studies import BatchSummary, each_study, record_of
from vol3d.workflows.template_writer import TemplateWriter, title

NO_SUCH = "There is no such lesion."
OUT_OF_VIEW = "It is not in the field of view."
LEAST_SHARE = 0.3
"""Of a thing that must lie in an organ for the organ to be named."""

Source = Literal["measurement", "segmentation", "header", "writer", "none"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer and what it rests on."""

    question: str
    kind: QuestionKind
    phrase: str | None
    """What it is about, as it was segmented."""
    text: str
    source: Source
    """``none``: this checkpoint cannot answer, and `text` says so."""
    reason: str = ""
    probability: float | None = None
    """That what the question is about is there."""
    drafted: str | None = None
    """What the checkpoint's writer wrote, where it has one."""
    lesions: tuple[Lesion, ...] = ()


def answer(
    checkpoint_path: Path,
    source: Path,
    questions: Sequence[str],
    *,
    out: Path | None = None,
    context: Context | None = None,
    device: str = "cpu",
    assume_hu: bool = False,
    show_progress: bool = True,
) -> tuple[dict[str, list[Answer]], BatchSummary]:
    """Answers questions about every study.

    Args:
        checkpoint_path: a run folder or an exported model folder.
        source: a study folder or a manifest.
        questions: each with words in it.
        out: where given, ``<study>/answers.json`` and the evidence masks in ``<study>/answers/``.
        context: what is known besides the image.
        device: where the model runs.
        assume_hu: accept a CT that looks windowed or rescaled twice.
        show_progress: show a progress bar.

    Returns:
        Answers by study, and what failed.

    Raises:
        CheckpointError, ManifestError, ConfigError: nothing can be done at all.
    """
    asked = [" ".join(q.split()) for q in questions]
    if not asked or not all(any(c.isalpha() for c in q) for q in asked):
        raise ConfigError(f"expected questions in words, found {list(questions)}; pass --question TEXT")
    checkpoint = load_checkpoint(checkpoint_path, device)
    reporter = Reporter(checkpoint, device, writer_of(checkpoint_path, checkpoint, device))
    found: dict[str, list[Answer]] = {}

    def each(entry: Entry, row: Row) -> None:
        folder = None if out is None else out / row.study_id
        templates = {n: p if p is not None and p.is_file() else None for n, p in (("ct", row.ct), ("pet", row.pet))}
        answerer = Answerer(entry, reporter, Lesions(reporter.evidences.of(entry), folder, templates, "answers"))
        found[row.study_id] = answerer(asked, context or Context())
        if folder is not None:
            record = {
                **record_of(entry, checkpoint, answerer.lesions.series),
                "answers": [{**asdict(a), "lesions": [f.record() for f in a.lesions]} for a in found[row.study_id]],
            }
            write_whole(folder / "answers.json", json.dumps(record, indent=1))

    summary = each_study(source, checkpoint, each, name="answer", assume_hu=assume_hu, show_progress=show_progress)
    return found, summary


class Answerer:
    """One study, ready for questions."""

    def __init__(self, entry: Entry, reporter: Reporter, lesions: Lesions) -> None:
        self.entry, self.known, self.lesions = entry, reporter.known, lesions
        self.evidence: Evidence = reporter.evidences.of(entry)
        self.writer: Writer | None = None if isinstance(reporter.writer, TemplateWriter) else reporter.writer
        self.templates = TemplateWriter(reporter.known, reporter.evidences)

    def __call__(self, questions: Sequence[str], context: Context) -> list[Answer]:
        """All answers, after one pass over the study for everything they ask about."""
        phrases = [p for q in questions if (p := asked_about(q))]
        places = [p for phrase in phrases for p in self._places(phrase) or []]
        self.evidence.ask([*phrases, *places, *(t.phrase for t in self.known.plain), *self.known.sites.values()])
        return [self._answer(q, context) for q in questions]

    def _answer(self, question: str, context: Context) -> Answer:
        kind, phrase = question_kind(question), asked_about(question)
        drafted = self.writer.write_answer(self.entry, question, context) if self.writer is not None else None
        blank = Answer(question=question, kind=kind, phrase=phrase, text="", source="none", drafted=drafted)
        if kind == "modality":
            text = "/".join(image.upper() for image in ("pet", "ct") if image in self.entry.images)
            return replace(blank, text=text, source="header", reason="the images of the study")
        if phrase is None:
            return self._unchecked(blank, "the question names nothing that can be segmented")
        if phrase not in self.known.trained and not self._knows(phrase):
            return self._unchecked(blank, "the checkpoint was not trained on anything of the kind in this place")
        if kind == "open":
            return self._open(blank, question)
        blank = replace(blank, probability=round(self.evidence.probability(phrase), 6))
        side = body_sides(phrase)
        parts = self.evidence.parts(phrase, side)
        numbers = [n for n in dict.fromkeys(self.lesions.number_of(p) for p in parts) if self.lesions.lesion(n)]
        if not numbers:
            return self._absent(blank, phrase, question)
        found = tuple(lesion for n in numbers if (lesion := self.lesions.lesion(n)) is not None)
        return self._present(replace(blank, lesions=found, source="segmentation"), question, numbers)

    def _knows(self, phrase: str) -> bool:
        families = families_in(phrase)
        if families:
            return self.known.knows(families, _organs(phrase))
        structure = structure_in(phrase)
        return structure is not None and structure.name in self.known.sites

    def _places(self, phrase: str) -> list[str] | None:
        organs = _organs(phrase)
        return self.known.places(phrase, organs, laterality(phrase)) if organs or structure_in(phrase) else None

    def _absent(self, blank: Answer, phrase: str, question: str) -> Answer:
        places = self._places(phrase)
        unseen = [p for p in places or [] if not self.evidence.likely(p)]
        out = replace(blank, source="segmentation")
        if unseen and not asks_for_absence(question):
            reason = f"not seen: {', '.join(unseen)}"
            yes_no = blank.kind == "yes_no" and not families_in(phrase)  # about the structure itself
            text = f"No, the {phrase} is not in the field of view." if yes_no else OUT_OF_VIEW
            return replace(out, text=text, reason=reason)
        reason = "absent" if places else "absent in the imaged region"
        if blank.kind == "yes_no":
            return replace(out, text="Yes." if asks_for_absence(question) else "No.", reason=reason)
        if blank.kind == "count":
            return replace(out, text="0", reason=reason)
        return replace(out, text=NO_SUCH, reason=reason)

    def _present(self, out: Answer, question: str, numbers: list[int]) -> Answer:
        found = out.lesions
        match out.kind:
            case "yes_no":
                return replace(out, text="No." if asks_for_absence(question) else "Yes.", reason="segmented")
            case "count":
                return replace(out, text=str(len(found)), source="measurement", reason="parts of the mask")
            case "side":
                sides = {lesion.side for lesion in found}
                text = "both" if len(sides) > 1 else sides.pop()
                return replace(out, text=text, source="measurement", reason="centroids against the body's midline")
            case "size":
                return self._size(out, question)
            case "location" | "organ":
                return self._place(out, numbers[0])
        return self._unchecked(out, "no rule for a question of this kind")

    def _size(self, out: Answer, question: str) -> Answer:
        """The number asked for, of the largest thing; every number of it where the question does not say which."""
        lower = question.lower().replace((out.phrase or "").lower(), " ")  # "FDG-avid" of the thing asks for no SUV
        lesion = out.lesions[0].measurement
        if "suv" in lower or "uptake" in lower or "avid" in lower or "hot" in lower:
            kind = "suv_mean" if "mean" in lower else "suv_peak" if "peak" in lower else "suv_max"
            template = f"{ {'suv_max': 'SUVmax', 'suv_mean': 'SUVmean', 'suv_peak': 'SUVpeak'}[kind] } <{kind}_1>"
        elif "volume" in lower:
            template = "<volume_1>"
        else:
            template = "<size_1>"
        if out.drafted and len(slot_names(out.drafted)) == 1 and not loose_numbers(out.drafted):
            wanted = slot_names(template)[0].rpartition("_")[0]
            if slot_names(out.drafted)[0].startswith(wanted):
                template = out.drafted
        try:
            text = fill_measured(template, [lesion], several=False)
        except CannotFill as why:
            return replace(out, text=f"That cannot be measured: {why}.", source="none", reason=str(why))
        reason = "measured in the mask" + (f"; the largest of {len(out.lesions)}" if len(out.lesions) > 1 else "")
        return replace(out, text=text, source="measurement", lesions=out.lesions[:1], reason=reason)

    def _place(self, out: Answer, number: int) -> Answer:
        """By overlap with what was found under the trained phrases that name an organ, then with the organs' masks."""
        evidence, part = self.evidence, self.lesions.part(number)
        shares = [
            (shared_voxels(part, other) / part.voxels, thing.side in SIDES, thing.organ)
            for thing in self.known.plain
            if thing.organ is not None
            for other in evidence.parts(thing.phrase, thing.side)
        ]
        overlap, _, organ = max(shares, default=(0.0, False, ""))
        text = self._named(organ, evidence.side_of(part), out.kind)
        if overlap < LEAST_SHARE:
            where = tuple(slice(a, b) for a, b in zip(part.start, part.stop, strict=True))
            seen = [site for site in self.known.sites.values() if evidence.likely(site)]
            within = [(float(evidence.mask(site)[where][part.member_ZYX].mean()), site) for site in seen]
            overlap, text = max(within, default=(0.0, ""))
        if overlap < LEAST_SHARE:
            return self._unchecked(out, "it lies in none of the structures that the checkpoint knows")
        return replace(out, text=text, source="measurement", reason=f"overlap {overlap:.2f}", lesions=out.lesions[:1])

    def _named(self, organ: str, side: str, kind: QuestionKind) -> str:
        paired = organ in ("lung", "kidney", "adrenal", "breast") or any(
            t.organ == organ and t.side in SIDES for t in self.known.plain
        )
        name = organ.replace("_", " ")
        return f"{side} {name}" if paired and kind == "location" else name

    def _open(self, blank: Answer, question: str) -> Answer:
        """Sentences about the place asked for, each checked like those of a report; the writer's where they hold."""
        phrase = blank.phrase or ""
        organs = set(_organs(phrase))
        side = laterality(phrase)
        if blank.drafted:
            section = next((title(o) for o in sorted(organs)), "")
            drafts = [Draft(section, s) for s in sentences(blank.drafted)]
            told = ground(drafts, self.evidence, self.known, self.lesions)
            if good := [g for g in told if g.status == "supported"]:
                text = " ".join(g.text for g in good)
                lesions = tuple(dict.fromkeys(lesion for g in good for lesion in g.lesions))
                return replace(blank, text=text, source="segmentation", reason="checked", lesions=lesions)
        drafts = [
            d for d in self.templates.write_report(self.entry, Context())
            if d.section != "impression" and self._within(d, organs, side)
        ]  # fmt: skip
        told = ground(drafts, self.evidence, self.known, self.lesions)
        good = [g for g in told if g.status == "supported"]
        if not good:
            return self._unchecked(blank, "nothing about it could be confirmed")
        text = " ".join(g.text for g in good)
        lesions = tuple(dict.fromkeys(lesion for g in good for lesion in g.lesions))
        return replace(blank, text=text, source="segmentation", reason="checked", lesions=lesions)

    def _within(self, draft: Draft, organs: set[str], side: str | None) -> bool:
        named = {organ for _, _, organ in organs_in(f"{draft.sentence} {draft.section}")}
        said = laterality(draft.sentence)
        return (not organs or bool(named & organs)) and (side not in SIDES or said in (None, side, "bilateral"))

    def _unchecked(self, blank: Answer, reason: str) -> Answer:
        """The writer's answer where it holds no number, marked; else that there is none."""
        drafted = blank.drafted
        if drafted and not SLOT.search(drafted) and not loose_numbers(drafted):
            return replace(blank, text=drafted, source="writer", reason=f"not checked: {reason}")
        return replace(blank, text=f"This checkpoint cannot answer that: {reason}.", source="none", reason=reason)


def _organs(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(organ for _, _, organ in organs_in(text)))
