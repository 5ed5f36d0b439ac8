"""Keyed hashes: the same text has the same hash at one site, and nobody without the site's key can guess the text."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path


def keyed(text: str) -> str:
    """16 hex digits of HMAC-SHA256 under the site key."""
    return hmac.new(_site_key(), text.encode(), hashlib.sha256).hexdigest()[:16]


def _site_key() -> bytes:
    """VOL3D_SITE_KEY, else a random key made once in the user's own configuration folder, never in a cache."""
    if key := os.environ.get("VOL3D_SITE_KEY"):
        return key.encode()
    path = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "vol3d" / "site.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"site.key.{os.getpid()}")
        temporary.write_text(secrets.token_hex(32))
        temporary.chmod(0o600)
        with suppress(FileExistsError):  # another process was first: then its key is ours
            os.link(temporary, path)
        temporary.unlink()
    return path.read_text().strip().encode()
