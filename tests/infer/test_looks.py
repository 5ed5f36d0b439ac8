"""What a look keeps of a study: cells averaged where they lie, rows that repeat what the predictor answered."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vol3d.cache import Cache
from vol3d.cache_write import EntryData, create_cache, write_entry
from vol3d.checkpoint import Calibration, Checkpoint, PredictConfig
from vol3d.data.channels import ChannelConfig
from vol3d.data.regions import FACTS, rows_of
from vol3d.geometry import Grid
from vol3d.infer.looks import Cells, cell_places, found_of, look_at
from vol3d.infer.predictor import predict
from vol3d.model.encoder import EncoderConfig
from vol3d.model.reader import ReaderConfig
from vol3d.model.text import TextConfig
from vol3d.model.vlm import ModelConfig, VisionLanguageModel
from vol3d.volume import Volume

SHAPE, PATCH = (24, 16, 16), (16, 16, 16)
CHANNELS = ChannelConfig(ct_windows=((-1000.0, 1000.0),), pet_clips=(), coordinates=False)


@pytest.fixture
def entry(tmp_path):
    rng = np.random.default_rng(0)
    grid = Grid.from_spacing(SHAPE, (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    ct = Volume(rng.integers(-300, 300, SHAPE).astype(np.int16), grid, "ct")
    attributes = {"recipe_digest": "t", "split": None, "absent": [], "body_center_mm": [10.0, 12.0, 30.0]}
    data = EntryData(
        study_id="a", images={"ct": ct}, masks=[], source_grids={"ct": grid}, attributes=attributes, chunk=8
    )
    root = create_cache(tmp_path / "cache", {}, "t").root
    write_entry(root, data)
    return Cache(root).entry("a")


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(0)
    encoder = EncoderConfig(features=(4, 8, 8), blocks=(1, 1, 1), strides=((1,) * 3, (2,) * 3, (2,) * 3),
                            kernel_sizes=((3,) * 3,) * 3)  # fmt: skip
    text = TextConfig(width=6)
    config = ModelConfig(width=8, heads=2, in_channels=CHANNELS.count, encoder=encoder, text=text)
    model = VisionLanguageModel(config).eval()
    return Checkpoint(model, CHANNELS, PATCH, {}, "t", Calibration(), PredictConfig(overlap=0.5, skip_air=False))


def words(count):
    rng = np.random.default_rng(1)
    return rng.normal(size=(count, 3, 6)).astype(np.float32), np.ones((count, 3), bool)


def test_cells_average_what_lies_in_them_and_nothing_beyond_the_study():
    """The feature is the voxel's own z, on a map at half the tile's resolution; the tile starts before the study."""
    cells = Cells((24, 16, 16), (3, 1, 1), PATCH)
    for start in (-4, 8):
        middle = start + (torch.arange(8) + 0.5) * 2
        cells.add([(start, 0, 0)], [middle.view(1, 1, 8, 1, 1).expand(1, 1, 8, 8, 8)])
    mean, filled = cells.mean()
    # centres 1, 3, 5, 7 | 9, 11, 9, 11, 13, 15 | 17, 19, 21, 23; those at -3 and -1 are padding
    assert filled.all()
    assert mean[:, 0].tolist() == pytest.approx([4.0, np.mean([9, 11, 9, 11, 13, 15]), 20.0])


def test_a_cell_that_no_tile_reached_is_not_filled():
    cells = Cells((24, 16, 16), (3, 1, 1), PATCH)
    cells.add([(0, 0, 0)], [torch.ones(1, 2, 8, 8, 8), torch.ones(1, 3, 4, 4, 4)])
    mean, filled = cells.mean()
    assert mean.shape == (3, 5)
    assert filled.tolist() == [True, True, False]
    assert Cells((24, 16, 16), (3, 1, 1), PATCH).mean()[1].tolist() == [False] * 3


def test_places_are_centres_in_mm_from_the_body(entry):
    places = cell_places(entry, (2, 1, 1))
    # z: cells of 12 slices, centres at index 5.5 and 17.5; y and x: index 7.5
    assert places.tolist() == [[5.5 * 3 - 30, 15 - 12, 15 - 10], [17.5 * 3 - 30, 15 - 12, 15 - 10]]


def test_rows_and_cells_are_those_of_the_prediction(entry, checkpoint):
    config = ReaderConfig(structures=("liver",), findings=("lesion",), cells=(2, 1, 1), parts=2)
    tokens, mask = words(3)
    phrases = ["liver", "lesion", "large lesion"]
    plain = predict(checkpoint.model, entry, tokens, mask, CHANNELS, PATCH, checkpoint.predict, phrases=phrases)
    tenth = float(np.quantile(plain.probability_PZYX, 0.9)) / 255  # a random model is not sure of anything
    checkpoint = replace(checkpoint, calibration=Calibration(scale=2.0, bias=99.0, mask_threshold=tenth))
    look, answer = look_at(checkpoint, entry, config, phrases, tokens, mask)
    np.testing.assert_array_equal(answer.probability_PZYX, plain.probability_PZYX)
    found = [found_of(plain, i, checkpoint.calibration) for i in range(3)]
    assert any(f.mask_ZYX.any() for f in found)  # or nothing would be tested
    expected = [rows_of(entry, f, found[:2], most=2, least_ml=config.least_ml) for f in found]
    np.testing.assert_array_equal(look.facts_NF, np.concatenate(expected[:2]))
    np.testing.assert_array_equal(look.asked["large lesion"], expected[2])
    assert look.probe_N.tolist() == [0] * len(expected[0]) + [1] * len(expected[1])
    assert look.facts_NF.shape[1] == len(FACTS) + 2
    assert look.cell_VC.shape == (2, 16)  # two scales of width 8


def test_an_absent_phrase_has_an_empty_mask(entry, checkpoint):
    tokens, mask = words(1)
    answer = predict(checkpoint.model, entry, tokens, mask, CHANNELS, PATCH, checkpoint.predict)
    strict = Calibration(scale=1.0, bias=-100.0, mask_threshold=0.01)
    assert not found_of(answer, 0, strict).mask_ZYX.any()
    assert found_of(answer, 0, strict).logit == pytest.approx(float(answer.presence_P[0]) - 100)
