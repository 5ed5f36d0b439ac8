"""Questions about one study: what is refused, what is measured, what the masks say, and what is left to the writer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from vol3d.cache import Entry
from vol3d.text.asked import asked_about, asks_for_absence
from vol3d.text.asked_numbers import NumbersAsked, numbers_asked
from vol3d.text.asked_words import asks_beyond, asks_for_change, leaves_out, unknown_words
from vol3d.text.looks import says_what_is_not_measured
from vol3d.text.organs import SIDES, structure_in
from vol3d.text.plainly import plainly
from vol3d.text.questions import question_kind
from vol3d.text.things import families_in, specific_families
from vol3d.text.uptake import needs_pet
from vol3d.workflows.answer_numbers import NO_PET, figure_answer, judged, keeping, needs_uptake, ranked
from vol3d.workflows.answer_places import Places, open_answer, organs_of
from vol3d.workflows.answer_types import Answer, CannotAnswer, CannotMeasure, refused, unchecked
from vol3d.workflows.drafts import Context, Writer
from vol3d.workflows.evidence import Evidence, body_sides
from vol3d.workflows.lesions import Lesion, Lesions
from vol3d.workflows.looks import plain_phrase, sort_parts
from vol3d.workflows.report import Reporter
from vol3d.workflows.template_writer import TemplateWriter

_SUPERLATIVE = re.compile(
    r"(?:is|does)\s(?:the\s)?(?P<thing>[\w -]+?)\s(?:(?:located|situated|found|lie)\s)?(?:in|on|within|at|of)\s.+", re.I
)


class Answerer:
    """One study, ready for questions."""

    def __init__(self, entry: Entry, reporter: Reporter, lesions: Lesions) -> None:
        self.entry, self.known, self.lesions = entry, reporter.known, lesions
        self.evidence: Evidence = reporter.evidences.of(entry)
        self.writer: Writer | None = None if isinstance(reporter.writer, TemplateWriter) else reporter.writer
        self.templates = TemplateWriter(reporter.known, reporter.evidences)
        self.places = Places(self.evidence, self.known)

    def __call__(self, questions: Sequence[str], context: Context) -> list[Answer]:
        """All answers, after one pass over the study for everything they ask about."""
        plain = [plainly(question) for question in questions]
        phrases = [p for q in plain if (p := self._about(q))]
        phrases += [p for phrase in phrases if (p := plain_phrase(phrase, self.known))]
        places = [p for phrase in phrases for p in self.places.of(phrase) or []]
        self.evidence.ask([*phrases, *places, *(t.phrase for t in self.known.plain), *self.known.sites.values()])
        drafts: Sequence[str | None] = [None] * len(questions)
        if self.writer is not None:
            drafts = self.writer.write_answers(self.entry, [self._as_trained(q) for q in plain], context)
        answers = [self._answer(question, drafted) for question, drafted in zip(plain, drafts, strict=True)]
        return [replace(a, question=question) for question, a in zip(questions, answers, strict=True)]

    def _answer(self, question: str, drafted: str | None) -> Answer:
        kind, phrase, asked = question_kind(question), self._about(question), numbers_asked(question)
        blank = Answer(question=question, kind=kind, phrase=phrase, text="", source="none", drafted=drafted)
        if kind == "modality":
            text = "/".join(image.upper() for image in ("pet", "ct") if image in self.entry.images)
            return replace(blank, text=text, source="header", reason="the images of the study")
        if "pet" not in self.entry.images and (needs_pet(question) or needs_uptake(asked)):
            return refused(blank, NO_PET)
        if phrase is None:
            return unchecked(blank, "the question names nothing that can be segmented")
        try:
            self._require_answerable(question, phrase, asked)
        except CannotAnswer as why:
            return refused(blank, why) if kind != "open" or asks_for_change(question) else unchecked(blank, str(why))
        if phrase not in self.known.trained and not self._knows(phrase):
            return unchecked(blank, "the checkpoint was not trained on anything of the kind in this place")
        if kind == "open":
            return open_answer(blank, self.entry, self.evidence, self.known, self.lesions, self.templates)
        return self._measured(blank, phrase, asked)

    def _as_trained(self, question: str) -> str:
        """An open question about a place in the plainest words, which the writer has learnt; others as they are."""
        if question_kind(question) != "open" or (phrase := asked_about(question)) is None:
            return question
        place = self.known.place_of(phrase)
        return question if place is None else f"What is seen {place}?"

    def _about(self, question: str) -> str | None:
        phrase = asked_about(question)
        return None if phrase is None else self.known.in_own_words(phrase)

    def _require_answerable(self, question: str, phrase: str, asked: NumbersAsked) -> None:
        if asks_beyond(question):
            raise CannotAnswer("it asks for a reason, a time, advice or a judgement, and no measurement says that")
        if leaves_out(question):
            raise CannotAnswer("it leaves something out; ask for what is there")
        if asks_for_change(question):
            raise CannotAnswer("change needs a prior study, and none was given")
        if asked.trouble:
            raise (CannotMeasure if asked.trouble.endswith("not measured") else CannotAnswer)(asked.trouble)
        if phrase not in self.known.trained and (words := unknown_words(phrase, self.known.words)):
            raise CannotAnswer(f"the checkpoint has no words for {', '.join(words)}")
        if phrase not in self.known.trained and says_what_is_not_measured(phrase):
            raise CannotAnswer("only one density and one uptake of a whole thing are measured, and neither is denied")
        if asked.both and len(organs_of(phrase)) > 1:
            raise CannotAnswer("it names several places; ask about each by itself")

    def _knows(self, phrase: str) -> bool:
        families = families_in(phrase)
        if families:
            return self.known.knows(families, organs_of(phrase), specific_families(phrase, denied=False))
        structure = structure_in(phrase)
        return structure is not None and structure.name in self.known.sites

    def _measured(self, blank: Answer, phrase: str, asked: NumbersAsked) -> Answer:
        numbers = self._numbers(phrase)
        plain = plain_phrase(phrase, self.known)
        asked_for = plain if plain and numbers and not self.evidence.likely(phrase) else phrase
        blank = replace(blank, probability=round(self.evidence.probability(asked_for), 6))
        found = tuple(lesion for n in numbers if (lesion := self.lesions.lesion(n)) is not None)
        try:
            kept = keeping(found, asked.limits) if blank.kind != "yes_no" else found
            if not kept:
                reason = f"found {len(found)}, none of which fits" if found else ""
                count = asked.count.holds(0) if asked.count else None
                inverted = blank.kind == "yes_no" and asks_for_absence(blank.question)
                return self.places.absent(replace(blank, reason=reason), phrase, inverted=inverted, count_holds=count)
            if asked.rank is not None and blank.kind in ("side", "location", "organ"):
                kept = (ranked(kept, asked),)
            return self._present(replace(blank, lesions=kept, source="segmentation"), asked)
        except CannotAnswer as why:
            return refused(blank, why)

    def _numbers(self, phrase: str) -> list[int]:
        """Numbers of the things that a phrase finds and that look as it says, largest first."""
        parts = sort_parts(phrase, body_sides(phrase), self.evidence, self.known).fitting
        return [n for n in dict.fromkeys(self.lesions.number_of(p) for p in parts) if self.lesions.lesion(n)]

    def _present(self, out: Answer, asked: NumbersAsked) -> Answer:
        found = out.lesions
        match out.kind:
            case "yes_no":
                return self._yes_no(out, asked)
            case "count":
                return replace(out, text=str(len(found)), source="measurement", reason="parts of the mask")
            case "side":
                if any(self._on_midline(lesion) for lesion in found):
                    return unchecked(out, "it lies on the midline, or too near to it to tell a side")
                sides = {lesion.side for lesion in found}
                text = "both" if len(sides) > 1 else sides.pop()
                return replace(out, text=text, source="measurement", reason="centroids against the body's midline")
            case "size":
                return figure_answer(out, asked, structure=not families_in(out.phrase or ""))
            case "location" | "organ":
                return self.places.located(replace(out, lesions=found[:1]), self.lesions.part_of(found[0]))
        return unchecked(out, "no rule for a question of this kind")

    def _on_midline(self, lesion: Lesion) -> bool:
        """Of a paired organ the organ tells the side."""
        paired = any(t.organ == lesion.organ and t.side in SIDES for t in self.known.plain)
        return not paired and self.evidence.near_midline(self.lesions.part_of(lesion))

    def _yes_no(self, out: Answer, asked: NumbersAsked) -> Answer:
        inverted = asks_for_absence(out.question)
        if asked.plain:
            return replace(out, text="No." if inverted else "Yes.", reason="segmented")
        if asked.rank is not None and not asked.limits:
            yes, told = self._is_in_place(out.lesions, asked), ""
        else:
            yes, told = judged(out.lesions, asked)
        unseen = self.places.unseen(out.phrase or "") if asked.both and not yes else []
        if unseen:
            raise CannotAnswer(f"found {told}; not in the field of view: {', '.join(unseen)}")
        text = f"{'Yes' if yes != inverted else 'No'}{', ' if told else ''}{told}."
        reason = "centroids against the body's midline" if asked.both else "compared with what was measured"
        return replace(out, text=text, source="measurement", reason=reason)

    def _is_in_place(self, here: Sequence[Lesion], asked: NumbersAsked) -> bool:
        """ "Is the largest lesion in the liver?": of all lesions the largest, and whether it is among those there."""
        said = _SUPERLATIVE.fullmatch(asked.rest)
        if said is None or not families_in(said["thing"]):
            raise CannotAnswer("nothing tells of which things it would be the one by rank")
        every = [lesion for n in self._numbers(said["thing"]) if (lesion := self.lesions.lesion(n)) is not None]
        return bool(every) and ranked(every, asked) in here
