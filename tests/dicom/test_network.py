"""URLs, credentials and the ledger; what needs a PACS is in tests/workflows/test_send.py."""

import http.server
import json
import threading

import pytest

from vol3d.dicom.ledger import Ledger
from vol3d.dicom.network import Secrets, application_entity, connect, parse_peer, safe_uid, secrets
from vol3d.errors import ConfigError, NetworkError


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://tester:secret@h/dicom-web", "no credentials in a URL"),
        ("https://tester@h/dicom-web", "no credentials in a URL"),
        ("dicom://PACS:secret@h:104", "no credentials in a URL"),
        ("dicom://h:104", "dicom://AET@host:port"),
        ("dicom://PACS@h", "dicom://AET@host:port"),
        ("dicom://PACS@h:port", "expected a URL"),
        ("dicom://AMUCHTOOLONGTITLE@h:1", "AE title of 1 to 16"),
        ("ftp://h/x", "begins with dicom, dicoms, https or http"),
        ("h:104", "begins with dicom"),
    ],
)
def test_urls_that_are_refused(url, fault):
    with pytest.raises(ConfigError, match=fault) as error:
        parse_peer(url)
    assert "secret" not in str(error.value)


def test_parts_of_a_url():
    peer = parse_peer("dicoms://PACS@pacs.hospital:2762")
    assert (peer.kind, peer.host, peer.port, peer.tls, peer.aet) == ("dimse", "pacs.hospital", 2762, True, "PACS")
    peer = parse_peer("https://pacs.hospital/a/dicom-web")
    assert (peer.kind, peer.port, peer.tls, peer.path) == ("web", 443, True, "/a/dicom-web")


def test_credentials_from_environment_and_file(tmp_path):
    file = tmp_path / "pacs.yaml"
    file.write_text("user: ann\npassword: hidden-word\n")
    with pytest.raises(ConfigError, match="chmod 600"):
        secrets({"VOL3D_PACS_CREDENTIALS": str(file)})
    file.chmod(0o600)
    found = secrets({"VOL3D_PACS_CREDENTIALS": str(file)})
    assert (found.user, found.password) == ("ann", "hidden-word")
    assert "hidden" not in repr(found)
    assert secrets({"VOL3D_PACS_CREDENTIALS": str(file), "VOL3D_PACS_USER": "bob"}).user == "bob"
    file.write_text("passwrod: hidden-word\n")
    with pytest.raises(ConfigError, match="user and password, or token") as error:
        secrets({"VOL3D_PACS_CREDENTIALS": str(file)})
    assert "hidden" not in str(error.value)
    with pytest.raises(ConfigError, match="VOL3D_PACS_CA, found nothing"):
        secrets({"VOL3D_PACS_CA": str(tmp_path / "none.pem")})


def test_a_file_that_is_no_certificate(tmp_path):
    (tmp_path / "ca.pem").write_text("words")
    with pytest.raises(ConfigError, match="expected PEM files"):
        secrets({"VOL3D_PACS_CA": str(tmp_path / "ca.pem")}).tls()


def test_passwords_do_not_travel_in_the_open():
    for url in ("http://pacs.hospital/dicom-web", "dicom://PACS@pacs.hospital:104"):
        with pytest.raises(ConfigError, match="expected TLS"):
            connect(parse_peer(url), Secrets(user="ann", password="x"))
        connect(parse_peer(url), Secrets(user="ann")).close()  # no password, no danger; nothing is opened yet


def test_names_that_peers_give():
    assert safe_uid("1.2.840.10008\0") == "1.2.840.10008"
    for bad in ("../../etc/passwd", "1.2/3", "", None, "1." * 40 + "1", "12"):
        with pytest.raises(NetworkError, match="expected UIDs"):
            safe_uid(bad)
    with pytest.raises(ConfigError):
        application_entity("a\\b")


def test_a_ledger_outlives_its_writer(tmp_path):
    path = tmp_path / "sent.jsonl"
    with Ledger(path, "dicom://A@h:1") as ledger:
        ledger.note("1.2", "sending", "aa")
        ledger.note("1.2", "sent", "aa", "warning B000H")
        ledger.note("1.3", "sending", "bb")
    with path.open("a") as file:
        file.write('{"to": "dicom://A@h:1", "uid": "1.3", "sta')  # killed here
    with Ledger(path, "dicom://A@h:1") as ledger:
        assert ledger.state("1.2") == ("sent", "aa")
        assert ledger.state("1.3") == ("sending", "bb")
        assert ledger.state("1.4") is None
        ledger.note("1.3", "sent", "bb")
        with pytest.raises(NetworkError, match="only sender"):
            Ledger(path, "dicom://A@h:1")
    with Ledger(path, "dicom://B@h:1") as ledger:
        assert ledger.state("1.2") is None
    assert json.loads(path.read_text().splitlines()[-1]) == {
        "to": "dicom://A@h:1", "uid": "1.3", "state": "sent", "sha256": "bb",
    }  # fmt: skip


def test_lines_of_a_ledger_that_say_nothing(tmp_path):
    (tmp_path / "sent.jsonl").write_text('[1]\nnull\n3\n{"to": "dicom://P@h:1", "uid": "1.2"}\nnothing\n')
    with Ledger(tmp_path / "sent.jsonl", "dicom://P@h:1") as ledger:
        assert ledger.state("1.2") is None


def test_what_stays_on_this_machine_is_for_no_proxy(monkeypatch):
    """A password may travel in plain to loopback alone; requests would hand it to the proxy of the environment."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        link = connect(parse_peer(f"http://127.0.0.1:{server.server_port}/x"), Secrets(user="ann", password="hidden"))
        assert link.find("1.2.3") == []
        server.shutdown()
