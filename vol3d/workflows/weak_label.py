"""`vol3d weak-label`: a cache with reports -> a manifest whose masks come from the reports' sentences.

Beside MANIFEST lie ``<name>-masks/<study>/NN.nii.gz`` on the PET grid and ``<name>.sentences.jsonl``, the fate of every
sentence that states an SUV. Studies without a report but with masks of findings get what a report would say of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.weak_labels import Label, label_study
from preprocessing.weak_labels_checks import Organs
from preprocessing.weak_labels_describe import NamedMask, describe
from preprocessing.weak_labels_slices import series_of
from preprocessing.weak_labels_text import Refusal, tracer_of
from vol3d.cache import Cache, Entry
from vol3d.errors import ConfigError, Vol3dError
from vol3d.export.audit import Decision, Item, picture, read_decisions, write_pages
from vol3d.export.nifti import write_if_other
from vol3d.files import write_whole
from vol3d.geometry import Grid
from vol3d.measure import diameters, volume_ml
from vol3d.progress import progress
from vol3d.types import Array, Zyx
from vol3d.volume import Volume
from vol3d.workflows.weak_label_rows import base_row, common_mask, private_manifest, source_manifest, source_rows


@dataclass
class Summary:
    """What a run did."""

    labels: int = 0
    refused: int = 0
    rejected: int = 0
    described: int = 0
    studies: int = 0
    """With at least one label."""
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class _Work:
    """Where things are written, and what comes together over the studies."""

    cache: Cache
    out: Path
    rows: dict[str, dict[str, Any]] | None
    decisions: dict[str, Decision]
    audit: Path | None
    only_accepted: bool
    summary: Summary = field(default_factory=Summary)
    manifest: list[dict[str, Any]] = field(default_factory=list)
    sentences: list[dict[str, Any]] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)

    @property
    def masks(self) -> Path:
        return self.out.with_name(f"{self.out.stem}-masks")


def weak_label(
    cache: Path,
    out: Path,
    *,
    manifest: Path | None = None,
    audit: Path | None = None,
    only_accepted: bool = False,
    show_progress: bool = True,
) -> Summary:
    """Labels every study of a cache.

    Args:
        cache: entries with reports.
        out: manifest to write; its folder is made.
        manifest: the one that the cache was made from: its rows are kept, masks are added. Without it
            ``CACHE/manifest.jsonl`` or ``CACHE.intake/manifest.jsonl`` (written for a dataset source; rows of the
            latter may name people, and `out` is then for its owner alone), else the images are written anew from the
            cache.
        audit: folder of pages for a human; decisions in it are honoured, a rejected label is left out.
        only_accepted: leave out what no human has accepted.
        show_progress: a bar.

    Raises:
        ConfigError: `out` is a folder.
        Vol3dError: nothing can be done at all. A study that cannot be read is in the summary.
    """
    if Path(out).is_dir():
        raise ConfigError(f"expected a file for the manifest, found a folder at {out}; try {out}/manifest.jsonl")
    decisions = read_decisions(audit) if audit else {}
    source = source_manifest(Path(cache), manifest)
    work = _Work(Cache(cache), Path(out), source_rows(source), decisions, audit, only_accepted)
    work.out.parent.mkdir(parents=True, exist_ok=True)
    with progress("weak-label", len(work.cache.study_ids), "studies", enabled=show_progress) as advance:
        for study_id in work.cache.study_ids:
            try:
                _study(work, work.cache.entry(study_id))
            except Vol3dError as error:
                work.summary.failed[study_id] = str(error)
            advance(note=f"{work.summary.labels} labels")
    _write_lines(work.out, work.manifest)
    if source and source.absolute() == private_manifest(Path(cache)):
        work.out.chmod(0o600)
    _write_lines(work.out.with_name(f"{work.out.stem}.sentences.jsonl"), work.sentences)
    if audit:
        refused = [s for s in work.sentences if s["state"] == "refused"]
        write_pages(audit, work.items, [(s["study_id"], s["sentence"], s["reason"]) for s in refused])
    return work.summary


def _study(work: _Work, entry: Entry) -> None:
    row = base_row(work.rows, entry, work.out)
    earlier = {f["id"] for f in row.get("findings", []) if f.get("weak")}  # of a cache that has weak labels already
    masks = [m for m in row.get("masks", []) if m.get("finding_id") not in earlier]
    findings = [f for f in row.get("findings", []) if not f.get("weak")]
    if entry.report and "pet" in entry.images:
        for mask, finding in _labelled(work, entry):
            masks.append(mask)
            findings.append(finding)
    elif not entry.report:
        _describe(work, entry, masks, findings)
    work.manifest.append({**row, "masks": masks, "findings": findings})


# -- sentences to masks -------------------------------------------------------------------------------------------


def _labelled(work: _Work, entry: Entry) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """New rows of ``masks`` and ``findings``. Lesions named by the same words are one mask, since a phrase has but one;
    several sentences on one lesion are its phrases."""
    pet = entry.pet_native()
    organs = Organs(_words_of(entry), lru_cache(maxsize=None)(entry.native_mask))
    found = label_study(
        pet, entry.report, series_of(entry.source_grids, entry.slice_numbers), organs=organs, tracer=_tracer(entry)
    )
    by_phrase: dict[str, list[Label]] = {}
    for label in found.labels:
        if label.claim.phrase in entry.absent:
            found.refusals.append(Refusal(label.claim.sentence, "the study lists the same words as absent"))
            continue
        item = _item(work, entry, label, pet)
        state = "accepted" if item.verdict == "accept" else "rejected" if item.verdict == "reject" else "labelled"
        work.sentences.append({"study_id": entry.study_id, "state": state, **_record(item, label)})
        work.items.append(item)
        work.summary.rejected += state == "rejected"
        if state != "rejected" and (state == "accepted" or not work.only_accepted):
            by_phrase.setdefault(label.claim.phrase, []).append(label)
            work.summary.labels += 1
    for refusal in found.refusals:
        work.sentences.append(
            {"study_id": entry.study_id, "state": "refused", "sentence": refusal.sentence, "reason": refusal.reason}
        )
    work.summary.refused += len(found.refusals)
    work.summary.studies += bool(by_phrase)
    by_lesions: dict[frozenset[Zyx], tuple[list[str], list[Label]]] = {}
    for phrase, labels in by_phrase.items():
        by_lesions.setdefault(frozenset(label.region.seed for label in labels), ([], labels))[0].append(phrase)
    return [_rows_of(work, entry, n, *group, pet.grid) for n, group in enumerate(by_lesions.values(), 1)]


def _rows_of(
    work: _Work, entry: Entry, number: int, phrases: list[str], labels: list[Label], grid: Grid
) -> tuple[dict[str, Any], dict[str, Any]]:
    mask_ZYX = np.any([label.region.mask_ZYX for label in labels], axis=0)
    path = work.masks / entry.study_id / f"{number:02d}.nii.gz"
    write_if_other(path, mask_ZYX, grid)
    name, claim = f"weak_{number:02d}", labels[0].claim
    size = diameters(mask_ZYX, grid) if len({label.region.seed for label in labels}) == 1 else None  # of one lesion
    measured = {
        "suv_max": round(max(label.region.suv_max for label in labels), 3),
        "volume_ml": round(volume_ml(mask_ZYX, grid), 3),
        "diameter_mm": round(size.axial_long_mm, 1) if size else None,
    }
    finding = {"id": name, "name": phrases[0], "organ": claim.organ, "side": claim.side, "present": True,
               "measurements": measured, "tracer": claim.tracer, "weak": True}  # fmt: skip
    relative = path.relative_to(work.out.parent).as_posix()
    return {"path": relative, "label": name, "finding_id": name, "phrases": phrases}, finding


def _item(work: _Work, entry: Entry, label: Label, pet: Volume) -> Item:
    claim, region = label.claim, label.region
    digest = hashlib.sha256(np.packbits(region.mask_ZYX).tobytes()).hexdigest()[:16]
    key = hashlib.sha256(f"{entry.study_id}\n{claim.sentence}\n{region.seed}".encode()).hexdigest()[:16]
    decision = work.decisions.get(key)
    verdict = decision.verdict if decision and (decision.verdict == "reject" or decision.mask == digest) else None
    facts = {
        "lesion": f"SUVmax {region.suv_max:.2f}, {volume_ml(region.mask_ZYX, pet.grid):.1f} ml over SUV "
                  f"{region.threshold_suv:.2f} (background {region.background_suv:.2f})",
        "slices": f"{label.numbering.series} counted {label.numbering.direction}",
        "place": " ".join(filter(None, (claim.side, claim.organ))) or "not named",
        "tracer": claim.tracer or "not named",
    }  # fmt: skip
    if not label.exact:
        facts["note"] = "the lesion is a little hotter than the sentence says: look at its edge"
    if region.parted:
        facts["neighbour"] = "touches something hotter and was cut at the valley between them"
    png = _picture(entry, pet, region.mask_ZYX, f"SUVmax {region.suv_max:.1f}") if work.audit else b""
    return Item(id=key, mask=digest, study_id=entry.study_id, sentence=claim.sentence, phrase=claim.phrase, facts=facts,
                png=png, verdict=verdict, time=decision.time if decision else None)  # fmt: skip


def _record(item: Item, label: Label) -> dict[str, Any]:
    claim, region = label.claim, label.region
    return {
        "id": item.id, "mask": item.mask, "sentence": claim.sentence, "phrase": claim.phrase,
        "suv_max": round(region.suv_max, 3), "seed_zyx": list(region.seed),
        "threshold_suv": round(region.threshold_suv, 3), "background_suv": round(region.background_suv, 3),
        "voxels": int(region.mask_ZYX.sum()), "exact": label.exact, "parted": region.parted,
        "series": label.numbering.series, "numbering": label.numbering.direction,
        "tracer": claim.tracer, "organ": claim.organ, "side": claim.side,
    }  # fmt: skip


def _picture(entry: Entry, pet: Volume, mask_ZYX: Array, title: str) -> bytes:
    """On the PET's grid in canonical order; on the common grid where the PET lies oblique."""
    grid = pet.grid.to_orientation("SAR")[0]
    mask = Volume(mask_ZYX.astype(np.uint8), pet.grid, "mask")
    ct = entry.read_level("ct", 0) if "ct" in entry.images else None
    if grid.is_axis_aligned:
        shown, member_ZYX = pet.to_orientation("SAR"), mask.to_orientation("SAR").array_ZYX
    else:
        shown, member_ZYX = entry.read_level("pet", 0), mask.resample_to(entry.grid).array_ZYX >= 0.5
    return picture(ct.resample_to(shown.grid) if ct else None, shown, member_ZYX, title)


def _tracer(entry: Entry) -> str | None:
    """As the manifest names it, by the name that the rules know it by: "18F-FDG" is FDG."""
    named = entry.meta.get("tracer")
    return tracer_of(str(named)) or str(named) if named else None


def _words_of(entry: Entry) -> dict[str, str]:
    """Masks of organs by name, in words: "kidney_left" is "kidney left"; masks of findings are none."""
    return {m.name: (m.label or m.phrases[0]).replace("_", " ").lower() for m in entry.masks if not m.finding_id}


# -- masks to words -----------------------------------------------------------------------------------------------


def _describe(work: _Work, entry: Entry, masks: list[dict[str, Any]], findings: list[dict[str, Any]]) -> None:
    """Adds a phrase to the rows of findings' masks, and what was measured to the findings."""
    records = [m for m in entry.masks if m.finding_id]
    if not records:
        return
    pet = entry.pet_native() if "pet" in entry.images else None
    load: Callable[[str], Array] = entry.native_mask if pet else common_mask(entry)
    grid = pet.grid if pet else entry.grid
    organs = [NamedMask(name, load(name), words) for name, words in _words_of(entry).items()]
    named = [NamedMask(m.name, load(m.name), " ".join([m.label or "", *m.phrases]).replace("_", " ")) for m in records]
    told = {d.name: d for d in describe(named, organs, grid, pet, _tracer(entry))}
    phrases = [d.phrase for d in told.values()]
    for record in records:
        description = told.get(record.name)
        if description is None:
            continue
        work.summary.described += 1
        unique = phrases.count(description.phrase) == 1
        for mask in masks:
            own = [*mask.get("phrases", []), *([mask["phrase"]] if mask.get("phrase") else [])]
            if unique and mask.get("finding_id") == record.finding_id and tuple(own) == record.phrases:
                mask.pop("phrase", None)
                mask["phrases"] = list(dict.fromkeys([*own, description.phrase]))
        fresh = {"id": record.finding_id, "name": description.phrase, "organ": description.organ,
                 "side": description.side, "present": True, "measurements": description.measurements,
                 "triplets": [list(t) for t in description.triplets]}  # fmt: skip
        old = next((f for f in findings if f.get("id") == record.finding_id), None)
        if old is None:
            findings.append(fresh)
        else:
            old |= {k: v for k, v in fresh.items() if old.get(k) is None}


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
