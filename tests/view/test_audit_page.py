"""The audit's page in Chromium: what it saves says when each decision was made, and the later one is shown."""

import json
from datetime import UTC, datetime, timedelta

from vol3d.export.audit import Item, read_decisions, write_pages


def item(verdict=None, time=None):
    return Item(id="id1", mask="m", study_id="s", sentence="A node.", phrase="node", verdict=verdict, time=time)


def saved(tab):
    """The lines that a click on "save" would write."""
    tab.run("URL.createObjectURL = blob => { window.made = blob; return '#'; }")
    tab.click("#save")
    return [json.loads(line) for line in tab.run("window.made.text()").splitlines()]


def test_decisions_carry_their_times_and_the_later_one_is_shown(new_tab, tmp_path):
    tab = new_tab()
    (page,) = write_pages(tmp_path, [item()], [])

    def open_page():
        tab.go(page.as_uri(), "document.getElementById('tally')?.textContent")
        return tab.run("document.querySelector('article').dataset.verdict")

    assert open_page() == ""
    before = datetime.now(UTC) - timedelta(seconds=1)
    tab.click("[data-say=accept]")
    (line,) = saved(tab)
    assert line["decision"] == "accept"
    assert before < datetime.fromisoformat(line["time"]) < datetime.now(UTC) + timedelta(seconds=1)
    (tmp_path / "decisions-0001.jsonl").write_text(json.dumps(line))
    told = read_decisions(tmp_path)["id1"]
    assert (told.verdict, told.time) == ("accept", datetime.fromisoformat(line["time"]))

    # the browser remembers its own; a colleague's later decision of the files is shown instead, an earlier one is not
    write_pages(tmp_path, [item("reject", told.time + timedelta(hours=1))], [])
    assert open_page() == "reject"
    assert datetime.fromisoformat(saved(tab)[0]["time"]) == told.time + timedelta(hours=1)
    write_pages(tmp_path, [item("reject", told.time - timedelta(hours=1))], [])
    assert open_page() == "accept"
    assert saved(tab) == [line]
    assert tab.console == []
