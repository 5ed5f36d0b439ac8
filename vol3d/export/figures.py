"""Pictures of a result: CT with PET fused in, PET projection, mask outlines; calibration curve.

Radiological convention throughout: the patient's right is on the left of the picture, feet are down, anterior is up on
axial and left on sagittal slices. All arrays are on one canonical grid (SAR), so each picture is a slice of an array
with its left-right axis reversed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from vol3d.errors import GeometryError, Vol3dError
from vol3d.geometry import Grid
from vol3d.types import Array, Zyx
from vol3d.volume import Volume

CT_WINDOW_HU = (-160.0, 240.0)
PET_WINDOW_SUV = (0.0, 8.0)
FUSION_ALPHA = 0.45

Plane = Literal["axial", "coronal", "sagittal"]

_AXIS: dict[Plane, int] = {"axial": 0, "coronal": 1, "sagittal": 2}
_LETTERS: dict[Plane, tuple[str, str, str, str]] = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}
"""Left, right, top and bottom edge of the picture."""

_EDGES = (
    (0.02, 0.5, "left", "center"),
    (0.98, 0.5, "right", "center"),
    (0.5, 0.98, "center", "top"),
    (0.5, 0.02, "center", "bottom"),
)


def save_overlay_png(
    path: str | Path,
    ct: Volume | None,
    pet: Volume | None,
    masks: Sequence[tuple[str, Array]],
    title: str = "",
    focus: str | None = None,
) -> None:
    """Axial, coronal and sagittal slices of CT with PET fused in, and the coronal PET maximum projection.

    The slices are those on which the masks together, or the one named `focus`, are largest (without any voxel: the
    middle ones). Masks are outlined, with a legend; one without a voxel says so there.

    Args:
        path: of the PNG.
        ct: HU on the canonical grid.
        pet: SUVbw on the same grid.
        masks: (name, mask_ZYX) on the same grid.
        title: above the picture.
        focus: name of the mask that chooses the slices, e.g. a lesion in its organ; all of them if not given.

    Raises:
        GeometryError: grids differ or are not canonical.
        Vol3dError: neither CT nor PET.
    """
    grid = _common_grid(ct, pet, masks)
    where = _largest_slices([m for m in masks if focus is None or m[0] == focus], grid)
    planes: list[Plane] = ["axial", "coronal", "sagittal"]
    figure = Figure(figsize=(5.2 * (3 + (pet is not None)), 5.8), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3 + (pet is not None))
    colours = [
        colormaps["tab10" if len(masks) <= 10 else "gist_rainbow"](_shade(i, len(masks))) for i in range(len(masks))
    ]
    for panel, plane in zip(panels, planes, strict=False):
        index, axis = where[_AXIS[plane]], _AXIS[plane]
        _show(panel, None if ct is None else ct.array_ZYX.take(index, axis), grid, plane, "gray", CT_WINDOW_HU)
        if pet is not None:
            _show_pet(panel, pet.array_ZYX.take(index, axis), grid, plane, fused=ct is not None)
        for (_, mask_ZYX), colour in zip(masks, colours, strict=True):
            _outline(panel, mask_ZYX.take(index, axis) != 0, grid, plane, colour)
        _dress(panel, plane, f"{plane}  {'zyx'[axis]} {index}  {_plane_mm(grid, axis, index):.0f} mm")
    if pet is not None:
        _show_pet(panels[3], pet.array_ZYX.max(axis=1), grid, "coronal", fused=False)
        for (_, mask_ZYX), colour in zip(masks, colours, strict=True):
            _outline(panels[3], np.any(mask_ZYX, axis=1), grid, "coronal", colour)
        _dress(panels[3], "coronal", f"PET maximum projection, SUV 0 to {PET_WINDOW_SUV[1]:g}")
    if masks:
        _legend(figure, masks, colours)
    if title:
        figure.suptitle(title, color="white", fontsize=12)
    figure.savefig(path, dpi=100, facecolor="black", format="png")


def picture(slice_2d: Array, plane: Plane) -> Array:
    """A slice of a canonical array as it stands on the screen: row 0 is the top, column 0 the left.

    Args:
        slice_2d: array[z] (axial, rows y), array[:, y] (coronal, rows z) or array[:, :, x] (sagittal, rows z).
        plane: which of these. Rows grow upwards; columns (x to Right, or y to Anterior) grow leftwards.
    """
    if plane not in _AXIS:
        raise Vol3dError(f"expected axial, coronal or sagittal, found {plane!r}")
    return slice_2d[::-1, ::-1]


def _common_grid(ct: Volume | None, pet: Volume | None, masks: Sequence[tuple[str, Array]]) -> Grid:
    first = ct if ct is not None else pet
    if first is None:
        raise Vol3dError("expected a CT or a PET to draw, found neither")
    grid = first.grid
    if grid.orientation != "SAR" or not grid.is_axis_aligned:
        raise GeometryError(f"expected a canonical grid (axis-aligned SAR) to draw, found {grid}")
    if pet is not None and not pet.grid.same_as(grid):
        raise GeometryError(f"expected CT and PET on one grid, found {grid} and {pet.grid}")
    for name, mask_ZYX in masks:
        if mask_ZYX.shape != grid.shape:
            raise GeometryError(f"expected mask {name!r} of the images' shape {grid.shape}, found {mask_ZYX.shape}")
    return grid


def _largest_slices(masks: Sequence[tuple[str, Array]], grid: Grid) -> Zyx:
    found = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        area = sum((np.count_nonzero(mask_ZYX, axis=others) for _, mask_ZYX in masks), np.zeros(grid.shape[axis], int))
        found.append(int(area.argmax()) if area.any() else grid.shape[axis] // 2)
    return found[0], found[1], found[2]


def _extent_mm(grid: Grid, plane: Plane) -> tuple[float, float, float, float]:
    """Left, right, bottom, top of the picture in mm, outer faces, so that voxels keep their shape."""
    rows, columns = (a for a in range(3) if a != _AXIS[plane])
    return 0.0, grid.shape[columns] * grid.spacing_mm[columns], 0.0, grid.shape[rows] * grid.spacing_mm[rows]


def _show(panel: Any, slice_2d: Array | None, grid: Grid, plane: Plane, colours: str, window: Sequence[float]) -> None:
    if slice_2d is not None:
        low, high = window
        panel.imshow(
            picture(slice_2d, plane), cmap=colours, vmin=low, vmax=high, extent=_extent_mm(grid, plane), origin="upper"
        )


def _show_pet(panel: Any, slice_2d: Array, grid: Grid, plane: Plane, fused: bool) -> None:
    if not fused:
        _show(panel, slice_2d, grid, plane, "gray_r", PET_WINDOW_SUV)
        return
    low, high = PET_WINDOW_SUV
    share = np.clip((picture(slice_2d, plane) - low) / (high - low), 0, 1)
    rgba = colormaps["hot"](share)
    rgba[..., 3] = np.minimum(share * 3, 1) * (FUSION_ALPHA + (0.9 - FUSION_ALPHA) * share)  # no uptake: clear CT
    panel.imshow(rgba, extent=_extent_mm(grid, plane), origin="upper")


def _outline(panel: Any, mask_2d: Array, grid: Grid, plane: Plane, colour: Any) -> None:
    if mask_2d.any():
        framed = np.pad(picture(mask_2d, plane).astype(float), 1)  # else a mask at the edge has no outline there
        left, right, bottom, top = _extent_mm(grid, plane)
        dx, dy = (right - left) / mask_2d.shape[1], (top - bottom) / mask_2d.shape[0]
        extent = (left - dx, right + dx, bottom - dy, top + dy)
        panel.contour(framed, levels=[0.5], colors=[colour], linewidths=1.2, extent=extent, origin="upper")
        panel.set(xlim=(left, right), ylim=(bottom, top))


def _dress(panel: Any, plane: Plane, caption: str) -> None:
    panel.set(xticks=[], yticks=[], aspect="equal", facecolor="black")
    panel.set_title(caption, color="white", fontsize=10)
    for letter, (x, y, across, up) in zip(_LETTERS[plane], _EDGES, strict=True):
        text = panel.text(x, y, letter, ha=across, va=up, color="yellow", fontsize=13, transform=panel.transAxes)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="black")])  # readable on white uptake, too


def _legend(figure: Figure, masks: Sequence[tuple[str, Array]], colours: Sequence[Any]) -> None:
    handles = [
        Line2D([], [], color=colour, linewidth=2, label=name if mask_ZYX.any() else f"{name} (empty)")
        for (name, mask_ZYX), colour in zip(masks, colours, strict=True)
    ]
    columns = min(len(handles), 5)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, labelcolor="white", fontsize=10
    )


def _shade(index: int, count: int) -> float | int:
    return index if count <= 10 else index / count


def _plane_mm(grid: Grid, axis: int, index: int) -> float:
    position = [0.0, 0.0, 0.0]
    position[axis] = index
    return float(grid.index_to_mm((position[0], position[1], position[2]))[2 - axis])
