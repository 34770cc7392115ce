"""Runs of `ctrnn simulate` that are recorded: when, and how they are gone on with."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any, TypeVar

from .._files.recordings import open_recording
from .._files.writing import appearing_together, write_json
from .._util import checks
from .options import available_memory

RECORDING, _SETTINGS = "recording.zarr", "settings.json"
_FREE = ("resume", "out", "device", "devices", "progress")  # options that may be others later

_Settings = TypeVar("_Settings")


def is_recorded(asked: bool | None, memory: float, saved: int, out: Path) -> bool:
    """Whether states go to a recording: as asked, else where they take half of the memory."""
    if asked is not None:
        return asked
    available = available_memory()
    if available is None or memory <= available / 2:
        return False
    print(
        f"{saved / 1e9:.3g} GB of saved states would take more than half of the"
        f" {available / 1e9:.3g} GB of memory available: they go to {out / RECORDING}",
        flush=True,
    )
    return True


def begin(settings: Any) -> None:
    """Leave the options beside the recording, for `resumed`; refuse what is there already."""
    place = settings.out / RECORDING
    if place.exists():
        asked, there = _as_json(settings), _read(settings.out)
        complete = open_recording(place).complete
        hint = "--resume goes on with it" if not complete else "it is complete"
        free = ("record", *_FREE)
        if there is None or any(asked.get(k) != v for k, v in there.items() if k not in free):
            expected = "a folder without a recording of other options"
            checks.fail("--out", expected, f"{place}; {hint}, or choose another folder")
    with appearing_together(settings.out) as workplace:
        write_json(workplace / _SETTINGS, _as_json(settings))


def resumed(settings: _Settings) -> _Settings:
    """The options that the recording in --out was begun with."""
    kind: Any = type(settings)
    out = settings.out  # pyright: ignore[reportAttributeAccessIssue]
    for field in dataclasses.fields(kind):
        if field.name not in _FREE and getattr(settings, field.name) != field.default:
            others = ", ".join(f"--{name}" for name in _FREE if name != "resume")
            got = f"--{field.name.replace('_', '-')}"
            checks.fail("--resume", f"no options besides {others}", got)
    found = _read(out)
    if found is None or not (out / RECORDING).is_dir():
        expected = "a folder in --out with a recording that was begun"
        checks.fail("--resume", expected, f"{out} without one")
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)} - set(_FREE)
    if not names <= found.keys():
        checks.fail("--resume", f"options of this version in {out / _SETTINGS}", "others")
    taken = {
        name: Path(value) if value is not None and Path in _kinds(hints[name]) else value
        for name, value in found.items()
        if name in names
    }
    return dataclasses.replace(settings, **{**taken, "record": True, "resume": False})  # pyright: ignore


def _as_json(settings: Any) -> dict[str, Any]:
    """Paths without the folder in which the command was called."""
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    return {k: str(v.absolute()) if isinstance(v, Path) else v for k, v in values.items()}


def _read(out: Path) -> dict[str, Any] | None:
    try:
        return json.loads((out / _SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) or (hint,)
