"""What a long command says of itself where there is no terminal."""

import logging

from vol3d import progress as module
from vol3d.progress import progress, within


def test_a_bar_tells_how_far_its_present_item_is(caplog, monkeypatch):
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO, "vol3d"), progress("segment", 2, "studies") as advance:
        tell = within("tiles")
        tell(3, 8)
        advance()
        tell(8, 8)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("segment 0/2")
    assert lines[0].endswith("ETA unknown  tiles 3/8")
    assert lines[1].startswith("segment 1/2")
    assert lines[2].endswith("tiles 8/8")


def test_outside_a_bar_nothing_is_told(caplog):
    with progress("segment", 1, "studies", enabled=False):
        within("tiles")(1, 2)
    within("tiles")(1, 2)
    assert not caplog.records
