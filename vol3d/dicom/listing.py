"""A list file: the files of one series, wherever they lie. Intake writes it, every reader of DICOM takes it as a path.

File and folder names of an archive often hold patient names. A list file gives each file an opaque name by its place
in the list, ``file-00017``, and messages about the series use that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from vol3d.errors import ReadError
from vol3d.files import write_whole

SUFFIX = ".series"


def write_listing(path: Path, folder: Path, files: Sequence[Path]) -> None:
    """Writes the names of `files`, relative to `folder`, to ``path``."""
    write_whole(path, json.dumps({"folder": str(folder), "files": [str(f.relative_to(folder)) for f in files]}))


def files_of(path: Path) -> list[Path]:
    """The files that `path` stands for: those of a list file, all below a folder, or the file itself.

    Raises:
        ReadError: a list file is damaged, or a file on it is gone.
    """
    if path.suffix == SUFFIX and path.is_file():
        return _listed(path)
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if not p.is_dir())


def without_names(text: str, path: Path) -> str:
    """`text` with the names of a list file's members replaced by their opaque ones; as it is for other paths.

    Names of up to four digits stay: they name nobody, and any count in a message would look like one.
    """
    if path.suffix != SUFFIX or not path.is_file():
        return text
    files = _listed(path, check=False)
    for number, file in sorted(enumerate(files), key=lambda item: -len(str(item[1]))):
        for name in (str(file), file.name):
            if name in text and not re.fullmatch(r"[0-9]{1,4}", name):
                text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", opaque(number), text)
    return text


def opaque(number: int) -> str:
    """What the `number`-th file of a list, from 0, is called in messages."""
    return f"file-{number:05d}"


def _listed(path: Path, check: bool = True) -> list[Path]:
    try:
        record = json.loads(path.read_text())
        files = [Path(record["folder"]) / name for name in record["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ReadError(f"expected a list of DICOM files, found {path.name} damaged; run the intake again") from error
    missing = [i for i, file in enumerate(files) if not file.is_file()] if check else []
    if missing:
        raise ReadError(
            f"expected the {len(files)} files of {path.name}, found {len(missing)} gone since the intake "
            f"({opaque(missing[0])} first); run the intake again"
        )
    return files
