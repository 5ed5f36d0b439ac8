import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from vol3d.cache import Cache
from vol3d.cache_write import EntryData, create_cache, write_entry
from vol3d.checkpoint import PredictConfig
from vol3d.data.channels import ChannelConfig, crop_to_channels, read_crop
from vol3d.errors import ConfigError
from vol3d.geometry import Grid
from vol3d.infer.predictor import ABSENT_LOGIT, predict
from vol3d.infer.slab import Slab
from vol3d.infer.tiles import tile_rows
from vol3d.volume import Volume

CHANNELS = ChannelConfig(ct_windows=((-1000.0, 1000.0),), pet_clips=(5.0,), coordinates=True)
PATCH = (12, 16, 20)


@dataclass
class Answer:
    logits: list[torch.Tensor]
    presence_BP: torch.Tensor


class Small(nn.Module):
    """Neighbourhood and position decide; each phrase has its own weights, through its first real token."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.kernel = torch.randn(6, CHANNELS.count, 3, 3, 3, generator=generator) * 0.6
        self.encoded = 0

    def encode_image(self, image_BCZYX):
        self.encoded += image_BCZYX.shape[0]
        return [torch.nn.functional.conv3d(image_BCZYX, self.kernel, padding=1)]

    def ground(self, features, tokens_BPTE, token_mask_BPT):
        weight_BPE = (tokens_BPTE * token_mask_BPT[..., None]).sum(2)
        logits = torch.einsum("bezyx,bpe->bpzyx", features[0], weight_BPE)
        return Answer([logits, logits[..., ::2, ::2, ::2]], logits.amax((2, 3, 4)))


@pytest.fixture
def open_entry(tmp_path):
    def make(shape, air_from=None, images=("ct", "pet")):
        rng = np.random.default_rng(1)
        grid = Grid.from_spacing(shape, (3.0, 2.0, 2.0), (5.0, 6.0, 7.0))
        arrays = {"ct": rng.integers(-500, 600, shape).astype(np.int16), "pet": rng.random(shape, dtype=np.float32) * 8}
        if air_from is not None:
            arrays["ct"][air_from:], arrays["pet"][air_from:] = -1000, 0.01
        attributes = {"recipe_digest": "t", "split": None, "absent": [], "body_center_mm": [20.0, 30.0, 40.0]}
        data = EntryData(
            study_id="a",
            images={n: Volume(arrays[n], grid, n) for n in images},
            masks=[],
            source_grids=dict.fromkeys(images, grid),
            attributes=attributes,
            chunk=16,
        )
        write_entry(create_cache(tmp_path / "cache", {}, "t").root, data)
        return Cache(tmp_path / "cache").entry("a")

    return make


def tokens(count, width=6, length=3):
    generator = torch.Generator().manual_seed(3)
    mask = torch.zeros(count, length, dtype=torch.bool)
    mask[:, :2] = True
    return torch.randn(count, length, width, generator=generator), mask


def naive(model, entry, tokens_PTE, mask_PT, overlap):
    """Everything in float over the whole padded volume, the Gaussian as one 3D array, one division at the end."""
    shape = entry.grid.shape
    axes = [np.arange(p) - (p - 1) / 2 for p in PATCH]
    gauss = [np.maximum(np.exp(-0.5 * (a / (p / 8)) ** 2), 1e-3) for a, p in zip(axes, PATCH, strict=True)]
    weight = torch.from_numpy(gauss[0][:, None, None] * gauss[1][None, :, None] * gauss[2][None, None])
    pad = 24
    total = torch.zeros(len(tokens_PTE), *[n + 2 * pad for n in shape], dtype=torch.float64)
    weights = torch.zeros(total.shape[1:], dtype=torch.float64)
    presence = []
    for start in [s for _, row in tile_rows(shape, PATCH, overlap) for s in row]:
        stop = tuple(a + p for a, p in zip(start, PATCH, strict=True))
        image = crop_to_channels(entry, read_crop(entry, start, stop), start, stop, CHANNELS)[None]
        out = model.ground(model.encode_image(image), tokens_PTE[None], mask_PT[None])
        box = tuple(slice(a + pad, b + pad) for a, b in zip(start, stop, strict=True))
        total[(slice(None), *box)] += out.logits[0][0].double().sigmoid() * weight
        weights[box] += weight
        presence.append(out.presence_BP[0])
    inner = tuple(slice(pad, pad + n) for n in shape)
    probability = total[(slice(None), *inner)] / weights[inner]
    return (probability * 255).numpy(), torch.stack(presence).amax(0).numpy()


@pytest.mark.parametrize(
    ("shape", "overlap", "batch", "chunk"),
    [
        ((40, 30, 45), 0.5, 1, 16),
        ((29, 33, 20), 0.5, 3, 2),
        ((9, 40, 18), 0.25, 2, 3),
        ((8, 9, 10), 0.5, 1, 1),
        ((50, 16, 41), 0.75, 4, 5),
    ],
)
def test_the_rolling_slab_equals_the_naive_sum(open_entry, shape, overlap, batch, chunk):
    entry, model = open_entry(shape), Small()
    tokens_PTE, mask_PT = tokens(5)
    config = PredictConfig(overlap=overlap, batch_tiles=batch, phrase_chunk=chunk)
    found = predict(model, entry, tokens_PTE, mask_PT, CHANNELS, PATCH, config)
    expected, presence = naive(model, entry, tokens_PTE, mask_PT, overlap)
    assert found.probability_PZYX.dtype == np.uint8
    assert found.probability_PZYX.shape == (5, *shape)
    np.testing.assert_allclose(found.probability_PZYX, expected, atol=0.5 + 0.1)
    np.testing.assert_allclose(found.presence_P, presence, rtol=1e-5)


def test_one_tile_equals_the_direct_pass(open_entry):
    entry, model = open_entry(PATCH), Small()
    tokens_PTE, mask_PT = tokens(3)
    found = predict(model, entry, tokens_PTE.numpy(), mask_PT.numpy(), CHANNELS, PATCH)
    image = crop_to_channels(entry, read_crop(entry, (0, 0, 0), PATCH), (0, 0, 0), PATCH, CHANNELS)[None]
    out = model.ground(model.encode_image(image), tokens_PTE[None], mask_PT[None])
    np.testing.assert_allclose(found.probability_PZYX, out.logits[0][0].sigmoid() * 255, atol=0.51)
    np.testing.assert_allclose(found.presence_P, out.presence_BP[0], rtol=1e-6)
    assert (found.tiles, found.skipped) == (1, 0)


def test_a_tile_is_encoded_once_however_many_phrases(open_entry):
    entry, model = open_entry((30, 16, 20)), Small()
    found = predict(model, entry, *tokens(40), CHANNELS, PATCH, PredictConfig(phrase_chunk=7))
    assert model.encoded == found.tiles == 4


def test_a_phrase_does_not_depend_on_its_company(open_entry):
    entry, model = open_entry((30, 20, 20)), Small()
    tokens_PTE, mask_PT = tokens(6)
    together = predict(model, entry, tokens_PTE, mask_PT, CHANNELS, PATCH, PredictConfig(phrase_chunk=4))
    alone = predict(model, entry, tokens_PTE[4:5], mask_PT[4:5], CHANNELS, PATCH)
    np.testing.assert_allclose(together.probability_PZYX[4], alone.probability_PZYX[0], atol=1)


def test_tiles_of_air_are_answered_empty_and_not_computed(open_entry):
    entry, model = open_entry((60, 16, 20), air_from=14), Small()
    tokens_PTE, mask_PT = tokens(2)
    found = predict(model, entry, tokens_PTE, mask_PT, CHANNELS, PATCH)
    assert found.skipped > 0
    assert model.encoded == found.tiles - found.skipped
    reached = max(s[0] for _, row in tile_rows((60, 16, 20), PATCH, 0.5) for s in row if s[0] < 14) + PATCH[0]
    assert not found.probability_PZYX[:, reached:].any()
    assert found.probability_PZYX[:, :10].any()
    full = predict(model, entry, tokens_PTE, mask_PT, CHANNELS, PATCH, PredictConfig(skip_air=False))
    assert full.skipped == 0
    np.testing.assert_array_equal(full.probability_PZYX[:, :6], found.probability_PZYX[:, :6])


def test_gaps_of_air_longer_than_a_tile_do_not_shift_what_follows(open_entry):
    entry, model = open_entry((80, 16, 20)), Small()

    class Gap:
        grid, images, source_grids = entry.grid, entry.images, entry.source_grids
        body_center_mm, coverage = entry.body_center_mm, entry.coverage

        def read(self, image, start, stop):
            out = entry.read(image, start, stop).copy()
            z = np.arange(start[0], stop[0])
            out[(z >= 14) & (z < 60)] = -1000 if image == "ct" else 0
            return out

    tokens_PTE, mask_PT = tokens(2)
    skipping = predict(model, Gap(), tokens_PTE, mask_PT, CHANNELS, PATCH)
    full = predict(model, Gap(), tokens_PTE, mask_PT, CHANNELS, PATCH, PredictConfig(skip_air=False))
    assert skipping.skipped > 3
    np.testing.assert_array_equal(skipping.probability_PZYX[:, 66:], full.probability_PZYX[:, 66:])


def test_a_study_of_air_has_nothing_in_it(open_entry):
    entry, model = open_entry((30, 16, 20), air_from=0), Small()
    found = predict(model, entry, *tokens(2), CHANNELS, PATCH)
    assert model.encoded == 0
    assert not found.probability_PZYX.any()
    assert (found.presence_P == ABSENT_LOGIT).all()


def test_mirroring_is_the_mean_over_the_mirrored_views(open_entry):
    entry, model = open_entry(PATCH), Small()
    tokens_PTE, mask_PT = tokens(3)
    config = PredictConfig(mirror_axes=("z", "y", "x"))
    found = predict(model, entry, tokens_PTE, mask_PT, CHANNELS, PATCH, config, phrases=["liver", "spleen", "aorta"])
    image = crop_to_channels(entry, read_crop(entry, (0, 0, 0), PATCH), (0, 0, 0), PATCH, CHANNELS)[None]
    expected, count = torch.zeros(3, *PATCH), 0
    for axes in [c for n in range(4) for c in itertools.combinations(range(3), n)]:
        view = image.flip([a + 2 for a in axes])
        for a in axes:
            view[:, 2 + a] *= -1
            line = view[0, 2 + a].movedim(a, 0)[:, 0, 0]
            assert (line.diff() > 0).all()
        out = model.ground(model.encode_image(view), tokens_PTE[None], mask_PT[None])
        expected += out.logits[0][0].sigmoid().flip([a + 1 for a in axes])
        count += 1
    assert count == 8
    np.testing.assert_allclose(found.probability_PZYX, expected / 8 * 255, atol=0.6)


@pytest.mark.parametrize(("phrases", "fragment"), [(["liver", "left kidney"], "left kidney"), (None, "no texts")])
def test_mirroring_left_and_right_is_refused_where_a_phrase_names_a_side(open_entry, phrases, fragment):
    with pytest.raises(ConfigError, match=fragment):
        predict(
            Small(), open_entry(PATCH), *tokens(2), CHANNELS, PATCH, PredictConfig(mirror_axes=("x",)), phrases=phrases
        )


def test_progress_and_bf16(open_entry):
    entry, model = open_entry((30, 20, 45)), Small()
    calls = []
    tokens_PTE, mask_PT = tokens(2)
    exact = predict(
        model, entry, tokens_PTE, mask_PT, CHANNELS, PATCH, progress=lambda done, total: calls.append((done, total))
    )
    assert [d for d, _ in calls] == sorted(d for d, _ in calls)
    assert calls[-1] == (exact.tiles, exact.tiles)
    rough = predict(model, entry, tokens_PTE, mask_PT, CHANNELS, PATCH, PredictConfig(bf16=True))
    difference = np.abs(rough.probability_PZYX.astype(int) - exact.probability_PZYX)
    assert difference.any()
    assert difference.mean() < 3


def test_memory_is_a_byte_a_voxel_and_a_slab():
    slab = Slab(10, (300, 20, 20), 64, torch.device("cpu"))
    assert slab.out_PZYX.nbytes == 10 * 300 * 400
    assert slab.sum_PZYX.numel() * slab.sum_PZYX.element_size() == 10 * 64 * 400 * 2


def test_logits_of_another_size_are_refused(open_entry):
    class Coarse(Small):
        def ground(self, features, tokens_BPTE, token_mask_BPT):
            answer = super().ground(features, tokens_BPTE, token_mask_BPT)
            return Answer(answer.logits[1:], answer.presence_BP)

    with pytest.raises(ValueError, match="tile's"):
        predict(Coarse(), open_entry(PATCH), *tokens(1), CHANNELS, PATCH)


@pytest.mark.parametrize("change", [{"overlap": 1.0}, {"batch_tiles": 0}, {"phrase_chunk": 0}])
def test_bad_configurations_are_refused(change):
    with pytest.raises(ConfigError):
        PredictConfig(**change)
