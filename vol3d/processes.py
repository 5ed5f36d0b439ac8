"""Processes that do not outlive the one they work for."""

from __future__ import annotations

import os
import threading
import time

WATCH_S = 2.0
"""Seconds between two looks at whether it still lives."""


def end_with(pid: int) -> None:
    """Ends this process soon after that one.

    A worker started by a fork server has the server as its parent: it would wait for work for ever, a gigabyte large,
    after its pool's process was killed.
    """

    def watch() -> None:
        while True:
            time.sleep(WATCH_S)
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
