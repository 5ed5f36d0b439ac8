"""`vol3d export`: what `vol3d segment` wrote about a study -> files for a PACS, a planning system or a viewer."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from preprocessing.site_key import keyed
from vol3d.errors import Vol3dError
from vol3d.export.dicom_common import Algorithm
from vol3d.export.dicom_rtstruct import write_rtstruct
from vol3d.export.dicom_seg import SegFile, write_dicom_seg
from vol3d.export.dicom_sr import measured, write_dicom_sr
from vol3d.export.dicom_text import write_report_pdf, write_text_sr
from vol3d.export.mesh import write_stl
from vol3d.export.nifti import read_array, read_grid, write_multilabel
from vol3d.export.segments import Segment
from vol3d.export.source_series import SourceSeries, on_source, read_source
from vol3d.files import write_whole
from vol3d.measure import SUV_FIGURES
from vol3d.types import Array

Kind = Literal["nifti", "dicom-seg", "dicom-sr", "dicom-rtstruct", "report", "mesh"]

RECORD = "segmentation.json"


@dataclass
class Exported:
    """What an export wrote, and what the user should know about it."""

    files: list[Path] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answers:
    """One study's answers, as `vol3d segment` left them."""

    folder: Path
    answers: list[dict[str, Any]]
    grid: Literal["ct", "pet"]
    algorithm: Algorithm
    created: datetime.datetime
    """When the answers were made, local time there: exported again, or from a copy, they give the same objects."""
    patient: Mapping[str, Any] = field(default_factory=dict)
    """Keyed hashes of whose they are (`vol3d.workflows.change.Patient`)."""


def export(
    kind: Kind,
    folder: Path,
    *,
    source: Path | None = None,
    out: Path | None = None,
    labelmap: bool = False,
    pet: Path | None = None,
    text: Path | None = None,
    pdf: bool = False,
    space: Literal["LPS", "RAS"] = "LPS",
) -> Exported:
    """Exports one study.

    Args:
        kind: what to write.
        folder: of one study, with `segmentation.json` and `masks/`.
        source: the DICOM series that was segmented; needed for every kind of DICOM.
        out: folder to write; by default `dicom` or `mesh` in `folder`.
        labelmap: write the SEG as LABELMAP if no masks overlap.
        pet: the PET series that uptake was measured on, named in the SR as evidence.
        text: the report; by default `report.txt` in `folder`.
        pdf: the report as PDF instead of text SR.
        space: coordinates of meshes.

    Raises:
        Vol3dError: something that is needed is missing, or does not fit together; the message says what.
    """
    folder = Path(folder)
    found = read_answers(folder, optional=kind == "report")
    if kind == "nifti":
        return _nifti(found, out or folder)
    if kind == "mesh":
        return _meshes(found, out or folder / "mesh", space)
    if source is None:
        raise Vol3dError(f"expected --source with the DICOM series that was segmented, which {kind} refers to")
    series = read_source(source, found.grid if found.answers else None)
    _require_same_patient(found, series)
    target = out or folder / "dicom"
    target.mkdir(parents=True, exist_ok=True)
    if kind == "report":
        return _report(found, series, text or folder / "report.txt", target, pdf)
    segments = [_segment(found, answer, series) for answer in found.answers]
    if kind == "dicom-rtstruct":
        write_rtstruct(target / "rtstruct.dcm", series, segments, found.algorithm, found.created)
        return Exported([target / "rtstruct.dcm"], list(series.notes))
    seg = _seg(found, series, segments, target, labelmap)
    done = Exported([seg.path, seg.path.with_suffix(".json")], list(seg.messages))
    if kind == "dicom-sr":
        uptake = read_source(pet, "pet") if pet else None
        values = [
            measured(segment.load(), series.grid, {name: answer.get(name) for name in SUV_FIGURES})
            for segment, answer in zip(segments, found.answers, strict=True)
        ]
        write_dicom_sr(target / "sr.dcm", series, seg, values, found.algorithm, found.created, pet=uptake)
        done.files.append(target / "sr.dcm")
        if uptake is None and found.grid == "ct" and any(a.get("suv_max") is not None for a in found.answers):
            done.messages.append("SUV figures are written without naming their PET; pass its series with --pet")
    return done


def read_answers(folder: Path, *, optional: bool = False) -> Answers:
    """Reads `segmentation.json`.

    Args:
        folder: of one study.
        optional: give no answers, by an unknown model, where there is no such file.

    Raises:
        Vol3dError: there is none, or it is not what `vol3d segment` writes.
    """
    path = folder / RECORD
    if not path.is_file():
        if optional and folder.is_dir():
            return Answers(folder, [], "ct", Algorithm(version=version("vol3d"), weights_sha256=""), _time_of(folder))
        studies = sorted(p.parent.name for p in folder.glob(f"*/{RECORD}"))
        hint = f"; it holds the studies {', '.join(studies[:5])}: name one of them" if studies else ""
        raise Vol3dError(f"expected a study's folder with {RECORD}, as `vol3d segment` writes it, at {folder}{hint}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        provenance, calibration = record["provenance"], record["calibration"]
        algorithm = Algorithm(
            version=str(provenance["vol3d"]),
            weights_sha256=str(provenance["weights_sha256"]),
            parameters={
                "presence_threshold": calibration["presence_threshold"],
                "mask_threshold": calibration["mask_threshold"],
                "recipe_digest": record["recipe_digest"],
            },
        )
        answers = [
            {**a, "prompt": str(a["prompt"]), "file": str(a["file"]), "state": str(a["state"])}
            for a in record["answers"]
        ]
        grid = record["grid"]
        created = datetime.datetime.fromisoformat(record["created"]) if "created" in record else _time_of(path)
    except (ValueError, KeyError, TypeError) as error:
        raise Vol3dError(
            f"expected {path} as `vol3d segment` writes it, found {type(error).__name__} ({error}); segment "
            f"the study again"
        ) from None
    if grid not in ("ct", "pet") or not answers:
        raise Vol3dError(f"{path}: expected answers on the grid of ct or pet, found {len(answers)} on {grid!r}")
    told = record.get("patient")
    return Answers(folder, answers, grid, algorithm, created, told if isinstance(told, dict) else {})


def _require_same_patient(found: Answers, series: SourceSeries) -> None:
    """Equal grids are no proof: two patients on one scanner may have them. Nothing is said where the answers came from
    a NIfTI, or were made under another site's key.

    Raises:
        Vol3dError: the series is of another patient than the answers.
    """
    known, patient_id = found.patient.get("header"), str(series.header.get("PatientID") or "").strip()
    if known and patient_id and found.patient.get("site") == keyed("vol3d site") and keyed(patient_id) != known:
        raise Vol3dError(
            f"expected --source with the series that was segmented for {found.folder.name}, found another Patient ID "
            f"(0010,0020) in it; name that series, or segment this one"
        )


def _time_of(path: Path) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(path.stat().st_mtime))


def _mask_path(found: Answers, answer: dict[str, Any]) -> Path:
    path = found.folder / answer["file"]
    if not path.is_file():
        raise Vol3dError(f"expected the mask of {answer['prompt']!r} at {path}, found nothing; segment the study again")
    return path


def _segment(found: Answers, answer: dict[str, Any], series: SourceSeries) -> Segment:
    path = _mask_path(found, answer)
    grid = read_grid(path)

    def load() -> Array:
        return on_source(read_array(path), grid, series.grid, repr(answer["prompt"]))

    return Segment(prompt=answer["prompt"], load=load, state=answer["state"], probability=answer.get("probability"))


def _seg(found: Answers, series: SourceSeries, segments: list[Segment], target: Path, labelmap: bool) -> SegFile:
    path = target / "seg.dcm"
    seg = write_dicom_seg(path, series, segments, found.algorithm, found.created, labelmap=labelmap)
    sidecar = {**asdict(seg), "path": path.name}
    write_whole(path.with_suffix(".json"), json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n")
    return seg


def _report(found: Answers, series: SourceSeries, text: Path, target: Path, pdf: bool) -> Exported:
    try:
        words = text.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Vol3dError(
            f"expected the report as UTF-8 text at {text}: {error}; write one with `vol3d "
            f"report`, or name it with --text"
        ) from None
    path = target / ("report-pdf.dcm" if pdf else "report-sr.dcm")
    write: Callable[..., str] = write_report_pdf if pdf else write_text_sr
    write(path, series, words, found.algorithm, _time_of(text))
    return Exported([path], list(series.notes))


def _nifti(found: Answers, target: Path) -> Exported:
    paths = {_mask_path(found, a): a["prompt"] for a in found.answers}
    names = {path.name.removesuffix(".nii.gz"): prompt for path, prompt in paths.items()}
    first = next(iter(paths))
    target.mkdir(parents=True, exist_ok=True)
    stored = ((path.name.removesuffix(".nii.gz"), read_array(path)) for path in paths)
    write_multilabel(target / "labels.nii.gz", stored, read_grid(first), first, names)
    return Exported([target / "labels.nii.gz", target / "labels.json"])


def _meshes(found: Answers, target: Path, space: Literal["LPS", "RAS"]) -> Exported:
    target.mkdir(parents=True, exist_ok=True)
    done = Exported()
    for answer in found.answers:
        path = _mask_path(found, answer)
        mask_ZYX = read_array(path)
        if not mask_ZYX.any():
            done.messages.append(f"no mesh of {answer['prompt']!r}: its mask is empty ({answer['state']})")
            continue
        mesh = target / f"{path.name.removesuffix('.nii.gz')}.stl"
        write_stl(mesh, mask_ZYX, read_grid(path), space)
        done.files.append(mesh)
    return done
