"""NiiVue, the WebGL viewer that draws the page: found on this machine, never fetched.

It comes inside the Python package ``ipyniivue`` (the extra ``view``), so that pip, a mirror of its packages or a folder
of wheels is all that a site without internet needs. The package's script is a Jupyter widget that holds all of NiiVue;
of it we take the class alone. Its name there is a minifier's, hence the one pinned version. ``VOL3D_NIIVUE`` names
another file instead: NiiVue's own ES module.
"""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path

from vol3d.errors import Vol3dError

PACKAGE, VERSION = "ipyniivue", "2.4.4"
VARIABLE = "VOL3D_NIIVUE"

_IN_WIDGET = re.compile(r"\"Creating new Niivue instance\"\);.{0,200}?=\s*new\s+([\w$]+)\(", re.S)
_EXPORTS = re.compile(r"export\s*\{([^{}]*)\};?\s*(//# sourceMappingURL=\S*\s*)?$")
_EXPORTED = re.compile(r"([\w$]+)\s+as\s+Niivue\b|\b(Niivue)\b(?!\s+as)")


class BundleError(Vol3dError):
    """NiiVue is not installed, or not as we know it."""


def niivue_script() -> str:
    """NiiVue as the text of a script of type ``module`` that leaves its class at ``globalThis.Niivue``.

    Raises:
        BundleError: it is not there, or is another version than the one we know; the message says what to install.
    """
    if named := os.environ.get(VARIABLE):
        return _from_file(Path(named))
    return _from_widget(_widget())


def licence_text() -> str:
    """The licence that goes with every copy of NiiVue (BSD-2-Clause); empty for a file named by ``VOL3D_NIIVUE``."""
    if os.environ.get(VARIABLE):
        return ""
    found = [p for p in metadata.files(PACKAGE) or () if p.name.upper().startswith("LICENSE")]
    return "\n".join(Path(str(p.locate())).read_text(encoding="utf-8") for p in found)


def _widget() -> str:
    try:
        found = metadata.version(PACKAGE)
        files = metadata.files(PACKAGE) or ()
    except metadata.PackageNotFoundError:
        raise BundleError(
            f"expected NiiVue from the package {PACKAGE}, found none: pip install 'vol3d[view]' "
            f"(or pip install --no-deps {PACKAGE}=={VERSION}); or name NiiVue's ES module in {VARIABLE}"
        ) from None
    path = next((Path(str(p.locate())) for p in files if p.name == "widget.js"), None)
    if found != VERSION or path is None or not path.is_file():
        raise BundleError(
            f"expected {PACKAGE} {VERSION} with its widget.js, found {found}{'' if path else ' without it'}: "
            f"pip install --no-deps {PACKAGE}=={VERSION}"
        )
    return path.read_text(encoding="utf-8")


def _from_widget(script: str) -> str:
    """The widget's last statement exports the widget; what is wanted is the class it makes instances of."""
    name, exports = _IN_WIDGET.search(script), _EXPORTS.search(script)
    if name is None or exports is None:
        raise BundleError(
            f"expected NiiVue's class in the widget of {PACKAGE}, found no statement that makes it: "
            f"pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"
        )
    return f"{script[: exports.start()]}globalThis.Niivue={name.group(1)};"


def _from_file(path: Path) -> str:
    try:
        script = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"expected NiiVue's ES module at {VARIABLE}={path}, found none: {error}") from None
    exports = _EXPORTS.search(script)
    name = exports and _EXPORTED.search(exports.group(1))
    if not (exports and name):
        raise BundleError(
            f"expected an ES module that ends in an export of Niivue at {VARIABLE}={path}, found none; NiiVue's own "
            f"package holds one as dist/index.js"
        )
    return f"{script[: exports.start()]}globalThis.Niivue={name.group(1) or name.group(2)};"
