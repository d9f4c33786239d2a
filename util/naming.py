"""From regions to names: what `--fastMCD`, `--multi_fastMCD` and `--video` do once a network can classify crops."""
import csv
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from util import batch
from util.cli import InputError
from util.files import atomic_write
from util.pictures import VideoWriter, annotate, contact_sheet
from util.results import ResultsWriter, read_results
from util.video import open_video

Classifier = Callable[[list[np.ndarray]], tuple[list[int], list[float]]]  # RGB crops -> labels, probabilities
COLUMNS = ["frame", "object", "x", "y", "width", "height", "label", "probability"]
BATCH = 128  # crops classified at once
THUMBNAILS = 96  # at most, on a contact sheet


class Predictions:
    """The names given so far, as rows (frame, object, x, y, width, height, label, probability)."""

    def __init__(self, classes: Sequence[str]):
        self.classes = classes
        self.rows: list[tuple] = []

    def add(self, frame: int, number: int, box: Iterable[int], label: int, probability: float) -> str:
        """Return the caption of the new row, "name 93%"; `label` is an index into `classes`."""
        self.rows.append((frame, number, *map(int, box), self.classes[label], probability))
        return f"{self.classes[label]} {probability:.0%}"

    def write(self, path: Path) -> None:
        """Write the rows as CSV; the file is whole or the earlier one stays."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)
            csv.writer(file).writerows([*row[:7], f"{row[7]:.4f}"] for row in self.rows)

    def table(self) -> str:
        """Return one line per label, most frequent first: objects, share, mean probability."""
        lines = [f"{'label':<12}{'objects':>8}{'share':>9}{'mean probability':>19}"]
        for label, count in Counter(row[6] for row in self.rows).most_common():
            mean = sum(row[7] for row in self.rows if row[6] == label) / count
            lines.append(f"{label:<12}{count:>8}{count / len(self.rows):>9.1%}{mean:>19.2f}")
        return "\n".join(lines)

    def share_right(self, label: int, also_right: Iterable[int]) -> str:
        """Return a line that says how many objects were named `label` or one of `also_right`."""
        names = [self.classes[i] for i in (label, *also_right)]
        right = sum(row[6] in names for row in self.rows)
        return f"{' or '.join(names)}: {right} of {len(self.rows)} objects, {right / max(1, len(self.rows)):.1%}"


class Clock:
    """Seconds spent per stage; str() gives the mean milliseconds per frame, stage by stage."""

    def __init__(self):
        self.seconds, self.frames = defaultdict(float), 0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start

    def each(self, stage: str, items: Iterable) -> Iterator:
        """Yield `items`, counting each as a frame and the time that it took to come as `stage`."""
        iterator = iter(items)
        while True:
            with self(stage):
                item = next(iterator, None)
            if item is None:
                return
            self.frames += 1
            yield item

    def ms(self) -> dict[str, float]:
        """Stage -> mean milliseconds per frame."""
        return {stage: 1000 * seconds / max(1, self.frames) for stage, seconds in self.seconds.items()}

    def __str__(self):
        stages = self.ms()
        return ", ".join(f"{stage} {ms:.2f}" for stage, ms in stages.items()) + f", all {sum(stages.values()):.2f}"


class Sampler:
    """Keeps an even sample of a stream of unknown length: every item at first, then every 2nd, every 4th, …"""

    def __init__(self, most: int = THUMBNAILS):
        self.items, self.most, self.step, self.seen = [], most, 1, 0

    def add(self, item: object) -> None:
        if self.seen % self.step == 0:
            self.items.append(item)
        self.seen += 1
        if len(self.items) > self.most:
            self.items = self.items[::2]
            self.step *= 2


def run(args, classify: Classifier, make_detector: Callable, classes: Sequence[str], also_right: dict[int, set[int]]) -> Predictions:
    """Return the predictions for what `args` asks: a directory of the detector's results, or a video (see util.cli).

    Prints a table and writes predictions.csv: into `--save`, else into the results directory, else (a video) into the current one.
    `make_detector(width, height)` returns a function from a BGR frame to the result of fastmcd.Detector.detect.
    """
    if args.video and (clips := batch.find_clips(args.video, args.save)):
        return batch.run(args, clips)
    predictions = Predictions(classes)
    directory = args.fastMCD or args.multi_fastMCD
    path = (args.save or directory or Path()) / "predictions.csv"
    try:
        if args.video:
            clock = _name_video(args, predictions, classify, make_detector)
        else:
            _name_directory(args, directory, predictions, classify)
    except (KeyboardInterrupt, InputError):  # a cut-off video: what could be read is kept
        if predictions.rows:
            predictions.write(path)
        raise
    if predictions.rows:
        print(predictions.table())
    if args.label is not None:
        print(predictions.share_right(args.label, also_right.get(args.label, set())))
    predictions.write(path)
    print(f"written: {path}")
    if args.video and args.save:
        labels = dict(Counter(row[6] for row in predictions.rows).most_common())
        batch.write_summary(args.save, frames=clock.frames, objects=len(predictions.rows), labels=labels, ms_per_frame=clock.ms())
    return predictions


def _name_directory(args, directory: Path, predictions: Predictions, classify: Classifier) -> None:
    detections = read_results(directory, best_only=bool(args.fastMCD))[: args.limit]
    captions = []
    for start in tqdm(range(0, len(detections), BATCH), "naming", unit="batch", leave=False, disable=None):
        batch = detections[start : start + BATCH]
        for d, label, probability in zip(batch, *classify([d.image for d in batch]), strict=True):
            captions.append(predictions.add(d.frame, d.object, (d.x, d.y, d.width, d.height), label, probability))
    print(f"{directory}: {len(detections)} objects in {len({d.frame for d in detections})} frames")
    if args.save and detections:
        args.save.mkdir(parents=True, exist_ok=True)
        contact_sheet([d.image for d in detections], captions, args.save / "contact_sheet.png", directory.name)


def _name_video(args, predictions: Predictions, classify: Classifier, make_detector: Callable) -> Clock:
    video = open_video(args.video)
    if args.save:
        batch.clear_summary(args.save)
    detect = make_detector(video.width, video.height)
    clock = Clock()
    thumbnails = Sampler()
    with ExitStack() as stack:
        results = args.save and stack.enter_context(ResultsWriter(args.save, source=args.video))
        annotated = args.save and stack.enter_context(VideoWriter(args.save / "annotated.mp4", video.fps, (video.width, video.height)))
        total = min(filter(None, [args.limit, video.frame_count]), default=None)
        frames = tqdm(clock.each("decode", islice(video, args.limit)), "naming", total, unit=" frames", leave=False, disable=None)
        for number, frame in enumerate(frames, 1):
            with clock("detect"):
                result = detect(frame)
            crops = [np.ascontiguousarray(frame[y : y + h, x : x + w, ::-1]) for x, y, w, h in result.crops]
            with clock("classify"):
                names = zip(*classify(crops), strict=True) if crops else []
            captions = [predictions.add(number, i, box, *name) for i, (box, name) in enumerate(zip(result.boxes, names, strict=True))]
            if args.save:
                with clock("write"):
                    results.add(number, frame, result)
                    annotated.write(annotate(frame, result.boxes, captions))
                    for crop, caption in zip(crops, captions, strict=True):
                        thumbnails.add((crop, caption))
    print(f"{video.name}: {len(predictions.rows)} objects in {len({row[0] for row in predictions.rows})} of {clock.frames} frames")
    print(f"ms per frame: {clock}")
    if args.save and thumbnails.items:
        title = f"{Path(video.name).name}: {len(thumbnails.items)} of {len(predictions.rows)} objects"
        contact_sheet(*zip(*thumbnails.items, strict=True), args.save / "contact_sheet.png", title)
    return clock
