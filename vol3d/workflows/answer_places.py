"""Where a found thing lies, whether its place is in view, and what is seen in a place."""

from __future__ import annotations

from dataclasses import replace

from vol3d.cache import Entry
from vol3d.text.mentions import laterality
from vol3d.text.organs import SIDES, structure_in
from vol3d.text.questions import QuestionKind
from vol3d.text.reports import organs_in, sentences
from vol3d.text.things import families_in
from vol3d.workflows.answer_types import Answer, unchecked
from vol3d.workflows.drafts import Context, Draft
from vol3d.workflows.evidence import Evidence, Part
from vol3d.workflows.found import LEAST_SHARE, place_of
from vol3d.workflows.ground import ground
from vol3d.workflows.known import NEIGHBOURS, OPEN_ENDED, Known
from vol3d.workflows.lesions import Lesions
from vol3d.workflows.looks import plain_phrase
from vol3d.workflows.template_writer import TemplateWriter, title

NO_SUCH = "There is no such lesion."
OUT_OF_VIEW = "It is not in the field of view."


class Places:
    """What a study's structures tell about places.

    Args:
        evidence: of the study.
        known: what the checkpoint was trained on.
    """

    def __init__(self, evidence: Evidence, known: Known) -> None:
        self.evidence, self.known = evidence, known

    def of(self, phrase: str) -> list[str] | None:
        """Phrases of the structures in which the thing would lie; None where the checkpoint knows none of them."""
        organs = organs_of(phrase)
        return self.known.places(phrase, organs, laterality(phrase)) if organs or structure_in(phrase) else None

    def unseen(self, phrase: str) -> list[str]:
        """Those of its structures that are not in the image, as far as it can tell; what was taken out is in it."""
        evidence = self.evidence
        return [p for p in self.of(phrase) or [] if not evidence.likely(p) and not evidence.taken_out(p)]

    def restriction(self, phrase: str) -> str:
        """What an absence must be limited to; "" where the whole place is seen.

        "the part shown" where the image cuts it or no image holds it as a whole, "the imaged part" where nothing tells
        whether it is in view.
        """
        places, organs = self.of(phrase), organs_of(phrase)
        if not places:
            return "the imaged part"
        cut = any(self.evidence.cut_by_view(p) for p in places)
        if cut and NEIGHBOURS.intersection(organs):
            return "the imaged part"
        return "the part shown" if cut or OPEN_ENDED.intersection(organs) else ""

    def absent(self, blank: Answer, phrase: str, *, inverted: bool, count_holds: bool | None) -> Answer:
        """Nothing was found: no, none, or out of view, as far as the image tells.

        Args:
            blank: the answer to be filled.
            phrase: what was not found.
            inverted: "yes" means that nothing is there.
            count_holds: whether none is as many as a yes or no question asks for; None where it asks for no number.
        """
        out = replace(blank, source="segmentation")
        unseen = self.unseen(phrase)
        if unseen and inverted and not families_in(phrase):
            return replace(out, text="Yes.", reason="not seen: out of the field of view or removed")
        if unseen:
            yes_no = blank.kind == "yes_no" and not families_in(phrase)  # about the structure itself
            text = f"No, the {phrase} is not in the field of view." if yes_no else OUT_OF_VIEW
            return replace(out, text=text, reason=f"not seen: {', '.join(unseen)}")
        meant = plain_phrase(phrase, self.known) or phrase
        if families_in(phrase) and self.evidence.likely(meant) and not self.evidence.parts(meant):
            return unchecked(blank, "it is likely there, and no voxel of it was found")
        limited = self.restriction(phrase)
        reason = blank.reason or (f"absent in {limited}" if limited else "absent")
        if blank.kind == "count":
            return replace(out, text=f"0 in {limited}" if limited else "0", reason=reason)
        yes = inverted if count_holds is None else count_holds != inverted
        text = ("Yes." if yes else "No.") if blank.kind == "yes_no" else NO_SUCH
        return replace(out, text=f"{text} That holds for {limited}." if limited else text, reason=reason)

    def located(self, out: Answer, part: Part) -> Answer:
        """By overlap with what was found under the trained phrases that name an organ, then with the organs' masks."""
        evidence = self.evidence
        overlap, organ = place_of(part, self.known, evidence)
        text = "" if organ is None else self._named(organ, evidence.side_of(part), out.kind)
        if organ is None:
            seen = [site for site in self.known.sites.values() if evidence.likely(site)]
            within = [(float(evidence.mask(site)[part.window][part.member_ZYX].mean()), site) for site in seen]
            overlap, text = max(within, default=(0.0, ""))
        if overlap < LEAST_SHARE:
            return unchecked(out, "it lies in none of the structures that the checkpoint knows")
        return replace(out, text=text, source="measurement", reason=f"overlap {overlap:.2f}")

    def _named(self, organ: str, side: str, kind: QuestionKind) -> str:
        paired = organ in ("lung", "kidney", "adrenal", "breast") or any(
            t.organ == organ and t.side in SIDES for t in self.known.plain
        )
        name = organ.replace("_", " ")
        return f"{side} {name}" if paired and kind == "location" else name


def open_answer(
    blank: Answer, entry: Entry, evidence: Evidence, known: Known, lesions: Lesions, templates: TemplateWriter
) -> Answer:
    """Sentences about the place asked for, each checked like those of a report.

    The writer's where they hold, and templates for what it leaves out: all that is found there is told.
    """
    phrase = blank.phrase or ""
    organs, side = set(organs_of(phrase)), laterality(phrase)
    section = next((title(o) for o in sorted(organs)), "")
    written = [Draft(section, s) for s in sentences(blank.drafted)] if blank.drafted else []
    by_rule = [
        d for d in templates.write_report(entry, Context()) if d.section != "impression" and _within(d, organs, side)
    ]
    good, more = (
        [g for g in ground(drafts, evidence, known, lesions) if g.status == "supported"] if drafts else []
        for drafts in (written, by_rule)
    )
    told = {lesion.id for g in good for lesion in g.lesions}
    good += [g for g in more if not good or (g.lesions and told.isdisjoint(lesion.id for lesion in g.lesions))]
    if not good:
        return unchecked(blank, "nothing about it could be confirmed")
    found = tuple(dict.fromkeys(lesion for g in good for lesion in g.lesions))
    return replace(blank, text=" ".join(g.text for g in good), source="segmentation", reason="checked", lesions=found)


def _within(draft: Draft, organs: set[str], side: str | None) -> bool:
    named = {organ for _, _, organ in organs_in(f"{draft.sentence} {draft.section}")}
    said = laterality(draft.sentence)
    return (not organs or bool(named & organs)) and (side not in SIDES or said in (None, side, "bilateral"))


def organs_of(phrase: str) -> tuple[str, ...]:
    """Organs that a phrase names, each once."""
    return tuple(dict.fromkeys(organ for _, _, organ in organs_in(phrase)))
