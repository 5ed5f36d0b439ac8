"""A PACS by its URL: where it is, how we are let in, and what every kind of link to it can do.

``dicom://AET@host:port`` and, with TLS, ``dicoms://AET@host:port`` are DIMSE (PS3.7); ``https://host/dicom-web`` is
DICOMweb (PS3.18). Credentials come from the environment or a file, never from a URL or an option, and are never logged.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

import yaml

from vol3d.errors import ConfigError, NetworkError

UID = re.compile(r"[0-9]+(\.[0-9]+)+")
"""PS3.5 9.1; at most 64 characters. Safe as a file name."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Secrets:
    """How we are let in. Nothing of it is shown by repr."""

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    """Bearer token, DICOMweb only."""
    ca: str = field(default="", repr=False)
    """PEM file of the authority that signed the peer's certificate; empty: the system's authorities."""
    certificate: str = field(default="", repr=False)
    """PEM file of our own certificate, where the peer asks for one, and its key."""
    key: str = field(default="", repr=False)

    def tls(self) -> ssl.SSLContext:
        """A context that always checks the peer's certificate and name.

        Raises:
            ConfigError: a file of certificates or keys cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key or None)
        except OSError as error:  # SSLError among them
            raise ConfigError(f"expected PEM files in VOL3D_PACS_CA, _CERT and _KEY, found {error}") from None
        return context


@dataclass(frozen=True)
class Peer:
    """A PACS."""

    kind: Literal["dimse", "web"]
    host: str
    port: int
    tls: bool
    aet: str = ""
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "dimse":
            return f"dicom{'s' if self.tls else ''}://{self.aet}@{self.host}:{self.port}"
        return f"http{'s' if self.tls else ''}://{self.host}:{self.port}{self.path}"


@dataclass(frozen=True)
class Instance:
    """One DICOM object, here or there."""

    study_uid: str
    series_uid: str
    uid: str
    sop_class: str = ""
    syntax: str = ""
    path: Path | None = None
    """Where it lies here."""


class Link(Protocol):
    """What we ask of a PACS. Every method raises `BusyError` for what may pass, else `NetworkError`."""

    def store(self, instance: Instance) -> str:
        """Sends one object and checks the answer; returns the peer's warning, if any, else an empty text."""

    def holds(self, instance: Instance) -> bool | None:
        """Whether the peer has the object; None if it does not say."""

    def find(self, study_uid: str) -> list[Instance]:
        """All objects of a study."""

    def get(self, wanted: Sequence[Instance], keep: Callable[[str, bytes], None]) -> None:
        """Hands every wanted object, as a whole file, to ``keep(uid, content)``."""

    def close(self) -> None:
        """Ends the link."""


def parse_peer(url: str) -> Peer:
    """The PACS that a URL names.

    Raises:
        ConfigError: not one of the forms above, or it holds a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"expected a URL such as dicom://PACS@host:104, found {error}") from None
    if parts.password is not None or (parts.scheme in ("http", "https") and parts.username is not None):
        raise ConfigError("expected no credentials in a URL: set VOL3D_PACS_USER and VOL3D_PACS_PASSWORD instead")
    tls = parts.scheme in ("dicoms", "https")
    if parts.scheme in ("dicom", "dicoms"):
        if not (parts.username and parts.hostname and port) or parts.path not in ("", "/"):
            raise ConfigError(f"expected {parts.scheme}://AET@host:port, found {url}")
        return Peer("dimse", parts.hostname, port, tls, aet=application_entity(parts.username))
    if parts.scheme in ("http", "https") and parts.hostname:
        return Peer("web", parts.hostname, port or (443 if tls else 80), tls, path=parts.path.rstrip("/"))
    raise ConfigError(f"expected a URL that begins with dicom, dicoms, https or http, found {parts.scheme or url!r}")


def application_entity(title: str) -> str:
    """An AE title: at most 16 printable characters, no backslash (PS3.5 6.2)."""
    if not 1 <= len(title.strip()) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise ConfigError(f"expected an AE title of 1 to 16 ASCII characters, found {title!r}")
    return title.strip()


def secrets(environment: dict[str, str] | None = None) -> Secrets:
    """What ``VOL3D_PACS_{USER,PASSWORD,TOKEN,CA,CERT,KEY}`` say; the first three also from the YAML file that
    ``VOL3D_PACS_CREDENTIALS`` names (keys user, password, token), which nobody else may read.

    Raises:
        ConfigError: the file is missing, readable by others, or has other keys.
    """
    env = dict(os.environ) if environment is None else environment
    stored = _credentials_file(env["VOL3D_PACS_CREDENTIALS"]) if env.get("VOL3D_PACS_CREDENTIALS") else {}
    found = Secrets(
        user=env.get("VOL3D_PACS_USER") or stored.get("user", ""),
        password=env.get("VOL3D_PACS_PASSWORD") or stored.get("password", ""),
        token=env.get("VOL3D_PACS_TOKEN") or stored.get("token", ""),
        ca=env.get("VOL3D_PACS_CA", ""),
        certificate=env.get("VOL3D_PACS_CERT", ""),
        key=env.get("VOL3D_PACS_KEY", ""),
    )
    for name, path in (("CA", found.ca), ("CERT", found.certificate), ("KEY", found.key)):
        if path and not Path(path).is_file():
            raise ConfigError(f"expected a PEM file in VOL3D_PACS_{name}, found nothing at {path}")
    return found


def connect(peer: Peer, access: Secrets, *, instances: Iterable[Instance] = (), listen: int | None = None) -> Link:
    """A link to `peer`; our own AE title is ``VOL3D_AET``, else VOL3D.

    Args:
        peer: where.
        access: how we are let in.
        instances: those that will be sent: DIMSE negotiates their kinds beforehand.
        listen: port to receive on, for C-MOVE in place of C-GET.

    Raises:
        ConfigError: credentials would travel unencrypted to another machine.
    """
    own = application_entity(os.environ.get("VOL3D_AET") or "VOL3D")
    if (access.password or access.token) and not peer.tls and peer.host not in LOOPBACK:
        raise ConfigError(f"expected TLS (https or dicoms) where a password is sent, found {peer}")
    if peer.kind == "web":
        if listen is not None:
            raise ConfigError(f"expected --listen with dicom:// or dicoms://, found {peer}")
        from vol3d.dicom.dicomweb import WebLink

        return WebLink(peer, access)
    from vol3d.dicom.dimse import DimseLink

    return DimseLink(peer, access, own, instances, listen)


def safe_uid(value: object) -> str:
    """A UID that a peer named, fit to be a file name.

    Raises:
        NetworkError: it is none.
    """
    text = str(value or "").strip("\0 ")
    if not UID.fullmatch(text) or len(text) > 64:
        raise NetworkError("expected UIDs of digits and dots from the PACS, found another text")
    return text


def _credentials_file(path: str) -> dict[str, str]:
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"expected a file of credentials in VOL3D_PACS_CREDENTIALS, found nothing at {path}")
    if file.stat().st_mode & 0o077:
        raise ConfigError(f"expected {path} to be readable by its owner alone, found others let in; chmod 600 {path}")
    try:
        record = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        record = None  # its text stays out of the message
    if not isinstance(record, dict) or set(record) - {"user", "password", "token"}:
        raise ConfigError(f"expected YAML with user and password, or token, in {path}, found something else")
    return {key: str(value) for key, value in record.items()}
