"""The report: what it counts and keeps, that it stands alone, and how a browser shows it."""
import base64
import csv
import re
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from urllib.parse import unquote

import cv2
import numpy as np
import pytest

from tests.browser import needs_chromium
from util.outputs.dataset import read_labels
from util.outputs.events import crop_name, read_crop
from util.outputs.pictures import encode_png
from util.outputs.report import BINS, MAX_TRACKS, Activity, Longest, Report, _ticks
from util.outputs.staging import Staging
from util.track.places import Crossing, Places, Visit
from util.track.tracking import UNKNOWN, Moment, Sighting, Track
from util.watch.pipeline import Clock

NAME = "<script>alert('1')</script> & \"clip\" \udcff.mp4"
CLOCK = Clock()
CLOCK.seconds, CLOCK.frames = {"decode": 0.5, "detect": 1.25, "write": 0.25}, 250
BEGAN = datetime.fromisoformat("2026-11-26T16:00:00+01:00")
LIVE = SimpleNamespace(live=True, dropped=1234, reconnects=2, time_of=lambda seconds: BEGAN + timedelta(seconds=seconds))


def track(number, label="cat", start=0.0, end=1.0, sightings=20, probability=0.875, size=(30, 40)):
    best = np.full((*size, 3), (200, 30, number % 256), np.uint8)
    ages = round(25 * start) + 1, round(25 * end) + 1, start, end
    return Track(number, label, probability, *ages, sightings, best, round(25 * start) + 1, (5, 6, 7, 8))


def made(directory, tracks, frames=250, **options):
    """The page of a run at 25 frames a second in which the first half of the tracks ended on the way."""
    with Staging(directory / "out") as staging:
        staging.mkdir("events")
        staging.write({crop_name(each): encode_png(each.best[..., ::-1]) for each in tracks})
        report = Report(staging, NAME, **options)
        for number in range(1, frames + 1):
            ended = tracks[: len(tracks) // 2] if number == frames else []
            report.add(Moment(number, (number - 1) / 25, None, None, [Sighting((1, 2, 3, 4), (1, 2, 3, 4), 0.5)], ended))
        report.finish(tracks[len(tracks) // 2 :], CLOCK)
    return (directory / "out" / "report.html").read_text(encoding="utf-8")


def text_of(page):
    """What is to be read on it, without style, script and tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(style|script)\b.*?</\1>", "", page)).split())


def test_the_page_tells_what_kind_of_thing_a_track_is(tmp_path):
    tracks = [replace(track(1, UNKNOWN), kind="vehicle", kind_probability=0.75), track(2)]
    text = text_of(made(tmp_path, tracks))
    assert "#1 unknown confidence 87.5 % kind vehicle, 75.0 % from" in text and text.count(" kind ") == 1


def test_the_page_tells_who_passed_what(tmp_path):
    over, visit = Crossing("stop", "left", 1.0), Visit("gate", 0.0, 75.0)
    tracks = [replace(track(1), crossings=(over, over)), replace(track(2, "<dog>"), crossings=(over,), visits=(visit,))]
    text = text_of(made(tmp_path, tracks, places=Places({"stop": [[0, 0], [1, 1]]})))
    assert "stop left 3 cat 2 &lt;dog&gt; 1 stop right 0" in text and "gate 1 &lt;dog&gt; 1, 1:15, 1:15" in text
    assert "Lines and zones" not in made(tmp_path, [track(1)])


def test_the_page_counts_frames_tracks_names_and_time(tmp_path):
    page = made(tmp_path, [track(1), track(2, "truck"), track(3, "truck"), track(4, UNKNOWN, end=9.5)])
    text = text_of(page)
    for fact in ("frames 250", "long 10.0 s", "tracks 4", "named 3", "unknown 1", "sightings 250", "ms per frame 8.0"):
        assert fact in text, fact
    stages = "decode 2.00 ms 25.0 %", "detect 5.00 ms 62.5 %", "write 1.00 ms 12.5 %"
    for bar in ("truck 2 50.0 %", "cat 1 25.0 %", "unknown 1 25.0 %", *stages):
        assert bar in text, bar
    assert text.index("truck 2") < text.index("cat 1") < text.index("unknown 1 25.0"), "most first, unknown last"
    assert "#4 unknown confidence 87.5 % from 0.0 s to 9.5 s frames 1–239 seen in 20" in text
    assert re.search(r'left: 0.000%; width: 95.000%"></i>', page)


def test_the_page_stands_alone_and_escapes_what_names_hold(tmp_path):
    page = made(tmp_path, [track(1, "<b>&", size=(500, 20))])
    assert page.count("<script") == 1 and "alert" not in page.partition("<script")[2]
    assert "<b>&" not in page and "&lt;b&gt;&amp;" in page and "&lt;script&gt;" in page
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(\w+:)""", page)) == {"data:"}
    assert not re.search(r"https?:|[\"'(]//|@import|<link", page)
    data = re.search(r"data:image/jpeg;base64,([\w+/=]+)", page)[1]
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (160, 6, 3) and abs(image.mean((0, 1)) - (1, 30, 200)).max() < 6, "small, blue green red"


def test_the_video_is_linked_where_there_is_one(tmp_path):
    assert "<video" not in made(tmp_path, [track(1)])
    assert '<video src="annotated.mp4"' in made(tmp_path, [track(1)], video="annotated.mp4")
    assert "<video" not in made(tmp_path, [], frames=0, video="annotated.mp4"), "of no frames there is no video"


def test_a_run_without_tracks_or_frames_has_a_page(tmp_path):
    text = text_of(made(tmp_path, []))
    assert "tracks 0" in text and "Nothing moved for long enough" in text
    assert "frames 0" in text_of(made(tmp_path, [], frames=0))


def test_of_many_tracks_the_longest_are_shown_and_all_are_counted(tmp_path):
    rng = np.random.default_rng(2)
    tracks = [track(n, sightings=int(rng.integers(5, 10000))) for n in range(1, 524)]
    page = made(tmp_path, tracks)
    longest = sorted(sorted(tracks, key=lambda t: -t.sightings)[:MAX_TRACKS], key=lambda t: t.number)
    assert re.findall(r"<b>#(\d+)</b>", page) == [str(t.number) for t in longest]
    assert f"The {MAX_TRACKS} longest of 523" in page and "cat 523 100.0 %" in text_of(page)
    assert len(page) < 1_000_000


def test_the_longest_tracks_are_kept_without_their_pictures():
    longest = Longest(2)
    longest.add([track(1, sightings=5), track(2, sightings=9, size=(1000, 2000)), track(3, sightings=5, probability=0.9)])
    assert [t.number for t in longest.tracks()] == [2, 3] and longest.seen == 3
    assert sum(t.best.nbytes for t in longest.tracks()) == 0


def test_a_picture_that_is_not_there_is_grey(tmp_path):
    with Staging(tmp_path / "out") as staging:
        assert (read_crop(staging, track(1), 32) == 128).all()


@pytest.mark.parametrize("length", [3.0, 24.0, 4000.0])
def test_activity_is_how_many_tracks_there_were(length):
    rng, activity = np.random.default_rng(3), Activity()
    spans = np.sort(rng.uniform(0, length, (60, 2)), axis=1)
    spans[-1, 1] = length
    for n, (start, end) in enumerate(spans):
        activity.add(track(n, "ab"[n % 2], start, end))
    used = int(np.ceil(length / activity.width - 1e-9))
    assert BINS / 2 < used <= BINS or activity.width == 0.1
    # the mean over each bin, from many instants in it
    instants = (np.arange(used)[:, None] + (np.arange(2000) + 0.5) / 2000) * activity.width
    there = (spans[:, 0] <= instants[..., None]) & (instants[..., None] < spans[:, 1])
    expected = [there[..., i::2].sum(2).mean(1) for i in range(2)]
    assert np.allclose([activity.counts["a"][:used], activity.counts["b"][:used]], expected, atol=0.02)
    expected = [counts / (instants < length).mean(1) for counts in expected]  # over as much of the last bin as there was
    top, [(first, _), (second, path)] = activity.areas(["a", "b"], length)
    assert (first, second) == ("a", "b") and abs(top - max(sum(expected))) < 0.03
    points = np.array([point.split() for point in path[1:-1].split("L")], float)
    assert points.min() >= 0 and points.max() == 1 and (np.diff(points[: 2 * used, 0]) >= 0).all()
    assert np.allclose(points[: 2 * used : 2, 1], 1 - sum(expected) / top, atol=0.02)


def test_what_was_seen_in_all_frames_of_a_short_clip_was_there_all_the_time(tmp_path):
    page = made(tmp_path, [track(n, end=0.04) for n in (1, 2, 3, 4)], frames=2)
    assert "All 4 tracks, averaged over steps of 0.1 s; at most 4 at once." in text_of(page)


def test_ticks_are_few_and_round():
    for seconds in (1e-9, 0.04, 0.9, 12, 59, 61, 3599, 7300, 86400, 1e6, 1e8):
        ticks = _ticks(seconds)
        assert 1 <= len(ticks) <= 9 and all(0 <= place <= 1 for place, _ in ticks) and ticks[0] == (0, ticks[0][1]), seconds
    assert [text for _, text in _ticks(130)] == ["0 s", "30 s", "1:00", "1:30", "2:00"]
    assert _ticks(7300)[-1][1] == "2:00:00"


# ---- A browser -------------------------------------------------------------------------------------------------------
def opened(chrome, path, page, script="", **how):
    """Show a page that was changed by the end of a script of its own."""
    path.write_text(page.replace("</body>", f"{script}</body>"))
    chrome.open("about:blank")
    chrome.errors.clear()  # of the page before, if labels in it were not saved
    chrome.open(path.as_uri(), **how)
    assert not chrome.errors


@needs_chromium
@pytest.mark.parametrize(("count", "dark"), [(0, False), (5, False), (5, True), (500, False)])
def test_a_browser_shows_it(chrome, tmp_path, count, dark):
    """With the colours of the scheme, every track's row, and nothing from elsewhere."""
    page = made(tmp_path, [track(n, ["cat", "truck", UNKNOWN][n % 3], end=n % 9 + 1) for n in range(1, count + 1)])
    opened(chrome, tmp_path / "report.html", page, width=1000, height=800, dark=dark)
    dom = chrome.see("document.documentElement.outerHTML")
    assert f"tracks {count}" in text_of(dom) and dom.count('class="row"') == min(count, MAX_TRACKS) and not re.search("https?:", dom)
    assert chrome.see("[innerWidth, document.documentElement.scrollWidth]") == [1000, 1000], "nothing reaches beyond the window"
    chrome.screenshot(tmp_path / "page.png")
    picture = cv2.imread(str(tmp_path / "page.png"))
    ground = (26, 22, 20) if dark else (249, 247, 246)
    assert tuple(picture[0, 0]) == ground and picture.std() > 5


ROWS_APART = """(() => {
  document.querySelector(".tip").style.display = "grid";
  const boxes = [...document.querySelectorAll(".row > *")].map(e => e.getBoundingClientRect());
  const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
  const rows = Array.from({length: boxes.length / 4}, (_, i) => boxes.slice(4 * i, 4 * i + 4));
  const good = rows.filter(row => row.every((a, i) => a.width > 4 && a.height > 4 && row.slice(i + 1).every(b => apart(a, b))));
  return [innerWidth, document.documentElement.scrollWidth, rows.length, good.length];
})()"""


@needs_chromium
@pytest.mark.parametrize("count", [5, 500])
def test_a_phone_shows_all_of_it(chrome, tmp_path, count):
    """390 px wide: numbers and percentages are there, apart, and nothing sticks out."""
    names = [UNKNOWN, "a van with a trailer and a very long name"]
    page = made(tmp_path, [track(n, names[n % 2], end=n % 9 + 1) for n in range(1, count + 1)], source=LIVE)
    opened(chrome, tmp_path / "report.html", page, width=390, height=800)
    assert chrome.see(ROWS_APART) == [390, 390, min(count, MAX_TRACKS), min(count, MAX_TRACKS)]


def test_a_live_source_says_what_was_lost_and_when_it_was(tmp_path):
    page = text_of(made(tmp_path, [track(1, start=3.2)], source=LIVE))
    assert "2026-11-26 16:00:00 +01:00 to 2026-11-26 16:00:10 +01:00" in page and "from 3.2 s · 16:00:03 to" in page
    assert "dropped 1,234" in page and "reconnects 2" in page and "decode includes waiting for the frame" in page
    page = text_of(made(tmp_path, [track(1)], source=SimpleNamespace(live=False, time_of=lambda seconds: None)))
    assert "dropped" not in page and "waiting" not in page


CLICKS = """<script>
const press = (key, on = document.activeElement) => on.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
const type = name => { press("t"); typed.value = name; press("Enter", typed); };
const button = name => [...document.querySelectorAll(".teach button")].find(b => b.dataset.class === name);
document.querySelector("[data-track='2']").click();
button("dog").click();                       // a class of the network; the next track is picked
press("Enter");                              // 3 is what it is called
press("1");                                  // 4 is the first class
press("o");                                  // 5 is other
type("für, Elise");                          // 6, a class that is new
press("ArrowDown"); type("DOG");             // 8 as it is spelt already
type("a/b"); const refused = problem.textContent; press("Escape");
press("Backspace");                          // 9 has none yet
press("ArrowUp"); press("ArrowUp"); press("ArrowUp"); type("wrong"); press("ArrowUp"); press("Backspace");   // 6 is taken back ...
type("für, Elise");                          // ... and given again
document.title = refused + "|" + save.textContent + "|" + document.querySelector("[data-track='2'] .name").textContent;
</script>"""


@needs_chromium
def test_names_are_corrected_by_clicks_and_keys_and_saved_as_a_table(chrome, tmp_path):
    page = made(tmp_path, [track(n, ["cat", "truck"][n % 2], start=n) for n in range(1, 10)], classes=["cat", "dog", "truck", "other"])
    opened(chrome, tmp_path / "report.html", page, CLICKS)
    refused, text, name = chrome.see("document.title").rsplit("|", 2)
    assert "can't be a class" in refused and text == "Save labels.csv (6)" and name == "dog"
    saved = unquote(chrome.see("document.querySelector('a[href^=\"data:text/csv;charset=utf-8,\"]').href").partition(",")[2])
    rows = list(csv.reader(saved.removeprefix("\ufeff").splitlines()))
    first = {str(n): str(25 * n + 1) for n in range(1, 10)}
    names = {"2": "dog", "3": "truck", "4": "truck", "5": "other", "6": "für, Elise", "8": "dog"}
    assert rows == [["track", "class", "first_frame"], *([n, name, first[n]] for n, name in names.items())]
    (tmp_path / "labels.csv").write_text(saved)
    assert read_labels(tmp_path / "labels.csv") == {f"{n}@{first[n]}": name for n, name in names.items()}


@needs_chromium
def test_where_classes_are_digits_a_key_is_the_class_of_that_name(chrome, tmp_path):
    page = made(tmp_path, [track(n, "5") for n in (1, 2)], classes=list("0123456789"))
    keys = CLICKS.partition("const button")[0] + 'document.querySelector(".wrap").click(); press("7"); press("o");'
    keys += 'document.title = [...document.querySelectorAll(".name")].map(e => e.innerHTML);</script>'
    opened(chrome, tmp_path / "report.html", page, keys)
    assert chrome.see("document.title") == "7,other"
