"""--notify, against a server on loopback that is slow, refuses, is away and comes back."""
import http.server
import json
import time
from contextlib import contextmanager

import pytest

from tests.servers import running, wait_until
from util.cli import Parser, add_video_argument, add_video_options
from util.errors import InputError
from util.outputs import webhook
from util.outputs.webhook import Webhook
from util.watch.batch import redact_arguments


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for name, value in {"FIRST_WAIT": 0.02, "LONGEST_WAIT": 0.1}.items():
        monkeypatch.setattr(webhook, name, value)


@contextmanager
def server(answers=(), port=0, pace=0.0):
    """Yield (port, requests) of a server that gives `answers`, then 200; a request is (target, headers, what the JSON holds)."""
    requests, answers = [], iter(answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(pace)
            requests.append((self.path, dict(self.headers), json.loads(body)))
            self.send_response(next(answers, 200))
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with running(Handler, port) as server:
        yield server.server_address[1], requests


def numbers(requests):
    return [event["track"] for _, _, event in requests]


def test_events_come_as_json_in_order_with_user_and_query(capfd):
    with server() as (port, requests):
        hook = Webhook(f"http://me:p%40ss@127.0.0.1:{port}/hook?token=abc")
        for number in range(20):
            hook.send({"track": number, "label": "caf\u00e9\x1b"})
        hook.finish()
    assert numbers(requests) == list(range(20)) and requests[0][2]["label"] == "caf\u00e9\x1b"
    target, headers, _ = requests[0]
    assert target == "/hook?token=abc" and headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Basic bWU6cEBzcw=="
    assert (hook.sent, hook.dropped) == (20, 0) and hook.name == f"http://127.0.0.1:{port}" and not capfd.readouterr().err


def test_nothing_is_lost_while_a_server_is_away_and_comes_back(capfd):
    with server() as (port, before):
        hook = Webhook(f"http://user:secret@127.0.0.1:{port}/secret?secret")
        hook.send({"track": 0})
        wait_until(lambda: hook.sent == 1)
    for number in range(1, 50):
        hook.send({"track": number})
    time.sleep(0.2)
    with server(port=port) as (_, after):
        wait_until(lambda: hook.sent == 50)
    assert numbers(before) == [0] and numbers(after) == list(range(1, 50)) and hook.dropped == 0
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and "cannot be notified (Connection refused); trying again" in lines[0] and "notified again after" in lines[1]
    assert not any("secret" in line for line in lines)
    hook.finish()


def test_a_slow_server_holds_nobody_up_and_what_does_not_fit_is_counted(monkeypatch):
    monkeypatch.setattr(webhook, "QUEUE", 10)
    with server(pace=0.05) as (port, requests):
        hook = Webhook(f"http://127.0.0.1:{port}/")
        start = time.monotonic()
        for number in range(1000):
            hook.send({"track": number})
        assert time.monotonic() - start < 10, "1000 requests take 50 s"
        hook.finish()
    assert hook.sent + hook.dropped == 1000 and hook.sent == len(requests) and numbers(requests)[-10:] == list(range(990, 1000))


def test_what_a_server_may_take_later_is_sent_again_and_what_it_refuses_is_dropped(capfd):
    with server([503, 429, 200, 400, 302, 400]) as (port, requests):
        hook = Webhook(f"http://127.0.0.1:{port}/")
        for number in range(5):
            hook.send({"track": number})
        hook.finish()
    assert numbers(requests) == [0, 0, 0, 1, 2, 3, 4] and (hook.sent, hook.dropped) == (2, 3)
    assert {target for target, _, _ in requests} == {"/"}, "no redirection is followed"
    said = [line.partition(f"{port}: ")[2] for line in capfd.readouterr().err.splitlines()]
    assert said[0] == "cannot be notified (answer 503); trying again"
    assert said[2:] == ["refuses events (answer 400)", "refuses events (answer 302)"]


def test_the_end_waits_a_little_for_a_server_that_is_silent(monkeypatch, capfd):
    monkeypatch.setattr(webhook, "LAST", 0.3)
    with server(pace=5) as (port, _):
        hook = Webhook(f"http://127.0.0.1:{port}/")
        for number in range(5):
            hook.send({"track": number})
        start = time.monotonic()
        hook.finish()
        assert 0.25 < time.monotonic() - start < 4 and (hook.sent, hook.dropped) == (0, 5)
    gone = Webhook(f"http://127.0.0.1:{port}/")
    gone.send({"track": 1})
    gone.finish()
    assert (gone.sent, gone.dropped) == (0, 1)
    gone._thread.join(30)
    assert not gone._thread.is_alive(), "it gives up"


def test_an_address_that_is_none_is_refused_without_repeating_it():
    parser = Parser()
    add_video_argument(parser)
    add_video_options(parser)
    assert parser.parse_args(["--video", "0", "--notify", "https://user:pass@host:8443/a?b"]).notify == "https://user:pass@host:8443/a?b"
    for text in ("host/secret", "ftp://host/secret", "http:///secret", "http://host:99999/secret", "http://host/se cret", "http://h\u00e9/secret",
                 "http://host/\x1bsecret", "http://[::1/secret", "file:///secret", "http://host/secret\nX: y"):  # fmt: skip
        with pytest.raises(InputError, match="--notify: that is no address") as error:
            parser.parse_args(["--notify", text])
        assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_summary_holds_no_secret():
    given = ["--video", "rtsp://me:pass@cam/1?key=k", "--notify=https://hooks/T/B/key", "--notify", "http://u:p@h:1/key", "--limit", "3"]
    kept = ["--video", "rtsp://cam/1", "--notify=https://hooks", "--notify", "http://h:1", "--limit", "3"]
    assert redact_arguments(given) == kept
