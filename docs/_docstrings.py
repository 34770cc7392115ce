"""Docstrings as Markdown: their examples are code, their stars are stars, their names are links."""

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from _links import linked

RULE = re.compile(r" *=+(?: +=+)+")


class AsMarkdown(griffe.Extension):
    """What the docstrings of this package mean, said as griffe and Markdown read it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each object that was read."""
        if obj.docstring is None:
            return
        lines = obj.docstring.value.splitlines()
        table = returns = False
        for i, line in enumerate(lines):
            if line.strip().endswith(":") or not line.strip():
                returns = line.strip() == "Returns:"
            table = bool(line.strip()) and (table or bool(RULE.fullmatch(line)))
            if table:
                lines[i] = "    " + line  # as it stands
            elif line.strip() == "Example:":
                lines[i] = line.replace("Example:", "Examples:")
            elif not line.lstrip().startswith((">>>", "...")):
                lines[i] = linked(
                    re.sub(r"(`[^`]*`)|([*<])", _escaped, line), but=obj.name
                )
                if returns and line.strip() != "Returns:":
                    # What stands before a colon is no type.
                    lines[i] = re.sub(r"(`[^`]*`)|:", _without_colon, lines[i])
        obj.docstring.value = "\n".join(lines)


def _without_colon(found: re.Match) -> str:
    return found[1] or "&#58;"


def _escaped(found: re.Match) -> str:
    return found[1] or "\\" + found[2]
