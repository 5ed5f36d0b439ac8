import json
import re

import pytest

from vol3d.workflows.demo import run_demo


@pytest.mark.slow
def test_the_demo_writes_what_its_page_shows(tmp_path, tiny):
    overrides = tuple(v for v in tiny.settings if v != "--set")
    lines = []
    run_demo(tmp_path, overrides=overrides, studies=12, echo=lines.append)
    page = (tmp_path / "index.html").read_text()
    pictures = re.findall(r"src='([^']+)'", page)
    assert len(pictures) >= 3
    for picture in pictures:
        assert (tmp_path / picture).read_bytes()[:4] == b"\x89PNG"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["minutes"] > 0
    assert metrics["probes"]["organ"] > 0
    assert str(tmp_path / "index.html") in "\n".join(lines)
    run_demo(tmp_path, overrides=overrides, studies=12, echo=lines.append)  # again: what is done is kept
    for study in (tmp_path / "masks").iterdir():
        answers = json.loads((study / "segmentation.json").read_text())["answers"]
        assert all((study / a["file"]).exists() for a in answers)
        for answer in answers:
            assert f"<td>{answer['prompt']}</td>" in page
