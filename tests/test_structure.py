"""Imports go down only, and importing the package stays light."""

import ast
import graphlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import ctrnn_jax

PACKAGE = Path(ctrnn_jax.__file__).parent
# The subjects from the lowest to the highest; of one line, none imports another.
LAYERS = [
    {"_util"},
    {"_network"},
    {"solvers"},
    {"_simulate"},
    {"_analysis"},
    {"_files"},
    {"losses", "plot"},
    {"_train"},
    {"experiments"},
    {"_command"},
    {"__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def _imports(path):
    """The modules of the package that a file imports, as parts of their names."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*parts[: len(parts) - node.level], *(node.module or "").split(".")]
            base = [part for part in base if part]
            for name in node.names:
                whole = PACKAGE.joinpath(*base, name.name)
                is_module = whole.is_dir() or whole.with_suffix(".py").exists()
                yield (*base, name.name) if is_module else tuple(base)


def test_imports_between_subjects_only_go_down():
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        assert parts[0] in LEVEL, f"{parts[0]} has no level"
        for other in _imports(path):
            if other and other[0] != parts[0]:
                down = LEVEL[other[0]] < LEVEL[parts[0]]
                assert down, f"{'/'.join(parts)} imports {'.'.join(other)}"


def test_imports_make_no_cycle():
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
        graph[name] = {other for other in _imports(path) if other and other != name}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_public_name_hides_a_module():
    public = {name for name in dir(ctrnn_jax) if not name.startswith("_")}
    assert public == set(ctrnn_jax.__all__)
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    for name in public & modules:
        assert inspect.ismodule(getattr(ctrnn_jax, name)), name
    assert sum(path.suffix == ".py" for path in PACKAGE.iterdir()) <= 8


def test_import_loads_no_plotting_and_no_command_line():
    heavy = ("matplotlib", "typer", "tqdm", "pandas", "scipy.signal", "scipy.stats")
    code = f"import sys, ctrnn_jax; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_an_interrupt_is_looked_after_before_anything_heavy_loads():
    code = "import sys, ctrnn_jax; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = out.stdout.split()
    assert loaded.index("ctrnn_jax._util.at_start") < loaded.index("jax")


def test_no_message_outside_the_command_names_its_flags():
    for path in PACKAGE.rglob("*.py"):
        if "_command" not in path.parts:
            found = re.findall(r"--[a-z][\w-]*", path.read_text(encoding="utf-8"))
            assert not found, f"{path.name}: {found}"


def test_files_stay_short():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 480, path.name


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines with the signature, the docstring left out."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_functions_stay_short():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert _length(node) <= 80, f"{path.name}: {node.name}"
