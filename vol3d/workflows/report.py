"""`vol3d report`: raw studies -> a report by organ whose every sentence points at a mask or at a checked absence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from preprocessing.manifest import Row
from vol3d.cache import Entry
from vol3d.checkpoint import Checkpoint, load_checkpoint
from vol3d.errors import ConfigError, Vol3dError
from vol3d.export.report_text import report_text
from vol3d.files import write_json, write_whole
from vol3d.text.things import families_in
from vol3d.workflows.appearances import appearance_of
from vol3d.workflows.asking import Asker
from vol3d.workflows.change import ChangeError, Prior, StudyLesions, compare, read_references, write_reference
from vol3d.workflows.drafts import Context, Writer
from vol3d.workflows.evidence import UNITS, Evidence, Evidences, Part
from vol3d.workflows.found import phrases_of, things_found
from vol3d.workflows.ground import IMPRESSION, Grounded, ground
from vol3d.workflows.inputs import studies_in
from vol3d.workflows.known import Known
from vol3d.workflows.lesions import Lesions
from vol3d.workflows.prior import open_prior, patient_of
from vol3d.workflows.reading import writer_of
from vol3d.workflows.records import RECORD, text_of_report
from vol3d.workflows.scoring import Ask
from vol3d.workflows.studies import BatchSummary, each_study, record_of, templates_of
from vol3d.workflows.technique import technique
from vol3d.workflows.template_writer import TemplateWriter, impression_of, title

NOBODY_SAID = "Whether both studies are of one patient was not checked: their patient ids are not known."

SAME_MASK = 0.95
"""Dice from which on a mask under a trained phrase is the one already exported for a sentence."""


def report(
    checkpoint_path: Path,
    source: Path,
    out: Path,
    *,
    context: Context | None = None,
    prior: Path | None = None,
    keep_all: bool = False,
    beams: int | None = None,
    device: str = "cpu",
    assume_hu: bool = False,
    show_progress: bool = True,
) -> BatchSummary:
    """Reports on every study; a study that cannot be read is reported and the rest goes on.

    Args:
        checkpoint_path: a run folder or an exported model folder.
        source: a study folder or a manifest.
        out: ``<study>/report.json``, ``<study>/report.txt`` and the masks in ``<study>/report/``.
        context: what is known besides the image.
        prior: an earlier study of the same patient, or the ``report.json`` of one.
        keep_all: print unsupported sentences too, marked.
        beams: hypotheses of the language decoder, 1 is greedy; None: as its configuration says.
        device: where the model runs.
        assume_hu: accept a CT that looks windowed or rescaled twice; recorded in the output.
        show_progress: show a progress bar.

    Raises:
        CheckpointError, ManifestError, ConfigError: nothing can be done at all.
    """
    checkpoint = load_checkpoint(checkpoint_path, device)
    reporter = Reporter(checkpoint, device, writer_of(checkpoint_path, checkpoint, device, beams))
    context = context or Context()
    before = None
    if prior is not None:
        if len(studies_in(source)) != 1:
            raise ConfigError(f"expected one study with --prior, found {len(studies_in(source))} in {source}")
        before = open_prior(prior, reporter.evidences, checkpoint, assume_hu=assume_hu)
        context = replace(context, prior_report=text_of_report(prior))

    def answer(entry: Entry, row: Row) -> None:
        reporter.write(entry, row, out / row.study_id, context, prior=before, keep_all=keep_all)

    return each_study(source, checkpoint, answer, name="report", assume_hu=assume_hu, show_progress=show_progress)


class Reporter:
    """A checkpoint ready to report.

    Args:
        checkpoint: on `device`.
        device: where it is.
        writer: who drafts; by default templates.
        ask: who answers phrases; by default the checkpoint.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        writer: Writer | None = None,
        ask: Ask | None = None,
    ) -> None:
        self.checkpoint, self.known = checkpoint, Known.of(checkpoint)
        self.asker = Asker(checkpoint, device)
        self.evidences = Evidences(ask or self.asker.unmeasured, checkpoint.calibration)
        self.writer = writer or TemplateWriter(self.known, self.evidences)

    def write(
        self,
        entry: Entry,
        row: Row,
        folder: Path,
        context: Context,
        *,
        prior: Prior | None = None,
        keep_all: bool = False,
    ) -> dict[str, Any]:
        """Writes one study's report, its masks and its record, which is also returned.

        Raises:
            ChangeError: there is a prior study and it cannot be compared; all else has been written, unless it is
                another patient's or lies in `folder`: then nothing was touched.
        """
        patient, before, refused = patient_of(row, entry.patient_key), None, ""
        of_patient = prior.admit(folder, patient) if prior is not None else None
        if prior is not None:
            try:
                before = prior.of(folder)  # first: what is written below may be where its files are
            except Vol3dError as error:  # whatever is wrong with the prior, the current study gets its report
                refused = str(error)
        evidence = self.evidences.of(entry)
        evidence.ask([*(t.phrase for t in self.known.plain), *self.known.sites.values()])
        drafts = self.writer.write_report(entry, context)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)  # its masks are about to be replaced
        lesions = Lesions(evidence, folder, templates_of(row))
        told = ground(drafts, evidence, self.known, lesions)
        told = _with_impression(told, evidence, self.known, lesions)
        same = {}  # found with the trained phrases alone, told or not: what a later study is compared with
        for found in things_found(self.known, evidence):
            if (lesion := lesions.lesion(lesions.number_of(found.part, SAME_MASK))) is not None:
                same[lesion.id] = lesion
        write_reference(entry, folder)
        mentioned = {lesion.id for g in told if g.status == "supported" for lesion in g.lesions}
        looked_for = phrases_of(self.known, entry.images)
        record: dict[str, Any] = {
            **record_of(entry, self.checkpoint, lesions.series),
            "patient": asdict(patient),
            "writer": type(self.writer).__name__,
            "images": list(entry.images),
            "context": {k: v for k, v in asdict(context).items() if v and k != "prior_report"},
            "technique": technique(entry, row),
            "sentences": [_sentence(g) for g in told],
            "lesions": [
                {
                    **f.record(),
                    "appearance": self._appearance(lesions.part_of(f), evidence),
                    "mentioned": f.id in mentioned,
                    "comparable": f.id in same,
                }
                for f in lesions.exported()
            ],
            "looked_for": sorted(looked_for),
            "units": UNITS,
            "change": None,
            "not_assessed": _not_assessed(told, evidence, self.known),
        }
        if before is not None:
            try:
                now = StudyLesions(entry.study_id, folder, list(same.values()), read_references(folder), looked_for)
                record["change"] = compare(now, before)
            except ChangeError as error:
                refused = str(error)
        if refused:
            record["change"] = {"statement": f"No comparison with the prior study: {refused}", "lesions": []}
        if prior is not None:
            record["change"]["same_patient"] = of_patient
            if of_patient is None:
                record["change"]["statement"] += f" {NOBODY_SAID}"
        write_whole(folder / "report.txt", report_text(record, keep_all))
        write_json(folder / RECORD, record)
        if refused:
            raise ChangeError(f"the report is written without a comparison with the prior study: {refused}")
        return record

    def _appearance(self, part: Part, evidence: Evidence) -> dict[str, Any] | None:
        """What was measured of a finding; nothing of an organ."""
        return appearance_of(part, evidence, self.known).record() if families_in(part.phrase) else None


def _with_impression(told: list[Grounded], evidence: Evidence, known: Known, lesions: Lesions) -> list[Grounded]:
    """An impression by rule where the writer's has nothing that holds."""
    supported = [g for g in told if g.status == "supported"]
    if any(g.draft.section == IMPRESSION for g in supported):
        return told
    with_pet = "pet" in evidence.entry.images
    drafts = [impression_of(g.phrases[0], with_pet, g.lesions[0].centroid_mm) for g in supported if g.lesions]
    return told + ground(drafts, evidence, known, lesions)


def _sentence(grounded: Grounded) -> dict[str, Any]:
    draft = grounded.draft
    files = [lesion.file for lesion in grounded.lesions]
    return {
        "text": grounded.text,
        "template": draft.sentence,
        "section": draft.section,
        "organ": grounded.organs[0] if grounded.organs else None,
        "phrase": grounded.phrases[0] if grounded.phrases else None,
        "phrases": list(grounded.phrases),
        "status": grounded.status,
        "reason": grounded.reason,
        "probability": grounded.probability,
        "log_probability": draft.log_probability,
        "file": files[0] if files else None,
        "lesions": [lesion.id for lesion in grounded.lesions],
        "numbers": [asdict(number) for number in grounded.numbers],
        "measurements": [
            {"file": f.file, "pet_file": f.pet_file, **asdict(f.measurement)} for f in grounded.lesions
        ],
    }  # fmt: skip


def _not_assessed(told: Sequence[Grounded], evidence: Evidence, known: Known) -> list[str]:
    """What the report cannot say anything of, in plain words."""
    out = []
    seen = [p for p in known.sites.values() if evidence.likely(p)]
    unseen = [p for p in known.sites.values() if p not in seen]
    if unseen:
        out.append(f"Not seen, out of the field of view or removed: {', '.join(unseen)}.")
    cut = [p for p in seen if evidence.cut_by_view(p)]
    if cut:
        out.append(f"Reaching an end of the field of view: {', '.join(cut)}.")
    supported = {g.draft.section for g in told if g.status == "supported"}
    dropped = dict.fromkeys(
        g.draft.section for g in told if g.draft.section not in supported and g.draft.section != IMPRESSION
    )
    if dropped:
        out.append(f"Nothing that was written could be confirmed: {', '.join(dropped)}.")
    organs = {t.organ for t in known.plain if t.organ}
    if known.things and organs:
        out.append(f"Nothing was looked for but in: {', '.join(sorted(title(o) for o in organs))}.")
    if "pet" not in evidence.entry.images:
        out.append("No PET: uptake was not measured.")
    elif "ct" not in evidence.entry.images:
        out.append("No CT: sizes are measured on the PET.")
    return out
