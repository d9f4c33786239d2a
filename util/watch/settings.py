"""Settings of the video path: a TOML file or a preset by name (docs/settings.toml has every one, with its default and meaning)."""
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

from util.errors import InputError, read_text, reading
from util.files import atomic_write

PRESETS = Path(__file__).with_name("presets.toml")
MAX_BYTES = 1 << 20  # bytes of a file
# table -> key -> (default, lowest, highest); [detector] holds what fastmcd.PARAMS names, and the detector checks it.
NUMBERS = {
    "tracks": {"min_sightings": (5, 1, 1000), "lost_seconds": (1.0, 0, 60), "keep_seconds": (1.0, 0, 60), "overlap": (0.2, 0.01, 0.99)},
    "record": {"before": (5.0, 0, 60), "after": (5.0, 0, 600)},
    "names": {"temperature": (None, 0.01, 100), "unknown_below": (None, 0, 1), "hold": (0.1, 0, 1), "views_per_frame": (16, 1, 10_000)},
}
OTHERS = {
    "names": {"only": [], "kinds": False, "drop_other": False, "prior": {}, "geometry": True}, "zones": {"watch": [], "ignore": []},
    "lines": {},
}  # fmt: skip
NAMED = {"zones", "lines"}  # tables in which other keys are names that somebody gives
NAME_FORM = "up to 40 letters, digits, or any of _ -"  # of such a key, and of a camera


def load_settings(source: str | None, classes: list[str], camera: str | None = None) -> dict[str, dict]:
    """Return table -> key -> value, complete but for [detector]; `source` is a file, the name of a preset, or None.

    A file may start from a preset: preset = "traffic". What [cameras.NAME] holds overrides the rest if `camera` is NAME, and counts for
    nothing else. A zone's image is looked for beside the file. Raises InputError.
    """
    settings = {"detector": {}}
    for table, keys in NUMBERS.items():
        settings[table] = {key: default for key, (default, _, _) in keys.items()}
    for table, keys in OTHERS.items():
        settings.setdefault(table, {}).update(keys)
    for name, layer in _layers(source, camera):
        for table, values in layer.items():
            if table not in settings or not isinstance(values, dict):
                raise InputError(f"{name}: has {table!r}; expected the tables {' '.join(settings)}, and preset = \"NAME\"")
            for key, value in values.items():
                settings[table][key] = _checked(name, table, key, value, classes)
    return settings


def is_name(text: str) -> bool:
    """Whether a zone, a line or a camera may be called so: see NAME_FORM."""
    return re.fullmatch(r"[\w-]{1,40}", text, re.ASCII) is not None


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(tomllib.loads(PRESETS.read_text()))


def load_cameras(path: Path) -> dict[str, str]:
    """Return name -> source of the [cameras.NAME] in a settings file, of which there is at least one. Raises InputError."""
    cameras = _read(path).get("cameras")
    if not isinstance(cameras, dict) or not cameras:
        raise InputError(f"{path}: names no camera; expected [cameras.NAME] with source = \"rtsp://…\"")
    for name, camera in cameras.items():
        if not is_name(name):
            raise InputError(f"{path}: {name!r} is no name of a camera; give {NAME_FORM}")
        source = camera.get("source") if isinstance(camera, dict) else None
        if not isinstance(source, str | int) or isinstance(source, bool) or source in ("", "-"):
            raise InputError(f"{path}: [cameras.{name}] has no source; expected a URL or the number of a camera")
    if len({name.casefold() for name in cameras}) < len(cameras):
        raise InputError(f"{path}: two cameras have the same name but for large and small letters")
    return {name: str(camera["source"]) for name, camera in cameras.items()}


def save_drawing(path: Path, camera: str | None, drawing: dict[str, dict], check: Callable[[Path], None]) -> None:
    """Write tables and their keys into a settings file, at [cameras.NAME] if `camera` is given; all else in it stays, comments too.

    drawing: table -> key -> polygons or a line; it replaces those of the table that hold any, be it with nothing. An image
    stays. check: gets the path of what the file would be, and may raise InputError, which leaves it as it was.
    """
    text = read_text(path, "TOML file", MAX_BYTES)
    with reading(path, "TOML file"):
        wanted = tomllib.loads(text)
    try:
        _draw(wanted["cameras"][camera] if camera else wanted, drawing)
        drawn = _drawn(text, camera, drawing)
        if tomllib.loads(drawn) != wanted:
            raise ValueError
    except Exception:  # whatever tomlkit raises on what it cannot edit, such as some dotted keys and inline tables
        advice = "give them tables of their own" if camera is None else f"give [cameras.{camera}] and them tables of their own"
        raise InputError(f"{path}: zones and lines cannot be saved into it as it is laid out; {advice}") from None
    with atomic_write(path) as temporary:
        shutil.copymode(path, temporary)  # it may hold passwords of cameras
        temporary.write_text(drawn, encoding="utf-8")
        check(temporary)


def _drawn(text: str, camera: str | None, drawing: dict[str, dict]) -> str:
    import tomlkit  # here: few runs save settings

    document = tomlkit.parse(text)
    _draw(document["cameras"][camera] if camera else document, drawing, tomlkit.table, _rows)
    return tomlkit.dumps(document)


def _draw(place: dict, drawing: dict[str, dict], table_of: Callable = dict, item_of: Callable = list) -> None:
    """Put a drawing into the tables of `place`, those of tomllib or tomlkit, which makes new ones by `table_of` and `item_of`."""
    for table, values in drawing.items():
        if table not in place and values:
            place[table] = table_of()
        known = place.get(table, {})
        for key in [key for key, value in known.items() if isinstance(value, list) and key not in values]:
            del known[key]
        for key, value in values.items():
            if key not in known or known[key] != value:
                known[key] = item_of(value)


def _rows(value: list):
    """A list in TOML, each polygon of a zone on a line of its own."""
    import tomlkit

    return tomlkit.item(value).multiline(any(isinstance(point[0], list) for point in value))


def _read(path: Path) -> dict:
    with reading(path, "TOML file"):
        return tomllib.loads(read_text(path, "TOML file", MAX_BYTES))


def _layers(source: str | None, camera: str | None) -> list[tuple[str, dict]]:
    """Return (name, tables), the later to override the earlier."""
    if source is None:
        return []
    presets = tomllib.loads(PRESETS.read_text())
    if source in presets and camera is None:
        return [(source, presets[source])]
    path = Path(source)
    with reading(path, "TOML file"):
        if not path.exists():
            raise InputError(f"{source}: neither a file nor a preset; presets are {' '.join(sorted(presets))}")
    given, layers = _read(path), []
    cameras = given.pop("cameras", {})
    if camera:
        own = {table: values for table, values in cameras[camera].items() if table != "source"}
    for name, tables in [(source, given), *([(f"{source}: cameras.{camera}", own)] if camera else [])]:
        preset = tables.pop("preset", None)
        if preset is not None and preset not in list(presets):  # it may be anything, such as a list
            raise InputError(f"{name}: preset is {preset!r}; expected one of {' '.join(sorted(presets))}")
        zones = tables.get("zones")
        for key, zone in zones.items() if isinstance(zones, dict) else ():
            if isinstance(zone, str):
                zones[key] = str(path.parent / zone)
        layers += [*([(preset, presets[preset])] if preset else []), (name, tables)]
    return layers


def _checked(name: str, table: str, key: str, value: object, classes: list[str]) -> object:
    """Return `value` if it may stand there; whether it fits the detector or the frame is seen later."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if table == "detector":
        if not number:
            raise InputError(f"{name}: detector.{key} is {value!r}; expected a number")
        return value
    if key in NUMBERS.get(table, {}):
        default, low, high = NUMBERS[table][key]
        if not number or not low <= value <= high or (isinstance(default, int) and value != int(value)):
            kind = "whole number" if isinstance(default, int) else "number"
            raise InputError(f"{name}: {table}.{key} is {value!r}; expected a {kind} from {low} to {high}")
        return value
    if table in NAMED and key not in OTHERS[table] and not is_name(key):
        raise InputError(f"{name}: {key!r} in [{table}] is no name; give {NAME_FORM}")
    if table not in NAMED and key not in OTHERS.get(table, {}):
        known = [*NUMBERS.get(table, {}), *OTHERS.get(table, {})]
        raise InputError(f"{name}: {table} has no {key!r}; it has {' '.join(known)}")
    if key in ("kinds", "drop_other", "geometry") and not isinstance(value, bool):
        raise InputError(f"{name}: names.{key} is {value!r}; expected true or false")
    if key == "prior" and not (isinstance(value, dict) and all(_is_often(*item, classes) for item in value.items())):
        raise InputError(f"{name}: names.prior is {value!r}; expected a number above 0 for some of {' '.join(classes)}")
    if key == "only" and not (isinstance(value, list) and all(label in classes for label in value)):
        raise InputError(f"{name}: names.only is {value!r}; expected some of {' '.join(classes)}")
    if table == "zones" and not isinstance(value, str | list):
        raise InputError(f"{name}: zones.{key} is {value!r}; expected an image file or polygons")
    if table == "lines" and not (isinstance(value, list) and len(value) == 2 and all(map(_is_point, value)) and value[0] != value[1]):
        raise InputError(f"{name}: lines.{key} is {value!r}; expected two points that differ, [[x, y], [x, y]] in pixels")
    return value


def _is_often(label: str, often: object, classes: list[str]) -> bool:
    return label in classes and isinstance(often, int | float) and not isinstance(often, bool) and 0 < often < float("inf")


def _is_point(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(number) in (int, float) and abs(number) <= 1e5 for number in value)
