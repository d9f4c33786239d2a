"""The live page: what it answers, to whom, what it refuses, and a browser that shows it."""
import http.client
import json
import re
import socket
import stat
import threading
import time
from contextlib import closing
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tests.browser import needs_chromium
from tests.servers import numbered, wait_until
from util.cli import serve_address
from util.errors import InputError
from util.serve import page as page_module
from util.serve import server as server_module
from util.serve.page import Page, Trails, draw
from util.track.places import Crossing, Places, Visit
from util.track.tracking import Moment, Sighting, Track
from util.watch.pipeline import Clock

SECRET = "a-token-of-24-characters"
LOCAL = ("127.0.0.1", 0)


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv(server_module.TOKEN, raising=False)


def video(**given):
    times = {"decoded_at": time.monotonic() - 0.1, "time_of": lambda seconds: None}
    return SimpleNamespace(**{"live": True, "width": 96, "height": 64, "dropped": 3, "reconnects": 1, **times, **given})


def moment(number, tracks=(), size=(96, 64), **given):
    sightings = [Sighting((10 * n, 20, 20, 16), (8, 18, 24, 20), 0.9, n, "<b>cat</b>", 0.75) for n in tracks]
    result = SimpleNamespace(homography=np.eye(3))
    return Moment(number, number / 25, numbered(number % 256, *size), result, sightings, **given)


def track(number, label="<b>cat</b>", end=1.0):
    best = np.full((30, 40, 3), (200, 30, number), np.uint8)
    been = (Crossing("gate", "left", 0.5),), (Visit("yard", 0.1, 0.6, left=True),)
    return Track(number, label, 0.75, 1, 25, 0.0, end, 25, best, 7, (5, 6, 7, 8), crossings=been[0], visits=been[1])


def served(address=LOCAL, clock=None, drawing=None, save=None, **given):
    drawing = drawing or {"zones": {"watch": [], "ignore": []}, "lines": {}}
    return Page(address, video(**given), clock or Clock(), "a <b>camera</b>", drawing, save, [], Places())


def ask(page, path, method="GET", body=None, **headers):
    """Return (status, headers, body) of one request."""
    with closing(http.client.HTTPConnection("127.0.0.1", page.server.port, timeout=60)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def origin(page):
    return f"http://127.0.0.1:{page.server.port}"


# ---- What it answers -------------------------------------------------------------------------------------------------
def test_the_state_tells_what_is_now_and_lately():
    clock = Clock()
    clock.seconds["detect"], clock.frames = 0.5, 50
    with served(clock=clock) as page:
        empty = json.loads(ask(page, "/state")[2])
        assert empty["tracks"] == empty["lately"] == [] and not empty["editable"]
        page.add(moment(1, [1, 2], begun=[track(1), track(2)]))
        page.add(moment(2, [2], ended=[track(1, "dog")]))
        clock.seconds["detect"], clock.frames = 1.0, 100
        state = json.loads(ask(page, "/state")[2])
        assert [seen["track"] for seen in state["tracks"]] == [2] and state["tracks"][0]["confidence"] == 0.75
        assert state["lately"][0]["label"] == "dog" and state["counts"] == {"dog": 1}
        assert state["passed"]["lines"] == {"gate": {"left": {"dog": 1}, "right": {}}}
        assert state["passed"]["zones"]["yard"]["dog"]["visits"] == 1
        assert (state["dropped"], state["reconnects"], state["frames"], state["ms"]) == (3, 1, 100, {"detect": 10.0})
        assert 100 <= state["age_ms"]["median"] < 5000
        page.finish([track(2)], clock)
        assert json.loads(ask(page, "/state")[2])["counts"] == {"dog": 1, "<b>cat</b>": 1}
        for number, known in ((1, True), (2, True), (3, False)):
            status, _, body = ask(page, f"/crop/{number}.jpg")
            assert status == (200 if known else 404) and (cv2.imdecode(np.frombuffer(body, np.uint8), 1) is not None) == known


def test_a_picture_is_drawn_when_somebody_asks_and_never_otherwise(monkeypatch):
    drawn = []
    monkeypatch.setattr(page_module, "draw", lambda *given: drawn.append(given) or draw(*given))
    with served() as page:
        for number in range(1, 50):
            page.add(moment(number, [1], begun=[track(1)] if number == 1 else []))
        assert not drawn and not page._trails.points
        status, headers, body = ask(page, "/picture.jpg")
        assert status == 200 and headers["X-Frame"] == "49" and cv2.imdecode(np.frombuffer(body, np.uint8), 1).shape == (64, 96, 3)
        later = threading.Timer(0.3, lambda: page.add(moment(50, [1])))
        later.start()
        answers = []
        askers = [threading.Thread(target=lambda: answers.append(ask(page, "/picture.jpg?after=49"))) for _ in range(5)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        assert {answer[1]["X-Frame"] for answer in answers} == {"50"} and len(drawn) == 2, "one picture for all who look"
        monkeypatch.setattr(page_module, "WAIT", 0.2)
        assert ask(page, "/picture.jpg?after=50")[0] == 204
        assert ask(page, "/picture.jpg?after=nonsense")[0] == 200


def test_a_request_waits_no_longer_for_others_who_ask(monkeypatch):
    monkeypatch.setattr(page_module, "WAIT", 1.0)
    with served() as page:
        page.add(moment(1))
        assert ask(page, "/picture.jpg")[0] == 200
        over = threading.Event()

        def others():
            while not over.wait(0.1):
                ask(page, "/picture.jpg")

        asking, began = threading.Thread(target=others), time.monotonic()
        stop = threading.Timer(6.0, over.set)
        asking.start(), stop.start()
        status = ask(page, "/picture.jpg?after=1")[0]
        took = time.monotonic() - began
        over.set(), stop.cancel(), asking.join()
    assert status == 204 and took < 5


def test_trails_move_with_the_camera_and_end_with_their_track():
    trails, shift = Trails(), np.array([[1.0, 0, -5], [0, 1, 0], [0, 0, 1]])  # this frame's pixels to the ones before: 5 to the left
    trails.follow(moment(1, [1, 2]))
    second = moment(2, [1])
    second.result.homography = shift
    trails.follow(second)
    assert list(trails.points) == [1] and np.allclose(trails.points[1], [[25, 36], [20, 36]])
    for number in range(3, 200):
        trails.follow(moment(number, [1]))
    assert len(trails.points[1]) == page_module.TRAIL
    wide = cv2.imdecode(np.frombuffer(draw(moment(1, [1], size=(1920, 64)), {1: np.array([[0.0, 0], [1e9, 50]])}), np.uint8), 1)
    assert wide.shape == (32, 960, 3)


# ---- Whom it refuses -------------------------------------------------------------------------------------------------
def test_the_page_loads_nothing_from_elsewhere():
    with served() as page:
        status, headers, body = ask(page, "/")
        assert status == 200 and not re.search(rb"(src|href)=.?(https?:)?//", body)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and policy.count("sha256-") == 2
        assert headers["X-Frame-Options"] == "DENY" and headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_only_this_machine_by_a_loopback_name():
    with served() as page:
        port = page.server.port
        for host in ("127.0.0.1", f"localhost:{port}", f"[::1]:{port}", "LOCALHOST", "127.9.9.9:1"):
            assert ask(page, "/state", Host=host)[0] == 200, host
        evil = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "127.0.0.1@evil.example", "[::1", "0.0.0.0"]
        for host in [*evil, "\xff"]:
            assert ask(page, "/state", Host=host)[0] == 421, host
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(b"GET /state HTTP/1.0\r\n\r\n")
            assert b" 421 " in raw.recv(100)


def test_no_other_sites_page_may_ask():
    saved = []
    with served(save=lambda drawing: saved.append(drawing) or drawing) as page:
        json_, here = {"Content_Type": "application/json"}, origin(page)
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": here + "1"}, {"Origin": "http://[bad"},
                        {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}):  # fmt: skip
            assert ask(page, "/state", **headers)[0] == 403, headers
            assert ask(page, "/drawing", "PUT", b"{}", **json_, **headers)[0] == 403, headers
        assert ask(page, "/drawing", "PUT", b"{}", **json_)[0] == 403, "without an origin nothing is changed"
        assert ask(page, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200, "a link"
        assert ask(page, "/drawing", "PUT", b"{}", Origin=here, Content_Type="text/plain")[0] == 415
        assert ask(page, "/drawing", "PUT", b"{", Origin=here, **json_)[0] == 400
        assert ask(page, "/drawing", "PUT", b"[" * 60000, Origin=here, **json_)[0] == 400
        assert not saved
        assert ask(page, "/drawing", "PUT", b"{}", Origin=here, **json_)[0] == 200 and saved == [{}]


def test_other_addresses_need_the_token(monkeypatch):
    assert server_module.token_for(LOCAL) is None and server_module.token_for(("::1", 1)) is None
    made = server_module.token_for(("0.0.0.0", 1))
    assert len(made) >= 24 and made != server_module.token_for(("0.0.0.0", 1))
    monkeypatch.setenv(server_module.TOKEN, "short")
    with pytest.raises(InputError, match="at least 16 characters"):
        server_module.token_for(LOCAL)
    monkeypatch.setenv(server_module.TOKEN, SECRET)
    with served() as page:
        assert SECRET not in page.server.url
        for path in ("/", "/state", "/picture.jpg", f"/state?token={SECRET}x", "/state?token=", "/state?token=%ff", f"/?Token={SECRET}"):
            status, headers, body = ask(page, path)
            assert status == 401 and b"<form" in body and "script-src" not in headers["Content-Security-Policy"], path
        assert ask(page, "/drawing", "PUT", b"{}", Origin=origin(page), Content_Type="application/json")[0] == 401
        status, headers, _ = ask(page, f"/?token={SECRET}", Host="camera.example")
        cookie = headers["Set-Cookie"]
        assert status == 303 and headers["Location"] == "/" and "HttpOnly" in cookie and "SameSite=Lax" in cookie
        assert ask(page, "/state", Cookie=cookie.partition(";")[0], Host="camera.example")[0] == 200
        for path in ("//evil.example/", "/\\evil.example/", "/\\/evil.example/"):  # a browser takes one for the other
            assert ask(page, f"{path}?token={SECRET}")[1]["Location"].startswith("/evil.example/"), path
        assert ask(page, "/state", Authorization=f"Bearer {SECRET}")[0] == 200
        assert ask(page, "/state", Authorization=f"Basic {SECRET}")[0] == 401


PATHS = ["/../server.py", "/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/page.html", "/crop/../../x.jpg", "/%00",
         "/%ff", "/crop/1.jpg/..", "/crop/-1.jpg", "/crop/" + "9" * 5000 + ".jpg", "/state/", "/" + "a/" * 2000]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_paths_lead_nowhere_else(path):
    with served() as page:
        page.add(moment(1))
        assert ask(page, path)[0] in (400, 404)
        for method in ("POST", "DELETE", "OPTIONS"):
            assert ask(page, path, method, Origin=origin(page))[0] in (400, 405)


def raw(page, data, patience=5.0):
    """Return what the server answers to these bytes until it closes, or b"" where it only closes."""
    with socket.create_connection(("127.0.0.1", page.server.port), timeout=patience) as client:
        client.sendall(data)
        answer = b""
        try:
            while part := client.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
    return answer


def test_what_is_no_request_or_too_large_is_refused(capfd):
    with served(save=lambda drawing: drawing) as page:
        head = b"Host: localhost\r\nOrigin: http://localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        assert b" 413 " in raw(page, b"PUT /drawing HTTP/1.1\r\n" + head + b"Content-Length: 99999999\r\n\r\n{")
        assert b" 413 " in raw(page, b"PUT /drawing HTTP/1.1\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\n")
        assert b" 400 " in raw(page, b"GET /state HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 100_000 + b"\r\n\r\n")
        assert b" 400 " in raw(page, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n"
        with socket.create_connection(("127.0.0.1", page.server.port), timeout=5) as client:
            client.sendall(b"GET /state HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n")
            assert client.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.1 400"), "there is no websocket"
        assert ask(page, "/state")[0] == 200
    assert not capfd.readouterr().err, "nobody can fill the log"


def test_clients_that_do_not_read_or_never_end_hold_nothing_up(monkeypatch):
    monkeypatch.setattr(server_module, "TIMEOUT", 1.0)
    monkeypatch.setattr(server_module, "CLIENTS", 8)
    with served() as page:
        page.add(moment(1, size=(960, 640)))
        idle = [socket.create_connection(("127.0.0.1", page.server.port)) for _ in range(8)]
        for number, client in enumerate(idle):
            never_read = b"GET /picture.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500
            never_sent = b"PUT /drawing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
            client.sendall([b"", b"GET /st", never_read, never_sent][number % 4])
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(page, "/state")  # all places are taken
        slowest = 0.0
        for number in range(2, 100):
            start = time.monotonic()
            page.add(moment(number, [1], size=(96, 64)))
            slowest = max(slowest, time.monotonic() - start)
        assert slowest < 0.9, "the run never waits"

        def answers():
            try:
                return ask(page, "/state")[0] == 200
            except (OSError, http.client.HTTPException):
                return False

        wait_until(answers)
        for client in idle:
            client.close()


def test_a_bug_ends_no_run(capfd, monkeypatch):
    with served() as page:
        monkeypatch.setattr(page, "state", lambda: 1 / 0)
        assert ask(page, "/state")[0] == ask(page, "/state")[0] == 500
    assert capfd.readouterr().err.count("ZeroDivisionError") == 1


# ---- Addresses -------------------------------------------------------------------------------------------------------
def test_addresses():
    assert serve_address("8000") == ("127.0.0.1", 8000) and serve_address("0.0.0.0:80") == ("0.0.0.0", 80)
    assert serve_address("[::1]:80") == ("::1", 80) and str(serve_address("./page")) == "page"
    for bad in ("", "99999", "host", ":80", "a:b:80", "::1:80", "-1", "8000x"):
        with pytest.raises(Exception, match="is no address"):
            serve_address(bad)


def test_an_address_that_cannot_be_had_is_one_line(tmp_path):
    with served() as page:
        with pytest.raises(InputError, match="is in use; choose another port"):
            served(("127.0.0.1", page.server.port))
    with served(("127.0.0.1", page.server.port)):
        pass  # free again
    with pytest.raises(InputError, match="can't be had"):
        served(("203.0.113.1", 0))
    path = tmp_path / "page"
    with served(path):
        with pytest.raises(InputError, match="is there already"):
            served(path)
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(path))
            client.sendall(b"GET /state HTTP/1.1\r\nHost: anything\r\n\r\n")
            assert b" 200 " in client.recv(100)
    assert not path.exists()
    closing(socket.socket(socket.AF_UNIX)).thing.bind(str(path))  # of a run that was killed
    with served(path):
        assert stat.S_ISSOCK(path.stat().st_mode)
    path.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        served(path)
    assert path.read_text() == "mine"


def test_without_a_file_nothing_is_saved():
    with served() as page:
        answer = ask(page, "/drawing", "PUT", b"{}", Origin=origin(page), Content_Type="application/json")
        assert answer[0] == 409 and b"--settings FILE" in answer[2]


def test_drawings_are_saved_one_after_the_other():
    at_work, most = [], []

    def save(drawing):
        at_work.append(drawing)
        most.append(len(at_work))
        time.sleep(0.2)
        at_work.remove(drawing)
        return drawing

    with served(save=save) as page:

        def put(n):
            ask(page, "/drawing", "PUT", json.dumps({"n": n}).encode(), Origin=origin(page), Content_Type="application/json")

        askers = [threading.Thread(target=put, args=[n]) for n in range(3)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
    assert most == [1, 1, 1]


# ---- A browser -------------------------------------------------------------------------------------------------------
def watched(page, number=1):
    for n in range(number, number + 3):
        page.add(moment(n, [1, 2], size=(640, 360), begun=[track(1), track(2)] if n == 1 else [], ended=[track(3)] if n == 2 else []))


BIG = {"width": 640, "height": 360}


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (390, False)])
def test_a_browser_shows_it(chrome, width, dark):
    with served(**BIG) as page:
        watched(page)
        chrome.open(page.server.url, width, touch=width < 600, dark=dark)
        chrome.errors.clear()  # of the page before, whose server has ended
        chrome.wait("document.getElementById('picture').naturalWidth === 640")
        chrome.wait("[...document.querySelectorAll('.tracks img')].every(image => image.naturalWidth > 0)")
        chrome.wait("document.getElementById('lately').children.length && document.getElementById('now').children.length === 2")
        text = chrome.see("document.body.innerText")
        assert "a <b>camera</b>" in text and "#2 <b>cat</b> 75%" in text and "#3 <b>cat</b>" in text, "text stays text"
        assert re.search(r"gate, to the left\s+1\s+gate, to the right\s+0\s+yard, visits\s+1", text)
        assert chrome.see("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        assert chrome.see("getComputedStyle(document.body).backgroundColor") == ("rgb(20, 22, 26)" if dark else "rgb(246, 247, 249)")
        shown = chrome.see("document.getElementById('picture').src")
        page.add(moment(9, [1], size=(640, 360)))
        chrome.wait(f"document.getElementById('picture').src !== {shown!r}")
        assert chrome.see("document.getElementById('edit').disabled") and not chrome.errors
    chrome.wait("document.getElementById('how').textContent === 'no connection'")


def place(chrome, x, y):
    """Where a pixel of the frame is in the window."""
    box = "document.getElementById('drawn').getBoundingClientRect()"
    left, top, width, height = chrome.see(f"(b => [b.left, b.top, b.width, b.height])({box})")
    return left + x * width / 640, top + y * height / 360


@needs_chromium
@pytest.mark.parametrize("touch", [False, True])
def test_zones_and_lines_are_drawn_moved_and_saved(chrome, touch):
    saved = []
    drawing = {"zones": {"watch": [], "ignore": [[[10, 10], [100, 10], [100, 100]]]}, "lines": {"old": [[300, 10], [300, 300]]}}
    with served(drawing=drawing, save=lambda given: saved.append(given) or given, **BIG) as page:
        watched(page)
        chrome.open(page.server.url, 390 if touch else 1200, touch=touch)
        chrome.errors.clear()

        def point(x, y):
            if touch:
                return chrome.tap(*place(chrome, x, y))
            chrome.mouse("mousePressed", *place(chrome, x, y))
            chrome.mouse("mouseReleased", *place(chrome, x, y))

        chrome.wait("document.getElementById('picture').naturalWidth === 640 && !document.getElementById('edit').disabled")
        chrome.click("#edit")
        chrome.click("[data-kind=zone]")
        for x, y in ((200, 200), (400, 200), (400, 320), (200, 320)):
            point(x, y)
        chrome.click("#finish")
        chrome.see("(n => { n.value = 'yard'; n.dispatchEvent(new Event('input')); })(document.getElementById('name'))")
        chrome.click("[data-kind=line]")
        point(500, 40)
        point(500, 340)
        chrome.click("[data-kind=watch]")
        point(20, 20)  # too few to stay
        chrome.click("#save")
        chrome.wait("document.getElementById('said').textContent === 'Saved.'")
        zones, lines = saved[0]["zones"], saved[0]["lines"]
        near = 2 if touch else 1  # pixels of the frame that a pixel of the window has
        assert zones.keys() == {"watch", "ignore", "yard"} and zones["watch"] == [] and zones["ignore"] == drawing["zones"]["ignore"]
        assert np.allclose(zones["yard"], [[[200, 200], [400, 200], [400, 320], [200, 320]]], atol=near)
        assert lines["old"] == [[300, 10], [300, 300]] and np.allclose(lines["line"], [[500, 40], [500, 340]], atol=near)
        if not touch:
            chrome.click("#edit")
            point(500, 190)  # chooses the line
            chrome.mouse("mousePressed", *place(chrome, 500, 40))
            for x in (520, 560, 600):
                chrome.mouse("mouseMoved", *place(chrome, x, 60))
            chrome.mouse("mouseReleased", *place(chrome, 600, 60))
            chrome.see("document.querySelector('[data-point=\"1\"]').focus()")
            chrome.press("ArrowRight")
            chrome.click("#save")
            chrome.wait("document.getElementById('said').textContent === 'Saved.'")
            assert np.allclose(saved[1]["lines"]["line"], [[600, 60], [501, 340]], atol=near)
            chrome.click("#edit")
            point(300, 150)
            chrome.click("#delete")
            chrome.click("#cancel")
            assert chrome.see("document.querySelectorAll('#drawn g').length") == 4, "nothing was saved"
        assert not chrome.errors


@needs_chromium
def test_what_cannot_be_saved_is_said(chrome):
    def refuse(drawing):
        raise InputError("zones: nothing is left to watch")

    with served(save=refuse, **BIG) as page:
        watched(page)
        chrome.open(page.server.url)
        chrome.wait("!document.getElementById('edit').disabled")
        chrome.click("#edit")
        chrome.click("#save")
        chrome.wait("document.getElementById('said').textContent === 'Not saved: zones: nothing is left to watch'")
