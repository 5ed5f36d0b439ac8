"""Which channel of an nnU-Net data set is the CT and which the PET, by the names that ``dataset.json`` gives them."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from preprocessing.sources.common import mapping, whole
from vol3d.errors import ManifestError

_WORDS = {"ct": ("ct", "computed"), "pet": ("pet", "pt", "suv", "suvbw")}
_BOTH = ("petct", "ctpet")
_OTHER_UNITS = ("lbm", "bsa", "ibw", "sul", "suvlbm", "suvbsa", "suvibw", "bq", "kbq", "mbq", "bqml", "cps", "cnts")
_CAPITALS_FIRST = re.compile(r"[A-Z]{2,}|[A-Z]?[a-z]+|[A-Z]")  # CTres, SUVbw
_CAMEL_CASE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # CTPortal, FdgPet

log = logging.getLogger("vol3d")


def channels(folder: Path, dataset: dict[str, Any]) -> dict[str, str]:
    """Which four-digit channel holds ``ct`` and which ``pet``; names that are neither are told.

    Raises:
        ManifestError: none, two of one kind, a name that says both, a PET in other units than SUVbw.
    """
    where = folder / "dataset.json"
    names = mapping(dataset, "channel_names", where) or mapping(dataset, "modality", where)
    out: dict[str, str] = {}
    unread: list[str] = []
    for key, name in names.items():
        image = _kind(str(name), where)
        if image is None:
            unread.append(str(name))
        elif image in out:
            raise ManifestError(
                f"{where}: expected one channel of CT and one of PET, found {names}; name the PET's PET, and a "
                f"channel that is not to be read otherwise"
            )
        else:
            out[image] = f"{whole(key, where, 'the number of a channel'):04d}"
    if not out:
        raise ManifestError(
            f"{where}: expected a channel named CT or PET, found {names or 'no channel_names'}; other images are not "
            f"read"
        )
    if unread:
        log.warning(
            "nnunet: channels that are not read, since their names say neither CT nor PET: %s; rename them in %s if "
            "they are one", ", ".join(map(repr, unread)), where,
        )  # fmt: skip
    return out


def words(name: str) -> set[str]:
    """Words of a name in lower case: it is cut at whatever is no letter and where capitals end or begin."""
    return {word.lower() for pattern in (_CAPITALS_FIRST, _CAMEL_CASE) for word in pattern.findall(name)}


def _kind(name: str, where: Path) -> str | None:
    found = words(name)
    kinds = [image for image, those in _WORDS.items() if found & {*those, *_BOTH}]
    if len(kinds) > 1:
        raise ManifestError(
            f"{where}: expected a channel named CT or PET, found {name!r}, which says both; name it by what its "
            f"voxels hold"
        )
    if kinds == ["pet"] and (units := found & set(_OTHER_UNITS)):
        raise ManifestError(
            f"{where}: expected the PET in SUVbw, found the channel {name!r} ({', '.join(sorted(units))}); convert it"
        )
    return kinds[0] if kinds else None
