"""Events to an MQTT broker as they happen: what --notify mqtt://HOST/PREFIX does. docs/live.md has the topics."""
import base64
import json
import re
import ssl
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from util.errors import InputError, printable, say
from util.outputs.webhook import FIRST_WAIT, LAST, LONGEST_WAIT, QUEUE, credentials
from util.track.tracking import UNKNOWN

PREFIX, DISCOVERY = "fastmcd", "homeassistant"  # of topics, where the address has no other
WINDOW = 20  # events that were sent and are not acknowledged yet, at most
KEEP_ALIVE = 15  # seconds; a broker takes a client for dead, and sends its last will, after one and a half of that
ANSWER = 3.0  # seconds that the start of a run waits for the broker, to be told of a wrong password at once
REFUSED = {"Bad user name or password", "Not authorized", "Client identifier not valid", "Banned"}  # names of paho's reason codes


class Mqtt:
    """Publishes events as JSON, in order, at least once (QoS 1); `send(event)` never waits, whatever the broker does.

    At most QUEUE events wait while it is away; of more the oldest are dropped. What was sent and not acknowledged is sent again.
    classes: the labels that Home Assistant is told of. sent (acknowledged), dropped: how many events.
    What it says names the broker alone. InputError if the broker answers at once, and refuses the user.
    """

    def __init__(self, url: str, classes: Sequence[str]):
        """url: of mqtt, or mqtts for TLS; its path is the topics' prefix, its ?discovery= Home Assistant's, or off."""
        try:
            from paho.mqtt import client as paho  # here: few runs need it
        except ImportError:
            raise InputError("--notify mqtt:// needs paho-mqtt; install it with: pip install paho-mqtt") from None
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self.prefix = unquote(parts.path).strip("/") or PREFIX
        self.discovery = parse_qs(parts.query).get("discovery", [DISCOVERY])[0]
        self.classes = list(classes)
        self.sent = self.dropped = 0
        self._waiting: deque[tuple[bytes, bytes | None]] = deque()  # an event, and its picture
        self._flying: dict[int, bool] = {}  # the number of what is not acknowledged -> whether it is an event
        self._again: set[int] = set()  # those of before a loss, which the client sends again after it has told that it is connected
        self._landed: deque[int] = deque()
        self._labels: dict[int, str] = {}  # of the tracks in view
        self._told: dict | None = None  # the counts that the broker has
        self._changed, self._answered = threading.Condition(), threading.Event()
        self._connected = self._ending = self._given_up = False
        self._lost: float | None = None
        self._refusal = ""
        self._client = self._start_client(paho, parts)
        self._thread = threading.Thread(target=self._run, name=f"notifying {self.name}", daemon=True)
        self._thread.start()
        self._answered.wait(ANSWER)
        if self._refusal:
            self.finish(patience=0)
            raise InputError(f"--notify: {self.name} refuses the connection ({self._refusal}); what are user and password?")

    def _start_client(self, paho, parts: SplitResult):
        """Return paho's client, which connects from a thread of its own."""
        client, secure = paho.Client(paho.CallbackAPIVersion.VERSION2), parts.scheme == "mqtts"
        user, password = credentials(parts)
        if user:
            client.username_pw_set(user, password)
        if secure:
            client.tls_set_context(ssl.create_default_context())
        client.will_set(self._topic("available"), "offline", qos=1, retain=True)
        client.reconnect_delay_set(FIRST_WAIT, LONGEST_WAIT)
        client.connect_timeout = 5.0
        client.max_inflight_messages_set(2 * WINDOW)
        client.on_connect, client.on_disconnect, client.on_publish = self._on_connect, self._on_disconnect, self._on_publish
        client.on_connect_fail = lambda client, data: self._is_lost(self._why_not())
        client.connect_async(parts.hostname, parts.port or (8883 if secure else 1883), KEEP_ALIVE)
        client.loop_start()
        return client

    def send(self, event: dict) -> None:
        """Let an event wait for its turn; its `crop`, if it has one, goes to a topic of its own."""
        event = dict(event)
        crop = event.pop("crop", None)
        entry = json.dumps(event).encode(), crop and base64.b64decode(crop)
        with self._changed:
            if event["event"] in ("end", "drop"):
                self._labels.pop(event["track"], None)
            else:
                self._labels[event["track"]] = event["label"]
            if self._waiting and len(self._waiting) + sum(self._flying.values()) >= QUEUE:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(entry)
            self._changed.notify()

    def finish(self, patience: float = LAST) -> None:
        """Wait up to `patience` seconds until all is acknowledged; drop the rest; say that it is gone."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(patience)
        with self._changed:
            self._given_up = True
            self.dropped += len(self._waiting) + sum(self._flying.values())
            self._waiting.clear()
            self._changed.notify()
        if self._connected:
            self._client.publish(self._topic("available"), "offline", qos=1, retain=True)
            end = time.monotonic() + min(patience, 1.0)
            while self._client.want_write() and time.monotonic() < end:
                time.sleep(0.005)
            self._client.disconnect()
            self._client.loop_stop()
        else:
            self._client.disconnect()  # its thread may be connecting; it ends with the process

    # ---- The thread that hands events to the client's --------------------------------------------------------------
    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                self._count_landed()
                if self._given_up or (self._ending and not self._waiting and not self._flying):
                    return
                entry, counts = None, None
                if self._is_ready():
                    entry = self._waiting.popleft() if self._waiting else None
                    counts = self._counts() if self._counts() != self._told else None
                    self._told = counts or self._told
            event, crop = entry or (None, None)
            if crop:
                self._publish("crop", crop, retain=True)
            if event:
                self._publish("events", event, counted=True)
            if counts:
                self._publish("counts", json.dumps(counts), retain=True)

    def _has_work(self) -> bool:
        ready = self._is_ready() and (self._waiting or self._counts() != self._told)
        return bool(self._landed or ready or self._given_up or (self._ending and not self._waiting and not self._flying))

    def _is_ready(self) -> bool:
        return self._connected and len(self._flying) < WINDOW and self._again.isdisjoint(self._flying)

    def _count_landed(self) -> None:
        for _ in range(len(self._landed)):
            self.sent += self._flying.pop(self._landed.popleft(), False)

    def _publish(self, topic: str, payload: bytes | str, retain: bool = False, counted: bool = False) -> None:
        message = self._client.publish(self._topic(topic), payload, qos=1, retain=retain)  # is kept until it is acknowledged
        with self._changed:
            self._flying[message.mid] = counted

    def _counts(self) -> dict[str, int]:
        counts = Counter(self._labels.values())
        return {"all": counts.total(), **dict.fromkeys([*self.classes, UNKNOWN], 0), **counts}

    def _topic(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    # ---- What the client tells, from its own thread ----------------------------------------------------------------
    def _on_connect(self, client, data, flags, reason, properties) -> None:
        if reason.is_failure:
            if str(reason) in REFUSED and not self._answered.is_set():
                self._refusal = str(reason)
            self._is_lost(str(reason))
            return
        client.publish(self._topic("available"), "online", qos=1, retain=True)
        for topic, config in self._configurations():
            client.publish(topic, json.dumps(config), qos=1, retain=True)
        with self._changed:
            lost, self._lost, self._connected, self._told, self._again = self._lost, None, True, None, set(self._flying)
            self._changed.notify()
        self._answered.set()
        if lost is not None:
            self._say(f"notified again after {time.monotonic() - lost:.1f} s")

    def _on_disconnect(self, client, data, flags, reason, properties) -> None:
        if not self._given_up:
            self._is_lost(str(reason).lower() if flags.is_disconnect_packet_from_server else "it went away")

    def _on_publish(self, client, data, number, reason, properties) -> None:
        with self._changed:
            self._landed.append(number)
            self._changed.notify()

    def _is_lost(self, reason: str) -> None:
        with self._changed:
            first, self._connected = self._lost is None, False
            self._lost = time.monotonic() if first else self._lost
        self._answered.set()
        if first and not self._refusal:
            self._say(f"cannot be notified ({reason}); trying again")

    def _why_not(self) -> str:
        error = sys.exc_info()[1]  # paho calls this while it handles it
        if isinstance(error, ssl.SSLError):
            return f"TLS: {getattr(error, 'verify_message', '') or error.reason or 'failed'}"
        return getattr(error, "strerror", None) or "no connection"

    def _say(self, line: str) -> None:
        say(f"{self.name}: {printable(line)}")

    # ---- Home Assistant --------------------------------------------------------------------------------------------
    def _configurations(self) -> list[tuple[str, dict]]:
        """Return (topic, configuration) of each entity: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery"""
        if self.discovery == "off":
            return []
        node = re.sub(r"[^A-Za-z0-9_-]", "_", self.prefix)
        device = {"identifiers": [node], "name": self.prefix, "manufacturer": "fastMCD", "model": "util.watch"}
        common = {"availability_topic": self._topic("available"), "device": device}
        entities = []
        for label in [*self.classes, UNKNOWN]:
            more = {"state_topic": self._topic("counts"), "state_class": "measurement", "icon": "mdi:counter"}
            entities.append(("sensor", label, {"name": f"{label} in view", "value_template": _value(label), **more}))
        for name, label, kind in [("motion", "all", "motion"), *([("person", "person", "occupancy")] if "person" in self.classes else [])]:
            template = "{{ 'ON' if " + _value(label)[3:-3] + " > 0 else 'OFF' }}"
            more = {"state_topic": self._topic("counts"), "device_class": kind}
            entities.append(("binary_sensor", name, {"name": name, "value_template": template, **more}))
        entities.append(("image", "crop", {"name": "last object", "image_topic": self._topic("crop"), "content_type": "image/jpeg"}))
        result = []
        for kind, name, config in entities:
            place = re.sub(r"[^A-Za-z0-9_-]", "_", name)
            own = {"unique_id": f"{node}_{kind}_{place}", "object_id": f"{node}_{place}"}
            result.append((f"{self.discovery}/{kind}/{node}/{place}/config", {**config, **own, **common}))
        return result


def _value(label: str) -> str:
    return "{{ value_json[" + json.dumps(label) + "] }}"
