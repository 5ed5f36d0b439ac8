"""Fixtures for the whole suite: where the real data lies, quiet determinism, and a PACS of our own."""

import json
import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("VOL3D_SITE_KEY", "test-suite-key")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real CT and PET/CT, named by VOL3D_DATA."""
    if not os.environ.get("VOL3D_DATA"):
        pytest.skip("VOL3D_DATA is not set: the real data is needed for this test")
    return Path(os.environ["VOL3D_DATA"]).resolve(strict=True)


def missing(what: str) -> None:
    """A program of `make setup-system` is not there: a failure in CI, elsewhere a reason to skip."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing although this is CI: make setup-system installs it")
    pytest.skip(f"{what} is not installed: make setup-system")


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """The path of an installed program, by name."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            missing(name)
        assert found is not None
        return found

    return find


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc: plain with a password, or the same with TLS on both doors."""

    dicom: str
    web: str
    port: int
    user: str
    password: str
    ca: str
    certificate: str
    key: str
    mover: int
    """Port at which it believes our AE title VOL3D to listen."""

    def environment(self) -> dict[str, str]:
        """What our commands need to be let in."""
        names = {"USER": self.user, "PASSWORD": self.password, "CA": self.ca, "CERT": self.certificate, "KEY": self.key}
        return {f"VOL3D_PACS_{name}": value for name, value in names.items() if value}

    def rest(self, path: str, method: str = "GET") -> Any:
        """Orthanc's own interface, past all of our code."""
        answer = requests.request(
            method, self.web.removesuffix("/dicom-web") + path, auth=(self.user, self.password),
            verify=self.ca or True, timeout=30,
        )  # fmt: skip
        answer.raise_for_status()
        return answer.json() if "json" in answer.headers.get("Content-Type", "") else answer.content

    def stored(self) -> list[str]:
        """Orthanc's names of the instances it holds."""
        return self.rest("/instances")

    def clear(self) -> None:
        for patient in self.rest("/patients"):
            self.rest(f"/patients/{patient}", "DELETE")


@pytest.fixture(scope="session")
def orthanc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with _orthanc(tmp_path_factory.mktemp("orthanc"), tls=False) as server:
        yield server


@pytest.fixture(scope="session")
def orthanc_tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with _orthanc(tmp_path_factory.mktemp("orthanc-tls"), tls=True) as server:
        yield server


@pytest.fixture
def orthanc(orthanc_server: Orthanc, monkeypatch: pytest.MonkeyPatch) -> Orthanc:
    """An empty Orthanc on loopback, its password in the environment."""
    return _ready(orthanc_server, monkeypatch)


@pytest.fixture
def orthanc_tls(orthanc_tls_server: Orthanc, monkeypatch: pytest.MonkeyPatch) -> Orthanc:
    """The same with TLS."""
    return _ready(orthanc_tls_server, monkeypatch)


def _ready(server: Orthanc, monkeypatch: pytest.MonkeyPatch) -> Orthanc:
    for name in ("USER", "PASSWORD", "TOKEN", "CREDENTIALS", "CA", "CERT", "KEY"):
        monkeypatch.delenv(f"VOL3D_PACS_{name}", raising=False)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    server.clear()
    return server


@contextmanager
def _orthanc(folder: Path, tls: bool) -> Iterator[Orthanc]:
    program = shutil.which("Orthanc", path=os.environ.get("PATH", "") + ":/usr/sbin")
    plugin = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
    if program is None or not plugin.exists():
        missing("Orthanc or its DICOMweb plugin")
    assert program is not None
    http, dicom, mover = _free_ports(3)
    user, password = "tester", "correct horse"
    files = _certificates(folder) if tls else {"ca": "", "cert": "", "key": ""}
    settings = {
        "Name": "test", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
        "Plugins": [str(plugin)], "HttpPort": http, "DicomPort": dicom, "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": True, "RemoteAccessAllowed": False, "AuthenticationEnabled": True,
        "RegisteredUsers": {user: password}, "DicomAlwaysAllowFind": True, "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True, "DicomModalities": {"vol3d": ["VOL3D", "127.0.0.1", mover]},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Ssl": tls}, "DicomTlsEnabled": tls,
        "DicomTlsCertificate": files["cert"], "DicomTlsPrivateKey": files["key"],
        "DicomTlsTrustedCertificates": files["ca"],
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=log)
    front = _TlsFront(http, files["cert"], files["key"]) if tls else None
    scheme, http = ("s", front.server_address[1]) if front else ("", http)
    server = Orthanc(
        f"dicom{scheme}://ORTHANC@127.0.0.1:{dicom}", f"http{scheme}://127.0.0.1:{http}/dicom-web", dicom,
        user, password, files["ca"], files["cert"], files["key"], mover,
    )  # fmt: skip
    try:
        _wait(server, process, folder / "log")
        yield server
    finally:
        process.kill()  # it takes seconds to end in peace, and nothing of it is kept
        process.wait(30)
        if front:
            front.shutdown()
            front.server_close()


class _TlsFront(socketserver.ThreadingTCPServer):
    """TLS before Orthanc's HTTP, as a reverse proxy would do it: Debian's Orthanc 1.10.1 dies of an HTTPS request."""

    daemon_threads = True

    def __init__(self, upstream: int, certificate: str, key: str) -> None:
        self.upstream = upstream
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(certificate, key)
        super().__init__(("127.0.0.1", 0), _Forward)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Forward(socketserver.BaseRequestHandler):
    server: _TlsFront

    def handle(self) -> None:
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self.server.upstream)) as inner,
            self.server.context.wrap_socket(self.request, server_side=True) as outer,
        ):
            back = threading.Thread(target=_pump, args=(inner, outer), daemon=True)
            back.start()
            _pump(outer, inner)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _wait(server: Orthanc, process: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        try:
            server.rest("/system")
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
            return
        except OSError:  # of requests, too
            if process.poll() is not None:
                break
            time.sleep(0.1)
    pytest.fail(f"Orthanc did not start: {log.read_text()[-2000:]}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _certificates(folder: Path) -> dict[str, str]:
    """An authority and a certificate of 127.0.0.1 signed by it, used at both ends."""
    ca, ca_key, cert, key, request = (str(folder / n) for n in ("ca.pem", "ca.key", "cert.pem", "cert.key", "cert.csr"))
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    fresh = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj"]
    for command in (
        [*fresh, "/CN=test authority", "-x509", "-days", "2", "-keyout", ca_key, "-out", ca],
        [*fresh, "/CN=127.0.0.1", "-keyout", key, "-out", request],
        ["openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
         "-extfile", str(folder / "san"), "-out", cert],
    ):  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
    return {"ca": ca, "cert": cert, "key": key}
