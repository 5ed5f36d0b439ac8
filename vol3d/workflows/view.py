"""`vol3d view`: what the other commands wrote about a study, beside its images, as a page in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vol3d.errors import ConfigError, GeometryError
from vol3d.export.nifti import read_array, read_grid
from vol3d.files import write_whole
from vol3d.geometry import Grid
from vol3d.types import Array
from vol3d.view.page import served_page, static_page
from vol3d.view.points import evidence_point
from vol3d.view.scene import MaskItem, Rendered, Scene, render
from vol3d.view.server import PageServer
from vol3d.workflows.view_images import Images, from_cache, from_source

RECORDS = {"report": "report.json", "segmentation": "segmentation.json", "findings": "findings.json"}
_NEEDED = {"report": ("sentences", "lesions"), "segmentation": ("answers",), "findings": ("findings",)}
_NOT_SHOWN = (
    "expected the images that {folder} was made from, found none named: pass --source with the study folder or "
    "manifest, or --cache with a cache that holds {study}"
)


def write_static(rendered: Rendered, path: Path) -> int:
    """Writes the page as one file and returns its size in bytes.

    Raises:
        BundleError: NiiVue is not installed.
        ConfigError: `path` is a folder, or lies in what is none.
    """
    if path.is_dir():
        raise ConfigError(f"expected a file for the page, found a folder at {path}; try {path / 'page.html'}")
    data = static_page(rendered).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"expected a folder for the page at {path.parent}, found a file in its way") from None
    write_whole(path, data)
    return len(data)


def make_server(rendered: Rendered, port: int = 0) -> PageServer:
    """The page and its volumes on a port of this machine.

    Raises:
        BundleError: NiiVue is not installed. Vol3dError: the port is taken.
    """
    files = {f"volumes/{name}": data for name, data in rendered.volumes.items()}
    return PageServer({"index.html": served_page(rendered).encode(), **files}, port)


def load(folder: Path, *, source: Path | None = None, cache: Path | None = None, assume_hu: bool = False) -> Rendered:
    """Gathers one study.

    Args:
        folder: a study's folder as `vol3d segment`, `findings`, `report` or `infer` writes it, or one that holds a
            single such folder.
        source: the study folder or manifest that was asked about. Images are read from there as they are.
        cache: or a cache that holds the study: the CT is then shown as preprocessed, the PET on its own grid.
        assume_hu: as in `vol3d segment`.

    Raises:
        ConfigError, ManifestError: a study, its records or its images are not to be found.
        ReadError: a mask or an image is cut short or otherwise unreadable.
        GeometryError: masks do not lie on the grid of the images: they are another study's.
    """
    folder = study_folder(Path(folder))
    records = read_records(folder)
    study_id = str(next(iter(records.values()))["study_id"])
    if (source is None) == (cache is None):
        if source is None:
            raise ConfigError(_NOT_SHOWN.format(folder=folder, study=study_id))
        raise ConfigError("expected either --source or --cache, found both")
    images = from_source(study_id, source, assume_hu) if source else from_cache(study_id, Path(str(cache)))
    try:
        scene = scene_of(folder, study_id, records, images)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"expected the records in {folder} as vol3d writes them, found others ({error!r}); run the command again"
        ) from error
    return render(scene)


def study_folder(folder: Path) -> Path:
    """The folder itself, or the only study's folder in it.

    Raises:
        ConfigError: there are no records, or those of several studies.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"expected a folder that vol3d segment, findings, report or infer wrote, found none: {folder}"
        )
    if any((folder / name).is_file() for name in RECORDS.values()):
        return folder
    inside = sorted({p.parent for name in RECORDS.values() for p in folder.glob(f"*/{name}")})
    if len(inside) == 1:
        return inside[0]
    names = ", ".join(p.name for p in inside[:5]) + (", ..." if len(inside) > 5 else "")
    hint = f"found {len(inside)} studies ({names}): name one of them" if inside else "found none"
    raise ConfigError(f"expected a study's folder with {', '.join(RECORDS.values())} at {folder}, {hint}")


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a study's folder, by the command that wrote them; all of one study.

    Raises:
        ConfigError: one cannot be read, or they name different studies.
    """
    records = {}
    for kind, name in RECORDS.items():
        if not (folder / name).is_file():
            continue
        try:
            record = json.loads((folder / name).read_text(encoding="utf-8"))
            missing = [key for key in ("study_id", *_NEEDED[kind]) if key not in record]
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"expected {folder / name} as vol3d writes it, found {error}; run the command again"
            ) from None
        if missing:
            raise ConfigError(f"expected {', '.join(missing)} in {folder / name}, found none; run the command again")
        records[kind] = record
    studies = sorted({str(record["study_id"]) for record in records.values()})
    if len(studies) > 1:
        raise ConfigError(f"expected records of one study in {folder}, found {', '.join(studies)}")
    return records


def scene_of(folder: Path, study_id: str, records: Mapping[str, dict[str, Any]], images: Images) -> Scene:
    """What the page shows of a study."""
    masks: list[MaskItem] = []
    number: dict[str, int] = {}
    for item in _masks(folder, records, images):
        number[item.key] = len(masks)
        masks.append(item)
    report, segmentation, findings = (records.get(kind) for kind in ("report", "segmentation", "findings"))
    made = next(iter(records.values()))
    return Scene(
        study_id=study_id,
        images=images.shown,
        notes=images.notes,
        masks=masks,
        report=None if report is None else _report(report, number),
        findings=[] if findings is None else [_finding(f, number) for f in findings["findings"]],
        answers=[] if segmentation is None else [
            {"prompt": a["prompt"], "state": a["state"], "probability": a["probability"], "mask": number.get(a["file"])}
            for a in segmentation["answers"]
        ],
        made=_made(made, report, findings),
    )  # fmt: skip


def _made(
    record: Mapping[str, Any], report: Mapping[str, Any] | None, findings: Mapping[str, Any] | None
) -> dict[str, str]:
    provenance = record.get("provenance") or {}
    facts = {
        "vol3d": provenance.get("vol3d"),
        "weights": str(provenance.get("weights_sha256") or "")[:12],
        "made": record.get("created"),
        "writer": (report or {}).get("writer"),
        "point": (findings or {}).get("point"),
    }
    return {key: str(value) for key, value in facts.items() if value}


def _masks(folder: Path, records: Mapping[str, dict[str, Any]], images: Images) -> Iterator[MaskItem]:
    """Masks that hold a voxel: lesions of the report, answers, findings."""
    for lesion in (records.get("report") or {}).get("lesions", ()):
        if lesion["file"]:
            figures = {**lesion["measurement"], "probability": lesion["probability"], "mentioned": lesion["mentioned"]}
            yield from _item(folder, "report", lesion["file"], lesion["phrase"], figures, images, lesion["pet_file"])
    for answer in (records.get("segmentation") or {}).get("answers", ()):
        path = folder / answer["file"]
        if answer["state"] != "present":
            if path.exists():
                _grid_of(path, images)  # it is empty, and must still be this study's
        else:
            yield from _item(folder, "segmentation", answer["file"], answer["prompt"], _flat(answer), images)
    for finding in (records.get("findings") or {}).get("findings", ()):
        evidence = finding["evidence"]
        if evidence["mask"]:
            figures = {**_flat(evidence), "probability": finding["probability"]}
            yield from _item(folder, "findings", evidence["mask"], _words(finding["name"]), figures, images)


def _flat(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of `vol3d segment` under the names that a report's have."""
    where = answer.get("slices") or {}
    kept = ("probability", "volume_ml", "suv_max", "suv_mean", "suv_peak", "tlg_g")
    return {**{key: answer.get(key) for key in kept}, "series": where.get("series"), "slice": where.get("largest")}


def _item(
    folder: Path,
    origin: str,
    file: str,
    name: str,
    figures: Mapping[str, Any],
    images: Images,
    pet_file: str | None = None,
) -> Iterator[MaskItem]:
    grid, mask_ZYX = _mask(folder, file, images)
    pet = images.shown.get("pet")
    pet_mask_ZYX = None
    if pet is not None and pet_file:
        pet_grid, pet_mask_ZYX = _mask(folder, pet_file, images)
        if not pet_grid.same_as(pet.grid):
            raise GeometryError(f"expected {folder / pet_file} on the PET's grid {pet.grid}, found {pet_grid}")
    point = evidence_point(mask_ZYX, grid, pet, pet_mask_ZYX, figures.get("suv_max"))
    if point is not None:
        yield MaskItem(
            key=file, name=name, origin=origin, grid=grid, load=lambda: read_array(folder / file), point=point,
            voxels=int(np.count_nonzero(mask_ZYX)), figures=figures,
        )  # fmt: skip


def _mask(folder: Path, file: str, images: Images) -> tuple[Grid, Array]:
    """A mask and the source grid that it lies on.

    Raises:
        ReadError: there is no such file, or no whole NIfTI in it.
        GeometryError: it lies on no grid of the study.
    """
    path = folder / file
    return _grid_of(path, images), read_array(path)


def _grid_of(path: Path, images: Images) -> Grid:
    found = read_grid(path)
    for grid in images.source_grids.values():
        if grid.same_as(found):
            return grid
    grids = "; ".join(f"{name} {grid}" for name, grid in images.source_grids.items())
    raise GeometryError(f"expected {path} on a grid of the images ({grids}), found {found}; are they another study's?")


def _report(record: Mapping[str, Any], number: Mapping[str, int]) -> dict[str, Any]:
    files = {lesion["id"]: lesion["file"] for lesion in record["lesions"]}
    change = record.get("change")
    return {
        "context": record.get("context") or {},
        "technique": record.get("technique"),
        "change": change and {
            "statement": change["statement"], "lesions": [{"text": c["text"]} for c in change.get("lesions", [])],
        },
        "not_assessed": record.get("not_assessed", []),
        "sentences": [
            {
                **{key: s.get(key) for key in ("text", "section", "organ", "status", "reason", "probability")},
                "masks": [number[files[i]] for i in s["lesions"] if files.get(i) in number],
            }
            for s in record["sentences"]
        ],
    }  # fmt: skip


def _finding(finding: Mapping[str, Any], number: Mapping[str, int]) -> dict[str, Any]:
    point = finding.get("operating_point")
    return {
        "name": _words(finding["name"]),
        **{key: finding.get(key) for key in ("state", "reason", "probability", "threshold", "spread")},
        "operating_point": point and {
            "name": point.get("criterion"),
            **{key: point.get(key) for key in ("sensitivity", "specificity", "positives", "negatives")},
        },
        "mask": number.get(finding["evidence"]["mask"]),
    }  # fmt: skip


def _words(name: str) -> str:
    return name.replace("_", " ")
