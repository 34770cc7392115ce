"""Files that appear complete or not at all, and computations that can be interrupted."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def appearing_together(out: Path) -> Iterator[Path]:
    """A folder to write into; at the end its files move into `out`, each by one rename.

    Links are followed, of `out` as of files in it: what they point to is written.
    """
    out = target(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield workplace
        out.mkdir(exist_ok=True)
        for path in sorted(workplace.iterdir()):
            replace(path, target(out / path.name))
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A file to write; at the end it moves to `path` by one rename, or to what that links to."""
    path = target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as workplace:
        temporary = Path(workplace, path.name)
        yield temporary
        os.replace(temporary, path)


def target(path: Path) -> Path:
    """What a path means once symbolic links are followed; a rename would replace the link."""
    return Path(os.path.realpath(path))


def replace(source: Path, to: Path) -> None:
    """One rename; through a link to another file system by a copy beside the target."""
    if os.stat(source).st_dev == os.stat(to.parent).st_dev:
        os.replace(source, to)
        return
    with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as workplace:
        os.replace(shutil.copy2(source, workplace), to)


def write_json(path: Path, value: Any) -> None:
    """Strict JSON: dataclasses as objects, arrays as lists, non-finite numbers as null."""
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def draw(folder: Path, pictures: Mapping[str, Callable[[Any], Any]]) -> None:
    """A PNG for each name, by the function that draws into an empty figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for name, picture in pictures.items():
        figure = plt.figure(figsize=(7, 4.5), layout="constrained")
        try:
            picture(figure)
            figure.savefig(folder / f"{name}.png", dpi=150)
        finally:
            plt.close(figure)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # arrays and their scalars
        value = np.asarray(value).tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Lets Ctrl-C end the process at once: Python would wait for the end of the computation.

    Nothing must have been written by then.
    """
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
