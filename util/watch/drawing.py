"""Zones and lines that somebody draws on the live page: checked, saved as settings, and in use from the next frame on."""
from pathlib import Path

from util.errors import InputError
from util.watch.settings import NAME_FORM, is_name, load_settings, preset_names, save_drawing


class Drawing:
    """What is drawn on the frames of a util.watch.pipeline.Pipeline.

    shown: {"zones": {"watch": [polygon, …], "ignore": …, NAME: …}, "lines": {NAME: [point, point]}}, points being [x, y] in pixels; zones
    that are images are left out. save: from another such drawing to the one that is in use then, or None where no file was given.
    """

    def __init__(self, source: str | None, camera: str | None, pipeline, settings: dict[str, dict]):
        self._path, self._camera, self._pipeline, self._settings = Path(source or ""), camera, pipeline, settings
        self.shown = _shown(settings)
        self.save = self._save if source and source not in preset_names() else None

    def _save(self, drawing: object) -> dict:
        width, height = self._pipeline.size
        kept = _checked(drawing, width, height)
        loaded = []

        def check(path: Path) -> None:
            try:
                loaded.append(load_settings(str(path), list(self._pipeline.network.spec.classes), self._camera))
                self._pipeline.redraw(loaded[0])
            except InputError as error:
                raise InputError(str(error).replace(str(path), str(self._path))) from None

        try:
            save_drawing(self._path, self._camera, kept, check)
        except BaseException:
            self._pipeline.redraw(self._settings)
            raise
        self._settings = loaded[0]
        self.shown = _shown(self._settings)
        return self.shown


def _shown(settings: dict[str, dict]) -> dict[str, dict]:
    return {"zones": {key: value for key, value in settings["zones"].items() if not isinstance(value, str)}, "lines": settings["lines"]}


def _checked(drawing: object, width: int, height: int) -> dict[str, dict]:
    """Return a drawing as it may be saved, its points whole pixels of the frame."""
    tables = [drawing.get(table) for table in ("zones", "lines")] if isinstance(drawing, dict) and len(drawing) == 2 else [None]
    if not all(isinstance(table, dict) for table in tables):
        raise InputError("a drawing is {zones: {…}, lines: {…}}")
    zones, lines = tables
    for name in [*zones, *lines]:
        if not is_name(name):
            raise InputError(f"{name!r} is no name of a zone or a line; give {NAME_FORM}")
    for name, polygons in zones.items():
        if not isinstance(polygons, list):
            raise InputError(f"zone {name} is no list of polygons")
    return {
        "zones": {name: [_points(points, f"zone {name}", 3, width, height) for points in polygons] for name, polygons in zones.items()},
        "lines": {name: _points(points, f"line {name}", 2, width, height) for name, points in lines.items()},
    }


def _points(points: object, name: str, least: int, width: int, height: int) -> list[list[int]]:
    if not isinstance(points, list) or len(points) < least:
        raise InputError(f"{name} needs {least} points")
    for point in points:
        if not (isinstance(point, list) and len(point) == 2 and all(type(number) in (int, float) for number in point)):
            raise InputError(f"{name} has a point that is not [x, y]")
        if not (0 <= point[0] <= width and 0 <= point[1] <= height):
            raise InputError(f"{name} has a point outside the picture")
    return [[round(x), round(y)] for x, y in points]
