"""What the documentation shows runs and prints what it says; the site has every public name."""

import ast
import doctest
import html
import importlib
import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import typer

import ctrnn_jax as ct
from ctrnn_jax._command.app import app

pytestmark = pytest.mark.one_dtype

TOP = Path(__file__).parents[1]
DOCS = TOP / "docs"
PAGES = [TOP / "README.md", *sorted(DOCS.rglob("*.md"))]
PAGES = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]
# Training, and what is drawn, shown by other pages too.
RARE = {
    "frequency.md",
    "period.md",
    "own_loss.md",
    "analyse.analyse",
    "fit_frequency.fit_frequency",
    "fit_signal.fit_signal",
}
MODULES = (ct, ct.losses, ct.plot, ct.solvers, ct.experiments)

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?")


def alike(told, printed):
    """The same words and whole numbers; others to 2 % or their last digit, and powers of ten, such
    as errors of rounding, to a factor of 10.
    """
    words = [" ".join(NUMBER.sub("#", text).split()) for text in (told, printed)]
    if words[0] != words[1]:
        return False
    pairs = zip(NUMBER.findall(told), NUMBER.findall(printed), strict=True)
    return all(_close(a, b) for a, b in pairs)


def _close(a, b):
    x, y = float(a), float(b)
    if re.search(r"e-\d", a + b):
        return max(abs(x), abs(y)) <= 10 * max(min(abs(x), abs(y)), 1e-16)
    digits = [number.partition(".")[2] for number in (a, b) if "." in number]
    return (
        abs(x - y) <= max(0.02 * abs(x), 1.01 * 10.0 ** -min(map(len, digits)))
        if digits
        else x == y
    )


def script(text):
    """The blocks of a page on their own lines, each followed by a record separator on stdout; and
    what the page says that each prints."""
    lines, expected, language, block = [], [], None, ""
    for line in text.split("\n"):
        fence = re.fullmatch(r"```(\w*)", line)
        code = ""
        if fence and language is None:
            language, block = fence[1], ""
        elif fence:
            if language == "python":
                code = 'print("\\x1e", end="")'
                expected.append("")
            elif language == "text":
                expected[-1] = block
            language = None
        elif language is not None:
            block += line + "\n"
            code = line if language == "python" else ""
        lines.append(code)
    return "\n".join(lines), expected


@pytest.mark.long
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.rare] * (page.name in RARE)) for page in PAGES],
    ids=lambda page: page.relative_to(TOP).as_posix(),
)
@pytest.mark.sampled(4)
def test_pages_run_and_print_what_they_say(page, tmp_path):
    code, expected = script(page.read_text(encoding="utf-8"))
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(TOP)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for told, printed in zip(expected, done.stdout.split("\x1e")[:-1], strict=True):
        assert alike(told, printed), f"{page.name} says\n{told}\nbut there is\n{printed}"


def test_outputs_are_compared():
    assert alike("drift 2e-07 of (3, 4)", "drift  8e-07 of (3, 4)")
    assert not alike("drift 2e-07", "drift 5e-06")
    assert not alike("1.00 Hz", "1.03 Hz")
    assert not alike("(3, 4)", "(3, 4) or so")
    assert not alike("(300, 4)", "(301, 4)")


def _examples():
    """{"file.name": examples} of all docstrings of the package."""
    found = {}
    for path in sorted((TOP / "ctrnn_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            documented = isinstance(node, ast.FunctionDef | ast.ClassDef)
            text = ast.get_docstring(node) if documented else None
            if text and ">>>" in text:
                found[f"{path.stem}.{node.name}"] = doctest.DocTestParser().get_examples(text)
    return found


EXAMPLES = _examples()


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.rare] * (name in RARE)) for name in EXAMPLES]
)
@pytest.mark.sampled(3)
def test_examples_of_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ctrnn_jax._simulate.devices.cpu_cores", lambda: 2)  # as conftest says
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        space = _given()
        for example in EXAMPLES[name]:
            try:
                result = eval(example.source.strip(), space)
            except SyntaxError:
                exec(example.source, space)
                result = None
            jax.block_until_ready(jax.tree.leaves(eqx.filter(result, eqx.is_array)))
            if example.want:
                assert alike(example.want, str(result)), f"{example.source}: {result}"


def _given():
    """What examples take for granted: a driven network, its run, an oscillator, signals, files."""
    key, dt = jax.random.key(0), 0.01
    keys = jax.random.split(key, 5)
    B = jax.random.normal(keys[1], (4, 1))
    rnn = ct.CTRNN(ct.DenseSkew.init(keys[0], 4), form="current", input_weights=B)
    x0 = 0.5 * jax.random.normal(keys[2], (3, 4))
    u = 0.1 * jax.random.normal(keys[3], (400, 1))
    run = ct.simulate(rnn, x0, dt=0.1, num_steps=len(u), inputs=u)
    times = dt * np.arange(400)
    y = np.sin(2 * np.pi * 1.5 * times) + 0.3 * np.sin(2 * np.pi * 4.0 * times)
    table = np.column_stack([times, y])
    np.savetxt("scope.csv", table, delimiter=",", header="t,y", comments="")
    np.savetxt("logger.csv", table[::3], delimiter=",", header="t,y", comments="")
    ct.save("rnn.ctrnn", {"rnn": rnn})
    model = ct.SequenceModel.init(keys[4], 4, num_inputs=1, num_outputs=2, pool="last")
    return {
        "ct": ct, "jax": jax, "jnp": jnp, "np": np, "diffrax": diffrax, "optax": optax, "key": key,
        "rnn": rnn, "x0": x0, "u": u, "run": run, "trajectory": run,
        "solver": diffrax.Tsit5(), "dt": dt, "times": times, "y": y, "signal": y,
        "oscillator": ct.Oscillator(rnn, x0[0], jnp.ones((1, 4))), "other": u[:100],
        "model": model, "X": jnp.ones((64, 10, 1)), "Y": jnp.zeros(64, int),
    }  # fmt: skip


def names_of(module):
    """What a public module has to offer."""
    listed = getattr(module, "__all__", None)
    if listed is None:
        listed = re.findall(r"\bimport (\w+) as \1\b", inspect.getsource(module))
    prefix = module.__name__.removeprefix("ctrnn_jax").lstrip(".")
    return {f"{prefix}.{name}".lstrip(".") for name in listed}


def test_every_public_name_has_an_entry(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    names = importlib.import_module("_names")
    public = set().union(*map(names_of, MODULES))
    assert set(names.documented()) == public


class Page(HTMLParser):
    """The places of a page, and what it refers to and loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        elif attrs.get("src") or (tag == "link" and attrs.get("href")):
            self.loads.append(attrs.get("src") or attrs["href"])


@pytest.mark.slow
def test_the_site_is_whole_and_loads_nothing_from_elsewhere(tmp_path, monkeypatch):
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=TOP, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path.resolve(): Page(path) for path in tmp_path.rglob("*.html")}
    for path, page in pages.items():
        for target in [*page.links, *page.loads]:
            if target.startswith(("data:", "mailto:")):
                continue
            if re.match(r"\w+:|//", target):
                assert target not in page.loads, f"{path.name} loads {target}"
                continue
            file, place = urldefrag(target)
            # The page of what is missing lies anywhere, and so refers from the top.
            base = tmp_path if file.startswith("/") else path.parent
            there = (base / unquote(file).lstrip("/")).resolve() if file else path
            there = there / "index.html" if there.is_dir() else there
            assert there.exists(), f"{path.name}: {target}"
            if place and there in pages:
                assert unquote(place) in pages[there].ids, f"{path.name}: {target}"
    monkeypatch.syspath_prepend(str(DOCS))
    entries = set(importlib.import_module("_names").documented().values())
    modules = {module.__name__ for module in MODULES}
    assert entries - modules <= set().union(*(page.ids for page in pages.values()))
    shown = html.unescape((tmp_path / "command-line.html").read_text(encoding="utf-8"))
    group = typer.main.get_command(app)
    assert all(f"ctrnn-{name}" in shown for name in group.commands)
    options = (o for c in group.commands.values() for p in c.params for o in p.opts)
    assert all(o in shown for o in options if o.startswith("--") and o != "--help")
