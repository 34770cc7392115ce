"""What the site adds when it is built: pages made of the sources, formulas as MathML.

Tutorials are the notebooks as they are stored, API pages have an entry for each public name, the page
of the command line one for each subcommand; benchmarks are drawn from the reports in docs/bench.
"""

import html
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import _bench
import _commands
from _links import linked
from _names import BESIDE, MODULES, documented, module_names, subjects

TOP = Path(__file__).parents[1]


def on_files(files: Files, config) -> Files:
    """Add the pages that are made, and pictures from beside the notebooks."""
    made = {
        **api_pages(),
        **top_pages(),
        "command-line.md": _commands.page(),
        **_bench.pages(TOP / "docs" / "bench"),
        **tutorials(),
    }
    for picture in ("overview.png", "throughput.png"):
        made[f"pictures/{picture}"] = (TOP / "notebooks" / picture).read_bytes()
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Public names and commands in backticks are links, outside of code and headings."""
    up = "../" * page.file.src_uri.count("/")

    def to_command(found: re.Match) -> str:
        return f"[{found[0]}]({up}command-line.md#ctrnn-{found[1]})"

    fenced, lines = False, []
    for line in markdown.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        code = fenced or line.startswith(("#", "    ", ":::"))
        if not code:
            line = re.sub(
                r"(?<![`\[])`ctrnn (\w+)[^`]*`(?![`\]])", to_command, linked(line)
            )
        lines.append(line)
    return "\n".join(lines)


def on_page_content(content: str, **_) -> str:
    """TeX, as arithmatex marks it, becomes MathML."""
    return re.sub(
        r'class="arithmatex">\\([(\[])(.*?)\\[)\]]<',
        _formula,
        content,
        flags=re.DOTALL,
    )


def _formula(found: re.Match) -> str:
    from latex2mathml.converter import convert

    display = "inline" if found[1] == "(" else "block"
    tex = html.unescape(found[2]).replace(r"\log\cosh", r"\log\,\cosh")
    return f'class="formula">{convert(tex, display=display)}<'


def api_pages() -> dict[str, str]:
    """A page for each subject of `__all__` and for each public module, and their index."""
    pages, index = {}, ["# API", "", "`import ctrnn_jax as ct`", ""]

    def add(
        uri: str, title: str, module: str, names: list[str], subject: str, intro=""
    ):
        beside = [f"ctrnn_jax.{path}" for path in BESIDE.get(subject, [])]
        pages[f"api/{uri}"] = _api_page(
            title, f"ctrnn_jax.{module}", names, beside, intro
        )
        told = " · ".join(f"`{module}{name}`" for name in names)
        index.extend([f"## [{title}]({uri})", "", told, ""])

    for subject, names in subjects().items():
        uri = re.sub(r"\W+", "_", subject) + ".md"
        add(uri, subject.capitalize(), "", names, subject)
    for module in MODULES:
        intro = f"::: ctrnn_jax.{module}\n    options:\n      members: false\n"
        names = module_names(module)
        add(f"{module}.md", f"ct.{module}", f"{module}.", names, module, intro)
    return {"api/index.md": "\n".join(index), **pages}


def _api_page(
    title: str, module: str, names: list[str], beside: list[str], intro: str
) -> str:
    """Entries, and links for what has its entry on another page."""
    own = set(documented().values())
    here, there = [], []
    for path in (f"{module}{name}" for name in names):
        if path in own and path.split(".")[-1] not in MODULES:
            here.append(path)
        else:
            there.append(f"- `{path.removeprefix('ctrnn_jax.')}`")
    entries = [f"::: {path}\n" for path in [*here, *beside]]
    return "\n".join([f"# {title}", "", intro, "", *there, "", *entries])


def top_pages() -> dict[str, str]:
    """CONTRIBUTING and CHANGELOG."""
    return {
        f"{name.lower()}.md": (TOP / f"{name}.md").read_text(encoding="utf-8")
        for name in ("CONTRIBUTING", "CHANGELOG")
    }


def tutorials() -> dict[str, str | bytes]:
    """The notebooks in Markdown with their stored outputs, and their pictures."""
    import nbformat
    from nbconvert import MarkdownExporter

    made: dict[str, str | bytes] = {}
    index = [
        "# Tutorials",
        "",
        "Notebooks, as they ran; they lie in `notebooks/`.",
        "",
    ]
    for path in sorted((TOP / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        text, resources = MarkdownExporter().from_notebook_node(notebook)
        for name, data in resources["outputs"].items():
            made[f"tutorials/{path.stem}/{name}"] = data
            text = text.replace(f"]({name})", f"]({path.stem}/{name})")
        text = text.replace("![png]", "![output of the cell above]")
        made[f"tutorials/{path.stem}.md"] = text
        lines = notebook.cells[0].source.split("\n")
        title, first = lines[0].lstrip("# "), "\n".join(lines[1:]).strip()
        index += [f"## [{title}]({path.stem}.md)", "", first, ""]
    return {"tutorials/index.md": "\n".join(index), **made}
