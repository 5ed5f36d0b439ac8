"""What was sent where: a file of JSON lines that outlives the death of the sender at any moment.

A line is on the disk before an object leaves (``sending``) and another once the peer has confirmed it (``sent``). An
object with the first alone may have arrived: the peer is asked before it is sent again. UIDs only; no patient.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Literal

from vol3d.errors import NetworkError

NAME = "sent.jsonl"

State = Literal["sending", "sent"]


class Ledger:
    """The ledger of one folder for one peer; one sender at a time.

    Raises:
        NetworkError: another process is sending from this folder.
    """

    def __init__(self, path: Path, peer: str) -> None:
        self._peer = peer
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise NetworkError(f"expected to be the only sender of {path.parent}, found another one at work") from None
        self._states: dict[str, tuple[State, str]] = {}
        self._file.seek(0)
        content = self._file.read()
        for line in content.split(b"\n"):
            self._take(line)
        if content and not content.endswith(b"\n"):
            self._file.write(b"\n")  # a line that its writer did not live to finish

    def state(self, uid: str) -> tuple[State, str] | None:
        """Last known state of an object at this peer, and the SHA-256 of the file it was sent from."""
        return self._states.get(uid)

    def note(self, uid: str, state: State, digest: str, remark: str = "") -> None:
        """Writes a line and waits until it is on the disk."""
        record = {"to": self._peer, "uid": uid, "state": state, "sha256": digest}
        self._file.write(json.dumps(record | ({"remark": remark} if remark else {})).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._states[uid] = (state, digest)

    def _take(self, line: bytes) -> None:
        try:
            record = json.loads(line) if line.strip() else {}
        except ValueError:
            return  # torn by a kill: what it would have said counts as not said
        if isinstance(record, dict) and record.get("to") == self._peer and {"uid", "state", "sha256"} <= set(record):
            self._states[str(record["uid"])] = (record["state"], str(record["sha256"]))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
