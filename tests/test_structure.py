"""Imports go down only, and importing the package stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import ctrnn_jax

PACKAGE = Path(ctrnn_jax.__file__).parent
LAYERS = [
    {"_at_start", "_types", "_checks", "_output", "_size_rules", "_scaling"},
    {"activations", "_products", "weights", "_tones", "spectra", "harmonics"},
    {"_tables", "_arrays", "_times", "signals"},
    {"model", "trajectory"},
    {"invariants"},
    {"solvers"},
    {"_stepping", "_segments", "_fixed", "_reversible", "_adaptive", "_parts", "simulate"},
    {"orbits", "lyapunov", "io", "_drawing", "_saves", "plot_training", "plot"},
    {"losses", "oscillator", "_descent", "train"},
    {"_modes", "frequency_report", "signal_report", "fit_frequency", "fit_spectrum", "fit_signal"},
    {"experiments"},
    {"_options", "run_results", "runs", "training_runs", "bench_runs", "cli"},
    {"__init__", "__main__"},
]
WITHIN = [
    "_types",
    "_checks",
    "_output",
    "_scaling",
    "_products",
    "weights",
    "_tones",
    "spectra",
    "_tables",
    "_arrays",
    "_times",
    "signals",
    "_segments",
    "_stepping",
    "_fixed",
    "_reversible",
    "_adaptive",
    "_parts",
    "simulate",
    "_drawing",
    "_saves",
    "plot_training",
    "plot",
    "_descent",
    "train",
    "_modes",
    "frequency_report",
    "signal_report",
    "fit_frequency",
    "fit_spectrum",
    "fit_signal",
    "_options",
    "run_results",
    "runs",
    "training_runs",
    "bench_runs",
    "cli",
]


def _imports(path):
    """Modules of the package that a file imports, by their first name."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            yield from [node.module.split(".")[0]] if node.module else [a.name for a in node.names]


def test_imports_only_go_down():
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert name in level, f"{name} has no layer"
        for other in _imports(path):
            above = level[other] > level[name]
            beside = level[other] == level[name] and name != other
            order = name in WITHIN and other in WITHIN and WITHIN.index(other) < WITHIN.index(name)
            assert not above and (not beside or order), f"{path.name} imports {other}"


def test_import_loads_no_plotting_and_no_command_line():
    heavy = ("matplotlib", "typer", "tqdm", "pandas")
    code = f"import sys, ctrnn_jax; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_files_stay_short():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 480, path.name
