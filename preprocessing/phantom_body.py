"""Draws the body of one phantom: which tissue lies where, how dense it is (HU) and how much tracer it takes up (SUV).

Everything is placed in anatomical mm for an average torso (half width 165, half depth 110 mm), then scaled and
jittered per study. Right is +x.
"""

from __future__ import annotations

import itertools

import numpy as np

from preprocessing.phantom_anatomy import Anatomy, Structure
from preprocessing.phantom_shapes import Blob, Capsule, Shape, Warp, Xyz, rotation, tube

RESECTABLE = ("spleen", "left kidney", "right kidney", "gallbladder")


def build_anatomy(rng: np.random.Generator, arms_share: float = 0.3, resection_share: float = 0.12) -> Anatomy:
    """Draws one body: size, proportions, tissue values, what was resected, and its smooth deformation."""
    return _Builder(rng, arms_share, resection_share).build()


class _Builder:
    """Holds the scale of the body while its parts are drawn."""

    def __init__(self, rng: np.random.Generator, arms_share: float, resection_share: float):
        self.rng = rng
        self.half_width, self.half_depth = rng.uniform(150, 176), rng.uniform(100, 118)
        self.scale = np.array([self.half_width / 165, self.half_depth / 110, rng.uniform(0.87, 0.96)])
        self.arms = bool(rng.random() < arms_share)
        self.resected = (str(rng.choice(RESECTABLE)),) if rng.random() < resection_share else ()
        self.contrast = bool(rng.random() < 0.4)
        self.hu, self.suv = self._values()
        self.structures: list[Structure] = []
        self.removed: list[Structure] = []

    def _values(self) -> tuple[dict[str, float], dict[str, float]]:
        u = self.rng.uniform
        boost = u(0.7, 1.2) if self.contrast else 0.0  # portal venous phase
        hu = {
            "fat": u(-108, -92), "muscle": u(45, 58) + 8 * boost, "lung": u(-860, -760), "bone": u(220, 320),
            "liver": u(54, 66) + 50 * boost, "spleen": u(45, 54) + 65 * boost, "kidney": u(30, 38) + 140 * boost,
            "blood": u(38, 46) + 100 * boost, "bladder": u(0, 10), "gallbladder": u(4, 14), "bowel": u(20, 38),
        }  # fmt: skip
        liver = u(1.7, 2.6)
        suv = {
            "fat": u(0.2, 0.4), "muscle": u(0.5, 0.95), "lung": u(0.3, 0.55), "bone": u(0.9, 1.6), "liver": liver,
            "spleen": liver * u(0.75, 0.95), "kidney": u(2.0, 4.0), "pelvis": u(3.5, 8.0), "blood": u(1.2, 1.8),
            "myocardium": float(np.exp(u(0.0, np.log(8.0)))), "bladder": u(6.0, 25.0), "bowel": u(0.7, 1.6),
            "stomach": u(1.2, 2.8), "hot bowel": u(3.0, 7.5), "brown fat": u(3.0, 9.0), "ureter": u(4.0, 10.0),
        }  # fmt: skip
        return {k: float(v) for k, v in hu.items()}, {k: float(v) for k, v in suv.items()}

    def point(self, x: float, y: float, z: float, jitter_mm: float = 0.0) -> Xyz:
        p = np.array([x, y, z]) * self.scale + self.rng.uniform(-1, 1, 3) * jitter_mm
        return float(p[0]), float(p[1]), float(p[2])

    def blob(
        self, centre: Xyz, radii: Xyz, *, jitter_mm: float = 4.0, vary: float = 0.08, tilt: float = 0.08,
        exponent: float = 2.0,
    ) -> Blob:  # fmt: skip
        """A blob of the average body, moved to this one; tilt in radians."""
        rng = self.rng
        at = self.point(*centre, jitter_mm)
        size = np.array(radii) * self.scale * (1 + vary * rng.uniform(-1, 1, 3))
        turn = rotation(rng.uniform(-tilt, tilt, 3)) if tilt else None
        w = rng.normal(size=3) * 1.8
        wave, phase = (float(w[0]), float(w[1]), float(w[2])), float(rng.uniform(0, 2 * np.pi))
        return Blob(at, (float(size[0]), float(size[1]), float(size[2])), turn, exponent, 0.05, wave, phase)

    def column(self, x: float, y: float, rx: float, ry: float, exponent: float = 2.0, bump: float = 0.0) -> Blob:
        """A body-long column along z; not jittered, so that it keeps to its neighbours."""
        at = self.point(x, y, 0)
        radii = (float(rx * self.scale[0]), float(ry * self.scale[1]), np.inf)
        return Blob(at, radii, None, exponent, bump, (0.0, 0.0, 1.0), 0.6)

    def add(self, tissue: str, hu: float | None, suv: float | None, *parts: Shape, in_cavity: bool = False) -> None:
        into = self.removed if tissue in self.resected else self.structures
        into.append(Structure(tissue, parts, hu, suv, in_cavity))

    def build(self) -> Anatomy:
        cavity = self.column(0, 4, 135, 88, 2.4, 0.03)
        self._shell(cavity)
        self._chest()
        self._abdomen()
        self._skeleton()
        shift = tuple(float(np.round(v, 1)) for v in self.rng.uniform(-120, 120, 3))
        return Anatomy(
            structures=tuple(self.structures), cavity=cavity, warp=Warp.draw(self.rng, (shift[0], shift[1], shift[2])),
            half_width_mm=self.half_width, half_depth_mm=self.half_depth, z_scale=float(self.scale[2]), arms=self.arms,
            removed=tuple(self.removed), contrast=self.contrast, hu=self.hu, suv=self.suv,
        )  # fmt: skip

    def _shell(self, cavity: Blob) -> None:
        """Table, skin and fat, muscle wall, the fat that fills the cavity, arms."""
        hu, suv = self.hu, self.suv
        top = -self.half_depth * 1.06 - 4
        self.add("table", 30.0, 0.0, Blob((0, top - 9, 0), (205, 9, np.inf), exponent=8.0))
        self.add("table", -700.0, 0.0, Blob((0, top - 9, 0), (199, 4, np.inf), exponent=8.0))
        self.add("torso", hu["fat"], suv["fat"], self.column(0, 0, 165, 110, 2.3, 0.03))
        wall = self.rng.uniform(0.90, 0.94)
        self.add("torso", hu["muscle"], suv["muscle"], self.column(0, 1, 165 * wall, 110 * wall, 2.4, 0.03))
        self.add("torso", hu["fat"] + 4, suv["fat"], cavity)
        if self.arms:
            for side in (-1, 1):
                at = (side * (self.half_width + 34), -15.0, 0.0)
                self.add("arms", hu["fat"], suv["fat"], Blob(at, (30, 34, np.inf)))
                self.add("arms", hu["muscle"], suv["muscle"], Blob(at, (25, 29, np.inf)))
                self.add("arms", hu["bone"] + 150, suv["bone"], Blob(at, (8, 8, np.inf)))

    def _chest(self) -> None:
        hu, suv, rng = self.hu, self.suv, self.rng
        if rng.random() < 0.35:  # benign uptake in fat: hot on PET, nothing on CT
            for side in (-1, 1):
                spots = [self.blob((side * (112 - 8 * k), -10, 158 - 14 * k), (9, 9, 11)) for k in range(2)]
                self.add("torso", None, suv["brown fat"], *spots, in_cavity=True)
        self.add("left lung", hu["lung"], suv["lung"],
                 self.blob((-76, -4, 76), (54, 74, 92), exponent=2.5, tilt=0.04), in_cavity=True)  # fmt: skip
        self.add("right lung", hu["lung"], suv["lung"],
                 self.blob((76, -4, 76), (57, 74, 92), exponent=2.5, tilt=0.04), in_cavity=True)  # fmt: skip
        self.add("mediastinum", hu["fat"] + 8, suv["blood"] * 0.5,
                 self.blob((0, 0, 95), (31, 84, 85), exponent=3.0, tilt=0.0), in_cavity=True)  # fmt: skip
        self.add("torso", -1000.0, 0.3, *tube([self.point(3, -5, 175), self.point(1, -16, 102)], 8.0))
        heart = self.blob((-18, 24, 30), (52, 44, 46), tilt=0.15)
        left_x, y, z = heart.centre[0] - 0.24 * heart.radii[0], heart.centre[1] - 4, heart.centre[2] - 6
        self.add("heart", hu["blood"], suv["blood"], heart, in_cavity=True)
        wall, room = Blob((left_x, y, z), (33, 31, 33)), Blob((left_x + 3, y, z + 5), (20, 18, 21))
        self.add("heart", hu["muscle"] + 15 * self.contrast, suv["myocardium"], wall)
        self.add("heart", hu["blood"], suv["blood"], room)

    def _abdomen(self) -> None:
        hu, suv, rng = self.hu, self.suv, self.rng
        stomach = self.blob((-62, 30, -38), (38, 34, 42))
        gas = Blob((stomach.centre[0], stomach.centre[1] + 13, stomach.centre[2] + 5), (18.0, 11.0, 20.0))
        self._bowel()
        self.add("stomach", hu["bowel"] + 5, suv["stomach"], stomach, in_cavity=True)
        self.add("stomach", -950.0, 0.5, gas, in_cavity=True)
        self.add("spleen", hu["spleen"], suv["spleen"], self.blob((-98, -34, -28), (30, 40, 46)), in_cavity=True)
        for side, name, z in ((-1, "left kidney", -98), (1, "right kidney", -110)):
            kidney = self.blob((side * 66, -44, z), (27, 25, 50), jitter_mm=5)
            x, y, middle = kidney.centre
            pelvis = Blob((x - side * 8, y + 1, middle), (8.0, 8.0, 17.0))
            self.add(name, hu["kidney"], suv["kidney"], kidney, in_cavity=True)
            self.add(name, hu["kidney"] * 0.7 + 3, suv["pelvis"], pelvis, in_cavity=True)
            if name not in self.resected and rng.random() < 0.5:  # a hot piece of ureter without any lesion
                at = self.point(side * rng.uniform(28, 36), -22, rng.uniform(-165, -145))
                self.add("torso", 15.0, suv["ureter"], Capsule(at, (at[0], at[1], at[2] - 14), 5.0), in_cavity=True)
        right, left = self.blob((62, 2, -30), (72, 70, 62)), self.blob((4, 34, -16), (56, 36, 34))
        self.add("liver", hu["liver"], suv["liver"], right, left, in_cavity=True)
        bile = self.blob((46, 42, -84), (17, 17, 25))
        self.add("gallbladder", hu["gallbladder"], suv["blood"] * 0.5, bile, in_cavity=True)
        self.add("bladder", hu["bladder"], suv["bladder"],
                 self.blob((0, 26, -205), (38, 32, 27), vary=0.15), in_cavity=True)  # fmt: skip

    def _bowel(self) -> None:
        """Loops of gut, some with gas, some hot: uptake that means nothing."""
        rng = self.rng
        for _ in range(int(rng.integers(8, 14))):
            at = (rng.uniform(-85, 85), rng.uniform(5, 62), rng.uniform(-180, -92))
            r = rng.uniform(13, 22)
            hot = rng.random() < 0.25
            loop = self.blob(at, (r, r * rng.uniform(0.7, 1), r * rng.uniform(0.8, 1.3)), tilt=0.6, jitter_mm=0)
            suv = self.suv["hot bowel"] if hot else self.suv["bowel"]
            self.add("torso", self.hu["bowel"] + rng.uniform(-8, 12), suv, loop, in_cavity=True)
            if rng.random() < 0.4:
                x, y, z = loop.centre
                self.add("torso", -850.0, None, Blob((x, y + 3, z), (r * 0.5, r * 0.35, r * 0.5)), in_cavity=True)

    def _skeleton(self) -> None:
        hu, suv = self.hu, self.suv
        for side, name in ((-1, "left paraspinal"), (1, "right paraspinal")):
            self.add(name, hu["muscle"] + 2, suv["muscle"], self.column(side * 37, -76, 23, 18, 2.3))
        body = self.column(0, -58, 20, 17, 2.5)
        self.add("spine", hu["bone"] + 130, suv["bone"], self.column(0, -84, 7, 14, 2.0), body)
        x, y, _ = body.centre
        inner = Blob((x, y, 0), (body.radii[0] - 3, body.radii[1] - 3, np.inf), exponent=2.5)
        self.add("spine", hu["bone"] - 40, suv["bone"], inner)
        discs = [Blob((x, y, float(z)), (body.radii[0], body.radii[1], 3.5)) for z in np.arange(-270, 220, 28)]
        self.add("spine", 85.0, suv["muscle"], *discs)
        for side, z in itertools.product((-1, 1), range(10, 170, 24)):  # ribs, sloping forward and down
            angles = np.radians([-55, -25, 0, 25, 50])
            rx, ry = 143 * self.scale[0], 95 * self.scale[1]
            arc = [(float(side * rx * np.cos(a)), float(ry * np.sin(a)), float(z * self.scale[2] - 16 * np.sin(a)))
                   for a in angles]  # fmt: skip
            self.add("torso", hu["bone"] + 100, suv["bone"], *tube(arc, 4.5))
        for side in (-1, 1):
            wing = self.blob((side * 92, -38, -195), (22, 40, 46), tilt=0.2)
            self.add("torso", hu["bone"] + 60, suv["bone"], wing)
        path = [
            (-2, 14, 66),
            (2, 12, 98),
            (-6, -8, 114),
            (-16, -30, 100),
            (-17, -36, 20),
            (-9, -32, -90),
            (-4, -32, -178),
        ]
        aorta = tube([self.point(*p) for p in path], float(self.rng.uniform(10.5, 13.0)))
        self.add("aorta", hu["blood"], suv["blood"], *aorta)
