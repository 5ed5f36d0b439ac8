"""A small server of one page, for this machine only.

It listens on 127.0.0.1, and its address holds a secret: another user of the machine, or a page open in the same
browser, cannot guess where the images are. Requests that name another host are refused (DNS rebinding).
"""

from __future__ import annotations

import secrets
import webbrowser
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from vol3d.errors import Vol3dError

HOST = "127.0.0.1"
_TYPES = {".html": "text/html; charset=utf-8", ".nii": "application/octet-stream"}


class PageServer(ThreadingHTTPServer):
    """Serves files held in memory below a secret path.

    Args:
        files: content by name; ``index.html`` is the page.
        port: 0 takes any free one.

    Raises:
        Vol3dError: the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, files: dict[str, bytes], port: int = 0) -> None:
        self.files, self.secret = files, secrets.token_urlsafe(16)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise Vol3dError(f"expected a free port, found {port} not to be had ({error}); use --port 0") from None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_address[1]}/{self.secret}/"

    def serve(self, browser: bool = False) -> None:
        """Answers until it is interrupted; opens the page in the default browser if asked."""
        if browser:
            webbrowser.open(self.url)
        with suppress(KeyboardInterrupt):  # the way it ends
            self.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A file, or 404 for anything else."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        prefix = f"/{self.server.secret}/"
        name = self.path.removeprefix(prefix) or "index.html"
        content = self.server.files.get(name)
        if content is None or not self.path.startswith(prefix) or host not in (HOST, "localhost"):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES.get(name[name.rfind(".") :], "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: the address is a secret."""
