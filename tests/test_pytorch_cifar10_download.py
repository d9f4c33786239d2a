"""PyTorch_CIFAR10/cifar10_download.py against a bad world: broken connections, wrong files, hostile zips."""
import contextlib
import hashlib
import http.server
import io
import math
import os
import re
import stat
import threading
import zipfile

import pytest
import torch

from tests.scripts import load_script
from util.errors import InputError
from util.train import checkpoint

download = load_script("PyTorch_CIFAR10/cifar10_download.py")
networks = download.networks


class Server(http.server.ThreadingHTTPServer):
    """Serves `data` at any path; the n-th request is cut off after breaks[n] bytes. `asked`: the Range headers seen."""

    def __init__(self, data, breaks=(), ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.breaks, self.ranges, self.asked = data, list(breaks), ranges, []
        self.url = f"http://127.0.0.1:{self.server_port}/weights.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        total, start = len(self.server.data), 0
        if wanted and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            self.send_response(206 if start < total else 416)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}" if start < total else f"bytes */{total}")
        else:
            self.send_response(200)
        body = self.server.data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body[: self.server.breaks.pop(0)] if self.server.breaks else body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def answering(head, body=b""):
    """Yield the address of a server that sends the lines `head` to whatever is asked."""

    class Odd(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write("\r\n".join([*head, "", ""]).encode("latin-1") + body)

        log_message = Handler.log_message

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/weights.zip"
        server.shutdown()


@contextlib.contextmanager
def serving(*arguments, **options):
    with Server(*arguments, **options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def weights():
    """The bytes of a file of weights as published, in half precision to be small."""
    torch.manual_seed(0)
    buffer = io.BytesIO()
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in networks.NETWORKS["mobilenet_v2"]().state_dict().items()}, buffer)
    return buffer.getvalue()


def make_zip(*entries):
    """The bytes of a zip of (name or ZipInfo, content)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def good_zip(weights):
    return make_zip(("state_dicts/", ""), ("state_dicts/mobilenet_v2.pt", weights), ("state_dicts/readme.txt", "hello"), ("__MACOSX/a", ""))


@pytest.fixture
def target(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "STATE_DICTS", tmp_path / "state_dicts")
    return tmp_path / "state_dicts"


def refused(data, words, target, *options):
    """Assert that a served zip is turned down with `words` and leaves nothing behind."""
    with serving(data) as server, pytest.raises(InputError, match=words) as error:
        download.main(["--url", server.url, *options])
    assert "\n" not in str(error.value) and "by hand" in str(error.value)
    assert os.listdir(target) == [] and os.listdir(target.parent) == ["state_dicts"]


def test_broken_download_goes_on_where_it_broke(good_zip, weights, target):
    sha256 = hashlib.sha256(good_zip).hexdigest()
    with serving(good_zip, breaks=[100_000, 1_500_000]) as server:
        download.main(["--url", server.url, "--sha256", sha256.upper()])
        assert server.asked == [None, "bytes=100000-", "bytes=1600000-"]
    assert os.listdir(target) == ["mobilenet_v2.pt"] and (target / "mobilenet_v2.pt").read_bytes() == weights
    assert networks.load("mobilenet_v2").classifier[1].out_features == 10


def test_download_given_up_is_resumed_by_the_next_run(good_zip, target):
    with serving(good_zip, breaks=[200_000, 0]) as server:
        with pytest.raises(InputError, match="200000 bytes are kept, run this again"):
            download.main(["--url", server.url])
        assert server.asked == [None, "bytes=200000-"]
        download.main(["--url", server.url])
        assert server.asked[2:] == ["bytes=200000-"] and os.listdir(target) == ["mobilenet_v2.pt"]


def test_server_without_ranges_sends_all_again(good_zip, target):
    with serving(good_zip, breaks=[200_000], ranges=False) as server:
        download.main(["--url", server.url])
    assert os.listdir(target) == ["mobilenet_v2.pt"]


def test_complete_download_is_not_asked_for_again(good_zip, target):
    with serving(good_zip) as server:
        path = target / f"{hashlib.sha256(server.url.encode()).hexdigest()[:12]}.zip.part"
        target.mkdir()
        path.write_bytes(good_zip)
        download.main(["--url", server.url])
        assert server.asked == [f"bytes={len(good_zip)}-"] and os.listdir(target) == ["mobilenet_v2.pt"]


@pytest.mark.parametrize(("head", "words"), [
    (["HTTP/1.1 206 Partial Content", "Content-Length: 5"], "another part than the one asked for"),
    (["HTTP/1.1 416 Range Not Satisfiable"], "HTTP 416"),
    (["HTTP/1.1 302 Found", "Location: ftp://127.0.0.1/weights.zip"], "ftp"),
    (["HTTP/1.1 302 Found", "Location: file:///etc/passwd"], "file"),
    (["HTTP/1.1 302 Found", "Location: http://[broken/"], "no weights fetched"),
    (["HTTP/1.1 302 Found", "Location: "], "no weights fetched"),
    (["HTTP/1.1 404 \x1b[31m" + "a" * 9000], "HTTP 404"),
    (["HTTP/1.1 200 OK", "Content-Length: " + "9" * 5000], "no weights fetched"),
    (["HTTP/1.1 200 OK", "Content-Length: -5"], "no weights fetched"),
    (["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "", "zzz"], "no weights fetched"),
    (["\x00\xff\x1b[2J" * 50], "no weights fetched"),
    ([], "no weights fetched"),
])  # fmt: skip
def test_answers_that_are_none_end_in_one_line(head, words, target):
    with answering(head) as url, pytest.raises(InputError, match=words) as error:
        download.main(["--url", url])
    assert "\n" not in str(error.value) and len(str(error.value)) < 800 and os.listdir(target) == []


def test_a_part_of_another_file_is_not_kept(good_zip, target):
    """A server that now holds a shorter file: the first run says so, the next starts over."""
    with serving(good_zip) as server:
        target.mkdir()
        part = target / f"{hashlib.sha256(server.url.encode()).hexdigest()[:12]}.zip.part"
        part.write_bytes(good_zip + b"more")
        with pytest.raises(InputError, match="another part than the one asked for"):
            download.main(["--url", server.url])
        download.main(["--url", server.url])
    assert os.listdir(target) == ["mobilenet_v2.pt"]


@pytest.mark.parametrize("url", ["ftp://a/b", "file:///etc/passwd", "http://", "http://[", "http://a:99999/b", "https://me:secret@host/b"])
def test_addresses_that_are_none_are_refused_without_showing_a_password(url, target):
    with pytest.raises(InputError, match="expected http:// or https://") as error:
        download.main(["--url", url])
    assert "secret" not in str(error.value)


def test_weights_that_are_there_stay(good_zip, target, capsys):
    target.mkdir()
    (target / "mobilenet_v2.pt").write_text("mine")
    with serving(good_zip) as server:
        download.main(["--url", server.url])
    assert (target / "mobilenet_v2.pt").read_text() == "mine" and "already there, stays" in capsys.readouterr().out


def test_wrong_checksum_is_refused(good_zip, target):
    refused(good_zip, f"its sha256 is {hashlib.sha256(good_zip).hexdigest()}, expected 00", target, "--sha256", "0" * 64)


def test_what_is_no_zip_is_refused(good_zip, target):
    refused(b"<!doctype html><p>Sign in", "not a readable zip but a web page", target)
    refused(good_zip[: len(good_zip) // 2], "not a readable zip", target)
    damaged = bytearray(good_zip)
    damaged[len(damaged) // 2] ^= 1
    refused(bytes(damaged), "not a readable zip .Bad CRC-32", target)
    refused(make_zip(("state_dicts/other.pt", "")), "no state_dicts/NAME.pt of a known network", target)


@pytest.mark.parametrize("name", ["../mobilenet_v2.pt", "/tmp/mobilenet_v2.pt", "state_dicts/../../a.pt", "C:/a.pt", "state_dicts\\..\\a"])
def test_entry_that_leads_outside_is_refused(name, weights, target):
    refused(make_zip(("state_dicts/mobilenet_v2.pt", weights), (name, "")), "is a link or leads outside", target)


def test_link_and_twice_the_same_name_are_refused(weights, target):
    link = zipfile.ZipInfo("state_dicts/mobilenet_v2.pt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(make_zip((link, "/etc/passwd")), "is a link or leads outside", target)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = make_zip(("state_dicts/mobilenet_v2.pt", weights), ("state_dicts/mobilenet_v2.pt", weights))
    refused(twice, "is in it twice", target)


def test_bombs_are_refused(target, monkeypatch):
    def packed(name):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, bytes(40_000_000))
        return buffer.getvalue()

    refused(packed("state_dicts/mobilenet_v2.pt"), "would become 40000000 bytes, mobilenet_v2 has at most", target)
    refused(make_zip(("state_dicts/mobilenet_v2.pt", packed("archive/data/0"))), "would unfold to more than", target)
    monkeypatch.setattr(download, "MAX_BYTES", 10_000)
    refused(bytes(20_000), "that is not the zip of weights", target)


@pytest.mark.parametrize(("content", "words"), [({"a": download.Path}, "refused"), ({"a": torch.ones(1)}, "not a checkpoint")])
def test_weights_that_would_run_code_or_fit_nothing_are_refused(content, words, target):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    refused(make_zip(("state_dicts/resnet18.pt", buffer.getvalue())), f"state_dicts/resnet18.pt: {words}", target)


def test_largest_files_of_weights_pass_the_size_limit():
    for name, millions in {"vgg19_bn": 139.6, "resnet18": 11.17, "mobilenet_v2": 2.24}.items():  # vgg19_bn: with 7x7 pooling
        assert 1 < download.max_bytes(name) / (4e6 * millions) < 1.4


def test_zip_fetched_by_hand_is_unpacked(good_zip, target, tmp_path):
    (tmp_path / "weights.zip").write_bytes(good_zip)
    download.main(["--zip", str(tmp_path / "weights.zip")])
    assert os.listdir(target) == ["mobilenet_v2.pt"] and (tmp_path / "weights.zip").read_bytes() == good_zip


def test_without_a_network_all_addresses_are_tried_and_the_line_says_what_to_do(target, monkeypatch):
    with Server(b"") as closed:
        url = closed.url
    monkeypatch.setattr(download, "SOURCES", [(url, None), (url.replace("weights", "copy"), None)])
    with pytest.raises(InputError, match=r"no weights fetched .*refused.*; .*refused.*; train a network with main.py") as error:
        download.main([])
    assert str(target) in str(error.value) and os.listdir(target) == []


def test_second_address_is_used_when_the_first_is_dead(good_zip, target, monkeypatch):
    with serving(good_zip) as server:
        monkeypatch.setattr(download, "SOURCES", [("http://127.0.0.1:9/dead.zip", None), (server.url, None)])
        download.main([])
    assert math.isnan(checkpoint.load(target / "mobilenet_v2.pt")["best_acc"])
