"""Ctrl-C while the command is still loading ends it without a traceback.

`writing.interruptible` takes over once it works. In any other process nothing is changed.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def _is_command() -> bool:
    """Whether this process is `ctrnn`, or `python -m ctrnn_jax`."""
    if sys.argv[:1] == ["-m"]:  # what stands for the module until it is found
        return sys.orig_argv[-len(sys.argv)] == "ctrnn_jax"
    return os.path.basename("".join(sys.argv[:1])) in ("ctrnn", "ctrnn.exe")


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\nctrnn: interrupted\n")
    os._exit(130)


if _is_command():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
