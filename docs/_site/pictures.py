"""Draws `docs/pictures/*.svg`: `python docs/_site/pictures.py`. The drawings lie in the repository; a test compares."""

from collections.abc import Callable
from pathlib import Path

INK, SOFT, BLUE, RED, GREEN, PAPER = "#263238", "#90a4ae", "#1565c0", "#c62828", "#2e7d32", "#ffffff"
FOLDER = Path(__file__).parents[1] / "pictures"


def text(
    x: float, y: float, words: str, colour: str = INK, size: int = 13, anchor: str = "start", bold: bool = False
) -> str:
    """Words at a point."""
    weight = ' font-weight="600"' if bold else ""
    escaped = words.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}" text-anchor="{anchor}"{weight}>{escaped}</text>'
    )


def line(x0: float, y0: float, x1: float, y1: float, colour: str = INK, width: float = 1.5, head: bool = False) -> str:
    """A straight line, with a head if asked."""
    end = f' marker-end="url(#{colour.removeprefix("#")})"' if head else ""
    return f'<line x1="{x0:g}" y1="{y0:g}" x2="{x1:g}" y2="{y1:g}" stroke="{colour}" stroke-width="{width:g}"{end}/>'


def box(
    x: float, y: float, w: float, h: float, colour: str = INK, fill: str = "none", round_: float = 4, dash: str = ""
) -> str:
    """A rectangle."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{round_:g}" fill="{fill}" stroke="{colour}" '
        f'stroke-width="1.5"{dashed}/>'
    )


def dot(x: float, y: float, colour: str = INK, r: float = 3.5) -> str:
    """A filled circle."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="{colour}"/>'


def picture(width: int, height: int, title: str, parts: list[str]) -> str:
    """The whole SVG."""
    heads = "".join(
        f'<marker id="{c.removeprefix("#")}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{c}"/></marker>'
        for c in (INK, BLUE, RED, GREEN)
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'font-family="sans-serif">\n<title>{title}</title>\n<defs>{heads}</defs>\n'
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>\n{body}\n</svg>\n'
    )


def axes() -> str:
    """The world, and the array in it."""
    parts = [text(20, 26, "World: RAS+ millimetres", bold=True)]
    x0, y0 = 60, 170
    parts += [line(x0, y0, x0 + 110, y0, RED, 2, True), text(x0 + 6, y0 + 20, "x to the patient's Right", RED)]
    parts += [line(x0, y0, x0 + 62, y0 - 46, GREEN, 2, True), text(x0 + 68, y0 - 44, "y to Anterior", GREEN)]
    parts += [line(x0, y0, x0, y0 - 110, BLUE, 2, True), text(x0 + 8, y0 - 96, "z to Superior", BLUE)]
    parts += [
        text(20, 232, "seen from behind; NIfTI's world.", SOFT),
        text(20, 250, "DICOM's LPS exists only at its doors.", SOFT),
    ]
    parts += [text(300, 26, "Array: image_ZYX[z, y, x] on a canonical grid (SAR)", bold=True)]
    gx, gy, n = 330, 60, 30
    for k in range(3):
        dx, dy = 22 * (2 - k), -16 * (2 - k)
        for row in range(4):
            for column in range(5):
                fill = "#bbdefb" if (k, row, column) == (2, 3, 0) else PAPER
                parts.append(box(gx + dx + column * n, gy + 40 + dy + row * n, n, n, SOFT, fill, 0))
    front_x, front_y = gx, gy + 40
    parts += [
        dot(front_x + n / 2, front_y + 3.5 * n, BLUE),
        line(front_x - 14, front_y + 3.5 * n, front_x - 14, front_y, GREEN, 2, True),
    ]
    parts += [text(front_x - 24, front_y + 55, "y", GREEN, anchor="end")]
    parts += [line(front_x, front_y + 4 * n + 14, front_x + 5 * n, front_y + 4 * n + 14, RED, 2, True)]
    parts += [text(front_x + 2.5 * n, front_y + 4 * n + 32, "x", RED, anchor="middle")]
    parts += [line(front_x + 5 * n + 10, front_y + 4 * n, front_x + 5 * n + 54, front_y + 4 * n - 32, BLUE, 2, True)]
    parts += [text(front_x + 5 * n + 40, front_y + 4 * n, "z", BLUE)]
    notes = (
        "(0, 0, 0): the blue dot, a voxel's centre",
        "index (z, y, x) -> world (x, y, z) in mm:",
        "    grid.index_to_mm((z, y, x))",
        "spacing_mm is (z, y, x) as well",
    )
    parts += [text(560, 110 + 22 * i, words) for i, words in enumerate(notes)]
    parts.append(text(560, 220, "In pictures the patient's right", SOFT))
    parts.append(text(560, 237, "is on the left.", SOFT))
    return picture(860, 300, "World axes, and the axes of an array", parts)


def faces() -> str:
    """Centres and faces of voxels along one axis."""
    parts = [text(20, 26, "A box of space is bounded by faces; an index names a centre", bold=True)]
    x0, y, s = 60, 70, 90
    for i in range(4):
        parts += [box(x0 + i * s, y, s, 40, INK, "#e3f2fd", 0), dot(x0 + (i + 0.5) * s, y + 20, BLUE)]
        parts.append(text(x0 + (i + 0.5) * s, y + 58, f"index {i}", BLUE, 12, "middle"))
    parts += [
        line(x0, y - 12, x0 + 4 * s, y - 12, INK, 1.5, True),
        text(x0 + 2 * s, y - 18, "n voxels of spacing s: n * s long", anchor="middle"),
    ]
    parts += [
        line(x0, y + 78, x0 + s / 2, y + 78, RED, 1.5, True),
        text(x0 + s / 2 + 8, y + 82, "the first centre lies s/2 inside", RED),
    ]
    parts.append(text(20, 198, "Resampled to half the spacing: faces stay, centres move", bold=True))
    for i in range(8):
        parts += [box(x0 + i * s / 2, 214, s / 2, 30, INK, "#e8f5e9", 0), dot(x0 + (i + 0.5) * s / 2, 229, GREEN, 3)]
    for edge in (x0, x0 + 4 * s):
        parts += [line(edge, y - 4, edge, 182, RED, 1), line(edge, 206, edge, 252, RED, 1)]
    parts.append(text(x0 + 4 * s + 14, 234, "level n of a pyramid is moved", SOFT, 12))
    parts.append(text(x0 + 4 * s + 14, 250, "by (scale_n - scale_0) / 2", SOFT, 12))
    return picture(660, 270, "Voxel centres and faces", parts)


def grids() -> str:
    """From the source grids to the common one and back."""
    parts = [text(20, 26, "Source grids, the common grid, and back", bold=True)]
    parts += [
        f'<g transform="rotate(-9 120 120)">{box(50, 70, 140, 100, BLUE, "#e3f2fd", 0)}</g>',
        text(64, 200, "CT, as scanned", BLUE),
    ]
    parts += [
        f'<g transform="rotate(-9 120 300)">{box(60, 240, 120, 110, RED, "#ffebee", 0)}</g>',
        text(58, 378, "PET, as scanned", RED),
    ]
    parts += [line(210, 120, 320, 170, INK, 1.5, True), line(210, 290, 320, 230, INK, 1.5, True)]
    parts.append(text(216, 208, "orient, resample", SOFT, 12))
    parts += [box(330, 130, 150, 140, GREEN, "#e8f5e9", 0), text(405, 192, "common grid", GREEN, anchor="middle")]
    parts += [
        text(405, 210, "axes along the world", GREEN, 12, "middle"),
        text(405, 226, "training, inference", GREEN, 12, "middle"),
    ]
    parts += [line(490, 200, 590, 200, INK, 1.5, True), text(494, 190, "probability", SOFT, 12)]
    parts += [
        f'<g transform="rotate(-9 660 160)">{box(600, 90, 120, 86, BLUE, "#e3f2fd", 0)}</g>',
        text(596, 206, "mask on the CT's grid:", BLUE),
    ]
    parts += [text(596, 223, "interpolated, then thresholded", BLUE, 12)]
    parts += [
        f'<g transform="rotate(-9 660 310)">{box(606, 262, 104, 86, RED, "#ffebee", 0)}</g>',
        text(596, 378, "on the native PET: every SUV", RED),
    ]
    parts.append(line(490, 240, 596, 300, INK, 1.5, True))
    return picture(840, 400, "Source grids and the common grid", parts)


def cache() -> str:
    """What an entry holds, and who reads which part."""
    parts = [text(20, 26, "One study in the cache: studies/<study_id>.zarr", bold=True)]
    x, rows = 40, [
        ("ct/0, ct/1, ...", "int16 HU, common grid; each level half of the one before", BLUE),
        ("ct/labels/<name>/0", "uint8, one array a mask: overlaps never erase each other", BLUE),
        ("pet/0, pet/1, ...", "float32 SUVbw, common grid", RED),
        ("pet_native/0", "float32 SUVbw on the scanner's own grid", RED),
        ("pet_native/labels/<name>/0", "the masks on that grid", RED),
        ("index/foreground", "voxels of every mask, for drawing patches", GREEN),
        ("zarr.json", "grids, phrases, report, steps, fingerprint; no name, id or date", INK),
    ]  # fmt: skip
    for i, (name, words, colour) in enumerate(rows):
        y = 44 + 36 * i
        parts += [
            box(x, y, 220, 28, colour, PAPER),
            text(x + 10, y + 19, name, colour),
            text(x + 234, y + 19, words, size=12),
        ]
    parts += [line(640, 58, 700, 58, INK, 1.5, True), text(708, 63, "patches")]
    parts += [line(640, 166, 700, 166, INK, 1.5, True), text(708, 171, "measurements")]
    parts += [line(640, 238, 700, 238, INK, 1.5, True), text(708, 243, "sampling")]
    top = 320
    parts.append(text(20, top, "One array: one shard, cubic chunks near the patch", bold=True))
    n = 46
    for row in range(3):
        for column in range(8):
            inside = 0 <= row <= 1 and 2 <= column <= 3
            parts.append(box(x + column * n, top + 18 + row * n, n, n, SOFT, "#bbdefb" if inside else PAPER, 0))
    parts.append(box(x + 2.3 * n, top + 18 + 0.35 * n, 1.4 * n, 1.4 * n, RED, "none", 0, "5 3"))
    notes = (
        "red: a patch; blue: the chunks that are read for it",
        "every chunk: Blosc and a CRC-32C, so a damaged one is an error",
        "an entry appears by rename: whole or not at all",
    )
    parts += [text(x + 8 * n + 20, top + 46 + 24 * i, words, size=12) for i, words in enumerate(notes)]
    return picture(860, 490, "What a cache entry holds", parts)


def way() -> str:
    """The way of the data, the same for training and inference."""
    steps = ["raw study", "preprocessing", "Zarr cache", "patches", "model"]
    parts = [text(20, 26, "One preprocessing, one reader, for training and inference alike", bold=True)]
    for i, name in enumerate(steps):
        x = 20 + i * 160
        parts += [box(x, 50, 124, 44, INK, "#eceff1"), text(x + 62, 77, name, anchor="middle")]
        if i:
            parts.append(line(x - 34, 72, x - 4, 72, INK, 1.5, True))
    parts += [line(722, 98, 722, 132, INK, 1.5, True), box(640, 136, 164, 44, GREEN, "#e8f5e9")]
    parts += [text(722, 163, "probability, presence", GREEN, anchor="middle")]
    parts += [line(636, 158, 488, 158, INK, 1.5, True), box(340, 136, 144, 44, GREEN, "#e8f5e9")]
    parts += [text(412, 163, "mask, source grid", GREEN, anchor="middle")]
    parts += [line(336, 158, 248, 158, INK, 1.5, True), box(60, 136, 184, 44, GREEN, "#e8f5e9")]
    parts += [text(152, 163, "measurements, report", GREEN, anchor="middle")]
    parts.append(
        text(
            20, 212, "Training reads the cache; inference on a raw study first writes the same entry to scratch.", SOFT
        )
    )
    return picture(830, 228, "The way of the data", parts)


PICTURES: dict[str, Callable[[], str]] = {"axes": axes, "faces": faces, "grids": grids, "cache": cache, "way": way}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw())
