"""What a network does, all in one: facts, the command, and matrices of ten kinds."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64

import ctrnn_jax as ct
from ctrnn_jax._analysis.facts import frequency_facts, matrix_facts
from ctrnn_jax._analysis.step_sizes import PER_PERIOD, measure_steps
from ctrnn_jax._command import app


def skew(n, seed=0):
    W = np.random.default_rng(seed).normal(size=(n, n)) / np.sqrt(2 * n)
    return W - W.T


def blocks(*omegas):
    A = np.zeros((2 * len(omegas), 2 * len(omegas)))
    for k, w in enumerate(omegas):
        A[2 * k, 2 * k + 1], A[2 * k + 1, 2 * k] = w, -w
    return A


def degenerate():
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    A = Q @ blocks(1.0, 1.0, 2.0) @ Q.T
    return (A - A.T) / 2


def low_rank():
    U, V = np.random.default_rng(2).normal(size=(2, 12, 2))
    return U @ V.T - V @ U.T


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """The command line in this process: status, what it printed, and its errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ctrnn", "analyse", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            app.main()
        told = capsys.readouterr()
        return end.value.code, told.out, told.err

    yield run
    jax.config.update("jax_enable_x64", X64)


def test_facts_of_matrices():
    facts = matrix_facts(low_rank())
    assert (facts["rank"], facts["casimirs"]) == (4, 8)
    np.testing.assert_allclose(low_rank() @ np.array(facts["kernel"]).T, 0, atol=1e-13)
    assert matrix_facts(blocks(1.0, 2.0, 3.0))["blocks"] == [2, 2, 2]
    assert matrix_facts(np.zeros((3, 3)))["rank"] == 0
    huge = matrix_facts(1e150 * skew(6), 1e150 * (skew(6) + 0.01 * np.eye(6)))
    top = np.abs(skew(6) + 0.01 * np.eye(6)).max()
    np.testing.assert_allclose(huge["symmetric_part"], 0.01 / top)
    np.testing.assert_allclose(huge["norm_per_s"] / 1e150, np.linalg.norm(skew(6), 2))


def test_facts_of_frequencies():
    told = frequency_facts(np.array([0.0, 1.0, 1.0 + 1e-13, 2.0]))
    assert told["zero"] == 1
    assert [d["times"] for d in told["degenerate"]] == [2]
    assert [(m["of_hz"], m["times"]) for m in told["multiples"]] == [(1.0, 2)]
    assert frequency_facts(np.zeros(2))["zero"] == 2


def test_measured_phase_errors_are_those_of_theory():
    # A symmetric sweep is leapfrog: cos(ωh) = 1 - (ωh)²/2 turns by (ωh)³/24 too much a step.
    rnn = ct.CTRNN(ct.BlockSkew(jnp.array([3.0])))
    found = measure_steps(rnn, jnp.zeros(2), jnp.array([[0.1, 0.0]]))["PoissonSplitting"]
    h = 2 * np.pi / np.array(PER_PERIOD)
    exact = 2 * np.arcsin(h / 2)
    expected = 100 * np.abs(exact / h - 1)
    np.testing.assert_allclose(found.turns, expected, rtol=0.02 if X64 else 0.2)
    assert found.chosen is not None and expected[found.chosen] <= 0.01
    assert expected[found.chosen + 1] > 0.01 or found.drift[found.chosen + 1] > 1e-3


@pytest.mark.parametrize(
    ("matrix", "arguments", "line"),
    [
        (np.eye(3) + skew(3), (), "--weights: expected a skew-symmetric matrix, or nearly so"),
        (np.zeros((1, 1)), (), "--weights: expected at least 2 neurons"),
        (np.ones((2, 3)), (), "--weights: expected a square matrix, got shape (2, 3)"),
        (skew(2), ("--form", "x"), "--form: expected one of 'rate', 'current'"),
        (skew(2), ("m.ctrnn",), "MODEL: expected either MODEL or --weights, got both"),
    ],
)
def test_one_clear_line(command, matrix, arguments, line):
    np.save("A.npy", matrix)
    status, _, error = command("--weights", "A.npy", "--quick", "--no-progress", *arguments)
    assert status == 2 and error.startswith(f"ctrnn: {line}") and error.count("\n") == 1


def test_what_files_must_hold(command):
    rnn = ct.CTRNN(ct.DenseSkew(jnp.asarray(skew(2), jnp.result_type(float))), leak=0.1)
    ct.save("leaky.ctrnn", rnn)
    ct.save("array.ctrnn", jnp.ones(3))
    told = {
        "leaky.ctrnn": "MODEL: expected a network without leak",
        "array.ctrnn": "MODEL: expected a file with a network or an oscillator",
        "none.ctrnn": "MODEL: expected an existing file",
    }
    for name, line in told.items():
        status, _, error = command(name, "--no-progress")
        assert status == 2 and error.startswith(f"ctrnn: {line}"), error
    status, _, error = command("leaky.ctrnn", "--form", "rate")
    assert status == 2 and "--form: expected none with MODEL" in error
    assert command()[0] == 2


KINDS = {
    "block": (blocks(1.0, 1.618, 2.7), {"rank": 6}, "3 of 2 neurons"),
    "low rank": (low_rank(), {"rank": 4, "casimirs": 8}, "0: the kernel"),
    "odd": (skew(5), {"casimirs": 1}, "kernel vector 1"),
    "zero": (np.zeros((4, 4)), {"rank": 0}, "The weights are 0"),
    "degenerate": (degenerate(), {"rank": 6}, "2 coincide"),
    "huge": (1e150 * skew(6), {"rank": 6}, "e+149"),
    "not quite skew": (skew(6) + 0.01 * np.eye(6), {"rank": 6}, "Its skew part is analysed"),
    "tiny": (1e-6 * skew(6), {"rank": 6}, "e-07"),
    "200 x 200": (skew(200), {"rank": 200}, "were left out"),
}


@pytest.mark.long
@pytest.mark.sampled(5)
@pytest.mark.parametrize("kind", KINDS)
def test_matrices_of_ten_kinds(command, tmp_path, kind):
    matrix, facts, words = KINDS[kind]
    np.save("A.npy", matrix)
    form = "rate" if kind in ("block", "tiny", "zero") else "current"
    status, printed, error = command(
        "--weights", "A.npy", "--form", form, "--quick", "--no-progress", "--out", "o"
    )
    assert status == 0, error
    assert "report in" in printed
    found = json.loads((tmp_path / "o" / "report.json").read_text())["results"]
    assert facts.items() <= found["matrix"].items()
    page = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    assert words in page and not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page))
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    hz = np.array(found["frequencies"]["hz"])
    A = (matrix - matrix.T) / 2
    scale = np.abs(A).max() or 1.0
    expected = np.sort(np.linalg.eigvals(A / scale).imag)[(len(A) + 1) // 2 :] / (2 * np.pi)
    np.testing.assert_allclose(hz / scale, expected, atol=1e-12)
    regimes = np.array(found["regimes"]["words"])
    assert "diverged" not in regimes
    if kind == "zero":
        assert np.all(regimes == "equilibrium")
    if kind in ("block", "tiny", "huge", "not quite skew"):
        assert np.all(regimes[0] == "quasi-periodic")


@pytest.mark.rare
def test_a_saved_oscillator_is_told_of_with_its_own_orbit(command, tmp_path):
    rnn = ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([2.0])), bias=jnp.array([0.1, 0.2]))
    ct.save("m.ctrnn", ct.Oscillator(rnn, jnp.array([0.1, 0.0]), jnp.array([[1.0, 0.0]])))
    status, printed, error = command("m.ctrnn", "--quick", "--out", "o")
    assert status == 0, error
    assert "From the state of the file: periodic" in printed and "exponents" in error
    found = json.loads((tmp_path / "o" / "report.json").read_text())["results"]
    period = float(ct.period(rnn, jnp.array([0.1, 0.0])))
    np.testing.assert_allclose(found["own"]["period"], period, rtol=1e-9 if X64 else 1e-4)
    assert found["modes"]["periods_s"][0][0] == pytest.approx(0.5, rel=1e-2)
