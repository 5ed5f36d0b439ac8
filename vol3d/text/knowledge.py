"""What a finding is called and what it looks like: labels without a report become texts.

The vocabulary is data (`vocabulary/knowledge.yaml`): for each finding its plain name first, then other words for it and
its appearance. A name that is not in it is spelt out: ``left_adrenal_nodule`` is "left adrenal nodule".
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import yaml

from vol3d.errors import ConfigError

ORGAN_NAMES: dict[str, str] = {
    "lung": "lungs", "pleura": "pleura", "airways": "airways", "pericardium": "pericardium",
    "coronary_arteries": "coronary arteries", "heart": "heart", "aorta": "aorta", "mediastinum": "mediastinum",
    "esophagus": "oesophagus", "thyroid": "thyroid gland", "breast": "breasts", "axilla": "axilla and neck",
    "liver": "liver", "gallbladder": "gallbladder and bile ducts", "spleen": "spleen", "pancreas": "pancreas",
    "adrenal": "adrenal glands", "kidney": "kidneys", "bladder": "urinary bladder", "bowel": "bowel",
    "pelvis": "pelvic organs", "peritoneum": "peritoneum", "bone": "bones and spine", "soft_tissue": "soft tissues",
}  # fmt: skip
"""Organ sections of a report (`vocabulary/places.yaml`) as texts by which an image is asked about each."""


def finding_texts(name: str) -> tuple[str, ...]:
    """Phrases for a finding by its name, the plainest first.

    Raises:
        ConfigError: the name holds no letters.
    """
    known = _table().get(name)
    if known is not None:
        return known
    words = " ".join(name.replace("_", " ").split())
    if not any(c.isalpha() for c in words):
        raise ConfigError(f"expected a finding's name such as pleural_effusion, found {name!r}; correct the labels")
    return (words,)


def prompts(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Positive and negative prompts of a finding, for a zero-shot margin: as many of each, in the same order."""
    texts = finding_texts(name)
    return texts, tuple(f"no {text}" for text in texts)


@cache
def _table() -> dict[str, tuple[str, ...]]:
    table = yaml.safe_load((files("vol3d.text") / "vocabulary" / "knowledge.yaml").read_text())
    return {name: tuple(texts) for name, texts in table.items()}
