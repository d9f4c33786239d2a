"""--notify mqtt://, against a real broker on loopback that restarts, refuses and is asked for TLS."""
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from paho.mqtt import client as paho

from tests.scripts import ROOT
from tests.servers import free_port, wait_until
from util.cli import Parser, add_video_argument, add_video_options
from util.errors import InputError
from util.outputs import mqtt
from util.outputs.mqtt import Mqtt

MOSQUITTO = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="no MQTT broker (Debian: mosquitto)")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for name, value in {"FIRST_WAIT": 0.05, "LONGEST_WAIT": 0.2}.items():
        monkeypatch.setattr(mqtt, name, value)


@contextmanager
def broker(directory, port, *settings):
    """A mosquitto that keeps nothing on the disk; it is killed in the end, as by a power cut."""
    lines = [f"listener {port} 127.0.0.1", *(settings or ["allow_anonymous true"])]
    (directory / "mosquitto.conf").write_text("\n".join([*lines, ""]))
    process = subprocess.Popen([MOSQUITTO, "-c", str(directory / "mosquitto.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, "mosquitto has not started"
        yield process
    finally:
        process.kill()
        process.wait()


def answers(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def listener(port, tls=None, user=None):
    """Yield the messages, (topic, payload, retained), that a subscriber to everything gets."""
    messages, ready = [], threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.reconnect_delay_set(0.05, 0.2)
    if tls:
        client.tls_set(tls)
    if user:
        client.username_pw_set(*user)
    client.on_connect = lambda *_: client.subscribe("#", qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _, __, message: messages.append((message.topic, message.payload, bool(message.retain)))
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        assert ready.wait(10)
        yield messages
    finally:
        client.disconnect()
        client.loop_stop()


def event(number, kind="start", label="cat", **more):
    return {"event": kind, "track": number, "label": label, **more}


def events(messages):
    return [json.loads(payload) for topic, payload, _ in list(messages) if topic.endswith("/events")]


def last(messages, topic):
    return [payload for name, payload, _ in list(messages) if name == topic][-1:]


@needs_mosquitto
def test_events_counts_and_the_crop_come_and_what_is_kept_is_there_for_who_comes_late(tmp_path, capfd):
    port = free_port()
    with broker(tmp_path, port), listener(port) as messages:
        hook = Mqtt(f"mqtt://127.0.0.1:{port}/yard/gate", ["cat", "person"])
        for number in range(1, 31):
            hook.send(event(number, crop=base64.b64encode(b"picture %d" % number).decode()))
        hook.send(event(3, "name", "person"))
        wait_until(lambda: hook.sent == 31 and json.loads(last(messages, "yard/gate/counts")[0]).get("person"))
        with listener(port) as late:
            wait_until(lambda: len(late) >= 9)
            assert all(retained for _, _, retained in late)
            assert last(late, "yard/gate/available") == [b"online"] and last(late, "yard/gate/crop") == [b"picture 30"]
            assert json.loads(last(late, "yard/gate/counts")[0]) == {"all": 30, "cat": 29, "person": 1, "unknown": 0}
        for number in range(1, 31):
            hook.send(event(number, "end"))
        hook.finish()
        wait_until(lambda: last(messages, "yard/gate/available") == [b"offline"])
        assert json.loads(last(messages, "yard/gate/counts")[0])["all"] == 0
    assert [(each["event"], each["track"]) for each in events(messages)] == [
        *[("start", number) for number in range(1, 31)], ("name", 3), *[("end", number) for number in range(1, 31)]]  # fmt: skip
    assert not any("crop" in each for each in events(messages))
    assert (hook.sent, hook.dropped) == (61, 0) and not capfd.readouterr().err


@needs_mosquitto
def test_home_assistant_is_told_of_entities_that_read_what_is_published(tmp_path):
    port = free_port()
    with broker(tmp_path, port), listener(port) as messages:
        hook = Mqtt(f"mqtt://127.0.0.1:{port}/yard/gate", ["cat", "person"])
        hook.send(event(1, label="person"))
        wait_until(lambda: hook.sent == 1 and last(messages, "yard/gate/counts"))
        hook.finish()
    found = {topic: json.loads(payload) for topic, payload, _ in messages if topic.startswith("homeassistant/")}
    entities = "binary_sensor motion", "binary_sensor person", "image crop", "sensor cat", "sensor person", "sensor unknown"
    assert sorted(found) == ["homeassistant/{}/yard_gate/{}/config".format(*entity.split()) for entity in entities]
    assert len({config["unique_id"] for config in found.values()}) == len(found)
    assert all(config["availability_topic"] == "yard/gate/available" for config in found.values())
    assert len({json.dumps(config["device"]) for config in found.values()}) == 1
    import jinja2  # the language of Home Assistant's templates

    counts = {"value_json": {"all": 2, "cat": 0, "person": 2, "unknown": 0}}
    values = {topic.split("/")[1] + " " + topic.split("/")[3]: jinja2.Template(config["value_template"]).render(counts)
              for topic, config in found.items() if "value_template" in config}  # fmt: skip
    assert values == {
        "binary_sensor motion": "ON", "binary_sensor person": "ON", "sensor cat": "0", "sensor person": "2", "sensor unknown": "0",
    }
    with broker(tmp_path, port), listener(port) as messages:
        hook = Mqtt(f"mqtt://127.0.0.1:{port}/?discovery=off", ["cat"])
        wait_until(lambda: last(messages, "fastmcd/counts"))
        hook.finish()
    assert not any(topic.startswith("homeassistant") for topic, _, _ in messages)


@contextmanager
def gate(port, to):
    """While this is open, what connects to `port` reaches the port `to`; then all is cut off, and connections are refused."""
    pipes, server = [], socket.create_server(("127.0.0.1", port))

    def copy(one, other):
        try:
            while data := one.recv(4096):
                other.sendall(data)
        except OSError:
            pass

    def accept():
        try:
            while True:
                pipes.extend([server.accept()[0], socket.create_connection(("127.0.0.1", to))])
                for pair in (pipes[-2:], pipes[:-3:-1]):
                    threading.Thread(target=copy, args=pair, daemon=True).start()
        except OSError:
            pass

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        for end in [server, *pipes]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        thread.join(5)


@needs_mosquitto
def test_nothing_is_lost_where_the_connection_breaks_in_the_middle(tmp_path, capfd):
    port, inner, next_one = free_port(), free_port(), iter(range(1, 1001))
    with broker(tmp_path, inner), listener(inner) as messages:
        with gate(port, inner):
            hook = Mqtt(f"mqtt://127.0.0.1:{port}/p", ["cat"])
        for _ in range(5):
            with gate(port, inner):
                wait_until(lambda: hook._connected)
                for _ in range(150):
                    hook.send(event(next(next_one)))
            hook.send(event(next(next_one)))  # nobody is there
        with gate(port, inner):
            wait_until(lambda: hook.sent == 755)
            hook.finish()
        wait_until(lambda: last(messages, "p/available") == [b"offline"])
    got = [each["track"] for each in events(messages)]
    assert list(dict.fromkeys(got)) == list(range(1, 756)) and hook.dropped == 0, "in order, some of them twice"
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) % 2 == 0 and "cannot be notified (" in lines[0] and "notified again after" in lines[-1]


@needs_mosquitto
def test_nothing_is_lost_while_the_broker_is_away_and_comes_back(tmp_path, capfd):
    port, inner = free_port(), free_port()
    with broker(tmp_path, inner) as process, gate(port, inner), listener(inner) as before:
        hook = Mqtt(f"mqtt://user:secret@127.0.0.1:{port}/secret", ["cat"])
        for number in range(1, 101):
            hook.send(event(number))
        wait_until(lambda: len(events(before)) == 100 and hook.sent == 100)
        process.kill()
        process.wait()
        for number in range(101, 201):
            hook.send(event(number))
    for number in range(201, 601):
        hook.send(event(number))
    with broker(tmp_path, inner), listener(inner) as after, gate(port, inner):
        wait_until(lambda: hook.sent == 600)
        assert last(after, "secret/available") == [b"online"], "again"
        hook.finish()
        wait_until(lambda: last(after, "secret/available") == [b"offline"])
    assert [each["track"] for each in events(after)] == list(range(101, 601)) and hook.dropped == 0
    assert hook.name == f"mqtt://127.0.0.1:{port}"
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and "cannot be notified (" in lines[0] and "notified again after" in lines[1]
    assert not any("secret" in line for line in lines)


@needs_mosquitto
def test_a_broker_that_is_away_from_the_start_holds_nobody_up_and_what_does_not_fit_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(mqtt, "QUEUE", 50)
    port = free_port()
    start = time.monotonic()
    hook = Mqtt(f"mqtt://127.0.0.1:{port}", ["cat"])
    for number in range(1, 1001):
        hook.send(event(number))
    assert time.monotonic() - start < 2 and hook.dropped == 950
    with broker(tmp_path, port), listener(port) as messages:
        wait_until(lambda: hook.sent == 50)
        hook.finish()
    assert hook.dropped == 950 and {each["track"] for each in events(messages)} <= set(range(951, 1001))
    gone = Mqtt(f"mqtt://127.0.0.1:{port}", ["cat"])
    gone.send(event(1))
    monkeypatch.setattr(mqtt, "LAST", 0.2)
    gone.finish(0.2)
    assert (gone.sent, gone.dropped) == (0, 1)


PROGRAM = """
import sys, time
from util.outputs.mqtt import Mqtt
hook = Mqtt(sys.argv[1], ["cat"])
print("ready", flush=True)
time.sleep(60)
"""


@needs_mosquitto
def test_the_last_will_says_that_a_killed_run_is_gone(tmp_path):
    port = free_port()
    with broker(tmp_path, port), listener(port) as messages:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, f"mqtt://127.0.0.1:{port}/p"], cwd=ROOT, stdout=subprocess.PIPE)
        process.stdout.readline()
        wait_until(lambda: last(messages, "p/available") == [b"online"])
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wait_until(lambda: last(messages, "p/available") == [b"offline"])
        with listener(port) as late:
            wait_until(lambda: (("p/available", b"offline", True)) in late)


@needs_mosquitto
def test_a_wrong_password_is_one_line_without_it(tmp_path, monkeypatch, capfd):
    port, words = free_port(), tmp_path / "words"
    words.write_text("me:right\n")
    words.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-U", str(words)], check=True)
    with broker(tmp_path, port, "allow_anonymous false", f"password_file {words}", "user root"):
        for url in (f"mqtt://me:wrong-secret@127.0.0.1:{port}/p", f"mqtt://127.0.0.1:{port}/p"):
            with pytest.raises(InputError, match="refuses the connection") as error:
                Mqtt(url, ["cat"])
            assert "secret" not in str(error.value) and "\n" not in str(error.value)
        assert not capfd.readouterr().err
        monkeypatch.setenv("NOTIFY_USER", "me")
        monkeypatch.setenv("NOTIFY_PASSWORD", "right")
        with listener(port, user=("me", "right")) as messages:
            hook = Mqtt(f"mqtt://127.0.0.1:{port}/p", ["cat"])
            hook.send(event(1))
            hook.finish()
            wait_until(lambda: events(messages))
        assert (hook.sent, hook.dropped) == (1, 0)


@needs_mosquitto
@needs_openssl
def test_tls_checks_the_certificate(tmp_path, monkeypatch, capfd):
    port, certificate, key = free_port(), tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "1",
                    "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)  # fmt: skip
    with broker(tmp_path, port, f"certfile {certificate}", f"keyfile {key}", "allow_anonymous true", "user root"):
        stranger = Mqtt(f"mqtts://127.0.0.1:{port}/p", ["cat"])
        stranger.send(event(1))
        stranger.finish(0.5)
        assert (stranger.sent, stranger.dropped) == (0, 1)
        [line] = capfd.readouterr().err.splitlines()
        assert "cannot be notified (TLS: self-signed certificate)" in line
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with listener(port, tls=str(certificate)) as messages:
            hook = Mqtt(f"mqtts://127.0.0.1:{port}/p", ["cat"])
            hook.send(event(1))
            hook.finish()
            wait_until(lambda: events(messages))
        assert hook.sent == 1


def test_addresses_of_brokers():
    parser = Parser()
    add_video_argument(parser)
    add_video_options(parser)
    assert parser.parse_args(["--video", "0", "--notify", "mqtts://me:pass@host/a/b"]).notify == "mqtts://me:pass@host/a/b"
    bad = "mqtt:///secret", "mqtt://host/secret/+/x", "mqtt://host/secret%23", "mqtt://host:0/secret", "mqtt://host/%00secret"
    for text in (*bad, "mqtt://host/secret?discovery=%23"):
        with pytest.raises(InputError, match="--notify: that is no address") as error:
            parser.parse_args(["--notify", text])
        assert "secret" not in str(error.value)
