"""What `rayul watch` answers over HTTP: three addresses, none of which names a file, to who has the token.

The report's own policy lets it fetch nothing, so it stands in a frame of a page of the server's own, which asks for
the state and loads the report again. The loopback is open to all accounts of a machine, and rows are private:
so there is a token wherever the server listens. A name in `Host` that is not the server's own is refused: a web page
elsewhere could have let its own name point here (DNS rebinding).
"""

from __future__ import annotations

import gzip
import json
import secrets
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jinja2
from markupsafe import Markup

from rayul.background import beside
from rayul.errors import InputError
from rayul.report.watch import Watched

ASSETS = Path(__file__).parent / "assets"
COOKIE = "rayul-watch"
PORT = 8765
POLL = 2.0
"""Seconds between two questions of the page for the state."""

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Server(ThreadingHTTPServer):
    """Listens from the start; port 0 is any that is free. Raises OSError or OverflowError where it cannot."""

    daemon_threads = True

    def __init__(self, watched: Watched, host: str, port: int) -> None:
        self.watched, self.host, self.token = watched, host, secrets.token_urlsafe(24)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)

    @property
    def address(self) -> str:
        """What to open, token included."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.host in ("0.0.0.0", "::"):  # noqa: S104  every interface: the name is one that another machine knows
            host = socket.gethostname()
        return f"http://{host}:{self.server_address[1]}/?token={self.token}"

    def is_own(self, header: str) -> bool:
        """Whether a Host header names this server. An IP address does: no name can be made to point to it."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        if name in ("localhost", self.host.lower()):
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return not is_loopback(self.host) and name == socket.gethostname().lower()
        return address.is_loopback or not is_loopback(self.host)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):  # a browser that went away is no error
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "rayul", ""
    timeout = 30
    """Seconds that a client may take to say what it wants."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not self.server.is_own(self.headers.get("Host", "")):
            self._answer(421, "text/plain", "this server has another name: start it with --host NAME\n")
        elif not self._has_token(given := parse_qs(url.query).get("token", [""])[0]):
            self._answer(403, "text/plain", "open the address that rayul watch printed, with its token\n")
        elif url.path == "/":
            nonce = secrets.token_urlsafe(16)
            headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce)}
            if given:
                headers["Set-Cookie"] = f"{COOKIE}={given}; HttpOnly; SameSite=Strict; Path=/"
            self._answer(200, "text/html", _page(self.server.watched.name, nonce), headers)
        elif url.path == "/report":
            headers = {"Content-Security-Policy": "frame-ancestors 'self'"}
            self._answer(200, "text/html", self.server.watched.view().page, headers)
        elif url.path == "/state":
            view = self.server.watched.view()
            self._answer(200, "application/json", json.dumps({"version": view.version, "line": view.line}))
        else:
            self._answer(404, "text/plain", "there is nothing else here\n")

    do_HEAD = do_GET

    def _has_token(self, given: str) -> bool:
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        said = given or (cookie.value if cookie else "")
        return secrets.compare_digest(said.encode(), self.server.token.encode())

    def _answer(self, status: int, kind: str, text: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        body = text.encode()
        packed = "gzip" in self.headers.get("Accept-Encoding", "") and len(body) > 10_000
        if packed:  # the report has all of Plotly in it, and often goes through a tunnel
            body = gzip.compress(body, 1)
        self.send_response(status)
        for name, value in (_HEADERS | dict(headers)).items():
            self.send_header(name, value)
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: addresses have the token in them."""


_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; frame-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def _page(name: str, nonce: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined
    )
    script = Markup((ASSETS / "watch.js").read_text(encoding="utf-8"))
    return environment.get_template("watch.html.j2").render(name=name, nonce=nonce, every=POLL, script=script)


@contextmanager
def serving(watched: Watched, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Serve while the block runs; gives the address to open, token included. port: None for PORT, or any that is free
    where that is taken. Raises InputError for a host or port that cannot be listened on."""
    server = _listening(watched, host, port)

    def serve(over: threading.Event) -> None:
        server.serve_forever(poll_interval=0.2)

    try:
        with beside(serve):
            try:
                yield server.address
            finally:
                server.shutdown()
    finally:
        server.server_close()


def _listening(watched: Watched, host: str, port: int | None) -> Server:
    for wanted in (PORT, 0) if port is None else (port,):
        try:
            return Server(watched, host, wanted)
        except (OSError, OverflowError) as error:
            why = error
    raise InputError(f"cannot listen on {host}, port {wanted}: {why}", "choose another --host or --port") from why


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
