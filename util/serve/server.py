"""An HTTP server for one page and what it asks for, on a thread of its own: who may ask, how much, and how long it may take.

    without a token   requests must name a loopback host, so that no other site's name can be made to lead here (DNS rebinding)
    with a token      requests must bring it: ?token=… once, which leaves a cookie, or as Authorization: Bearer …
    both              requests that come from another origin's page are refused
"""
import asyncio
import base64
import contextlib
import errno
import hashlib
import hmac
import logging
import os
import re
import secrets
import socket
import stat
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from util.cli import is_loopback
from util.errors import InputError, say

CLIENTS = 64  # connections at a time; more are closed at once
TIMEOUT = 30.0  # seconds that a connection may take from one complete answer to the end of the next
MAX_SENT = 1 << 16  # bytes of what a client sends
TOKEN, SHORTEST = "FASTMCD_TOKEN", 16  # the environment's variable; characters that a token has at least
HEADERS = {
    "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Content-Security-Policy": "default-src 'none'",
}  # fmt: skip
LOGIN = """<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>Token</title><form><label>Token <input name="token" type="password" autocomplete="current-password" autofocus></label>
<button>Show</button></form></html>"""

Answer = Callable[[web.BaseRequest], Awaitable[web.Response]]


class Refused(Exception):
    """What a request gets instead of what it asks for: (status, one line)."""


class Html:
    """An HTML file whose policy (CSP) allows its own script and style, and what this server sends, alone."""

    def __init__(self, path: Path):
        self._page = path.read_bytes()
        rules = ["default-src 'none'", "img-src 'self' blob: data:", "connect-src 'self'", f"script-src {self._hashes(b'script')}"]
        rules += [f"style-src {self._hashes(b'style')}", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
        self._headers = {"Content-Security-Policy": "; ".join(rules)}

    def _hashes(self, tag: bytes) -> str:
        parts = re.findall(b"<%s>(.*?)</%s>" % (tag, tag), self._page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(part).digest()).decode()}'" for part in parts)

    def response(self) -> web.Response:
        """Return an answer that holds it."""
        return web.Response(body=self._page, content_type="text/html", charset="utf-8", headers=self._headers)


def token_for(address: tuple[str, int] | Path) -> str | None:
    """Return the token that requests must bring: the environment's, a new one where others could reach the address, else None."""
    token = os.environ.get(TOKEN)
    if token is not None and not (re.fullmatch("[!-~]+", token) and len(token) >= SHORTEST):
        raise InputError(f"{TOKEN} must have at least {SHORTEST} characters, without spaces; such as: openssl rand -hex 16")
    if isinstance(address, Path):  # whose permissions say who may ask
        return None
    return token or (None if is_loopback(address[0]) else secrets.token_urlsafe(24))


class Server:
    """`with Server(address, answer, token):` answers requests until the block ends. InputError if the address can't be had.

    address: (host, port), port 0 for any that is free; or the path of a Unix socket, which its file's permissions guard.
    answer: from a request to its response, on the server's thread; it may raise Refused. closing: what it leaves behind is closed by.
    url: where the page is, with a new token.
    """

    def __init__(
        self, address: tuple[str, int] | Path, answer: Answer, token: str | None = None, closing: Callable[[], Awaitable] | None = None
    ):
        self._answer, self._token, self._unix, self._closing = answer, token, isinstance(address, Path), closing
        self._socket = _bind_unix(address) if self._unix else _bind(*address)
        if self._unix:
            self._path, self.url = address, f"unix:{address}"
        else:
            host, self.port = address[0], self._socket.getsockname()[1]
            host = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
            self.url = f"http://{host}:{self.port}/" + (f"?token={token}" if token and TOKEN not in os.environ else "")
            self._cookie = f"fastmcd-{self.port}"
        self._bugs, self._loop, self._started = 0, asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="serving", daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(2)
        if self._unix:
            self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        server = _Bounded(self._guarded)
        runner = web.ServerRunner(server, shutdown_timeout=0.2)
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        self._started.set()
        await self._end.wait()
        server.watch.cancel()
        await runner.cleanup()
        if self._closing:
            await self._closing()

    async def _guarded(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = self._refuse(request) or await self._answer(request)
        except Refused as refused:
            status, line = refused.args
            response = web.Response(status=status, text=f"{line}\n")
            if status == 413:
                response.force_close()  # rather than read the rest
        except Exception:  # a bug, which ends no run
            self._bugs += 1
            if self._bugs == 1:
                say(traceback.format_exc())
            response = web.Response(status=500, text="this failed; the program's stderr says how\n")
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _refuse(self, request: web.BaseRequest) -> web.Response | None:
        """What a request gets that may not ask; None where it may."""
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if (request.content_length or 0) > MAX_SENT or "Transfer-Encoding" in request.headers:
            raise Refused(413, f"at most {MAX_SENT} bytes, whose number is said, are taken")
        if not (self._unix or self._token or is_loopback(_host_of(host))):
            raise Refused(421, "this page is for its own machine, by a loopback address")
        elsewhere = request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
        if (origin is not None and _netloc_of(origin) != host) or (elsewhere and request.headers.get("Sec-Fetch-Mode") != "navigate"):
            raise Refused(403, "another site's page may not ask")
        if request.method not in ("GET", "HEAD") and origin is None and not self._unix:
            raise Refused(403, "say the Origin")
        return self._refuse_without_token(request) if self._token else None

    def _refuse_without_token(self, request: web.BaseRequest) -> web.Response | None:
        given = request.query.get("token")
        if given is not None and self._is_token(given):
            rest = request.rel_url.without_query_params("token")
            response = web.Response(status=303, headers={"Location": "/" + str(rest).lstrip("/\\")})  # never //host or /\host
            response.set_cookie(self._cookie, self._token, max_age=30 * 86400, httponly=True, samesite="Lax")
            return response
        kind, _, bearer = request.headers.get("Authorization", "").partition(" ")
        if self._is_token(request.cookies.get(self._cookie, "")) or (kind == "Bearer" and self._is_token(bearer)):
            return None
        policy = {"Content-Security-Policy": "default-src 'none'; form-action 'self'", "WWW-Authenticate": "Bearer"}
        return web.Response(status=401, text=LOGIN, content_type="text/html", headers=policy)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


class Served:
    """What has a `server`: `with` it, that answers until the block ends."""

    server: Server

    def __enter__(self):
        self.server.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.server.__exit__(*error)


class _Bounded(web.Server):
    """Closes connections beyond CLIENTS, and those that take longer than TIMEOUT for whatever it is: to ask, to read, to ask again."""

    def __init__(self, answer: Answer):
        super().__init__(
            self._timed, handler_cancellation=True, auto_decompress=False, access_log=None, lingering_time=1, keepalive_timeout=TIMEOUT,
            logger=logging.Logger("page", logging.CRITICAL + 1),
        )  # fmt: skip
        self._reply, self._since = answer, {}  # transport -> when it was opened, or its latest request began to be answered
        self.watch = asyncio.get_running_loop().create_task(self._close_late())

    async def _timed(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.transport in self._since:
            self._since[request.transport] = time.monotonic()
        return await self._reply(request)

    def connection_made(self, handler, transport) -> None:
        super().connection_made(handler, transport)
        if len(self._since) >= CLIENTS:
            transport.abort()
        else:
            self._since[transport] = time.monotonic()

    def connection_lost(self, handler, exc=None) -> None:
        self._since.pop(handler.transport, None)
        super().connection_lost(handler, exc)

    async def _close_late(self) -> None:
        while True:
            await asyncio.sleep(TIMEOUT / 10)
            for transport, since in list(self._since.items()):
                if time.monotonic() - since > TIMEOUT:
                    transport.abort()


# ---- Addresses -------------------------------------------------------------------------------------------------------
def _bind(host: str, port: int) -> socket.socket:
    listening = None
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what an earlier run left behind is no obstacle
        listening.bind(place)
        listening.listen()
        return listening
    except (OSError, UnicodeError) as error:  # UnicodeError: of a host's name
        if listening:
            listening.close()
        in_use = getattr(error, "errno", None) == errno.EADDRINUSE
        reason = "is in use; choose another port" if in_use else f"can't be had: {getattr(error, 'strerror', None) or error}"
        raise InputError(f"--serve: {host}:{port} {reason}") from None


def _bind_unix(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode) and not _is_served(path):
                path.unlink()  # an earlier run was killed
        listening.bind(str(path))
        listening.listen()
        return listening
    except OSError as error:
        listening.close()
        in_use = error.errno == errno.EADDRINUSE
        raise InputError(f"--serve: {path} {'is there already' if in_use else f'cannot be had: {error.strerror or error}'}") from None


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) != errno.ECONNREFUSED


def _host_of(host: str) -> str:
    """The name or address in a Host header, "" if it is malformed."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d+)?", host, re.ASCII)
    return found[1].strip("[]") if found else ""


def _netloc_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
