"""The command line, run in a folder of its own."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import X64

import ctrnn_jax as ct
from ctrnn_jax import runs

QUICK = ["--states", "8", "--steps", "40", "--neurons", "4", "--no-progress"]


def ctrnn(folder, *arguments):
    environment = {**os.environ, "MPLBACKEND": "Agg", "COLUMNS": "80"}
    command = [sys.executable, "-m", "ctrnn_jax", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_simulate_takes_the_users_own_data(tmp_path):
    W = np.random.default_rng(0).normal(size=(3, 3))
    np.savetxt(tmp_path / "A.csv", W - W.T, delimiter=",")
    np.save(tmp_path / "x0.npy", np.random.default_rng(1).normal(size=(6, 3)))
    np.savez(tmp_path / "b.npz", b=np.array([0.1, 0.2, 0.3]))
    done = ctrnn(
        tmp_path, "simulate", "--out", "deep/er", "--weights", "A.csv",
        "--initial-states", "x0.npy",
        "--bias", "b.npz", "--activation", "hard-tanh", "--solver", "RK4", "--dt", "0.01",
        "--duration", "1.2", "--save-every", "3", "--max-norm", "100", "--dtype", "float64",
        "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "100.00%" in done.stderr and "Traceback" not in done.stderr
    for word in (
        "states",
        "steps",
        "solver",
        "wall time",
        "state-steps/s",
        "median drift",
        "stopped",
        "frequency",
    ):
        assert word in done.stdout
    folder = tmp_path / "deep" / "er"
    names = {
        "network.ctrnn",
        "trajectory.ctrnn",
        "summary.json",
        "time_series.png",
        "energy_drift.png",
    }
    assert names <= {p.name for p in folder.iterdir()}
    assert [p.name for p in folder.parent.iterdir()] == ["er"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["results"]["steps"] == 120 and summary["results"]["states"] == 6
    assert summary["results"]["max_relative_energy_drift"] < 1e-7
    if X64:
        rnn, run = ct.load(folder / "network.ctrnn"), ct.load(folder / "trajectory.ctrnn")
        assert np.array_equal(rnn.weights.as_matrix(), W - W.T)
        again = ct.simulate(
            rnn, run.xs[:, 0], dt=0.01, num_steps=120, save_every=3, solver=ct.RK4()
        )
        assert np.allclose(again.xs, run.xs, rtol=1e-12, atol=1e-12)


def test_info():
    done = ctrnn(".", "info")
    assert done.returncode == 0 and "jaxlib" in done.stdout and "devices" in done.stdout


def test_help_explains():
    assert "simulate" in ctrnn(".", "--help").stdout
    assert "--initial-states" in ctrnn(".", "simulate", "--help").stdout


BAD = [
    (["--dt", "0"], "--dt: expected a finite number > 0, got 0.0"),
    (["--dt", "abc"], "--dt"),
    (["--steps", "0"], "--steps: expected an integer >= 1, got 0"),
    (["--save-every", "7"], "num_steps: expected a multiple of save_every = 7, got 40"),
    (["--duration", "1"], "--duration: expected either --steps or --duration, got both"),
    (["--solver", "rk5"], "--solver: expected one of"),
    (["--solver", "projected:rk4:2"], "--solver: expected no order for RK4, got '2'"),
    (["--solver", "discrete_gradient:x"], "--solver: expected a number after the colon, got 'x'"),
    (["--solver", "exact_linear"], "activation Linear()"),
    (["--activation", "swish"], "--activation: expected one of"),
    (["--form", "spiking"], "form: expected one of 'rate', 'current', got 'spiking'"),
    (["--dtype", "int8"], "--dtype: expected one of 'float32', 'float64', got 'int8'"),
    (["--device", "tpu:9"], "--device: expected one of cpu:0"),
    (["--leak", "-1"], "leak: expected values >= 0"),
    (["--bias", "nothing.npy"], "--bias: expected an existing file, got nothing.npy"),
    (["--skew-part"], "--skew-part: expected a matrix in --weights, got none"),
    (["--weights", "general.npy"], "a symmetric part of size"),
    (["--weights", "flat.npy"], "--weights: expected a square matrix, got shape (4,)"),
    (["--weights", "words.csv"], "--weights: expected a readable .csv file of numbers"),
    (["--weights", "broken.npz"], "--weights: expected a readable .npz file"),
    (["--weights", "notes.txt"], "--weights: expected a .npy, .npz or .csv file, got notes.txt"),
    (["--initial-states", "general.npy"], "--states: expected the 4 states"),
    (["--initial-states", "wide.npy"], "--initial-states: expected shape (states, 4), got (2, 5)"),
    (["--out", "notes.txt"], "--out: expected a folder, got the file notes.txt"),
    (["--no-such-option"], "No such option"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments,message", BAD, ids=lambda a: " ".join(a) if isinstance(a, list) else ""
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, message):
    np.save(tmp_path / "general.npy", np.arange(16.0).reshape(4, 4))
    np.save(tmp_path / "flat.npy", np.zeros(4))
    np.save(tmp_path / "wide.npy", np.zeros((2, 5)))
    (tmp_path / "words.csv").write_text("a,b\nc,d\n")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    (tmp_path / "notes.txt").write_text("notes")
    before = sorted(p.name for p in tmp_path.iterdir())
    out = [] if "--out" in arguments else ["--out", "out"]
    done = ctrnn(tmp_path, "simulate", *QUICK, *out, *arguments)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("option", ["--skew-part", "--unconstrained"])
def test_general_matrices_on_demand(tmp_path, option):
    A = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    np.save(tmp_path / "A.npy", A)
    done = ctrnn(tmp_path, "simulate", *QUICK, "--weights", "A.npy", option, "--out", "o")
    assert done.returncode == 0, done.stderr
    kept = np.asarray(ct.load(tmp_path / "o" / "network.ctrnn").weights.as_matrix())
    assert np.allclose(kept, (A - A.T) / 2 if option == "--skew-part" else A, atol=1e-6)


def test_interrupt_ends_a_run_at_once_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "ctrnn_jax", "simulate", "--steps", "1000000", "--out", "o"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"%" not in process.stderr.read(8):  # the progress bar: it is computing
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) != 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name,kind,order",
    [
        ("poisson-splitting:6", ct.PoissonSplitting, 6),
        ("discrete_gradient", ct.DiscreteGradient, 2),
        ("discrete_gradient:4", ct.DiscreteGradient, 4),
        ("projected:poisson_splitting:4", ct.Projected, 4),
        ("ImplicitMidpoint", ct.ImplicitMidpoint, 2),
    ],
)
def test_solver_names(name, kind, order):
    solver = runs._solver(name)
    assert isinstance(solver, kind) and solver.order(None) == order


def test_devices_share_the_states(tmp_path):
    done = ctrnn(tmp_path, "simulate", *QUICK, "--devices", 2, "--out", "two")
    assert done.returncode == 0 and "on 2 device(s)" in done.stdout, done.stderr
    ctrnn(tmp_path, "simulate", *QUICK, "--out", "one")
    two, one = (ct.load(tmp_path / name / "trajectory.ctrnn").xs for name in ("two", "one"))
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    done = ctrnn(tmp_path, "simulate", *QUICK, "--devices", 0)
    assert done.returncode == 2
    assert done.stderr.strip() == "ctrnn: --devices: expected an integer >= 1, got 0"
