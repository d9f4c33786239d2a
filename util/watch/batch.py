"""Many clips, each by a process of its own: `main.py --video clips/ --save out/ --jobs 4`, or over machines with `--ray ADDRESS`.

Every clip is run with the command line that a single one would have, on one thread, and has its own directory in the one of --save.
There summary.json is written last: where it tells of the same arguments, and nothing that these name is newer, the clip is finished, and
a second run skips it. A clip that fails, be it by a crash, stops no other: out/NAME.log keeps what it said. out/summary.csv has a line
for each clip.

Ray (pip install ray) places the processes where there is room; all machines must see the same paths: program, clips and --save.
"""
import contextlib
import csv
import glob
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from util.errors import InputError, printable, redact, redact_url
from util.files import atomic_write
from util.outputs.manifest import MANIFEST
from util.outputs.results import TABLE
from util.outputs.staging import SUMMARY
from util.source.ahead import usable_cores
from util.source.images import list_images
from util.source.stream import is_url
from util.watch.jobs import Outcome, run_here

SUFFIXES = set(
    ".264 .265 .3gp .asf .avi .dav .dv .flv .h264 .h265 .hevc .ivf .m2ts .m2v .m4v .mjpeg .mjpg .mkv .mov .mp4 .mpeg .mpg "
    ".mts .mxf .nut .ogv .ts .vob .webm .wmv .y4m".split()
)
OWN = ("--video", "--save", "--jobs", "--ray")  # flags that a single clip's command has otherwise or not at all
LONGEST_NAME = 200  # bytes; a file's name has up to 255, with endings such as .part
BESIDE = re.compile(r"\.(part|old|log|csv)$", re.IGNORECASE)  # endings of what a run or a batch makes beside results
COLUMNS = ["clip", "status", "frames", "objects", "tracks", "ms_per_frame", "labels", "reason", "source"]


# ---- Which clips -----------------------------------------------------------------------------------------------------
def find_clips(sources: str | Sequence[str], save: Path | None = None) -> list[str] | None:
    """The clips that --video means if it means many, else None: several sources, a pattern, or a directory of clips.

    A clip is a file, or a directory of images (or with an input/ of them); any other directory stands for the clips in it, at any
    depth, but for hidden ones, results of earlier runs and what is in `save`. InputError if a pattern matches nothing.
    """
    sources = [str(sources)] if isinstance(sources, str | int | os.PathLike) else list(sources)
    clips = [clip for source in sources for clip in _expand(source, save)]
    if clips == sources and len(clips) < 2:
        return None
    return list(dict.fromkeys(f"./{clip}" if clip.startswith("-") and clip != "-" else clip for clip in clips))  # it is no flag


def _expand(source: str, save: Path | None) -> list[str]:
    if os.path.isdir(source):
        if save and save.resolve() == Path(source).resolve() and not _is_clip(save):
            raise InputError(f"{source} is given as clips and as --save; choose another directory for the results")
        return [source] if _is_clip(Path(source)) else _clips_in(Path(source), save and save.resolve()) or [source]
    if os.path.exists(source) or "://" in source or not glob.has_magic(source):
        return [source]  # a camera, a URL; or it isn't there, as its own run will say
    matches = sorted(glob.glob(source, recursive=True))
    clips = [clip for match in matches if os.path.isdir(match) or _is_video(Path(match)) for clip in _expand(match, save)]
    if not (clips or matches):
        raise InputError(f"{source} matches no file")
    return clips or matches


def _clips_in(directory: Path, save: Path | None, above: tuple[Path, ...] = ()) -> list[str]:
    """The clips in a directory; above: the directories that led here, into which a link may lead back."""
    real = directory.resolve()
    if real == save or real in above or (directory / TABLE).exists() or (directory / MANIFEST).exists():
        return []
    if _is_clip(directory):
        return [str(directory)]
    inside = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    found = (_clips_in(path, save, (*above, real)) if path.is_dir() else [str(path)] * _is_video(path) for path in inside)
    return [clip for clips in found for clip in clips]


def _is_clip(directory: Path) -> bool:
    try:
        return (directory / "input").is_dir() or bool(list_images(directory))
    except OSError as error:
        raise InputError(f"{error.filename or directory}: {error.strerror}") from None


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def name_clips(clips: Sequence[str]) -> dict[str, str]:
    """{name: clip}, names that differ and are fit for directories: the file's without its ending, where need be with what it lies in."""
    forms = {}
    for clip in clips:
        path = Path(redact_url(clip) if is_url(clip) else clip)
        parts = [re.sub(r"[^\w.-]", "_", part) for part in path.parts if part not in ("/", "..")] or ["clip"]
        forms[clip] = [Path(parts[-1]).stem if _is_video(path) else parts[-1]]
        forms[clip] += ["_".join(parts[-depth:]) for depth in range(1, len(parts) + 1)]
        forms[clip] = [BESIDE.sub(r"_\1", form.encode()[-LONGEST_NAME:].decode(errors="ignore")) for form in forms[clip]]
    count = Counter((depth, name.casefold()) for names in forms.values() for depth, name in enumerate(names))
    named, taken = {}, set()
    for clip, names in forms.items():
        name = next((name for depth, name in enumerate(names) if count[depth, name.casefold()] == 1), names[-1])
        while name.casefold() in taken:
            name += "_"
        taken.add(name.casefold())
        named[name] = clip
    return named


# ---- One clip --------------------------------------------------------------------------------------------------------
def read_summary(directory: Path, arguments: Sequence[str]) -> dict | None:
    """The summary.json of a run, if one with these arguments has ended well, else None."""
    with contextlib.suppress(OSError, ValueError):
        summary = json.loads((directory / SUMMARY).read_text())
        if isinstance(summary, dict) and summary.get("arguments") == redact_arguments(arguments):
            return summary
    return None


def is_outdated(directory: Path, arguments: Sequence[str]) -> bool:
    """Whether what its arguments name, such as the clip, settings or a network, has been changed since a run ended."""
    named = {argument.partition("=")[2] if argument.startswith("--") else argument for argument in arguments} - {str(directory)}
    ended, now = os.path.getmtime(directory / SUMMARY), time.time()  # what is later than now is of a clock that is wrong
    return any(ended < os.path.getmtime(path) <= now for path in named if os.path.exists(path))


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command as summary.json has them: an address without password and query, that of --notify without its path."""
    kept, previous = [], ""
    for argument in arguments:
        parts = 3 if "--notify" in (previous, argument.partition("=")[0]) else None  # scheme://host, or all of it
        kept.append(re.sub(r"\w+://.*", lambda found: "/".join(redact_url(found[0]).split("/")[:parts]), argument))  # noqa: B023
        previous = argument
    return kept


def common_arguments(arguments: Sequence[str], own: Sequence[str] = OWN) -> list[str]:
    """The arguments of a command without those that differ from clip to clip, and their values; own: which flags these are."""
    kept, dropping = [], False
    for argument in arguments:
        if argument.startswith("-") and argument != "-":
            dropping = argument.partition("=")[0] in own
        if not dropping:
            kept.append(argument)
    return kept


def reason_of(code: int, error: str) -> str:
    """Why a clip failed, in a line; "" if it did not."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}" + " (out of memory?)" * (code == -signal.SIGKILL)
    lines = [line for line in error.splitlines() if line.strip()]
    return "" if code == 0 else lines[-1].partition(": error: ")[2] or lines[-1].strip() if lines else f"ended with code {code}"


# ---- All of them -----------------------------------------------------------------------------------------------------
def run_clips(args, clips: Sequence[str]) -> list[dict]:
    """Return the rows of summary.csv after every clip was run by the program of args.command, as `args` says: save, jobs, ray.

    Prints them as a table. InputError at the end if a clip failed, or at once if there is no --save.
    """
    if not args.save:
        raise InputError(f"--video means {len(clips)} clips; give --save DIR, which gets a directory for each")
    if (args.save / TABLE).exists() or args.save.is_file():
        found = "a file" if args.save.is_file() else "where the results of one clip are"
        raise InputError(f"{args.save} is {found}; choose another directory")
    args.save.mkdir(parents=True, exist_ok=True)
    names = name_clips(clips)
    program, given = args.command
    shared = common_arguments(given)
    arguments = {name: [*shared, "--video", clip, "--save", str(args.save / name)] for name, clip in names.items()}
    rows = {name: _row(name, clip, "waiting") for name, clip in names.items()}
    for name, clip in names.items():
        summary = read_summary(args.save / name, arguments[name])
        if summary and not summary.get("stopped") and not is_outdated(args.save / name, arguments[name]):  # a live source goes on
            rows[name] = _row(name, clip, "kept", summary)
    commands = {name: [*program, *a] for name, a in arguments.items() if rows[name]["status"] != "kept"}
    if args.ray and commands:
        from util.watch.on_ray import run_on_ray

        outcomes = run_on_ray(commands, args.ray, args.jobs or usable_cores())
    else:
        outcomes = run_here(commands, args.jobs or usable_cores())
    try:
        with contextlib.closing(outcomes), tqdm(total=len(names), desc="clips", unit=" clips", leave=False, disable=None) as bar:
            bar.update(len(names) - len(commands))
            for name, outcome in outcomes:
                rows[name] = _finish(args.save, name, names[name], arguments[name], outcome)
                bar.update()
    finally:
        _write_table(args.save / "summary.csv", rows.values())
    print(table(rows.values()))
    print(f"written: {printable(args.save / 'summary.csv')}")
    if failed := [name for name, row in rows.items() if row["status"] == "failed"]:
        raise InputError(f"{len(failed)} of {len(rows)} clips failed: {', '.join(failed)}")
    return list(rows.values())


def _row(name: str, clip: str, status: str, summary: dict | None = None, reason: str = "") -> dict:
    summary = summary or {}
    ms = summary.get("ms_per_frame")
    return {
        "clip": name, "status": status, **{key: summary.get(key, "") for key in ("frames", "objects", "tracks")},
        "ms_per_frame": f"{sum(ms.values()):.2f}" if ms else "",
        "labels": " ".join(f"{label} {count}" for label, count in summary.get("labels", {}).items()),
        "reason": redact(reason), "source": redact_url(clip) if is_url(clip) else clip,
    }  # fmt: skip


def _finish(save: Path, name: str, clip: str, arguments: list[str], outcome: Outcome) -> dict:
    """The row of a clip whose process has ended; what a failed one said goes to NAME.log."""
    code, out, error = outcome
    summary = read_summary(save / name, arguments)
    reason = reason_of(code, error) or ("" if summary else f"left no {SUMMARY}")
    log = save / f"{name}.log"
    with contextlib.suppress(OSError, InputError):  # a full disk, say; the reason stands in the table as well
        if not reason:
            log.unlink(missing_ok=True)
        else:
            with atomic_write(log) as temporary:
                temporary.write_text(redact(out + error), encoding="utf-8")
    return _row(name, clip, "failed" if reason else "done", summary, reason)


def _write_table(path: Path, rows: Iterable[dict]) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", newline="", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def table(rows: Iterable[dict]) -> str:
    """Return the rows for the eye: the reason of a failure stands where the labels would."""
    columns = ["clip", "status", "frames", "objects", "tracks", "ms_per_frame"]
    cells = [[*(row[column] for column in columns), row["reason"] or row["labels"]] for row in rows]
    heads = [*(column.replace("ms_per_", "ms/") for column in columns), "labels"]
    return tabulate(cells, heads, "plain", disable_numparse=True, colalign=["left"] * 2 + ["right"] * 4 + ["left"])
