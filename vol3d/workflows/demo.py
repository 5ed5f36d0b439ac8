"""`vol3d demo`: phantom PET/CT as DICOM through every step, with pictures and a page that shows them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from preprocessing.phantom import write_phantoms
from vol3d.cache import Cache, Entry
from vol3d.config import SHIPPED
from vol3d.errors import CacheError
from vol3d.export.figures import save_overlay_png
from vol3d.export.nifti import read_array
from vol3d.files import write_json
from vol3d.progress import progress
from vol3d.types import Array
from vol3d.volume import Volume
from vol3d.workflows.evaluate import evaluate
from vol3d.workflows.prepare import prepare
from vol3d.workflows.segment import segment
from vol3d.workflows.training import run_training

STUDIES = 40
SEED = 7
PICTURED = 3
"""Test studies that are segmented from their DICOM files and drawn."""
LESIONS_ASKED, ORGANS_ASKED, ABSENT_ASKED = 4, 3, 2


def run_demo(
    out: Path, *, overrides: tuple[str, ...] = (), studies: int = STUDIES, echo: Callable[[str], Any] = print
) -> None:
    """Writes ``index.html``, ``metrics.json`` and everything they come from below `out`.

    Args:
        out: folder; steps that are done already are kept.
        overrides: of the training config, such as ``train.steps=10``.
        studies: phantoms to make.
        echo: prints a line.
    """
    began = time.monotonic()
    config = SHIPPED / "train" / "demo.yaml"
    manifest = out / "studies" / "manifest.jsonl"
    # written last; phantoms written anew would be other studies to the cache and the run
    if not manifest.exists() or len(manifest.read_text().splitlines()) != studies:
        with progress("phantom", studies, "studies") as advance:
            write_phantoms(manifest.parent, studies, SEED, "dicom", progress=lambda _: advance())
    prepared = prepare(manifest, config, out / "cache", workers=2)
    if prepared.quarantined:
        raise CacheError(
            f"expected every phantom to be cached, found {prepared.quarantined}; remove {out} and try again"
        )
    run_training(config, out / "cache", out / "run", resume="auto", overrides=overrides)
    summary = evaluate(out / "run", out / "cache", out / "evaluation", split="test", absent_limit=24)
    cache = Cache(out / "cache")
    pages = [_ask_one(cache.entry(study), manifest, out) for study in cache.select("test")[:PICTURED]]
    metrics = {"minutes": round((time.monotonic() - began) / 60, 1), **summary}
    write_json(out / "metrics.json", metrics)
    (out / "index.html").write_text(_page(metrics, pages))
    echo(f"pictures and numbers   {out / 'index.html'}")
    echo(f"metrics                {out / 'metrics.json'}")
    echo(f"masks (NIfTI)          {out / 'masks'}")
    echo(f"model                  {out / 'run'}")
    for name, value in summary["headline"].items():
        echo(f"{name:28s} {value}")


def _ask_one(entry: Entry, manifest: Path, out: Path) -> dict[str, Any]:
    """Segments one study from its DICOM files and draws the answers next to the truth."""
    prompts = _prompts(entry)
    segment(out / "run", manifest.parent / entry.study_id, prompts, out / "masks", show_progress=False)
    folder = out / "masks" / entry.study_id
    answers = json.loads((folder / "segmentation.json").read_text())["answers"]
    ct, pet = entry.read_level("ct", 0), entry.read_level("pet", 0)
    source = entry.source_grids["ct"]
    masks = []
    for answer in answers:
        if answer["state"] == "present":
            mask = Volume(read_array(folder / answer["file"]), source, "mask").resample_to(entry.grid)
            masks.append((answer["prompt"], mask.array_ZYX >= 0.5))
    lesions = [p for m in entry.masks if m.finding_id for p in m.phrases if p in dict(masks)]
    picture = out / "pictures" / f"{entry.study_id}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_overlay_png(picture, ct, pet, masks, f"{entry.study_id}: answers", lesions[0] if lesions else None)
    truth = out / "pictures" / f"{entry.study_id}-truth.png"
    save_overlay_png(
        truth, ct, pet, _truths(entry, prompts), f"{entry.study_id}: truth", lesions[0] if lesions else None
    )
    return {"study": entry.study_id, "picture": picture, "truth": truth, "answers": answers, "report": entry.report}


def _prompts(entry: Entry) -> list[str]:
    """Some lesions, organs and phrases that are absent."""
    lesions = [m.phrases[0] for m in entry.masks if m.finding_id]
    organs = [m.phrases[0] for m in entry.masks if not m.finding_id]
    chosen = (*lesions[:LESIONS_ASKED], *organs[:ORGANS_ASKED], *entry.absent[:ABSENT_ASKED])
    return list(dict.fromkeys(chosen))


def _truths(entry: Entry, prompts: list[str]) -> list[tuple[str, Array]]:
    whole = (0, 0, 0), entry.grid.shape
    return [(p, entry.read_mask(m.name, *whole)) for p in prompts for m in entry.masks if p in m.phrases]


def _page(metrics: dict[str, Any], pages: list[dict[str, Any]]) -> str:
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{v}</td></tr>" for k, v in metrics["headline"].items())
    parts = [
        "<!doctype html><meta charset='utf-8'><title>vol3d demo</title>",
        "<style>body{font:15px sans-serif;margin:2em;max-width:1200px}img{max-width:100%}"
        "table{border-collapse:collapse;margin:1em 0}"
        "td,th{padding:.2em .8em;border-bottom:1px solid #ccc;text-align:left}"
        "</style><h1>vol3d demo</h1>",
        f"<p>Phantom PET/CT, read from DICOM, cached, trained on and segmented in {metrics['minutes']} minutes. "
        "The patient's right is on the left of the picture.</p>",
        f"<h2>Test split, {metrics['studies']} studies</h2><table>{rows}</table>",
        "<p><img src='evaluation/presence.png' alt='ROC and calibration of presence'></p>",
    ]
    for page in pages:
        parts.append(f"<h2>{escape(page['study'])}</h2>")
        for picture in (page["picture"], page["truth"]):
            parts.append(f"<p><img src='pictures/{picture.name}' alt='{escape(picture.stem)}'></p>")
        parts.append("<table><tr><th>prompt</th><th>answer</th><th>probability</th><th>ml</th><th>SUVmax</th></tr>")
        parts += [_row(answer) for answer in page["answers"]]
        parts.append("</table>")
        parts += [f"<p><b>{escape(k)}</b>: {escape(v)}</p>" for k, v in page["report"].items()]
    return "\n".join(parts) + "\n"


def _row(answer: dict[str, Any]) -> str:
    suv = "" if answer["suv_max"] is None else f"{answer['suv_max']:.2f}"
    return (
        f"<tr><td>{escape(answer['prompt'])}</td><td>{answer['state']}</td><td>{answer['probability']:.3f}</td>"
        f"<td>{answer['volume_ml']:.1f}</td><td>{suv}</td></tr>"
    )
