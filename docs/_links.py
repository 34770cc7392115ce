"""Public names in backticks become links to their entries."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _names import BESIDE, MODULES, documented

NAMES = documented()
for path in (path for paths in BESIDE.values() for path in paths):
    NAMES.setdefault(path.rpartition(".")[2], f"ctrnn_jax.{path}")


def linked(text: str, but: str = "") -> str:
    """`simulate`, `ct.simulate` or `simulate(...)` in a line of Markdown, as a link."""

    def link(found: re.Match) -> str:
        name = found["name"]
        of = name.rpartition(".")[0]  # of a class: its methods and attributes
        whole = NAMES.get(name) or (NAMES.get(of) if of[:1].isupper() else None)
        if whole is None or name == but or (name in MODULES and "(" in found[0]):
            return found[0]
        return f"[{found[0]}][{whole}]"

    name = r"(?<![`\[])`(?:ct\.|ctrnn_jax\.)?(?P<name>[A-Za-z_.0-9]+)(?:\([^`]*\))?`(?![`\]])"
    return re.sub(name, link, text)
