"""The reader at work: looks taken for its training, and its drafts of reports and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vol3d.cache import Cache, Entry
from vol3d.checkpoint import Checkpoint, load_reader
from vol3d.data.looks import Look, load_look, look_path
from vol3d.data.readings import Rows, parts_of, rows_about, stacked
from vol3d.data.report_texts import (
    Probes,
    context_of,
    part_prompt,
    question_prompt,
    section_prompt,
    with_context,
)
from vol3d.infer.looks import look_at
from vol3d.model.bank import EmbeddingBank, bank_root
from vol3d.model.generate import GenerationConfig
from vol3d.model.reader import ReaderConfig, StudyReader
from vol3d.progress import progress
from vol3d.text.asked import asked_about
from vol3d.text.reports import sentences
from vol3d.workflows.drafts import Context, Draft


def take_looks(
    checkpoint: Checkpoint,
    cache: Cache,
    studies: Sequence[str],
    config: ReaderConfig,
    out: Path,
    *,
    device: str = "cpu",
    show_progress: bool = True,
) -> None:
    """Looks at every study, with the phrases that its questions ask about; looks already taken are kept.

    Raises:
        CacheError: a look in `out` is damaged.
    """
    bank = EmbeddingBank(bank_root(), checkpoint.model.config.text, device)
    with progress("look", len(studies), "studies", enabled=show_progress) as advance:
        for study in studies:
            if look_path(out, study).exists():
                load_look(out, study)
            else:
                entry = cache.entry(study)
                questions = [str(row["q"]) for row in getattr(entry, "qa", None) or ()]
                look(checkpoint, entry, config, questions, bank, device).save(out)
            advance()


def look(
    checkpoint: Checkpoint,
    entry: Entry,
    config: ReaderConfig,
    questions: Sequence[str],
    bank: EmbeddingBank,
    device: str,
) -> Look:
    """One look, at the probes and at what the questions ask about."""
    asked = [phrase for question in questions if (phrase := asked_about(question)) is not None]
    phrases = list(dict.fromkeys([*config.probes, *asked]))
    bank.ensure(phrases)
    tokens_BPTE, mask_BPT = bank.batch([phrases])
    seen, _ = look_at(checkpoint, entry, config, phrases, tokens_BPTE[0], mask_BPT[0], device=device)
    if missing := [p for p in asked if p in config.probes]:  # a question about a probe shows its rows once more
        rows = {p: seen.facts_NF[seen.probe_N == config.probes.index(p)] for p in missing}
        seen = Look(seen.study_id, seen.cell_VC, seen.place_V3, seen.probe_N, seen.facts_NF, {**seen.asked, **rows})
    return seen


class ReaderWriter:
    """A `Writer`: the language decoder of a checkpoint.

    Args:
        checkpoint: with the grounding model that the reader was trained on.
        reader: on `device`, in evaluation mode.
        device: where both are.
        generation: how texts are written.
        blank: control for evaluation: nothing of the image is shown.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        reader: StudyReader,
        device: str = "cpu",
        generation: GenerationConfig | None = None,
        *,
        blank: bool = False,
    ) -> None:
        self.checkpoint, self.reader, self.device, self.blank = checkpoint, reader, device, blank
        self.probes = Probes(reader.config.structures, reader.config.findings)
        self.generation = generation or reader.config.writing.search(reader.config.language.max_tokens)
        self._bank = EmbeddingBank(bank_root(), checkpoint.model.config.text, device)
        self._seen: tuple[Path, Look] | None = None

    def see(self, entry: Entry, questions: Sequence[str] = ()) -> Look:
        """The look at a study; the last one is kept, so ask all questions of a study at once or one after another."""
        phrases = {p for q in questions if (p := asked_about(q)) is not None}
        if self._seen is None or self._seen[0] != entry.path or not phrases <= self._seen[1].asked.keys():
            taken = look(self.checkpoint, entry, self.reader.config, questions, self._bank, self.device)
            self._seen = (entry.path, taken)
        return self._seen[1]

    def show(self, entry: Entry, seen: Look) -> None:
        """Hands over a look that another writer has taken."""
        self._seen = (entry.path, seen)

    def write_report(self, entry: Entry, context: Context) -> list[Draft]:
        """Section by section: a sentence for each part that was found, largest first, then the rest."""
        seen = self.see(entry)
        wanted: list[tuple[str, str, int | None]] = []
        for section in self.reader.config.sections:
            parts = [] if self.blank else parts_of(seen, section, self.probes)
            wanted += [(section, part_prompt(section), row) for row in parts]
            wanted.append((section, section_prompt(section), None))
        rows = [rows_about(seen, section, None, self.probes, row) for section, _, row in wanted]
        texts = self._write([prompt for _, prompt, _ in wanted], context, seen, rows)
        return [Draft(s, t, p) for (s, _, _), (text, p) in zip(wanted, texts, strict=True) for t in sentences(text)]

    def write_answers(self, entry: Entry, questions: Sequence[str], context: Context) -> list[str]:
        """All in one go, after one look at the study."""
        seen = self.see(entry, questions)
        rows = [rows_about(seen, q, asked_about(q), self.probes) for q in questions]
        return [text for text, _ in self._write([question_prompt(q) for q in questions], context, seen, rows)]

    def _write(self, prompts: list[str], context: Context, seen: Look, rows: list[Rows]) -> list[tuple[str, float]]:
        if not prompts:
            return []
        told = self._told(context, prompts)
        prompts = [f"{told}{prompt}" for prompt in prompts]
        parts = stacked([seen.cell_VC] * len(rows), [seen.place_V3] * len(rows), rows)
        if self.blank:
            parts = parts._replace(cell_mask_BV=parts.cell_mask_BV & False, row_mask_BN=parts.row_mask_BN & False)
        return self.reader.write(prompts, self.reader.visual(*(p.to(self.device) for p in parts)), self.generation)

    def _told(self, context: Context, prompts: Sequence[str]) -> str:
        """What else is known, as far as the decoder has room for it before the longest prompt: the last fields, of
        which the prior report is one, lose their last words first."""
        tokenizer, known = self.reader.language.tokenizer, list(context_of(asdict(context)))
        most = self.reader.config.language.max_tokens - self.generation.max_new_tokens

        def too_long() -> bool:
            told = with_context(known)
            return max(len(tokenizer.prompt(f"{told}{prompt}")) for prompt in prompts) > most

        while known and too_long():
            name, text = known.pop()
            if words := text.split()[:-1]:
                known.append((name, " ".join(words)))
        return with_context(known)


def writer_of(path: Path, checkpoint: Checkpoint, device: str, beams: int | None = None) -> ReaderWriter | None:
    """The language decoder beside a model; None where there is none, and templates write.

    `beams` stands in place of what the reader was configured with.

    Raises:
        CheckpointError: its files are damaged. ModelUnavailableError: it needs a language model that is not here.
    """
    reader = load_reader(path, device)
    if reader is None:
        return None
    writing = reader.config.writing if beams is None else replace(reader.config.writing, beams=beams)
    return ReaderWriter(checkpoint, reader, device, writing.search(reader.config.language.max_tokens))
