"""The page: one HTML with style, script, NiiVue and record inside; volumes inside too, or beside it on a server."""

from __future__ import annotations

import base64
import gzip
import hashlib
from html import escape
from importlib.resources import files

from vol3d.files import json_text
from vol3d.view.bundle import licence_text, niivue_script
from vol3d.view.scene import Rendered

GZIP_LEVEL = 6

_SCRIPTS = ("stage.js", "mip.js", "panels.js", "page.js")
"""One module when put together, in this order, after NiiVue."""


def served_page(rendered: Rendered) -> str:
    """The page for a server that has the volumes at ``volumes/<name>`` below the page's address.

    Raises:
        BundleError: NiiVue is not installed.
    """
    return _page(rendered, {})


def static_page(rendered: Rendered) -> str:
    """One file that needs nothing but a browser: volumes are packed (gzip, without loss) into it.

    Raises:
        BundleError: NiiVue is not installed.
    """
    packed = {name: gzip.compress(data, GZIP_LEVEL, mtime=0) for name, data in rendered.volumes.items()}
    return _page(rendered, {name: base64.b64encode(data).decode() for name, data in packed.items()})


def _page(rendered: Rendered, inline: dict[str, str]) -> str:
    parts = files("vol3d.view") / "static"
    texts = {name: (parts / name).read_text(encoding="utf-8") for name in ("page.html", "style.css", *_SCRIPTS)}
    record = json_text(rendered.record).replace("<", "\\u003c")
    script = _script("\n".join([niivue_script(), *(texts[name] for name in _SCRIPTS)]))
    nonce = hashlib.sha256(f"{record}{script}".encode()).hexdigest()[:32]
    volumes = "\n".join(
        f'<script type="text/plain" data-volume="{escape(name)}">{data}</script>' for name, data in inline.items()
    )
    values = {
        "TITLE": escape(str(rendered.record["study_id"])),
        "LICENCE": escape(licence_text()).replace("--", "- -"),
        "NONCE": nonce,
        "STYLE": texts["style.css"],
        "RECORD": record,
        "VOLUMES": volumes,
        "SCRIPT": script,
    }
    head, *rest = texts["page.html"].split("{{")
    pieces = [head]
    for part in rest:  # one pass over the template: what is put in is never searched for marks again
        name, _, after = part.partition("}}")
        pieces += [values[name], after]
    return "".join(pieces)


def _script(text: str) -> str:
    """A script that can stand inside HTML: nothing in it ends the element or opens a comment.

    In strings, templates and regular expressions, the only places where NiiVue or we could write these, a backslash
    before the letter or the sign changes nothing.
    """
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
