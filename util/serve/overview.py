"""One page for several runs, each of which has its own live page on a Unix socket: what a browser asks of /NAME/ is asked there.

    /         page.html, which shows all           /NAME/      page.html, which shows one of them
    /state    which there are and how they are     /NAME/…     what that run answers (util.serve.page)
"""
import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
from aiohttp import web

from util.serve.page import PAGE
from util.serve.server import Html, Refused, Served, Server, token_for

TIMEOUT = aiohttp.ClientTimeout(total=15)
PASSED_ON = ("Content-Type", "X-Frame")


class Overview(Served):
    """`with Overview(address, sockets, status):` serves the page until the block ends.

    sockets: name -> the Unix socket of its run. status: gives a dict for each name, which /state tells.
    """

    def __init__(self, address, sockets: Mapping[str, Path], status: Callable[[], list[dict]]):
        self._sockets, self._status, self._sessions = sockets, status, {}
        self._page = Html(PAGE)
        self.server = Server(address, self.answer, token_for(address), self._close)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer what a browser asks."""
        _, name, *rest = request.path.split("/", 2)
        reading = request.method in ("GET", "HEAD")
        if reading and (request.path == "/" or (name in self._sockets and rest == [""])):
            return self._page.response()
        if reading and request.path == "/state":
            return web.json_response({"title": "Cameras", "cameras": self._status()})
        if reading and name in self._sockets and not rest:
            return web.Response(status=308, headers={"Location": f"/{name}/"})
        if name in self._sockets and request.method in ("GET", "HEAD", "PUT"):
            return await self._ask(name, request, request.path_qs.removeprefix(f"/{name}"))
        raise Refused(404, "there is nothing there")

    async def _ask(self, name: str, request: web.BaseRequest, path: str) -> web.Response:
        if name not in self._sessions:
            connector = aiohttp.UnixConnector(str(self._sockets[name]))
            self._sessions[name] = aiohttp.ClientSession("http://localhost", connector=connector, timeout=TIMEOUT, auto_decompress=False)
        headers = {"Content-Type": request.content_type}
        try:
            body = await request.read()
            async with self._sessions[name].request(request.method, path, data=body or None, headers=headers) as found:
                kept = {header: found.headers[header] for header in PASSED_ON if header in found.headers}
                return web.Response(status=found.status, body=await found.read(), headers=kept)
        except (aiohttp.ClientError, TimeoutError):
            raise Refused(503, f"{name} is not running") from None

    async def _close(self) -> None:
        await asyncio.gather(*(session.close() for session in self._sessions.values()))
