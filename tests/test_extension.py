"""One place per extension: what is added in its file is known everywhere.

In a copy of the package, as an author would add it, and in processes of their own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import diffrax
import jax.numpy as jnp
import pytest

import ctrnn_jax as ct
from ctrnn_jax._network import activations
from ctrnn_jax._util.classes import by_name, defined_in
from ctrnn_jax.solvers import _names

ACTIVATION = '''

class HardCubic(_ClosedForm):
    """σ = z³."""

    odd: ClassVar[bool] = True
    bounded: ClassVar[bool] = False

    def __call__(self, z):
        return z**3

    def derivative(self, z):
        return 3 * z**2

    def _phi(self, z):
        return z**4 / 4
'''
WEIGHTS = '''

class ScaledSkew(DenseSkew):
    """A = 2 (W - W')."""

    def as_matrix(self):
        return 2 * (self.W - self.W.T)
'''
SOLVER = '''"""A method of one's own."""

import diffrax


class SlowEuler(diffrax.Euler):
    """Euler's method, with an order that is not used."""

    order_: int = 1

    def __init__(self, order=1):
        self.order_ = order
'''
USE = """
import jax.numpy as jnp, ctrnn_jax as ct
from ctrnn_jax._network import activations, weights
rnn = ct.CTRNN(weights.ScaledSkew(jnp.array([[0.0, 1], [0, 0]])), activations.HardCubic())
ct.save("rnn.ctrnn", {"rnn": rnn, "prepared": rnn.weights.prepared()})
same = ct.load("rnn.ctrnn")["rnn"]
assert type(same.weights) is weights.ScaledSkew and type(same.activation) is activations.HardCubic
ct.save("weights.ctrnn", rnn.weights)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs the interpreter beside a copy of the package to which all three are added."""
    folder = tmp_path_factory.mktemp("extended")
    package = folder / "ctrnn_jax"
    shutil.copytree(Path(ct.__file__).parent, package, ignore=shutil.ignore_patterns("__pyc*"))
    for path, text in (("_network/activations.py", ACTIVATION), ("_network/weights.py", WEIGHTS),
                       ("solvers/slow_euler.py", SOLVER)):  # fmt: skip
        with open(package / path, "a", encoding="utf-8") as file:
            file.write(text)
    exported = package / "solvers" / "__init__.py"
    text = exported.read_text().replace("__all__ = [", '__all__ = [\n    "SlowEuler",')
    exported.write_text("from .slow_euler import SlowEuler\n" + text)

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "80"}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    return run


def ctrnn(python, *arguments):
    done = python("-m", "ctrnn_jax", *arguments)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.long
def test_help_names_what_was_added(python):
    _, told = ctrnn(python, "simulate", "--help")
    assert "sigmoid, relu, exp or hard_cubic." in told and "slow_euler[:ORDER]" in told
    assert "sin or hard_cubic: odd ones" in ctrnn(python, "train", "--help")[1]


@pytest.mark.long
def test_messages_list_what_was_added(python):
    quick = ("simulate", "--states", "2", "--neurons", "2", "--steps", "4", "--no-progress")
    for option, name in (("--activation", "hard_cubic"), ("--solver", "slow_euler")):
        status, told = ctrnn(python, *quick, option, "no-such")
        assert status == 2 and told.startswith(f"ctrnn: {option}: expected one of ")
        assert name in told.partition(", got 'no-such'")[0]


@pytest.mark.long
def test_what_was_added_is_saved_chosen_and_simulated(python):
    used = python("-c", USE)
    assert used.returncode == 0, used.stderr
    chosen = ("--activation", "Hard-Cubic", "--solver", "projected:slow_euler:1")
    quick = ("--states", "2", "--steps", "4", "--no-progress", "--out", "o")
    status, told = ctrnn(python, "simulate", "--weights", "weights.ctrnn", *chosen, *quick)
    assert status == 0, told
    check = "import ctrnn_jax as ct; rnn = ct.load('o/network.ctrnn');"
    done = python("-c", check + "print(type(rnn.activation).__name__, rnn.weights.as_matrix())")
    assert "HardCubic" in done.stdout and "2" in done.stdout, done.stderr


def test_a_users_own_subclass_is_neither_a_choice_nor_in_files(tmp_path):
    class Private(ct.Tanh):
        pass

    assert Private not in defined_in(activations, activations.AbstractActivation)
    with pytest.raises(TypeError, match=r"Private.*which cannot be saved"):
        ct.save(tmp_path / "a", Private())


def test_every_public_class_is_known():
    """The names of the command line mean the classes of the package, all of them."""
    activation = by_name(defined_in(activations, activations.AbstractActivation))
    names = "tanh hard_tanh linear arctan erf sin sigmoid relu exp"
    assert list(activation) == names.split()
    for kind in activation.values():
        assert getattr(ct, kind.__name__) is kind and kind()(jnp.zeros(1)).shape == (1,)
    assert set(_names.own()) | set(_names.wrappers()) == {
        "rk4", "poisson_splitting", "discrete_gradient", "implicit_midpoint", "exact_linear",
        "projected",
    }  # fmt: skip
    for name in ("rk4", "tsit5", "leapfrog-midpoint", "discrete_gradient:4", "Projected:euler"):
        assert isinstance(_names.solver_named(name), diffrax.AbstractSolver)


@pytest.mark.parametrize(
    "name,message",
    [
        ("rk5", "solver: expected one of rk4, "),
        ("rk4:2", "solver: expected no order for RK4, got '2'"),
        ("discrete_gradient:x", "solver: expected a number after the colon, got 'x'"),
    ],
)
def test_errors_of_solver_names(name, message):
    with pytest.raises(ValueError, match=message):
        _names.solver_named(name)
