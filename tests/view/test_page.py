"""The page in a real Chromium: it loads in time and in silence, and clicks land on the evidence, whatever the grids."""

import json
import os
import threading

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from vol3d.errors import ConfigError
from vol3d.workflows.view import load, make_server, write_static

GRIDS = {
    "canonical": {},
    "flipped": {"ct_flips": (-1, -1, 1), "pet_flips": (-1, 1, -1)},
    "oblique": {"ct_degrees": (11, 7), "ct_flips": (1, -1, 1), "pet_degrees": (-8, 5), "pet_flips": (-1, 1, 1)},
}

CANVAS = "(r => [r.left, r.top, r.width, r.height])(document.querySelector('#gl').getBoundingClientRect())"
NO_MARKS = "vol3d.nv.opts.crosshairWidth = 0; vol3d.nv.opts.isOrientationTextVisible = false;"
MARKS = "vol3d.nv.opts.crosshairWidth = 0.25; vol3d.nv.opts.isOrientationTextVisible = true;"
"""Crosshair and letters, which a test that counts coloured pixels is better off without."""


@pytest.fixture(scope="module")
def studies(known, tmp_path_factory):
    """Study and page by the name of their grids."""
    made = {}

    def make(name):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            study = known.write(root, **GRIDS[name])
            rendered = load(study.folder, source=study.source)
            write_static(rendered, root / "page.html")
            made[name] = (study, rendered, root / "page.html")
        return made[name]

    return make


@pytest.fixture(scope="module")
def opened(studies, new_tab):
    """The study on such grids and the tab that shows it, without any network."""
    tabs = {}

    def show(name):
        study, _, path = studies(name)
        if name not in tabs:
            tabs[name] = tab = new_tab()
            tab.call(
                "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
            )
            tab.open(path.as_uri())
            assert tab.requests == [path.as_uri()]
        tabs[name].front()
        return study, tabs[name]

    return show


@pytest.fixture
def page(opened):
    """A tab with the canonical study, and the study."""
    study, tab = opened("canonical")
    return tab, study


def near(found_mm, wanted_mm, spacing_mm):
    """Within one voxel, and closer: the crosshair is put at the voxel's centre."""
    gap = np.abs(np.array(found_mm) - wanted_mm).max()
    assert gap < 1e-3 * spacing_mm, f"{found_mm} is {gap} mm off {wanted_mm}"


@pytest.mark.parametrize("name", GRIDS)
def test_a_click_on_a_sentence_lands_on_the_hottest_voxel(name, opened, known, tmp_path):
    study, tab = opened(name)
    for number, (*_, lesions) in enumerate(known.sentences):
        if not lesions:
            continue
        tab.run("vol3d.view.stage.moveTo([0, 0, 95])")
        tab.click(f'[data-sentence="{number}"]')
        near(tab.crosshair_mm(), study.hottest_mm[lesions[0] - 1], study.pet_spacing_mm)
        assert str(lesions[0] - 1) in tab.run("document.querySelector('#here').dataset.masks").split(",")
    tab.click('[data-sentence="2"]')
    first = np.abs(np.array(tab.crosshair_mm()) - study.hottest_mm[1]).max()
    tab.click('[data-sentence="2"]')  # again: its other lesion
    near(tab.crosshair_mm(), study.hottest_mm[2 if first < 1 else 1], study.pet_spacing_mm)
    tab.picture(tmp_path / f"{name}.png")
    assert tab.console == []
    assert len(tab.requests) == 1  # the page itself


def test_findings_and_measurements_lead_to_their_masks_too(page, tmp_path):
    tab, study = page
    tab.click("#tab-findings")
    tab.click('[data-finding="finding 7"]')
    near(tab.crosshair_mm(), study.hottest_mm[6], study.pet_spacing_mm)
    text = tab.run("document.querySelector('[data-finding=\"finding 7\"]').innerText")
    for part in (
        "present",
        "probability 0.83",
        "threshold 0.40",
        "youden",
        "sensitivity 91% of 11",
        "specificity 84% of 19",
    ):
        assert part in text
    tab.picture(tmp_path / "findings.png")
    tab.click("#tab-measurements")
    tab.click('#measurements tbody[data-mask="4"] tr:last-child')
    near(tab.crosshair_mm(), study.hottest_mm[4], study.pet_spacing_mm)
    assert "14.00" in tab.run("document.querySelector('#measurements tbody[data-mask=\"4\"]').innerText")  # its SUVmax
    assert "spleen absent probability 0.02" in tab.run("document.querySelector('#measurements').innerText").replace(
        "\n", " "
    )
    tab.picture(tmp_path / "measurements.png")


def test_flagged_sentences_stand_out_with_their_reason(page, known, tmp_path):
    tab, _ = page
    tab.click("#tab-report")
    for number, (text, _, status, reason, _) in enumerate(known.sentences):
        shown = tab.run(
            f"(e => [e.innerText, e.classList.contains('flagged'), getComputedStyle(e).borderLeftColor, "
            f"getComputedStyle(e).backgroundColor])(document.querySelector('[data-sentence=\"{number}\"]'))"
        )
        assert text in shown[0]
        assert shown[1] == (status != "supported")
        if status != "supported":
            assert status in shown[0]
            assert reason in shown[0]
    colours = {
        tab.run(f"getComputedStyle(document.querySelector('[data-status=\"{status}\"]')).borderLeftColor")
        for status in ("supported", "contradicted", "not supported", "cannot be checked")
    }
    assert len(colours) == 4
    assert tab.run("document.querySelector('#tab-report').innerText") == "Report 3 flagged"
    tab.picture(tmp_path / "report.png")


def test_text_of_a_record_is_never_markup(page):
    tab, _ = page
    assert "</script><img src=x" in tab.run("document.querySelector('#report').innerText")
    assert tab.run("document.querySelector('#report img')") is None


@pytest.mark.parametrize("name", GRIDS)
def test_the_patients_right_is_on_the_left_and_the_front_is_up(name, opened, tmp_path):
    study, tab = opened(name)
    tab.run("vol3d.view.showAll(false); vol3d.view.setPet(0, 8); vol3d.view.setWindow(2); vol3d.view.toggleMip(false)")
    tab.run(NO_MARKS)
    for plane, right, up in (("axial", 0, 1), ("coronal", 0, 2), ("sagittal", 1, 2)):
        tab.run(f"vol3d.view.stage.moveTo({study.mark_mm.tolist()}); vol3d.view.setLayout('{plane}')")
        picture = np.asarray(Image.open(tab.picture(tmp_path / f"{name}-{plane}.png")).convert("L"), float)
        left, top, width, height = tab.run(CANVAS)
        part = picture[int(top) : int(top + height), int(left) : int(left + width)]
        rows, columns = np.nonzero(part > 230)
        assert len(rows) > 100
        tile = tab.run("vol3d.nv.screenSlices[0].leftTopWidthHeight")
        across, down = (columns.mean() - tile[0]) / tile[2], (rows.mean() - tile[1]) / tile[3]
        assert across < 0.35  # the mark lies at the patient's right, in front: on the left of all three planes
        if plane == "axial":
            assert down < 0.35
        # and where its middle is drawn is where a click finds its world position
        tab.click_at(left + columns.mean(), top + rows.mean())
        off = np.array(tab.crosshair_mm()) - study.mark_mm
        assert np.abs(off[[right, up]]).max() < 2 * study.ct_spacing_mm
    tab.run(
        "vol3d.nv.opts.crosshairWidth = 0.25; vol3d.nv.opts.isOrientationTextVisible = true; vol3d.view.showAll(true)"
    )
    tab.run(
        "vol3d.view.setPet(0.6, 8); vol3d.view.setWindow(0); vol3d.view.toggleMip(true); vol3d.view.setLayout('multi')"
    )


def test_the_values_at_the_crosshair_are_those_of_the_files(page):
    tab, study = page
    for mm in ([13.0, -7.0, 78.0], study.hottest_mm[0].tolist()):
        tab.run(f"vol3d.view.stage.moveTo({mm})")
        shown = tab.run("document.querySelector('#values').innerText").replace("\n", " ")
        values = []
        for name in ("ct", "pet"):
            image = nib.load(study.source / f"{name}.nii.gz")
            index = np.rint(np.linalg.inv(image.affine) @ [*mm, 1])[:3].astype(int)
            values.append(float(np.asarray(image.dataobj)[tuple(index)]))
        assert shown == f"{values[0]:.0f} HU SUV {values[1]:.2f}"


def test_keys(page, tmp_path):
    tab, study = page
    tab.run("document.activeElement.blur(); vol3d.view.open('report'); vol3d.view.readSentence(0)")
    for key, number in (("j", 1), ("j", 2), ("k", 1), ("k", 0)):
        tab.press(key)
        assert tab.run("document.querySelector('.sentence.current').dataset.sentence") == str(number)
    near(tab.crosshair_mm(), study.hottest_mm[0], study.pet_spacing_mm)
    before = tab.crosshair_mm()
    tab.press("ArrowUp")
    step = np.array(tab.crosshair_mm()) - before
    assert 0 < step[2] <= 1.5 * study.ct_spacing_mm  # one slice towards the head
    for key, window in (("2", [-600, 1500]), ("3", [500, 2000]), ("1", [40, 400])):
        tab.press(key)
        assert tab.run("vol3d.view.stage.window()") == window
    for key, layout in (("a", "axial"), ("c", "coronal"), ("s", "sagittal"), ("r", "render"), ("m", "multi")):
        tab.press(key)
        assert tab.run("document.querySelector('[data-layout][aria-pressed=true]').dataset.layout") == layout
        tab.picture(tmp_path / f"{layout}.png")
    for key, state in (("f", "view.stage.petOpacity"), ("o", "view.stage.outline"), ("h", "view.stage.hidden.size"),
                       ("p", "view.stage.canvas.clientWidth"), ("i", "view.stage.only")):  # fmt: skip
        was = tab.run(f"vol3d.{state}")
        tab.press(key)
        assert tab.run(f"vol3d.{state}") != was, key
        tab.press(key)
        assert tab.run(f"vol3d.{state}") == was, key
    tab.press("z")
    assert tab.run("vol3d.nv.scene.pan2Dxyzmm[3]") > 1
    tab.press("0")
    assert tab.run("vol3d.nv.scene.pan2Dxyzmm[3]") == 1
    tab.press("t")
    assert tab.run("vol3d.view.tab") == "findings"
    tab.press("?")
    assert tab.run("document.querySelector('#help').open")
    tab.press("Escape")
    tab.wait("!document.querySelector('#help').open")
    assert tab.console == []


def test_hidden_masks_are_not_drawn(page, tmp_path):
    tab, study = page
    tab.run("vol3d.view.setLayout('axial'); vol3d.view.setPet(0, 8)")
    tab.run(f"vol3d.view.stage.moveTo({study.hottest_mm[4].tolist()})")

    def coloured():
        picture = np.asarray(Image.open(tab.picture(tmp_path / "masks.png")).convert("RGB"), float)
        left, top, width, height = (round(v) for v in tab.run(CANVAS))
        part = picture[top : top + height, left : left + width]
        return int((np.ptp(part, axis=-1) > 60).sum())

    tab.run(
        "vol3d.nv.opts.crosshairWidth = 0; vol3d.nv.opts.isOrientationTextVisible = false; vol3d.view.setMasks(0.6)"
    )
    shown = coloured()
    tab.run("vol3d.view.show(4, false)")  # there is another on this slice
    assert 0.2 * shown < coloured() < 0.8 * shown
    tab.run("vol3d.view.showAll(false)")
    assert coloured() == 0
    tab.run("vol3d.view.showAll(true)")
    assert coloured() == shown
    tab.run(
        "vol3d.nv.opts.crosshairWidth = 0.25; vol3d.nv.opts.isOrientationTextVisible = true; vol3d.view.setMasks(0.15)"
    )
    tab.run("vol3d.view.setPet(0.6, 8); vol3d.view.setLayout('multi')")


def test_a_click_on_the_projection_finds_the_depth(page):
    tab, study = page
    wanted = study.hottest_mm[7]
    x, y = tab.run(
        f"(r => [r.left, r.top])(document.querySelector('#mip-canvas').getBoundingClientRect())"
        f".map((v, i) => v + vol3d.view.mip.pixelOf({wanted.tolist()})[i])"
    )
    tab.click_at(x, y)
    near(tab.crosshair_mm(), wanted, study.pet_spacing_mm)


def test_a_pet_ct_with_eight_masks_is_there_within_five_seconds(studies, new_tab):
    """From the start of the load to the first picture, the best of three; more on a machine that is busy with more
    than its cores can do."""
    _, rendered, path = studies("canonical")
    assert len(rendered.record["masks"]) == 8
    with make_server(rendered) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for address in (server.url, path.as_uri()):
            taken, allowed = [], 0.0
            while len(taken) < 3 and min(taken, default=9e9) >= allowed:
                tab = new_tab()
                taken.append(tab.open(address))
                allowed = 5000 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
                assert tab.console == []
                assert all(url.startswith(server.url) or url == path.as_uri() for url in tab.requests)
            assert min(taken) < allowed, f"{address}: {taken} ms"
        server.shutdown()


def test_the_page_is_deterministic_and_whole(studies, tmp_path):
    study, rendered, path = studies("canonical")
    write_static(load(study.folder, source=study.source), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == path.read_bytes()
    ct = nib.Nifti1Image.from_bytes(rendered.volumes["ct.nii"])
    original = nib.load(study.source / "ct.nii.gz")
    np.testing.assert_array_equal(np.asarray(ct.dataobj), np.asarray(original.dataobj))
    np.testing.assert_allclose(ct.affine, original.affine, atol=1e-4)
    assert json.dumps(rendered.record, allow_nan=False)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("report.json", lambda r: r.update(sentences=None)),
        ("report.json", lambda r: r["sentences"][0].pop("lesions")),
        ("report.json", lambda r: r["lesions"][0].update(measurement=None)),
        ("findings.json", lambda r: r["findings"][0].pop("evidence")),
    ],
)
def test_records_of_another_make_are_told(known, tmp_path, name, change):
    study = known.write(tmp_path)
    record = json.loads((study.folder / name).read_text())
    change(record)
    (study.folder / name).write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"as vol3d writes them, found others .* run the command again"):
        load(study.folder, source=study.source)
