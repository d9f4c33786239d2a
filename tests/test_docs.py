"""The manuals: links lead somewhere, README is short, the commands over clips take their flags."""
import os
import re
import shlex
import subprocess

import pytest

from tests.scripts import ROOT
from util.watch.__main__ import parse_args

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def prose(page):
    """A page's text without its code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """What links to a page's headings call them, as GitHub does."""
    heads = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_watch_are_understood(page):
    for command in re.findall(r"^\S*python3 -m util\.watch (.*)$", page.read_text(), re.MULTILINE):
        parse_args(shlex.split(command, comments=True))


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def make(*arguments: str) -> subprocess.CompletedProcess:
    """What make does with these arguments, told by itself alone: as if no other make had started these tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def test_make_help_lists_the_targets():
    done = make("help")
    assert done.returncode == 0 and "make setup" in done.stdout and "make bench-names" in done.stdout and not done.stderr


def test_make_hands_the_flags_in_resume_to_every_training():
    networks = "vgg resnet20 nin nin_bwn vgg_clips resnet20_clips lenet airbench mobilenet".split()
    printed = make("-n", "RESUME=--resume", "WILD=DIR", *(f"train-{name}" for name in networks)).stdout.replace("\\\n", "")
    trainings = [line for line in printed.splitlines() if "main.py" in line and "--logits" not in line]
    assert len(trainings) == len(networks) and all(line.endswith("--resume") for line in trainings)


def test_make_clean_keeps_results():
    assert make("-n", "clean").stdout.split() == ["rm", "-rf", "build", "fastmcd/*.so", "util/packed/*.so"]


def test_a_training_for_clips_asks_for_its_images_at_once():
    done = make("-n", "train-vgg_clips")
    assert done.returncode == 2 and "train-vgg_clips needs WILD=DIR" in done.stderr and not done.stdout
