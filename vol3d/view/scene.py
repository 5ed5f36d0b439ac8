"""What a page shows, ready to be written: images, masks and where to look for each, report, findings, figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vol3d.geometry import Grid
from vol3d.types import Array
from vol3d.view.labels import combine
from vol3d.view.points import Point
from vol3d.view.volumes import image_bytes, label_bytes
from vol3d.volume import Volume

CT_SHOWN_HU = (-160.0, 240.0)
PET_SHOWN_SUV = (0.0, 8.0)
"""As in the pictures of `vol3d.export.figures`."""

COLOURS = (
    "#35d0ba", "#f472b6", "#7dd3fc", "#a3e635", "#c084fc", "#facc15", "#fb923c", "#60a5fa", "#f87171", "#4ade80",
    "#e879f9", "#22d3ee", "#fda4af", "#bef264", "#a78bfa", "#fdba74",
)  # fmt: skip
"""Bright on grey, and apart from the reds of a hot PET where there are few masks; taken in turn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskItem:
    """One mask, with what is said of it."""

    key: str
    """Its file, relative to the study's folder; unique."""
    name: str
    origin: str
    """Which record names it: ``report``, ``segmentation`` or ``findings``."""
    grid: Grid
    load: Callable[[], Array]
    """Its array [Z, Y, X] on `grid`; called once."""
    point: Point
    voxels: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready: probability, volume_ml, suv_max, ..."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One study."""

    study_id: str
    images: Mapping[str, Volume]
    """``ct`` and/or ``pet``, on the grids they are shown on."""
    notes: Sequence[str] = ()
    """On where the images come from."""
    masks: Sequence[MaskItem] = ()
    report: Mapping[str, Any] | None = None
    findings: Sequence[Mapping[str, Any]] = ()
    answers: Sequence[Mapping[str, Any]] = ()
    """Of `vol3d segment`: those without a mask too."""
    made: Mapping[str, str] = field(default_factory=dict)
    """By which model, when."""


@dataclass(frozen=True, eq=False)
class Rendered:
    """A scene in the two parts a page is made of."""

    record: dict[str, Any]
    """JSON: everything but voxels."""
    volumes: dict[str, bytes]
    """NIfTI files by the names that the record uses."""


def render(scene: Scene) -> Rendered:
    """Turns masks into label maps, one a grid, and everything else into JSON.

    Raises:
        Vol3dError: as `combine` does.
    """
    volumes: dict[str, bytes] = {}
    images = []
    for name in ("ct", "pet"):  # in this order: the CT is the ground on which the rest is laid
        if name in scene.images:
            shown = CT_SHOWN_HU if name == "ct" else PET_SHOWN_SUV
            volumes[f"{name}.nii"] = image_bytes(scene.images[name], shown)
            grid = scene.images[name].grid
            images.append(
                {
                    "kind": name,
                    "file": f"{name}.nii",
                    "shown": shown,
                    "spacing_mm": grid.spacing_mm,
                    "shape": grid.shape,
                }
            )
    labels = []
    for number, (grid, members) in enumerate(_by_grid(scene.masks)):
        found = combine(((i, scene.masks[i].load()) for i in members), grid)
        if found is not None:
            volumes[f"masks-{number}.nii"] = label_bytes(found)
            labels.append({"file": f"masks-{number}.nii", "sets": found.sets})
    record = {
        "study_id": scene.study_id,
        "images": images,
        "notes": list(scene.notes),
        "masks": [_mask(i, m) for i, m in enumerate(scene.masks)],
        "labels": labels,
        "report": scene.report,
        "findings": list(scene.findings),
        "answers": list(scene.answers),
        "made": dict(scene.made),
    }
    return Rendered(record, volumes)


def _by_grid(masks: Sequence[MaskItem]) -> list[tuple[Grid, list[int]]]:
    groups: list[tuple[Grid, list[int]]] = []
    for i, mask in enumerate(masks):
        for grid, members in groups:
            if grid.same_as(mask.grid):
                members.append(i)
                break
        else:
            groups.append((mask.grid, [i]))
    return groups


def _mask(number: int, item: MaskItem) -> dict[str, Any]:
    return {
        "id": number,
        "key": item.key,
        "name": item.name,
        "origin": item.origin,
        "colour": COLOURS[number % len(COLOURS)],
        "voxels": item.voxels,
        "point": {"mm": item.point.mm, "kind": item.point.kind, "suv": item.point.suv},
        **item.figures,
    }
