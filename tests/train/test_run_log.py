"""The rows of log.csv: means since the last row."""

import csv
import math
from pathlib import Path

from vol3d.train.run_log import RunLog


def test_a_row_is_the_mean_since_the_last_and_leaves_out_what_no_step_had(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        log.add({"loss": 1.0, "dice": math.nan})
        log.add({"loss": 2.0, "dice": 0.5})
        log.row(2)
        log.add({"loss": 0.1, "dice": math.nan})
        log.row(3)
    with (tmp_path / "log.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert rows[0] == {"step": 2, "loss": 1.5, "dice": 0.5}
    assert rows[1]["loss"] == 0.1
    assert math.isnan(rows[1]["dice"])
