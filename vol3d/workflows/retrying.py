"""Trying again what may pass: growing pauses, the same for sending and fetching."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from vol3d.errors import BusyError, NetworkError

log = logging.getLogger("vol3d")

Result = TypeVar("Result")


def retried(action: Callable[[int], Result], attempts: int, pause_s: float) -> Result:
    """``action(attempt)``, again after a `BusyError`; the pause doubles each time and is never quite the same.

    Raises:
        NetworkError: what cannot pass, or the last failure of `attempts`.
    """
    for attempt in range(1, attempts + 1):
        try:
            return action(attempt)
        except BusyError as error:
            if attempt == attempts:
                raise NetworkError(f"{error}; tried {attempts} times, run the command again to go on") from None
            wait_s = min(pause_s * 2 ** (attempt - 1), 60.0) * random.uniform(0.75, 1.25)
            log.warning("%s; trying again in %.1f s", error, wait_s)
            time.sleep(wait_s)
    raise NetworkError(f"expected at least one attempt, found {attempts}")
