"""`vol3d fetch`: one study from a PACS into a folder, a file an object, each whole or not there at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vol3d.dicom.network import UID, Instance, Link, connect, parse_peer, secrets
from vol3d.errors import BusyError, ConfigError, NetworkError
from vol3d.files import write_whole
from vol3d.progress import progress
from vol3d.workflows.retrying import retried


def fetch(
    source: str,
    study_uid: str,
    out: Path,
    *,
    listen: int | None = None,
    attempts: int = 5,
    pause_s: float = 1.0,
    show_progress: bool = True,
) -> tuple[int, int]:
    """Writes ``out/<series UID>/<instance UID>.dcm`` in the transfer syntax the PACS keeps.

    Args:
        source: URL of the peer (`vol3d.dicom.network.parse_peer`).
        study_uid: Study Instance UID.
        out: made if need be; what it holds already is not fetched again.
        listen: port to receive on, for C-MOVE in place of C-GET.
        attempts: while the peer is out of reach or busy.
        pause_s: before the second attempt; doubles.
        show_progress: a bar, or lines.

    Returns:
        How many objects were fetched, and how many were there already.

    Raises:
        ConfigError: no UID, or a URL or credentials that cannot be used.
        NetworkError: no such study there, or not all of it could be fetched.
    """
    if not UID.fullmatch(study_uid) or len(study_uid) > 64:
        raise ConfigError(f"expected a Study Instance UID of digits and dots, found {study_uid!r}")
    peer = parse_peer(source)
    link = connect(peer, secrets(), listen=listen)
    try:
        study = retried(lambda _: link.find(study_uid), attempts, pause_s)
        if not study:
            raise NetworkError(f"expected study {study_uid} at {peer}, found no object of it")
        paths = {i.uid: Path(out) / i.series_uid / f"{i.uid}.dcm" for i in study}
        kept = sum(path.exists() for path in paths.values())
        with progress("fetch", len(study), "objects", start=kept, enabled=show_progress) as advance:

            def keep(uid: str, content: bytes) -> None:
                paths[uid].parent.mkdir(parents=True, exist_ok=True)
                write_whole(paths[uid], content)
                advance()

            retried(lambda _: _get_missing(link, study, paths, keep), attempts, pause_s)
    finally:
        link.close()
    return len(study) - kept, kept


def _get_missing(link: Link, study: list[Instance], paths: dict[str, Path], keep: Callable[[str, bytes], None]) -> None:
    missing = [i for i in study if not paths[i.uid].exists()]
    if missing:
        link.get(missing, keep)
    left = sum(not path.exists() for path in paths.values())
    if left:
        raise BusyError(f"expected {len(study)} objects of the study, found {left} of them not delivered")
