"""The server is for this machine and for who knows the address."""

import http.client
import threading

import pytest

from vol3d.errors import Vol3dError
from vol3d.view.server import PageServer


@pytest.fixture
def server():
    with PageServer({"index.html": b"<p>page</p>", "volumes/ct.nii": b"\x00" * 1000}) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def get(server, path, host="127.0.0.1"):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def test_the_page_and_its_volumes_lie_below_a_secret(server):
    status, content, headers = get(server, f"/{server.secret}/")
    assert (status, content) == (200, b"<p>page</p>")
    assert headers["Content-Type"].startswith("text/html")
    assert headers["Cache-Control"] == "no-store"
    status, content, _ = get(server, f"/{server.secret}/volumes/ct.nii")
    assert (status, len(content)) == (200, 1000)
    assert len(server.secret) >= 20
    assert server.url == f"http://127.0.0.1:{server.server_address[1]}/{server.secret}/"


@pytest.mark.parametrize(
    "path", ["/", "/index.html", "/volumes/ct.nii", "/x/volumes/ct.nii", "/{secret}/../etc/passwd"]
)
def test_nothing_else_is_there(server, path):
    assert get(server, path.replace("{secret}", server.secret))[0] == 404


def test_another_host_name_is_refused(server):
    """DNS rebinding: a page of another name that resolves to this machine."""
    assert get(server, f"/{server.secret}/", host="evil.example:80")[0] == 404
    assert get(server, f"/{server.secret}/", host="localhost")[0] == 200


def test_it_listens_on_this_machine_only_and_a_taken_port_is_named(server):
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(Vol3dError, match=f"found {server.server_address[1]} not to be had"):
        PageServer({}, server.server_address[1])
