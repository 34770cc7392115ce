"""Classes that are known by being written in their place, and choosing one by its name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from . import checks

_Class = TypeVar("_Class", bound=type)
_Choice = TypeVar("_Choice")


def defined_in(module: ModuleType, base: _Class) -> list[_Class]:
    """The concrete subclasses of `base` that the text of a module defines, in its order.

    Not all subclasses that there are: those of a user would join the choices and the files of
    everybody in the process by being defined, under names that may be taken or change, and a file
    could then be read only where somebody has defined them before.
    """
    found = [value for value in vars(module).values() if inspect.isclass(value)]
    own: list[Any] = [cls for cls in found if cls.__module__ == module.__name__]
    return [cls for cls in own if issubclass(cls, base) and not inspect.isabstract(cls)]


def by_name(classes: Iterable[_Class]) -> dict[str, _Class]:
    """Classes that need no arguments by the names of the command line: hard_tanh for HardTanh."""
    return {
        re.sub(r"(?<=.)(?=[A-Z][a-z])", "_", cls.__name__).lower(): cls
        for cls in classes
        if all(p.default is not p.empty for p in inspect.signature(cls).parameters.values())
    }


def chosen(name: str, value: str, choices: Mapping[str, _Choice]) -> _Choice:
    """The choice that a name means, whatever its case and however its words are joined."""
    plain = value.lower().replace("_", "").replace("-", "")
    for key, choice in choices.items():
        if key.replace("_", "") == plain:
            return choice
    checks.fail(name, f"one of {', '.join(choices)}", repr(value))


def listed(words: Iterable[Any]) -> str:
    """As a sentence names them: a, b or c."""
    *others, last = map(str, words)
    return f"{', '.join(others)} or {last}" if others else last
