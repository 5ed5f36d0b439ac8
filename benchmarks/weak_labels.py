"""Weak labels on real PET: sentences written from the tumour mask, clean and spoilt, and what becomes of them.

    python -m benchmarks.weak_labels --data $VOL3D_DATA --out out/weak_labels

31 patients of `sts` and `sts_pet_only`, the whole-length PET of `sts_raw_pet` and phantoms with several lesions. A
label is right if it holds the hottest voxel of the lesion that the sentence was written from and no voxel of another
lesion that was put in. Precision: right labels of all labels; coverage: labels of all sentences. The Dice of clean
sentences is also given with growth settings fitted on other patients: each fold's on the other four, that of
`sts_pet_only` on `sts`.
Results: `--out`/results.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from preprocessing.phantom import generate_study
from preprocessing.reading import read_image, read_mask
from preprocessing.weak_labels import Label, label_study
from preprocessing.weak_labels_region import Growth
from preprocessing.weak_labels_slices import Series
from vol3d.metrics.segmentation import dice
from vol3d.types import Array
from vol3d.volume import Volume

SENTENCES = (
    "Hypermetabolic soft tissue mass with SUVmax {suv} (slice {slice}).",
    "FDG-avid soft tissue sarcoma, SUVmax of {suv} on axial slice {slice}.",
    "The primary tumour shows intense uptake (SUVmax: {suv}, PET slice {slice}).",
)
GAINS, CLOSINGS_MM = (0.32, 0.36, 0.4, 0.44, 0.48), (10.0, 14.0, 18.0)


@dataclass
class Tally:
    """What became of the sentences of one kind."""

    sentences: int = 0
    labels: int = 0
    right: int = 0
    dices: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def row(self) -> dict:
        """The results as JSON."""
        return {
            "sentences": self.sentences, "labels": self.labels, "right": self.right,
            "precision": round(self.right / self.labels, 4) if self.labels else None,
            "coverage": round(self.labels / self.sentences, 4) if self.sentences else None,
            "mean_dice_of_labels": round(float(np.mean(self.dices)), 4) if self.dices else None,
            "wrong": self.wrong, "refused": self.refused,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """One PET with one tumour; `other_ZYX` is a lesion that was put in."""

    name: str
    pet: Volume
    truth_ZYX: Array
    numbers: tuple[int, ...] | None = None
    other_ZYX: Array | None = None

    @property
    def suv(self) -> float:
        """SUVmax within the contour."""
        return float(self.pet.array_ZYX[self.truth_ZYX].max())

    @property
    def hottest(self) -> tuple[int, int, int]:
        """The voxel that has it."""
        z, y, x = np.argwhere(self.truth_ZYX & (self.pet.array_ZYX == self.suv))[0]
        return int(z), int(y), int(x)

    @property
    def slice(self) -> int:
        """Its slice, counted as documented."""
        return self.numbers[self.hottest[0]] if self.numbers else self.hottest[0] + 1

    def has(self, slice_number: int) -> bool:
        """Whether a series counted from 1 has that slice."""
        return 1 <= slice_number <= self.pet.grid.shape[0]

    @property
    def reversed(self) -> int:
        """The same slice, counted from the other end."""
        numbers = self.numbers or range(1, self.pet.grid.shape[0] + 1)
        return min(numbers) + max(numbers) - self.slice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phantoms", type=int, default=20)
    parser.add_argument("--no-fit", action="store_true", help="leave the cross-validated fit out")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cases = patients(arguments.data)
    results: dict = {}
    for kind, asked in sentences(cases, whole_length(arguments.data)):
        results[kind] = run(asked).row()
        show(kind, results[kind])
    for name, options in (("existing nowhere", {}), ("of no lesion, though of some voxel", {"voxel": True})):
        results[f"SUVmax {name}"] = made_up(cases, **options).row()
        show(f"SUVmax {name}", results[f"SUVmax {name}"])
    results["phantoms, several lesions"] = phantoms(arguments.phantoms).row()
    show("phantoms, several lesions", results["phantoms, several lesions"])
    if not arguments.no_fit:
        results["clean, settings fitted on other patients"] = cross_validated(arguments.data, cases)
        print(json.dumps(results["clean, settings fitted on other patients"]))
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1))


def show(kind: str, row: dict) -> None:
    """One line of the table."""
    print(f"{kind:44s} " + "  ".join(f"{k} {v}" for k, v in row.items() if k not in ("wrong", "refused")), flush=True)
    for line in row["wrong"]:
        print(f"    wrong: {line}")


def patients(data: Path) -> list[Case]:
    """The cropped PET of every patient with its manual contour."""
    folders = [p for part in ("sts", "sts_pet_only") for p in sorted((data / part).glob("STS_*"))]
    return [
        Case(
            p.name,
            read_image(p / "PET_image.nii.gz", "pet").volume,
            read_mask(p / "PET_mask.nii.gz").volume.array_ZYX != 0,
        )
        for p in folders
    ]


def whole_length(data: Path) -> Case:
    """The raw PET of STS_001, 267 slices, with the contour of its crop laid into it."""
    raw = read_image(data / "sts_raw_pet" / "image", "pet")
    mask = read_mask(data / "sts" / "STS_001" / "PET_mask.nii.gz").volume
    truth_ZYX = mask.resample_to(raw.volume.grid, nearest=True).array_ZYX != 0
    return Case("STS_001 raw", raw.volume, truth_ZYX, raw.slice_numbers)


def sentences(cases: list[Case], whole: Case) -> Iterator[tuple[str, list[tuple[Case, int]]]]:
    """Kinds of sentences, each as cases with the slice that the sentence names."""
    offsets = [k for k in range(-3, 4) if k]
    yield "clean", [(c, c.slice) for c in cases]
    yield "clean, slice of the largest section", [(c, int(c.truth_ZYX.sum(axis=(1, 2)).argmax()) + 1) for c in cases]
    yield "slice off by 1 to 3", [(c, c.slice + k) for c in cases for k in offsets if c.has(c.slice + k)]
    yield "numbering reversed", [(c, c.reversed) for c in cases]
    yield (
        "numbering reversed, slice off by 1 to 3",
        [(c, c.reversed + k) for c in cases for k in offsets if c.has(c.reversed + k)],
    )
    for name, radius_mm, share, far in (("another lesion hotter", 12.0, 1.5, 12.0), ("bladder hotter", 30.0, 3.0, 4.0)):
        put = [with_another(c, radius_mm, share, seed, far) for seed, c in enumerate(cases)]
        yield name, [(c, c.slice) for c in put if c]
    for name, apart in (("two equal peaks, far apart along z", True), ("two equal peaks on one slice", False)):
        put = [with_another(c, 12.0, 1.0, 100 + seed, 12.0, apart=apart) for seed, c in enumerate(cases)]
        yield name, [(c, c.slice) for c in put if c]
    yield "whole-length PET", [(whole, n + k) for n in (whole.slice, whole.reversed) for k in range(-3, 4)]


def with_another(
    case: Case, radius_mm: float, share: float, seed: int, gap_mm: float, apart: bool | None = None
) -> Case | None:
    """The case with a blurred ball put into the body, `gap_mm` or more off the tumour, its maximum exactly `share` of
    the tumour's. `apart`: more than 8 slices off the tumour's hottest voxel (True), or on its slice (False)."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    grid, suv_ZYX = case.pet.grid, case.pet.array_ZYX.astype(np.float64)
    spacing = np.array(grid.spacing_mm)
    away_mm = ndimage.distance_transform_edt(~case.truth_ZYX, sampling=spacing)
    allowed = (suv_ZYX > 0.2) & (suv_ZYX < 0.6 * case.suv) & (away_mm > radius_mm + gap_mm)
    off_Z = np.abs(np.arange(grid.shape[0]) - case.hottest[0])
    if apart is not None:
        allowed &= ((off_Z > 8) if apart else (off_Z == 0))[:, None, None]
    places = np.argwhere(allowed)
    if not len(places):
        return None
    place = places[rng.integers(len(places))]
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    ball = (np.linalg.norm((index - place) * spacing, axis=-1) <= radius_mm).astype(np.float64)
    ball = ndimage.gaussian_filter(ball, 6.5 / 2.3548 / spacing)
    textured = ball * (1 + 0.05 * ndimage.gaussian_filter(rng.normal(size=ball.shape), 1))
    put = textured / textured.max() * share * case.suv
    array_ZYX = np.maximum(case.pet.array_ZYX, put).astype(np.float32)
    other_ZYX = (array_ZYX > case.pet.array_ZYX) & (put > 0.5 * put.max())
    if other_ZYX[case.hottest] or array_ZYX[case.hottest] != case.pet.array_ZYX[case.hottest]:
        return None
    return Case(case.name, Volume(array_ZYX, grid, "pet"), case.truth_ZYX, case.numbers, other_ZYX)


def run(asked: list[tuple[Case, int]], growth: Growth | None = None) -> Tally:
    """One report of one sentence a case."""
    tally = Tally()
    for number, (case, slice_number) in enumerate(asked):
        text = SENTENCES[number % len(SENTENCES)].format(suv=f"{case.suv:.1f}", slice=slice_number)
        found = label_study(
            case.pet, {"findings": text}, {"pet": Series(case.pet.grid, case.numbers)}, growth=growth, tracer="FDG"
        )
        judge(tally, case, slice_number, found.labels, [r.reason for r in found.refusals])
    return tally


def judge(tally: Tally, case: Case, slice_number: int, labels: list[Label], reasons: list[str]) -> None:
    tally.sentences += 1
    name = f"{case.name} slice {slice_number}"
    if not labels:
        tally.refused[name] = "; ".join(reasons)
        return
    mask_ZYX = labels[0].region.mask_ZYX
    tally.labels += 1
    tally.dices.append(dice(mask_ZYX, case.truth_ZYX))
    touched = case.other_ZYX is not None and bool((mask_ZYX & case.other_ZYX & ~case.truth_ZYX).any())
    if mask_ZYX[case.hottest] and not touched:
        tally.right += 1
    else:
        what = "holds some of the other lesion" if mask_ZYX[case.hottest] else "is another place"
        tally.wrong.append(f"{name}, SUVmax {case.suv:.1f}: the label {what}")


def made_up(cases: list[Case], voxel: bool = False, count: int = 200) -> Tally:
    """Sentences whose SUVmax no voxel has (none within 0.1), or, with `voxel`, some voxel but no local maximum has; the
    slice is one of the tumour's. Every label is wrong."""
    from scipy import ndimage

    rng, tally = np.random.default_rng(7), Tally()
    while tally.sentences < count:
        case = cases[rng.integers(len(cases))]
        suv = round(float(rng.uniform(1.5, 1.6 * case.pet.array_ZYX.max())), 1)
        near = np.abs(case.pet.array_ZYX - suv)
        peaks = case.pet.array_ZYX == ndimage.maximum_filter(case.pet.array_ZYX, 3)
        if (near.min() <= 0.1) != voxel or near[peaks].min() <= 0.1:
            continue
        inside = np.flatnonzero(case.truth_ZYX.any(axis=(1, 2)))
        number = int(rng.choice(inside)) + 1
        text = SENTENCES[tally.sentences % len(SENTENCES)].format(suv=f"{suv:.1f}", slice=number)
        found = label_study(case.pet, {"findings": text}, {"pet": Series(case.pet.grid)}, tracer="FDG")
        tally.sentences += 1
        tally.labels += len(found.labels)
        tally.wrong += [
            f"{case.name} slice {number} SUVmax {suv}: tumour {case.suv:.1f}, slice {case.slice}" for _ in found.labels
        ]
    return tally


def phantoms(count: int) -> Tally:
    """Avid lesions of phantoms: SUVmax within the mask on the native PET, CT slice with the most of it, as reported."""
    tally = Tally()
    for index in range(count):
        study = generate_study(index, 71)
        assert study.pet is not None
        lesions = lesions_of(study)
        series = {"ct": Series(study.ct.grid), "pet": Series(study.pet.grid)}
        lines = []
        for lesion, truth_ZYX in lesions:
            case = Case(lesion["id"], study.pet, truth_ZYX)
            suv = f"{lesion['measurements']['suv_max']:.1f}"
            lines.append((case, f"Hypermetabolic {lesion['name']}, SUVmax {suv} (PET slice {case.slice})."))
        if not lines:
            continue
        found = label_study(study.pet, {"findings": "\n".join(line for _, line in lines)}, series, tracer="FDG")
        reasons = {r.sentence: r.reason for r in found.refusals}
        for case, line in lines:
            own = [label for label in found.labels if label.claim.sentence == line]
            judge(tally, case, case.slice, own, [reasons.get(line, "")])
            if own and tally.wrong and tally.wrong[-1].startswith(case.name):
                tally.wrong[-1] = f"{study.study_id} {tally.wrong[-1]}"
    return tally


def lesions_of(study) -> list[tuple[dict, Array]]:
    """Avid lesions with a mask of their own, carried to the native PET."""
    out = []
    for finding in study.row["findings"]:
        if finding.get("uptake") != "avid" or finding["id"] not in study.masks:
            continue
        share = Volume(study.masks[finding["id"]].astype(np.uint8), study.ct.grid, "mask").resample_to(study.pet.grid)
        truth_ZYX = share.array_ZYX >= min(0.5, float(share.array_ZYX.max()))
        if truth_ZYX.any():
            out.append((finding, truth_ZYX))
    return out


def cross_validated(data: Path, cases: list[Case]) -> dict:
    """Mean Dice of clean sentences, the settings of each fold fitted on the others; `sts_pet_only` never fitted on."""
    settings = [Growth(gain=g, closing_mm=c) for g, c in itertools.product(GAINS, CLOSINGS_MM)]
    table = np.zeros((len(settings), len(cases)))
    for row, growth in enumerate(settings):
        for column, case in enumerate(cases):
            tally = run([(case, case.slice)], growth)
            table[row, column] = tally.dices[0] if tally.dices else 0.0
    folds = json.loads((data / "sts" / "split.json").read_text())["folds"]
    folded = [case for fold in folds for case in fold]
    folds.append([c.name for c in cases if c.name not in folded])
    scores, chosen = {}, []
    for fold in folds:
        fitted = [i for i, c in enumerate(cases) if c.name in folded and c.name not in fold]
        best = int(table[:, fitted].mean(axis=1).argmax())
        chosen.append({"gain": settings[best].gain, "closing_mm": settings[best].closing_mm})
        scores |= {c.name: table[best, i] for i, c in enumerate(cases) if c.name in fold}
    return {"mean_dice": round(float(np.mean(list(scores.values()))), 4), "chosen": chosen,
            "dice": {k: round(float(v), 3) for k, v in sorted(scores.items())},
            "mean_dice_of_each_setting": {f"{s.gain:g}, {s.closing_mm:g} mm": round(float(m), 4)
                                          for s, m in zip(settings, table.mean(axis=1), strict=True)}}  # fmt: skip


if __name__ == "__main__":
    main()
