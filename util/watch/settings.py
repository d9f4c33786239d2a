"""Settings of the video path: a TOML file or a preset by name (docs/settings.toml has every one, with its default and meaning)."""
import re
import tomllib
from pathlib import Path

from util.cli import InputError, read_text, reading

PRESETS = Path(__file__).with_name("presets.toml")
MOST = 1 << 20  # bytes of a file
# table -> key -> (default, lowest, highest); [detector] holds what fastmcd.PARAMS names, and the detector checks it.
NUMBERS = {
    "tracks": {"min_sightings": (5, 1, 1000), "lost_seconds": (1.0, 0, 60), "keep_seconds": (1.0, 0, 60), "overlap": (0.2, 0.01, 0.99)},
    "record": {"before": (5.0, 0, 60), "after": (5.0, 0, 600)},
    "names": {"temperature": (None, 0.01, 100), "unknown_below": (None, 0, 1), "hold": (0.1, 0, 1), "views_per_frame": (16, 1, 10_000)},
}
OTHERS = {"names": {"only": [], "kinds": False, "drop_other": False, "prior": {}}, "zones": {"watch": [], "ignore": []}, "lines": {}}
NAMED = {"zones", "lines"}  # tables in which other keys are names that somebody gives
NAME = r"[\w-]{1,40}"


def load_settings(source: str | None, classes: list[str]) -> dict[str, dict]:
    """Return table -> key -> value, complete but for [detector]; `source` is a file, the name of a preset, or None.

    A file may start from a preset: preset = "traffic". A zone's image is looked for beside the file. Raises InputError.
    """
    settings = {"detector": {}}
    for table, keys in NUMBERS.items():
        settings[table] = {key: default for key, (default, _, _) in keys.items()}
    for table, keys in OTHERS.items():
        settings.setdefault(table, {}).update(keys)
    for name, layer in _layers(source):
        for table, values in layer.items():
            if table not in settings or not isinstance(values, dict):
                raise InputError(f"{name}: has {table!r}; expected the tables {' '.join(settings)}, and preset = \"NAME\"")
            for key, value in values.items():
                settings[table][key] = _checked(name, table, key, value, classes)
    return settings


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(tomllib.loads(PRESETS.read_text()))


def _layers(source: str | None) -> list[tuple[str, dict]]:
    """Return (name, tables), the later to override the earlier."""
    if source is None:
        return []
    presets = tomllib.loads(PRESETS.read_text())
    if source in presets:
        return [(source, presets[source])]
    path = Path(source)
    with reading(path, "TOML file"):
        if not path.exists():
            raise InputError(f"{source}: neither a file nor a preset; presets are {' '.join(sorted(presets))}")
        given = tomllib.loads(read_text(path, "TOML file", MOST))
    preset = given.pop("preset", None)
    if preset is not None and preset not in list(presets):  # it may be anything, such as a list
        raise InputError(f"{source}: preset is {preset!r}; expected one of {' '.join(sorted(presets))}")
    for key, zone in given.get("zones", {}).items() if isinstance(given.get("zones"), dict) else ():
        if isinstance(zone, str):
            given["zones"][key] = str(path.parent / zone)
    return [*([(preset, presets[preset])] if preset else []), (source, given)]


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
    if table in NAMED and key not in OTHERS[table] and not re.fullmatch(NAME, key, re.ASCII):
        raise InputError(f"{name}: {key!r} in [{table}] is no name; give up to 40 letters, digits, or any of _ -")
    if table not in NAMED and key not in OTHERS.get(table, {}):
        known = [*NUMBERS.get(table, {}), *OTHERS.get(table, {})]
        raise InputError(f"{name}: {table} has no {key!r}; it has {' '.join(known)}")
    if key in ("kinds", "drop_other") and not isinstance(value, bool):
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
