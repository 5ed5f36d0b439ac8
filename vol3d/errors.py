"""One family of errors. Every message says what was expected, what was found and what to do about it.

A `Vol3dError` is the user's or the data's fault and is shown without a traceback. Anything else that escapes is ours.
"""

import traceback
from pathlib import Path


class Vol3dError(ValueError):
    """Base of every error a user can cause; the command line prints it as one message and exits with 1."""


class ConfigError(Vol3dError):
    """A configuration file or an override has an unknown key, a wrong type or values that contradict each other."""


class ManifestError(Vol3dError):
    """A manifest row is malformed, or names files that do not exist."""


class ReadError(Vol3dError):
    """An image file or series cannot be read as one volume."""


class GeometryError(ReadError):
    """The voxels do not lie on one regular orthogonal grid, or two grids that must agree do not."""


class UnitError(ReadError):
    """The stored numbers are not, and cannot be turned into, the physical unit we need (HU, SUVbw)."""


class CacheError(Vol3dError):
    """A cache entry is missing, broken, of another schema, or does not hold what was asked of it."""


class FingerprintError(CacheError):
    """A cache entry was made by another recipe, or from other source files, than the ones now named."""


class CheckpointError(Vol3dError):
    """A checkpoint is missing, incomplete or does not fit the model or the recipe."""


class ModelUnavailableError(Vol3dError):
    """A text model or tokenizer is not at its local path; the message says what to download where."""


class NetworkError(Vol3dError):
    """A PACS cannot be reached, does not let us in, or refuses an object."""


class BusyError(NetworkError):
    """A PACS did not answer, broke off, or has no room just now: worth another try."""


class RejectedError(NetworkError):
    """A PACS refuses one object; others may well be accepted."""


class NonFiniteError(Vol3dError):
    """The loss or the gradient is NaN or infinite on some rank; no rank has applied the update."""


class RankError(Vol3dError):
    """Another process of the same run is gone."""


class StoppedError(BaseException):
    """A signal asked the process to end before its work was done; the same command goes on from there.

    Like KeyboardInterrupt it is no Exception: whoever goes on after the fault of one study must not go on after this.
    """

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


def unforeseen(error: Exception) -> str:
    """The line about a study that failed in a way nobody foresaw, which must not end the thousands after it."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error} ({Path(at.filename).name}, line {at.lineno})"
    return f"not foreseen, please report: {what}"
