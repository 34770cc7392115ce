"""The public names of the package by subject, as its source says; nothing is imported."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "ctrnn_jax"
MODULES = ("losses", "plot", "solvers", "experiments")

# What has no public name, but is returned to users, or tells them how to write something.
BESIDE = {
    "analysis": [
        "_analysis.nonlinear_modes.NonlinearModes",
        "_analysis.fixed_points.FixedPoints",
        "_analysis.harmonics.Harmonics",
        "_analysis.autoregression.Autoregression",
        "_analysis.memory.MemoryCapacity",
        "_analysis.regime.Regime",
        "_analysis.analyse.Analysis",
    ],
    "training": [
        "_train.fit.History",
        "_train.frequency_report.FrequencyReport",
        "_train.closed_orbits.OrbitReport",
        "_train.signal_report.SignalReport",
        "_train.input_report.IdentificationReport",
    ],
    "files, pictures, the paper": ["_files.signals.Signal"],
    "solvers": ["solvers.base.Declarations"],
}


def subjects() -> dict[str, list[str]]:
    """{subject: names} of the package: the comments inside `__all__` are the subjects."""
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    listed = source[source.index("__all__ = [") :]
    listed = listed[listed.index("\n") : listed.index("\n]")]
    parts = re.split(r"^ *# (.+)$", listed, flags=re.MULTILINE)[1:]
    return {
        subject: re.findall(r'"(\w+)"', names)
        for subject, names in zip(parts[::2], parts[1::2], strict=True)
    }


def module_names(module: str) -> list[str]:
    """The public names of a public module: its `__all__`, or what it imports `x as x`."""
    path = PACKAGE / f"{module}.py"
    path = path if path.exists() else PACKAGE / module / "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "__all__"
        ):
            return ast.literal_eval(node.value)
    imported = [
        n
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for n in node.names
    ]
    return [name.name for name in imported if name.name == name.asname]


def documented() -> dict[str, str]:
    """{name as users write it: the name that its entry has}: what two modules share has one."""
    top = [name for names in subjects().values() for name in names]
    found = {name: f"ctrnn_jax.{name}" for name in top}
    for module in MODULES:
        for name in module_names(module):
            shared = name in top and name not in MODULES and module != "plot"
            found[f"{module}.{name}"] = (
                f"ctrnn_jax.{name if shared else f'{module}.{name}'}"
            )
    return found
