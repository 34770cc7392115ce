"""Files that appear complete or not at all, and computations that can be interrupted."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .._util import checks

_Made = TypeVar("_Made")

# Held while nothing may be interrupted, and for good once an interrupt ends the process.
_undisturbed = threading.RLock()
_endings: list[Callable[[], None]] = []


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM end the process at once with exit status 130.

    Python would call a handler in the main thread, so only after a compiled computation has ended.
    Here another thread waits for the signal, and ends whatever is `owned` before the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the business of the main thread
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    numbers = (signal.SIGINT, signal.SIGTERM)
    waiting = threading.Thread(target=_end_process, args=(receiver, numbers), daemon=True)
    waiting.start()
    handlers = [signal.signal(number, lambda *_: None) for number in numbers]
    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        sender.close()
        waiting.join()  # for good, where a signal has come


def _end_process(receiver: socket.socket, numbers: tuple[int, ...]) -> None:
    with receiver:
        while received := receiver.recv(64):
            if set(received) & set(numbers):
                break
        else:
            return
    _undisturbed.acquire()
    for end in reversed(_endings):
        with contextlib.suppress(Exception):
            end()
    with contextlib.suppress(OSError):
        os.write(2, b"\nctrnn: interrupted\n")
    os._exit(130)


@contextlib.contextmanager
def owned(begin: Callable[[], _Made], end: Callable[[_Made], None]) -> Iterator[_Made]:
    """What `begin` makes: `end` is called with it at the end, at an interrupt too."""
    with _undisturbed:
        made = begin()
        ending = partial(end, made)
        _endings.append(ending)
    try:
        yield made
    finally:
        with _undisturbed:
            _endings.remove(ending)
            ending()


def place_for(out: Path, name: str = "out") -> Path:
    """The folder, there already, in which `out` is or will be made; messages call it `name`."""
    place = out
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        checks.fail(name, "a folder", f"the file {place}")
    if not os.access(place, os.W_OK | os.X_OK):
        checks.fail(name, "a folder to write into", f"{place}, which is read-only")
    return place


@contextlib.contextmanager
def appearing_together(out: Path) -> Iterator[Path]:
    """A folder to write into; at the end its files move into `out`, each by one rename.

    Links are followed, of `out` as of files in it: what they point to is written.
    """
    out = target(out)
    with _workplace(place_for(out if out.is_dir() else out.parent), out.name) as workplace:
        yield workplace
        files = sorted(workplace.iterdir())
        for path in files:
            _not_a_folder(out / path.name)
        with _undisturbed:
            out.mkdir(parents=True, exist_ok=True)
            for path in files:
                replace(path, target(out / path.name))


@contextlib.contextmanager
def appearing(path: Path, *, name: str = "out") -> Iterator[Path]:
    """A file to write; at the end it moves to `path` by one rename, or to what that links to.

    Messages call it `name`. What fails or is interrupted leaves what was there before.
    """
    path = target(path)
    with _workplace(place_for(path.parent, name), path.name) as workplace:
        temporary = workplace / path.name
        yield temporary
        _not_a_folder(path, name)
        with _undisturbed:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)


def _workplace(place: Path, name: str) -> contextlib.AbstractContextManager[Path]:
    """An empty folder in `place`: only a rename within one file system is atomic."""
    return owned(lambda: Path(tempfile.mkdtemp(prefix=f".{name[:32]}-", dir=place)), _remove)


def _not_a_folder(path: Path, name: str = "out") -> None:
    if path.is_dir():
        checks.fail(name, "no folder in the place of a file", path)


def _remove(folder: Path) -> None:
    # Somebody who is not yet ended may write into it while it goes.
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.005)


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
    """Strict JSON: dataclasses as objects, arrays as lists, complex numbers as [real, imaginary],
    non-finite numbers as null.
    """
    text = json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # arrays and their scalars
        value = np.asarray(value).tolist()
    if isinstance(value, complex):
        value = [value.real, value.imag]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
