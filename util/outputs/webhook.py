"""Events to a server as they happen: what --notify URL does."""
import base64
import http.client
import json
import os
import threading
import time
from collections import deque
from urllib.parse import SplitResult, unquote, urlsplit

from util.errors import printable, say

QUEUE = 1000  # events that wait at most
TIMEOUT = 10.0  # seconds that a server may take for each step of an answer
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before trying again; doubled each time
LAST = 5.0  # seconds that the end of a run waits for what is not sent yet
LATER = {408, 425, 429, *range(500, 600)}  # answers of a server that may take the same later


def credentials(address: SplitResult) -> tuple[str, str]:
    """Return user and password: of the address, or of the environment, which `ps` does not show; "" for none."""
    if address.username:
        return unquote(address.username), unquote(address.password or "")
    return os.environ.get("NOTIFY_USER", ""), os.environ.get("NOTIFY_PASSWORD", "")


class Webhook:
    """Posts events as JSON, one by one and in order, from a thread of its own: `send(event)` never waits.

    An event is sent until the server takes it, less and less often, so that it may come twice. At most QUEUE wait meanwhile: of more the
    oldest are dropped, as is what the server refuses (an answer that is neither 2xx nor in LATER; no redirection is followed).
    sent, dropped: how many events. What it says names the server alone, since the rest of an address may be a secret.
    """

    def __init__(self, url: str):
        """url: of http or https; a user and password, its own or the environment's, are sent as Basic authentication."""
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self.sent = self.dropped = 0
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connect = lambda: kind(parts.hostname, parts.port, timeout=TIMEOUT)
        self._target = (parts.path or "/") + f"?{parts.query}" * bool(parts.query)
        self._headers = {"Content-Type": "application/json", "User-Agent": "fastMCD"}
        user, password = credentials(parts)
        if user:
            self._headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._waiting, self._posting, self._refusals = deque(), False, set()
        self._changed, self._ending, self._given_up = threading.Condition(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"notifying {self.name}", daemon=True)
        self._thread.start()

    def send(self, event: dict) -> None:
        """Let an event wait for its turn."""
        body = json.dumps(event).encode()
        with self._changed:
            if len(self._waiting) >= QUEUE:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(body)
            self._changed.notify()

    def finish(self) -> None:
        """Wait up to LAST seconds until all is sent; drop the rest."""
        with self._changed:
            self._ending.set()
            self._changed.notify()
        self._thread.join(LAST)
        with self._changed:
            self._given_up.set()
            self.dropped += len(self._waiting) + self._posting
            self._waiting.clear()

    def _run(self) -> None:
        while (body := self._next()) is not None:
            taken = self._deliver(body)
            with self._changed:
                if not self._given_up.is_set():
                    self._posting = False
                    self.sent += taken
                    self.dropped += not taken

    def _next(self) -> bytes | None:
        """The event whose turn it is, as soon as there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ending.is_set())
            self._posting = bool(self._waiting)
            return self._waiting.popleft() if self._waiting else None

    def _deliver(self, body: bytes) -> bool:
        """Whether the server took it, in the end."""
        wait, lost = FIRST_WAIT, None
        while problem := self._post(body):
            reason, later = problem
            if not later:
                if reason not in self._refusals:
                    self._say(f"refuses events ({reason})")
                self._refusals.add(reason)
                return False
            if lost is None:
                lost = time.monotonic()
                self._say(f"cannot be notified ({reason}); trying again")
            hurry = self._ending.is_set()
            if (self._given_up if hurry else self._ending).wait(wait):
                wait = FIRST_WAIT  # once more at the end
            else:
                wait = min(2 * wait, LONGEST_WAIT)
            if self._given_up.is_set():
                return False
        if lost is not None:
            self._say(f"notified again after {time.monotonic() - lost:.1f} s")
        return True

    def _post(self, body: bytes) -> tuple[str, bool] | None:
        """What went wrong and whether it may be better later; None if nothing."""
        connection = self._connect()
        try:
            connection.request("POST", self._target, body, self._headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # UnicodeError: of a host's name
            slow = isinstance(error, TimeoutError)
            return f"no answer for {TIMEOUT:g} s" if slow else getattr(error, "strerror", None) or type(error).__name__, True
        finally:
            connection.close()
        return None if 200 <= status < 300 else (f"answer {status}", status in LATER)

    def _say(self, line: str) -> None:
        say(f"{self.name}: {printable(line)}")
