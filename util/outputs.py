"""The files of a run over a video, each a sink: it gets every moment, and at the end the tracks that are still open."""
import csv
from contextlib import ExitStack
from pathlib import Path

from util.pictures import Sampler, VideoWriter, annotate, contact_sheet
from util.results import ResultsWriter


class Results:
    def __init__(self, writer):
        self.writer = writer

    def add(self, moment):
        self.writer.add(moment.number, moment.frame, moment.result)

    def finish(self, tracks, clock):
        pass


class Annotated:
    def __init__(self, writer):
        self.writer = writer

    def add(self, moment):
        shown = [s for s in moment.sightings if s.track]
        self.writer.write(annotate(moment.frame, [s.box for s in shown], [f"#{s.track} {s.label} {s.probability:.0%}" for s in shown]))

    def finish(self, tracks, clock):
        pass


class Sheet:
    def __init__(self, path, title):
        self.path, self.title, self.tracks = path, title, Sampler()

    def add(self, moment):
        for track in moment.ended:
            self.tracks.add(track)

    def finish(self, tracks, clock):
        for track in tracks:
            self.tracks.add(track)
        if shown := self.tracks.items:
            title = f"{self.title}: {len(shown)} of {self.tracks.seen} tracks"
            contact_sheet([t.best for t in shown], [f"#{t.number} {t.label} {t.probability:.0%}" for t in shown], self.path, title)


class Predictions:
    def __init__(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, "w", newline="")
        self.rows = csv.writer(self.file)
        self.rows.writerow(["frame", "object", "x", "y", "width", "height", "label", "probability", "track"])

    def add(self, moment):
        for i, s in enumerate(moment.sightings):
            self.rows.writerow([moment.number, i, *s.box, s.label, f"{s.probability:.4f}", s.track or ""])

    def finish(self, tracks, clock):
        self.file.close()


def open_sinks(stack: ExitStack, args, video, classes) -> list:
    predictions = (args.save or Path()) / "predictions.csv"
    if not args.save:
        return [Predictions(predictions)]
    results = stack.enter_context(ResultsWriter(args.save, source=args.video))
    annotated = stack.enter_context(VideoWriter(args.save / "annotated.mp4", video.fps, (video.width, video.height)))
    return [Results(results), Predictions(predictions), Annotated(annotated), Sheet(args.save / "contact_sheet.png", Path(video.name).name)]
