"""Two studies of one patient, brought onto each other by a rigid motion, and the check whether that worked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vol3d.geometry import Grid
from vol3d.types import Array
from vol3d.volume import Volume

LEAST_CORRELATION = {"ct": 0.75, "pet": 0.6}
"""Pearson correlation over the overlapping bodies after registration, CT clipped to -300..300 HU, PET to SUV 0..8."""

LEAST_OVERLAP = 0.4
"""Share of the smaller body that meets the other one. Halves of one real scan with a third of it in common have 0.5 to
0.7; the search starts from half of the shorter image (`START_OVERLAP`), and tissue is not spread evenly along it."""

MOST_ROTATION_DEG = 40.0
"""A patient who lies the other way round is not aligned by looking for the nearest optimum."""

START_OVERLAP, START_STEP_MM = 0.5, 20.0
"""Shifts along the body at which the search may start: overlap in z of the shorter image, and step."""

_RANGE = {"ct": (-300.0, 300.0), "pet": (0.0, 8.0)}
_BODY = {"ct": -250.0, "pet": 0.2}


@dataclass(frozen=True, eq=False)
class Registered:
    """A rigid motion from the current study's world to the prior's, RAS+ mm."""

    affine: Array
    """4x4."""
    modality: str
    correlation: float
    overlap: float
    """Share of the smaller body that meets the other one, 0 to 1, whichever study is called the current one."""
    rotation_deg: float
    shift_mm: float
    """How far the middle of the current body moves."""

    def to_prior(self, mm_N3: Array) -> Array:
        """World positions of the current study -> of the prior."""
        return mm_N3 @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_current(self, mm_N3: Array) -> Array:
        """And back."""
        return (mm_N3 - self.affine[:3, 3]) @ self.affine[:3, :3]

    def fault(self) -> str | None:
        """Why it is not to be believed; None if it passes."""
        least = LEAST_CORRELATION[self.modality]
        if self.overlap < LEAST_OVERLAP:
            return (
                f"expected at least {LEAST_OVERLAP:.0%} of the smaller body to meet the other, found {self.overlap:.0%}"
            )
        if not self.correlation >= least:  # NaN, too
            return f"expected a correlation of at least {least}, found {self.correlation:.2f}"
        if self.rotation_deg > MOST_ROTATION_DEG:
            return f"expected a rotation of at most {MOST_ROTATION_DEG:.0f} degrees, found {self.rotation_deg:.0f}"
        return None


def register(current: Volume, prior: Volume) -> Registered:
    """Rigid registration of two volumes of one modality on coarse grids; deterministic, one thread.

    Correlation as metric, gradient descent on half and then on full resolution, from aligned centres of mass and the
    best of many shifts along the body: a chest and a torso have their centres in different places.
    """
    import SimpleITK as sitk  # noqa: N813

    fixed, moving = (_image(v) for v in (current, prior))
    start = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    start = _best_along_the_body(fixed, moving, start, current.grid, prior.grid)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 150, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1.0, 0.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(start, inPlace=False)
    affine = _affine(method.Execute(fixed, moving))
    return _judged(affine, current, prior)


def _best_along_the_body(fixed, moving, start, current: Grid, prior: Grid):  # type: ignore[no-untyped-def]
    """The start, shifted along z to where the images correlate best of all shifts with enough overlap."""
    import SimpleITK as sitk  # noqa: N813

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    x, y, z0 = start.GetTranslation()
    ends = [np.sort(g.corners_mm()[:, 2])[[0, -1]] for g in (current, prior)]
    least = START_OVERLAP * min(high - low for low, high in ends)
    shifts = [
        z
        for z in {z0, *np.arange(ends[1][0] - ends[0][1], ends[1][1] - ends[0][0], START_STEP_MM)}
        if min(ends[0][1] + z, ends[1][1]) - max(ends[0][0] + z, ends[1][0]) >= least
    ]
    scored = []
    for z in sorted(shifts):
        moved = sitk.Euler3DTransform(start)
        moved.SetTranslation((x, y, float(z)))
        method.SetInitialTransform(moved)
        scored.append((method.MetricEvaluate(fixed, moving), float(z)))
    if scored:
        start.SetTranslation((x, y, min(scored)[1]))
    return start


def _judged(affine: Array, current: Volume, prior: Volume) -> Registered:
    modality = current.modality
    low, high = _RANGE[modality]
    there = Grid(prior.grid.shape, np.linalg.inv(affine) @ prior.grid.affine)  # the prior, moved into the current world
    moved_ZYX = Volume(np.clip(prior.array_ZYX, low, high), there, prior.modality).resample_to(current.grid).array_ZYX
    covered_ZYX = there.covers(current.grid)
    own_ZYX = np.clip(current.array_ZYX, low, high)
    body_ZYX = current.array_ZYX > _BODY[modality]
    other_ZYX = moved_ZYX > _BODY[modality]
    both_ZYX = covered_ZYX & (body_ZYX | other_ZYX)
    meeting_ml = np.count_nonzero(covered_ZYX & body_ZYX & other_ZYX) * current.grid.voxel_ml
    smaller_ml = min(_body_ml(current), _body_ml(prior))
    correlation = float(np.corrcoef(own_ZYX[both_ZYX], moved_ZYX[both_ZYX])[0, 1]) if both_ZYX.sum() > 100 else 0.0
    middle = current.grid.index_to_mm((np.array(current.grid.shape) - 1) / 2)
    turn = np.clip((np.trace(affine[:3, :3]) - 1) / 2, -1, 1)
    return Registered(
        affine=affine,
        modality=modality,
        correlation=correlation,
        overlap=min(1.0, meeting_ml / smaller_ml) if smaller_ml else 0.0,  # resampling may round above it
        rotation_deg=float(np.degrees(np.arccos(turn))),
        shift_mm=float(np.linalg.norm(affine[:3, :3] @ middle + affine[:3, 3] - middle)),
    )


def _body_ml(volume: Volume) -> float:
    return float(np.count_nonzero(volume.array_ZYX > _BODY[volume.modality]) * volume.grid.voxel_ml)


def _image(volume: Volume):  # type: ignore[no-untyped-def]
    import SimpleITK as sitk  # noqa: N813

    low, high = _RANGE[volume.modality]
    image = sitk.GetImageFromArray((np.clip(volume.array_ZYX, low, high) - low).astype(np.float32))
    affine = volume.grid.affine_xyz  # ITK's physical space is only a name here: both use RAS
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def _affine(transform) -> Array:  # type: ignore[no-untyped-def]
    """4x4, found by where the transform takes four points: it may be a composite."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    affine = np.eye(4)
    affine[:3, 3] = origin
    for axis in range(3):
        point = [0.0, 0.0, 0.0]
        point[axis] = 1.0
        affine[:3, axis] = np.array(transform.TransformPoint(point)) - origin
    return affine
