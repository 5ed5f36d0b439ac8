"""What parts of a run's configuration say of each other."""

import importlib.util
from pathlib import Path

import pytest

from vol3d.config import from_tree, to_tree
from vol3d.errors import ConfigError
from vol3d.train.run_config import RunConfig

_spec = importlib.util.spec_from_file_location("loop_job", Path(__file__).with_name("loop_job.py"))
job = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(job)


def changed(**values):
    """The tiny run with values given as section__key."""
    tree = to_tree(job.config())
    for name, value in values.items():
        *sections, key = name.split("__")
        part = tree
        for section in sections:
            part = part[section]
        part[key] = value
    return from_tree(RunConfig, tree, "test")


def test_proposals_are_asked_for_with_all_they_need():
    everything = {"model__proposals": True, "task__proposal_weight": 1.0, "data__findings_apart": True}
    assert changed(**everything).model.proposals
    with pytest.raises(
        ConfigError, match=r"all together or none, found model\.proposals without task\.proposal_weight"
    ):
        changed(**{**everything, "task__proposal_weight": 0.0})
    with pytest.raises(ConfigError, match=r"expected data\.findings_apart"):
        changed(**{**everything, "data__findings_apart": False})
