"""Files that appear together or not at all, and computations that can be interrupted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def appearing_together(out: Path) -> Iterator[Path]:
    """A folder to write into; at the end its files move into `out`, each by one rename."""
    out.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield workplace
        out.mkdir(exist_ok=True)
        for path in sorted(workplace.iterdir()):
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


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
