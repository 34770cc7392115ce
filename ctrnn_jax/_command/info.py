"""`ctrnn info`: versions, devices and precision; or what a file holds."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import numpy as np
import typer

from .._files.exports import labelled
from .._files.recordings import Recording
from .._util.labelled import Labelled
from .export import told_of
from .parts import loaded


def environment() -> dict[str, str]:
    """Versions, devices and precision."""
    packages = ("ctrnn-jax", "jax", "jaxlib", "equinox", "diffrax", "optimistix", "optax", "numpy")
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return {
        **{name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "devices": ", ".join(str(device) for device in jax.devices()),
        "float64": "on" if jax.config.jax_enable_x64 else "off (default dtype float32)",  # pyright: ignore[reportAttributeAccessIssue]
        "matmul": precision or "highest inside a step (JAX's own default elsewhere)",
    }


def info(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A .ctrnn file, or a recording: tell what it holds instead.", show_default=False
        ),
    ] = None,
) -> None:
    """Print versions, devices and precision: what a bug report needs. Of a FILE, what it holds."""
    rows = list(environment().items()) if file is None else _contents(file)
    width = max(12, *(len(name) for name, _ in rows))
    for name, value in rows:
        typer.echo(f"{name:<{width}} {value}")


def _contents(file: Path) -> list[tuple[str, Any]]:
    with loaded("FILE", file) as obj:
        if isinstance(obj, Recording):
            return [("file", file), *_recorded(obj)]
        size = f"{file}, {file.stat().st_size} bytes"
        return [("file", size), *_described("", obj), *told_of(file, obj).items()]


def _recorded(recording: Recording) -> Iterator[tuple[str, Any]]:
    yield from recording.settings.items()
    yield "saves", f"{recording.num_saves} of {recording.header['of']}"
    for name, stored in recording.stored.items():
        yield name, f"{stored.dtype} {stored.shape}, {stored.nbytes} bytes"


def _described(place: str, obj: Any) -> Iterator[tuple[str, Any]]:
    """Rows of a table: names, with their place in a tree, and what they mean."""
    prefix, found = f"{place}." if place else "", labelled(obj)
    if found is not None:
        yield from ((prefix + name, value) for name, value in _table(found))
    elif isinstance(obj, dict | list | tuple):
        yield place or "kind", f"{type(obj).__name__} of {len(obj)}"
        items = obj.items() if isinstance(obj, dict) else enumerate(obj)
        for key, item in items:
            yield from _described(f"{prefix}{key}", item)
    elif isinstance(obj, eqx.Module):
        yield place or "kind", type(obj).__name__
        for field in dataclasses.fields(obj):  # pyright: ignore[reportArgumentType]
            yield from _described(prefix + field.name, getattr(obj, field.name))
    elif isinstance(obj, jax.Array):
        yield place or "kind", f"array {obj.dtype} {obj.shape}"
    else:
        yield place or "kind", repr(obj)


def _table(found: Labelled) -> Iterator[tuple[str, Any]]:
    yield from ((k, v) for k, v in found.attributes.items() if k != "ctrnn_jax_version")
    for name, (dims, values, attributes) in found.variables.items():
        told = f"{values.dtype} {values.shape}{': ' * bool(dims)}{', '.join(dims)}"
        if "units" in attributes:
            told += f", in {attributes['units']}"
        if values.ndim <= 1 and name == "time" and values.size:
            told += f", from {values[0]:.6g} to {values[-1]:.6g}"
        if name in ("stopped_at", "unconverged_at"):
            told += f", {np.sum(values >= 0)} of {values.size}"
        yield name, told
