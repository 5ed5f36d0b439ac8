"""The cache as other programs open it: OME-Zarr 0.5, checked against the specification's own models.

Masks are held at full resolution only, to keep files few; the specification wants as many levels as their image has.
Images and masks are therefore checked each by themselves.
"""

import json

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image, ImageLabel, Labels

from vol3d.cache import Cache, MaskRecord, level_grid
from vol3d.cache_write import EntryData, create_cache, write_entry
from vol3d.geometry import Grid
from vol3d.volume import Volume

GRID = Grid.from_spacing((21, 34, 40), (3.0, 2.0, 1.5), (-40.0, -30.0, 100.0))


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    create_cache(root, {}, "r")
    rng = np.random.default_rng(0)
    liver = np.zeros(GRID.shape, np.uint8)
    liver[3:15, 4:30, 5:33] = 1
    volumes = {"ct": rng.integers(-1000, 2000, GRID.shape).astype(np.float32), "pet": rng.random(GRID.shape)}
    data = EntryData(
        study_id="s1",
        images={name: Volume(array.astype(np.float32), GRID, name) for name, array in volumes.items()},
        masks=[(MaskRecord(name="liver", image="ct", phrases=("liver",)), liver)],
        source_grids={"ct": GRID, "pet": GRID},
        pet_native=Volume(volumes["pet"].astype(np.float32), GRID, "pet"),
        levels=3,
        chunk=16,
        attributes={"recipe_digest": "r", "fingerprint": "f"},
    )
    write_entry(root, data)
    return Cache(root).entry("s1")


def check_levels(multiscale, group, grid):
    assert [(axis.name, axis.type, axis.unit) for axis in multiscale.axes] == [
        (name, "space", "millimeter") for name in ("z", "y", "x")
    ]
    for level, dataset in enumerate(multiscale.datasets):
        scale, translation = dataset.coordinateTransformations
        wanted = level_grid(grid, level)
        assert tuple(scale.scale) == wanted.spacing_mm
        assert tuple(translation.translation) == wanted.origin_mm[::-1]
        array = group[dataset.path]
        assert array.shape == wanted.shape
        assert array.metadata.dimension_names == ("z", "y", "x")


@pytest.mark.parametrize("name", ["ct", "pet"])
def test_an_image_is_one_with_its_axes_units_and_scales(entry, name, tmp_path):
    group = zarr.open_group(entry.path / name, mode="r")
    alone = zarr.open_group(tmp_path / name, mode="w", zarr_format=3, attributes=dict(group.attrs))
    for path in ("0", "1", "2"):  # without its masks
        (tmp_path / name / path).symlink_to(entry.path / name / path)
    image = Image.from_zarr(zarr.open_group(tmp_path / name, mode="r"))
    assert alone.attrs["ome"]["version"] == "0.5"
    (multiscale,) = image.ome_attributes.multiscales
    assert len(multiscale.datasets) == 3
    check_levels(multiscale, group, GRID)


def test_a_mask_is_a_label_image_on_the_grid_of_its_image(entry):
    labels = Labels.from_zarr(zarr.open_group(entry.path / "ct/labels", mode="r"))
    assert labels.ome_attributes.labels == ["liver"]
    group = zarr.open_group(entry.path / "ct/labels/liver", mode="r")
    label = ImageLabel.from_zarr(group)
    (multiscale,) = label.ome_attributes.multiscales
    check_levels(multiscale, group, GRID)
    assert group["0"].dtype == np.uint8
    assert group["0"][:].sum() == 12 * 26 * 28


def test_every_group_says_its_version_once(entry):
    for path in entry.path.rglob("zarr.json"):
        ome = json.loads(path.read_text()).get("attributes", {}).get("ome")
        assert ome is None or ome["version"] == "0.5"
