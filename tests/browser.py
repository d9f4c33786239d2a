"""A Chromium without a window, told what to do by its DevTools protocol."""
import asyncio
import base64
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
HEADLESS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-quic"]


class Browser:
    """One page of it: `open(url)`, `see(javascript)` for what an expression gives, `wait(javascript)` until it is true."""

    def __init__(self, loop, socket):
        self._loop, self._socket, self._number = loop, socket, 0
        self.errors = []  # what the page's console said: errors, and what its policy refused

    def call(self, method, **given):
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, given), 60))

    async def _call(self, method, given):
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": given})
        while True:
            answer = await self._socket.receive_json()
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(answer["params"]["exceptionDetails"].get("exception", {}).get("description")))
            if answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error":
                self.errors.append(answer["params"]["entry"]["text"])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url, width=1200, height=900, touch=False, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def see(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression, seconds=60):
        end = time.monotonic() + seconds
        while not self.see(expression):
            assert time.monotonic() < end, f"never: {expression}; {self.see('document.body.innerText')}"
            time.sleep(0.05)

    def click(self, selector):
        self.see(f"document.querySelector({selector!r}).click()")

    def mouse(self, kind, x, y):
        """kind: mousePressed, mouseMoved, mouseReleased; at a place of the window."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=int(kind != "mouseReleased"), clickCount=1)

    def tap(self, x, y):
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def screenshot(self, path):
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))


@contextmanager
def browser():
    """Yield a Browser."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *HEADLESS, *QUIET, f"--user-data-dir={profile}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        loop, session = asyncio.new_event_loop(), None
        try:
            port = Path(profile) / "DevToolsActivePort"
            end = time.monotonic() + 60
            while not (port.exists() and len(port.read_text().splitlines()) > 1):
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.05)
            session, socket = loop.run_until_complete(_connect(port.read_text().splitlines()[0]))
            made = Browser(loop, socket)
            for domain in ("Page", "Runtime", "Log"):
                made.call(f"{domain}.enable")
            yield made
        finally:
            if session:
                loop.run_until_complete(session.close())
            process.kill()
            process.wait()
            loop.close()


async def _connect(port):
    session = aiohttp.ClientSession()
    while True:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [page for page in await answer.json() if page["type"] == "page"]
        if pages:
            return session, await session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
        await asyncio.sleep(0.05)
