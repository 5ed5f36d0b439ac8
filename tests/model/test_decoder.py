"""The decoder's way at inference on a CPU gives what training's gives."""

import pytest
import torch

from vol3d.model import decoder
from vol3d.model.decoder import ImageDecoder
from vol3d.model.encoder import EncoderConfig

CONFIG = EncoderConfig(features=(4, 6, 8), blocks=(1, 1, 1), strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
                       kernel_sizes=((3, 3, 3),) * 3)  # fmt: skip


@pytest.mark.parametrize("size", [(32, 32, 32), (40, 32, 48)])
def test_maps_that_are_not_joined_give_the_same_features(size, monkeypatch):
    torch.manual_seed(0)
    model = ImageDecoder(CONFIG).eval()
    skips = [torch.randn(2, n, *(s // 2**level for s in size)) for level, n in enumerate(CONFIG.features)]
    taken = []
    whole = decoder._unjoined
    monkeypatch.setattr(decoder, "_unjoined", lambda *maps: taken.append(maps[1].shape) or whole(*maps))
    joined = model(skips)
    assert not taken
    with torch.inference_mode():
        unjoined = model(skips)
    assert [tuple(shape[2:]) for shape in taken] == [size]  # only where it pays
    for one, other in zip(unjoined, joined, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
