"""The audit's pages stand alone, show what they should, and decisions come back."""

import json
import logging
import os
import re

import numpy as np
import pytest

from vol3d.errors import Vol3dError
from vol3d.export.audit import ITEMS_A_PAGE, Item, picture, read_decisions, write_pages
from vol3d.geometry import Grid
from vol3d.volume import Volume


def item(number, **options):
    fields = {"id": f"id{number}", "mask": "m", "study_id": f"s-{number}", "sentence": "A <b>node</b> & more.",
              "phrase": "node", "facts": {"place": "left axilla"}}  # fmt: skip
    return Item(**{**fields, **options})


def test_a_page_needs_nothing_from_outside_and_escapes_what_reports_say(tmp_path):
    grid = Grid.from_spacing((8, 9, 10), (4.0, 4.0, 4.0))
    mask = np.zeros(grid.shape, bool)
    mask[3:5, 3:5, 3:5] = True
    png = picture(None, Volume(np.ones(grid.shape, np.float32), grid, "pet"), mask, "SUVmax 4.0")
    assert png.startswith(b"\x89PNG")
    shown = [item(1, png=png, verdict="accept"), item(2)]
    (page,) = write_pages(tmp_path, shown, [("s-3", "Mass <script>", "no slice")])
    text = page.read_text()
    assert "A &lt;b&gt;node&lt;/b&gt; &amp; more." in text
    assert "Mass &lt;script&gt;" in text
    assert "no slice" in text
    assert "data:image/png;base64," in text
    assert not re.search(r"(?:src|href)=.?https?:|@import|url\(", text)
    assert 'data-id="id1" data-mask="m" data-study="s-1" data-verdict="accept"' in text
    assert "{{" not in text


def test_many_labels_make_several_pages_and_a_shorter_run_removes_the_rest(tmp_path):
    items = [item(n) for n in range(ITEMS_A_PAGE + 1)]
    pages = write_pages(tmp_path, items, [("s", "t", "why not at all")])
    assert [p.name for p in pages] == ["index.html", "page-0002.html"]
    assert 'href="page-0002.html"' in pages[0].read_text()
    assert "why not at all" in pages[1].read_text()
    assert "why not at all" not in pages[0].read_text()
    write_pages(tmp_path, items[:1], [])
    assert not (tmp_path / "page-0002.html").exists()
    write_pages(tmp_path, [], [])
    assert "No sentence" in (tmp_path / "index.html").read_text()


def test_the_latest_decision_counts_whatever_the_names_of_files(tmp_path, caplog):
    """A browser calls the second download "decisions-0001 (1).jsonl", which sorts before the first."""
    caplog.set_level(logging.WARNING, "vol3d")
    line = {"id": "a", "mask": "1", "study_id": "s"}
    first, second = tmp_path / "decisions-0001.jsonl", tmp_path / "decisions-0001 (1).jsonl"
    early = {**line, "decision": "accept", "time": "2026-03-01T09:00:00.000Z"}
    late = {**line, "decision": "reject", "time": "2026-03-01T10:30:00.000+01:00"}  # 09:30 of the same clock
    first.write_text(json.dumps(early) + "\n" + json.dumps({**early, "id": "b"}))
    second.write_text(json.dumps(late))
    os.utime(second, (1, 1))  # the times in the lines decide, not the files'
    assert read_decisions(tmp_path)["a"].verdict == "reject"
    assert read_decisions(tmp_path)["b"].verdict == "accept"
    assert "contradict each other on 1 labels; the latest counts. Of label a, earliest first: " in caplog.text
    assert "decisions-0001.jsonl: accept, decisions-0001 (1).jsonl: reject" in caplog.text
    first.write_text(json.dumps({**late, "decision": "accept", "time": "2026-03-02T09:00:00Z"}))
    assert read_decisions(tmp_path)["a"].verdict == "accept"

    # without times, the files' times of change
    for path, said in ((first, "accept"), (second, "reject")):
        path.write_text(json.dumps({**line, "decision": said}))
    os.utime(first, (1000, 1000))
    os.utime(second, (2000, 2000))
    found = read_decisions(tmp_path)["a"]
    assert (found.verdict, found.time.timestamp()) == ("reject", 2000)
    os.utime(first, (3000, 3000))
    assert read_decisions(tmp_path)["a"].verdict == "accept"
    caplog.clear()
    second.write_text(json.dumps({**line, "decision": "accept"}))
    read_decisions(tmp_path)
    assert not caplog.text


def test_decisions_of_all_files_are_read_and_the_last_counts(tmp_path):
    line = {"id": "a", "mask": "1", "study_id": "s", "decision": "accept"}
    (tmp_path / "decisions-0001.jsonl").write_text(json.dumps(line) + "\n\n" + json.dumps({**line, "id": "b"}) + "\n")
    (tmp_path / "decisions-0002.jsonl").write_text(json.dumps({**line, "decision": "reject"}) + "\n")
    found = read_decisions(tmp_path)
    assert found["a"].verdict == "reject"
    assert found["b"].verdict == "accept"
    assert read_decisions(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"id": "a"}',
        '{"id": "a", "mask": "m", "decision": "maybe"}',
        "[1]",
        '{"id": "a", "mask": "m", "decision": "accept", "time": "2026-03-01T09:00:00"}',
        '{"id": "a", "mask": "m", "decision": "accept", "time": "yesterday"}',
    ],
)
def test_a_line_that_is_no_decision_is_named(tmp_path, line):
    (tmp_path / "decisions.jsonl").write_text(line + "\n")
    with pytest.raises(Vol3dError, match=r"decisions\.jsonl, line 1"):
        read_decisions(tmp_path)
