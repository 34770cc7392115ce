"""The command line, run in a folder of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64

import ctrnn_jax as ct
from ctrnn_jax._command import drive, options, simulate
from ctrnn_jax.solvers._names import solver_named

QUICK = ["--states", "8", "--steps", "40", "--neurons", "4", "--no-progress"]


def process(folder, *arguments):
    """The command as it is typed: status and what was told."""
    environment = {**os.environ, "MPLBACKEND": "Agg", "COLUMNS": "80"}
    command = [sys.executable, "-m", "ctrnn_jax", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.long
def test_simulate_takes_the_users_own_data(tmp_path):
    W = np.random.default_rng(0).normal(size=(3, 3))
    np.savetxt(tmp_path / "A.csv", W - W.T, delimiter=",")
    np.save(tmp_path / "x0.npy", np.random.default_rng(1).normal(size=(6, 3)))
    np.savez(tmp_path / "b.npz", b=np.array([0.1, 0.2, 0.3]))
    done = process(
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


@pytest.mark.long
def test_saves_at_given_times_until_an_event(ctrnn, tmp_path):
    rnn = ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([1.0], jnp.float32)), ct.Linear())
    ct.save("rnn.ctrnn", rnn)
    angles = np.array([0.1, 0.3, 0.6])
    np.save("x0.npy", np.stack([np.cos(angles), np.sin(angles)], axis=1))
    np.savetxt("times.csv", [0, 0.11, 0.25, 0.6], "%.2f")
    options = ["--weights", "rnn.ctrnn", "--initial-states", "x0.npy", "--activation", "linear"]
    options += ["--dt", "0.01", "--solver", "dopri8", "--dtype", "float64", "--no-progress"]
    turn = float(rnn.weights.as_matrix()[0, 1])  # x_0 + i x_1 turns backwards
    phase = lambda t: np.angle(np.exp(1j * (angles[:, None] - turn * t)))  # noqa: E731
    for given in ("times.csv", "0,0.11,0.25,0.6"):
        status, out, error = ctrnn("simulate", *options, "--save-at", given, "--out", "o")
        assert status == 0, error
        assert "60 of 0.01 s, saved at 4 times" in out
        run = ct.load(tmp_path / "o" / "trajectory.ctrnn")
        ts = np.array([0, 0.11, 0.25, 0.6])
        np.testing.assert_allclose(run.ts, ts)
        exact = np.stack([np.cos(phase(ts)), np.sin(phase(ts))], axis=-1)
        np.testing.assert_allclose(run.xs, exact, atol=1e-7)
    # x_1 = sin falls, or rises, through 0 after a part of the turn; the last one stops before.
    down = turn > 0
    exact = (angles if down else np.pi - angles) / abs(turn)
    event = f"1=0:{'down' if down else 'up'}"
    steps = ["--duration", "0.3", "--until", event, "--out", "e"]
    status, out, error = ctrnn("simulate", *options, *steps)
    assert status == 0, error
    lines = (tmp_path / "e" / "event_times.csv").read_text().split()
    found = np.array([float(line.split(",")[1] or "nan") for line in lines[1:]])
    assert lines[0] == "state,time" and [line.split(",")[0] for line in lines[1:]] == list("012")
    happened = exact < 0.3
    np.testing.assert_allclose(found[happened], exact[happened], atol=1e-7)
    assert np.isnan(found[~happened]).all()
    results = json.loads((tmp_path / "e" / "summary.json").read_text())["results"]
    assert results["events"] == happened.sum() and results["stopped"] == 0
    assert results["max_relative_energy_drift"] < 1e-6
    assert f"{event}, passed by {happened.sum()} of 3 states" in out


@pytest.mark.long
def test_info(ctrnn):
    status, told, _ = ctrnn("info")
    assert status == 0 and "jaxlib" in told and "devices" in told


@pytest.mark.long
def test_help_explains(ctrnn):
    assert "simulate" in ctrnn("--help")[1]
    assert "--initial-states" in ctrnn("simulate", "--help")[1]


BAD = [
    (["--dt", "0"], "--dt: expected a finite number > 0, got 0.0"),
    (["--dt", "abc"], "--dt"),
    (["--steps", "0"], "--steps: expected an integer >= 1, got 0"),
    (["--save-every", "7"], "--steps: expected a multiple of --save-every 7, got 40"),
    (["--duration", "1"], "--duration: expected either --steps or --duration, got both"),
    (["--solver", "rk5"], "--solver: expected one of"),
    (["--solver", "projected:rk4:2"], "--solver: expected no order for RK4, got '2'"),
    (["--solver", "discrete_gradient:x"], "--solver: expected a number after the colon, got 'x'"),
    (["--solver", "exact_linear"], "activation Linear()"),
    (["--activation", "swish"], "--activation: expected one of"),
    (["--form", "spiking"], "--form: expected one of 'rate', 'current', got 'spiking'"),
    (["--dtype", "int8"], "--dtype: expected one of 'float32', 'float64', got 'int8'"),
    (["--device", "tpu:9"], "--device: expected one of cpu:0"),
    (["--leak", "-1"], "--leak: expected values >= 0"),
    (["--bias", "nothing.npy"], "--bias: expected an existing file, got nothing.npy"),
    (["--skew-part"], "--skew-part: expected a matrix in --weights, got none"),
    (["--weights", "general.npy"], "a symmetric part of size"),
    (["--weights", "flat.npy"], "--weights: expected a square matrix, got shape (4,)"),
    (["--weights", "words.csv"], "--weights: expected rows of numbers"),
    (
        ["--weights", "two.npz"],
        "--weights: expected a file of one array, got 2 arrays: a (4, 4), b (4, 4) (--array"
        " decides)\n",
    ),
    (["--weights", "broken.npz"], "--weights: expected a readable .npz file"),
    (["--weights", "notes.txt"], "--weights: expected a .npy, .npz, .csv, .safetensors, .pt "),
    (["--initial-states", "general.npy"], "--states: expected the 4 states"),
    (["--initial-states", "wide.npy"], "--initial-states: expected shape (states, 4), got (2, 5)"),
    (["--out", "notes.txt"], "--out: expected a folder, got the file notes.txt"),
    (["--out", "notes.txt/deeper"], "--out: expected a folder, got the file notes.txt"),
    (["--seed", str(2**64)], "--seed: expected an integer from 0 to 2^32 - 1, got 1844"),
    (["--steps", str(2**31)], "--steps: expected at most 2147483646, got 2147483648"),
    (["--rtol", "0", "--atol", "0"], "--rtol: expected a number > 0 where atol is 0"),
    (["--neurons", str(10**6)], "memory: expected a run that fits into the "),
    (["--states", str(10**9)], "GB: 1000000000 states of 4 neurons, each saved 41 times"),
    (["--scale", "nan"], "--scale: expected a finite number > 0, got nan"),
    (
        ["--amplitude", "1e300"],
        "--amplitude: expected a finite number > 0, got 1e+300, which is inf",
    ),
    (["--inputs", "u.csv"], "--steps: expected 6 steps, as many as u.csv has inputs, got 40"),
    (
        ["--inputs", "u.npy", "--dt", "1", "--input-weights", "wide.npy"],
        "--input-weights: expected shape (4, 2), neurons and inputs of u.npy, got (2, 5)",
    ),
    (
        ["--inputs", "u.npy", "--input-weights", "wide.npy", "--input-scale", "2"],
        "--input-scale: expected either --input-weights or --input-scale, got both",
    ),
    (["--inputs", "u.npy", "--input-scale", "0"], "--input-scale: expected a finite number > 0"),
    (
        ["--inputs", "each.npy"],
        "--inputs: expected inputs shared or of 8 states, (8, steps, inputs), got shape (3, 40, 1)",
    ),
    (["--inputs", "u.csv", "--dt", "1"], "--dt: expected none, or the 0.5 s that u.csv has, got 1"),
    (["--inputs", "u.npy", "--solver", "projected:rk4"], "--solver: expected one that takes held"),
    (["--inputs", "words.csv"], "--inputs: expected rows of numbers"),
    (["--inputs", "scalar.npy"], "--inputs: expected shape (steps, inputs) or (states, steps, inp"),
    (["--input-weights", "wide.npy"], "--input-weights: expected none without --inputs, got wide"),
    (["--save-at", "0,1", "--save-every", "2"], "--save-every: expected none with --save-at, got"),
    (["--save-at", "0,1", "--noise", "1"], "--noise: expected none with --save-at, got 1.0"),
    (["--save-at", "0,1", "--record"], "--record: expected none with --save-at"),
    (["--save-at", "0,1,1"], "--save-at: expected times from 0 on that increase, got 0,1,1"),
    (["--save-at", "0,3"], "--save-at: expected times up to 2 s, 40 steps, got 3.0"),
    (["--save-at", "0,nan"], "--save-at: expected finite values, got 1 non-finite of 2"),
    (["--save-at", "no.csv"], "--save-at: expected an existing file, got no.csv"),
    (["--save-at", "general.npy"], "--save-at: expected times (S,), got shape (4, 4)"),
    (["--until", "0:up"], "--until: expected NEURON=LEVEL, NEURON=LEVEL:up or :down, got '0:up'"),
    (["--until", "0=x"], "--until: expected NEURON=LEVEL, NEURON=LEVEL:up or :down, got '0=x'"),
    (["--until", "4=0"], "--until: expected a neuron from 0 to 3, got 4"),
    (["--until", "0=0", "--noise", "1"], "--until: expected none with --noise, got 0=0"),
    (["--until", "0=0", "--record"], "--record: expected none with --until"),
    (["--noise", "-1"], "--noise: expected a finite number > 0, got -1.0"),
    (["--noise", "1", "--solver", "tsit5"], "--solver: expected one of stochastic equations"),
    (["--noise", "1", "--rtol", "1e-3"], "expected"),
    (["--no-such-option"], "No such option"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments,message", BAD, ids=lambda a: " ".join(a) if isinstance(a, list) else ""
)
def test_bad_input_is_one_line_and_leaves_nothing(ctrnn, tmp_path, arguments, message):
    np.save(tmp_path / "general.npy", np.arange(16.0).reshape(4, 4))
    np.save(tmp_path / "flat.npy", np.zeros(4))
    np.savez(tmp_path / "two.npz", a=np.eye(4), b=np.eye(4))
    np.save(tmp_path / "wide.npy", np.zeros((2, 5)))
    np.save(tmp_path / "u.npy", np.ones((40, 2)))
    np.save(tmp_path / "each.npy", np.ones((3, 40, 1)))
    np.save(tmp_path / "scalar.npy", np.array(1.0))
    (tmp_path / "u.csv").write_text("t,u\n" + "".join(f"{0.5 * k},{k % 2}\n" for k in range(6)))
    (tmp_path / "words.csv").write_text("a,b\nc,d\n")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    (tmp_path / "notes.txt").write_text("notes")
    before = sorted(p.name for p in tmp_path.iterdir())
    out = [] if "--out" in arguments else ["--out", "out"]
    status, _, error = ctrnn("simulate", *QUICK, *out, *arguments)
    assert status == 2
    assert message in error and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.long
def test_its_own_files_are_weights_and_states(ctrnn, tmp_path):
    rnn = ct.CTRNN(ct.BlockSkew(jnp.array([1.0, 2.0], jnp.float32)))
    x0 = jnp.ones((3, 4), jnp.float32)
    ct.save(tmp_path / "network.ctrnn", rnn)
    ct.save(tmp_path / "run.ctrnn", ct.simulate(rnn, x0, dt=0.1, num_steps=5))
    options = ["--weights", "network.ctrnn", "--initial-states", "run.ctrnn", "--out", "o"]
    status, _, error = ctrnn("simulate", "--steps", "2", *options)
    assert status == 0, error
    first, then = (ct.load(tmp_path / name) for name in ("run.ctrnn", "o/trajectory.ctrnn"))
    assert first.xs is not None and np.array_equal(first.xs[:, -1], then.xs[:, 0])
    matrix = ct.load(tmp_path / "o" / "network.ctrnn").weights.as_matrix()
    assert np.array_equal(matrix, rnn.weights.as_matrix())


@pytest.mark.parametrize("option", ["--skew-part", "--unconstrained"])
@pytest.mark.long
def test_general_matrices_on_demand(ctrnn, tmp_path, option):
    A = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    np.save(tmp_path / "A.npy", A)
    status, _, error = ctrnn("simulate", *QUICK, "--weights", "A.npy", option, "--out", "o")
    assert status == 0, error
    kept = np.asarray(ct.load(tmp_path / "o" / "network.ctrnn").weights.as_matrix())
    assert np.allclose(kept, (A - A.T) / 2 if option == "--skew-part" else A, atol=1e-6)


def _interrupted(folder, arguments, number, ready=b"%"):
    """Exit status and standard error after a signal sent once `ready` is in the latter."""
    command = [sys.executable, "-m", "ctrnn_jax", *arguments]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        told = b""
        while ready not in told:
            assert process.poll() is None
            told += os.read(process.stderr.fileno(), 4096)
        process.send_signal(number)
        began = time.monotonic()
        _, rest = process.communicate(timeout=60)
        assert time.monotonic() - began < 2
    return process.returncode, (told + rest).decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.long
def test_an_interrupt_ends_a_run_at_once_and_leaves_nothing(tmp_path, number):
    arguments = ["simulate", "--steps", "1000000", "--out", "deep/er"]
    status, error = _interrupted(tmp_path, arguments, number)  # the progress bar: it is computing
    assert status == 130 and error.endswith("\nctrnn: interrupted\n") and "Trace" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["loading", "writing", "moving", "drawing"])
@pytest.mark.long
@pytest.mark.sampled(2)
def test_an_interrupt_at_any_moment_leaves_all_or_nothing(tmp_path, moment):
    """Stopped where it would hurt most: the process sends itself the signal there, and waits."""
    before = {
        "loading": "sys.argv[0] = 'ctrnn'; import ctrnn_jax",
        "writing": "from ctrnn_jax._command import simulate; at(simulate, 'write_json')",
        "moving": "at(os, 'replace')",
        "drawing": "import matplotlib.figure as figure; at(figure.Figure, 'savefig')",
    }[moment]
    code = (
        "import os, signal, sys, time\n"
        "def end(*_, **__):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.5 if moving else 30)\n"
        "def at(owner, name):\n"
        "    kept = getattr(owner, name)\n"
        "    def first(*a, **k):\n"
        "        result = kept(*a, **k)\n"
        "        if not moving or str(a[1]).endswith('/er/network.ctrnn'):\n"
        "            end()\n"
        "        return result\n"
        "    setattr(owner, name, first)\n"
        f"moving = {moment == 'moving'}\n"
        f"{before}\n"
        "if sys.argv[0] == 'ctrnn': end()\n"
        "from ctrnn_jax._command.app import main\nmain()\n"
    )
    command = [sys.executable, "-c", code, "simulate", *QUICK, "--out", "deep/er"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    if moment == "moving":  # the files go together
        assert len(list((tmp_path / "deep" / "er").iterdir())) > 4
        assert [p.name for p in (tmp_path / "deep").iterdir()] == ["er"]
    else:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [1, 40, 1000, 4007, 100_003, 2**31 - 1000])
@pytest.mark.by_default(2)
def test_saves_need_no_divisor_of_the_steps(tmp_path, steps):
    asked, made, each = simulate._steps(_settings(tmp_path, steps=steps))
    assert asked == steps and made % each == 0 and steps <= made <= 1.01 * steps
    assert min(steps, 80) <= made // each <= 200


def _settings(folder, **changes):
    given = {"scale": 1.0, "amplitude": 1.0, "activation": "linear", "solver": "rk4"}
    return simulate.Settings(folder, progress=False, **given | changes)


@pytest.mark.long
def test_the_table_is_true_of_a_slow_oscillation_and_of_stopped_runs(tmp_path, capsys):
    """An exact frequency from little more than a period, none from half of one or of none."""
    np.save(tmp_path / "A.npy", np.array([[0, 1.0], [-1.0, 0]]))
    np.save(tmp_path / "x.npy", np.array([[0.0, 1.0]]))
    given = {"weights": tmp_path / "A.npy", "initial_states": tmp_path / "x.npy"}
    for name, changes, row in (
        ("many", {"steps": 2003}, r"0\.159 Hz: neuron 0, first 100.* s, median of 1 of 1 states"),
        ("stopped", {"steps": 500, "max_norm": 0.5}, "not measured: all trajectories were stopped"),
    ):
        simulate.simulate_to_folder(_settings(tmp_path / name, **given, **changes))
        told = capsys.readouterr().out
        assert re.search(rf"frequency +{row}", told), told
        results = json.loads((tmp_path / name / "summary.json").read_text())["results"]
        assert results["wall_time_s"] > 1e-6 and results["compile_time_s"] > 1e-3
        assert results["steps_asked_for"] == changes["steps"] <= results["steps"]
        run = ct.load(tmp_path / name / "trajectory.ctrnn")
        assert np.isclose(run.ts[-1], 0.05 * results["steps"])
    assert "median drift  not measured: all trajectories were stopped" in told


@pytest.mark.parametrize("state,max_norm", [(0.0, None), (1.0, 1.001)])
@pytest.mark.long
def test_nothing_to_draw_costs_no_results(tmp_path, state, max_norm):
    """A state at rest, and one that is stopped before the first save."""
    np.save(tmp_path / "A.npy", np.array([[0, 1.0], [-1.0, 0.5]]))
    np.save(tmp_path / "x.npy", np.full((2, 2), state))
    given = {"weights": tmp_path / "A.npy", "initial_states": tmp_path / "x.npy", "steps": 4000,
             "unconstrained": True, "max_norm": max_norm, "animate": bool(max_norm)}  # fmt: skip
    simulate.simulate_to_folder(_settings(tmp_path / "o", **given))
    names = {p.name for p in (tmp_path / "o").iterdir()}
    assert "animation.gif" not in names
    assert {"summary.json", "trajectory.ctrnn", "time_series.png"} <= names


@pytest.mark.by_default(0)
def test_the_motion_of_what_the_portrait_shows(tmp_path, monkeypatch):
    found = {}

    def animate(run, kind, *, path, ax):
        found.update(run=run, kind=kind, title=ax.get_title())
        path.write_bytes(b"GIF")

    monkeypatch.setattr(ct.plot, "animate", animate)
    given = {"neurons": 2, "states": 20, "steps": 100, "animate": True}
    simulate.simulate_to_folder(_settings(tmp_path / "o", **given))
    assert (tmp_path / "o" / "animation.gif").read_bytes() == b"GIF"
    assert found["kind"] == "state" and found["run"].xs.shape[0] == 16
    assert found["title"].startswith("16 of 20 states, first ")


@pytest.mark.long
def test_alone_it_helps_and_tells_its_version(ctrnn):
    status, told, _ = ctrnn()
    assert "simulate" in told and status == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", ctrnn("--version")[1])


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
    solver = solver_named(name)
    assert isinstance(solver, kind) and solver.order(None) == order


@pytest.mark.parametrize(
    ("states", "solver", "device", "size"),
    [
        (4096, diffrax.Tsit5(), None, 2),
        (4096, diffrax.Tsit5(), "cpu", 2),
        (4095, diffrax.Tsit5(), None, None),  # too few numbers to gain
        (4096, diffrax.Kvaerno3(), None, None),  # of diffrax, and implicit: slower on two
        (4096, ct.Projected(diffrax.Kvaerno3()), None, None),
        (4096, diffrax.Tsit5(), "cpu:1", None),  # one device, by name
    ],
)
def test_all_cores_unless_told_otherwise(monkeypatch, states, solver, device, size):
    monkeypatch.setattr(options, "cpu_cores", lambda: 2)
    mesh = options.mesh_of(None, device, jnp.zeros((states, 2)), solver)
    assert size == (None if mesh is None else mesh.size)


@pytest.mark.long
def test_devices_share_the_states(ctrnn, tmp_path):
    status, told, error = ctrnn("simulate", *QUICK, "--devices", 2, "--out", "two")
    assert status == 0 and "on 2 device(s)" in told, error
    ctrnn("simulate", *QUICK, "--out", "one")
    two, one = (ct.load(tmp_path / name / "trajectory.ctrnn").xs for name in ("two", "one"))
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    status, _, error = ctrnn("simulate", *QUICK, "--devices", 0)
    assert status == 2 and error.strip() == "ctrnn: --devices: expected an integer >= 1, got 0"


INPUTS = 0.3 * np.sin(np.arange(60)[:, None] * np.array([0.1, 0.33]))


def driven(folder, capsys, **changes):
    """The table, the summary's results and the trajectory of a run of four neurons."""
    given = {"neurons": 4, "states": 5, "dtype": "float64" if X64 else "float32"}
    simulate.simulate_to_folder(_settings(folder / "o", **given | changes))
    results = json.loads((folder / "o" / "summary.json").read_text())["results"]
    return capsys.readouterr().out, results, ct.load(folder / "o" / "trajectory.ctrnn")


@pytest.mark.by_default(0)
def test_inputs_drive_a_network_and_its_balance_is_told(tmp_path, capsys):
    t = 0.1 * np.arange(60)
    header = {"header": "t,a,b", "comments": "", "delimiter": ","}
    np.savetxt(tmp_path / "u.csv", np.c_[t, INPUTS], **header)
    changes = {"inputs": tmp_path / "u.csv", "solver": "discrete_gradient", "form": "current",
               "activation": "tanh", "dt": None}  # fmt: skip
    told, results, run = driven(tmp_path, capsys, **changes)
    assert (results["steps"], results["dt"], results["save_every"]) == (60, 0.1, 1)
    assert results["driven_by"]["inputs"] == 2 and results["median_relative_energy_drift"] is None
    weights = "input weights: random, standard deviation 1"
    assert re.search(rf"driven by +2 inputs of u.csv, shared; {weights}\n", told), told
    assert "drift" not in told
    balance = results["energy_balance"]
    assert balance["states"] == 5 and balance["median_supplied"] != 0
    assert balance["max_missing_of_exchanged"] < (1e-13 if X64 else 1e-4)
    rnn, u = ct.load(tmp_path / "o" / "network.ctrnn"), jnp.asarray(INPUTS, run.xs.dtype)
    assert rnn.input_weights.shape == (4, 2) and 0.3 < float(rnn.input_weights.std()) < 3
    again = ct.simulate(rnn, run.xs[:, 0], dt=0.1, num_steps=60, inputs=u,
                        solver=ct.DiscreteGradient())  # fmt: skip
    np.testing.assert_allclose(again.xs, run.xs, rtol=1e-4, atol=1e-5)
    names = {p.name for p in (tmp_path / "o").iterdir()}
    assert "energy_balance.png" in names and "energy_drift.png" not in names


@pytest.mark.long
def test_inputs_of_each_state_with_input_weights_of_a_file(tmp_path, capsys):
    """Saved more rarely than at every step: the balance is that of all steps all the same."""
    B = np.arange(8.0).reshape(4, 2) / 8
    np.save(tmp_path / "B.npy", B)
    np.save(tmp_path / "u.npy", np.stack([INPUTS, 2 * INPUTS, 0 * INPUTS]))
    changes = {"inputs": tmp_path / "u.npy", "input_weights": tmp_path / "B.npy", "states": None,
               "save_every": 20, "leak": 0.3, "activation": "tanh"}  # fmt: skip
    told, results, run = driven(tmp_path, capsys, **changes)
    assert run.xs.shape == (3, 4, 4) and results["states"] == 3
    assert "one for each state; input weights: B.npy" in told and "dissipated" in told
    assert results["energy_balance"]["max_missing_of_exchanged"] < 1e-3
    rnn = ct.load(tmp_path / "o" / "network.ctrnn")
    np.testing.assert_allclose(rnn.input_weights, B, rtol=1e-6)
    # The last has inputs of 0: as without.
    alone = ct.simulate(rnn, run.xs[2, 0], dt=0.05, num_steps=60, save_every=20, solver=ct.RK4())
    np.testing.assert_allclose(run.xs[2], alone.xs, rtol=1e-4, atol=1e-5)
    # Its weights and input weights are those of another run.
    network = tmp_path / "o" / "network.ctrnn"
    changes |= {"weights": network, "input_weights": network, "neurons": None}
    _, _, same = driven(tmp_path, capsys, **changes)
    assert np.array_equal(same.xs[:, -1].shape, run.xs[:, -1].shape)


@pytest.mark.long
def test_noise_is_drawn_as_it_was_simulated(tmp_path, capsys, monkeypatch):
    kept = []
    monkeypatch.setattr(simulate, "pictures", lambda *a: kept.append(a) or {})
    np.save(tmp_path / "A.npy", np.array([[0.0, 0.3], [-0.3, 0.0]]))  # drawn at each 20th step
    changes = {"noise": 0.2, "solver": None, "steps": 840, "save_every": 420, "neurons": None,
               "weights": tmp_path / "A.npy"}  # fmt: skip
    told, results, run = driven(tmp_path, capsys, **changes)
    assert results["solver"] == "Euler" and "noise exchanges energy" in told
    assert results["driven_by"] == {"noise": 0.2}
    part = kept[0][2].trajectory
    each = round(float(part.ts[-1] / 0.05)) // (len(part.ts) - 1)
    assert each == 20
    np.testing.assert_allclose(part.xs[:, 420 // each], run.xs[:, 1], rtol=1e-4, atol=1e-5)
    _, _, same = driven(tmp_path, capsys, **changes)
    _, _, other = driven(tmp_path, capsys, **changes | {"seed": 1})
    assert np.array_equal(same.xs, run.xs) and not np.allclose(other.xs, run.xs)


@pytest.mark.parametrize(("steps", "each"), [(1, 1), (97, 1), (400, 5), (1000, 10), (10007, 1)])
def test_no_step_is_added_to_those_of_the_inputs(tmp_path, steps, each):
    read = drive.Inputs("u.npy", np.zeros((steps, 1)), None)
    assert simulate._steps(_settings(tmp_path), read) == (steps, steps, each)
