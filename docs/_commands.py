"""The page of the command line: each subcommand's options, as `--help` has them."""

import re
from typing import Any

INTRO = """# Command line

`pip install` brings the command `ctrnn` (also `python -m ctrnn_jax`). Each subcommand says the same with `--help`. Bad input
ends in one line on standard error and status 2; an interrupt in status 130, and what was finished is kept.
"""


def page() -> str:
    """Imports the package, when the site is built."""
    import typer
    from ctrnn_jax._command.app import app

    group: Any = typer.main.get_command(app)
    parts = [INTRO]
    for name, command in group.commands.items():
        below = getattr(command, "commands", {})
        parts += _command(f"ctrnn {name}", command)
        for inner, subcommand in below.items():
            parts += _command(f"ctrnn {name} {inner}", subcommand)
    return "\n".join(parts)


def _command(name: str, command: Any) -> list[str]:
    context = command.context_class(command)
    rows = [
        row
        for parameter in command.params
        if "--help" not in parameter.opts
        if (row := _row(parameter, context))
    ]
    table = ["| option | what | default |", "|---|---|---|", *rows, ""]
    told = re.sub(r"\s*\n\s*(?=\S)", " ", command.help or "").strip()
    return [f"## {name}", "", told, "", *(table if rows else [])]


def _row(parameter: Any, context: Any) -> str:
    record = parameter.get_help_record(context)
    if record is None:
        return ""
    default = re.search(r"\s*\[(?:default: (.*?))?(?:; )?(required)?\]$", record[1])
    told = record[1][: default.start()] if default else record[1]
    shown = (default[1] or default[2]) if default else ""
    usage = re.sub(r"<list\[(\w+)\]>", r"<\1>", " ".join(record[0].split()))
    cells = f"`{usage}`", told, shown
    return "| " + " | ".join(_cell(c) for c in cells) + " |"


def _cell(text: str) -> str:
    """Without what a table or HTML would take for its own."""
    outside = re.split(r"(`[^`]*`)", " ".join(text.split()).replace("|", r"\|"))
    return "".join(
        part if k % 2 else re.sub(r"([<>*_\[\]])", r"\\\1", part)
        for k, part in enumerate(outside)
    )
