"""One HTML page with everything inside: it needs no network and no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 1rem 0; } img { max-width: 100%; } figcaption { color: #444; font-size: 0.9rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { border-bottom: 1px solid #ccc; padding: 0.3rem 0.6rem; text-align: left;
vertical-align: top; } td.number { white-space: nowrap; }
.pass { color: #00663f; } .fail { color: #b3001b; font-weight: bold; } .counter-example {
color: #7a4a00; } code { font-size: 0.85rem; } pre { overflow-x: auto; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A page of parts that are HTML."""
    head = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
    ]
    return "\n".join([*head, *parts, "</body></html>"]) + "\n"


def picture(png: bytes, name: str, caption: str) -> str:
    """A picture, what it is in a few words, and what is to be seen in it."""
    source = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{source}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str | tuple[str, str]]]) -> str:
    """Cells are HTML, or HTML and a class of the style."""

    def cell(content: str | tuple[str, str]) -> str:
        inside, kind = content if isinstance(content, tuple) else (content, "")
        return f'<td class="{kind}">{inside}</td>' if kind else f"<td>{inside}</td>"

    lines = ["".join(f"<th>{name}</th>" for name in head)] if head else []
    lines += ["".join(map(cell, row)) for row in rows]
    return (
        '<div class="table"><table>' + "\n".join(f"<tr>{x}</tr>" for x in lines) + "</table></div>"
    )
