"""The benchmark suite: peers do what they are said to do, and the arithmetic of its tables."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64

import ctrnn_jax as ct
from ctrnn_jax.plot._files import draw

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
NAMES = (
    "gpu", "gpu_cases", "gpu_checks", "launches", "limit", "measure", "memory", "peers",
    "reservoirs", "sequence_models", "throughput",
)  # fmt: skip
(
    gpu, gpu_cases, gpu_checks, launches, limit, measure, memory, peers, reservoirs,
    sequence_models, throughput,
) = map(importlib.import_module, NAMES)  # fmt: skip
DTYPE = "float64" if X64 else "float32"
EPS = float(np.finfo(DTYPE).eps)


def problem(method, n=5, batch=7):
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), n, scale=2.0))
    x0 = jax.random.normal(jax.random.key(1), (batch, n))
    p = peers.Problem(np.asarray(rnn.weights.as_matrix()), np.asarray(x0), 0.1, 20, method)
    return rnn, p


@pytest.mark.parametrize("method", ["Euler", "RK4", "Tsit5", "Dopri5"])
@pytest.mark.sampled(2)
def test_simulate_takes_the_steps_that_peers_are_compared_with(method):
    rnn, p = problem(method)
    solver = peers.METHODS[method].solver
    xs = ct.simulate(rnn, p.x0, dt=p.dt, num_steps=p.num_steps, solver=solver).xs
    assert np.abs(np.asarray(xs[:, -1]) - peers.exact(p)).max() < 50 * EPS


PAIRS = [
    pytest.param(name, method, marks=[pytest.mark.slow] if peer.package not in HERE else [])
    for HERE in [("diffrax", "jax", "numpy", "scipy")]
    for name, peer in peers.PEERS.items()
    for method in peer.methods
]


# PyTorch's compiler meets what PyTorch itself deprecates.
@pytest.mark.filterwarnings("ignore:.*torch:DeprecationWarning")
@pytest.mark.parametrize(("name", "method"), PAIRS)
@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.long
@pytest.mark.sampled(4)
def test_peers_take_the_same_steps(name, method, n):
    peer = peers.PEERS[name]
    pytest.importorskip(peer.package)
    if DTYPE not in peer.dtypes:
        pytest.skip(f"{peer.package} works in {peer.dtypes}")
    _, p = problem(method, n)
    states = np.asarray(peer.make(p)())
    assert states.shape == p.x0.shape and states.dtype == DTYPE
    wanted = peers.exact(p._replace(method=peer.methods[method]))
    assert np.abs(states - wanted).max() < 50 * EPS


def test_methods_differ_by_more_than_the_peers():
    end = {method: peers.exact(problem(method)[1]) for method in peers.METHODS}
    for a in end:
        for b in end:
            assert a == b or np.abs(end[a] - end[b]).max() > 1e-9


def test_limit_adds_up_what_is_to_be_done():
    found = limit.Limit(products=100.0, tanh=10.0)
    assert found.least(200, 30) == found.least(200, 30, 1e9) == 5.0
    assert limit.Limit(100.0, 10.0, memory=4.0).least(200, 30, 8) == 7.0
    assert found.or_better(limit.Limit(50.0, 20.0)) == limit.Limit(100.0, 20.0)


def test_work_of_a_step():
    case = throughput.Case("float32", "Tsit5", 20, 64, "dense")
    assert case.work == (6 * 64 * 800, 6 * 64 * 20, 6 * 64 * 2 * 20 * 4)
    case = throughput.Case("float64", "Euler", 1024, 1, "low rank")  # U Vᵀ x - V Uᵀ x
    assert case.work == (4 * 2 * 1024 * 8, 1024, 2 * 1024 * 8)


def test_ratios_are_within_rounds_and_fractions_of_the_median():
    report = measure.Report("made-up")
    seconds = {"ctrnn_jax": np.array([1.0, 2.0, 4.0]), "peer": np.array([3.0, 6.0, 12.0])}
    report.times("case", seconds, per=2, parameters={"n": 2}, least=0.25)
    ours, peer = report.rows
    assert (ours["median"], ours["fraction"]) == (1.0, 0.25)
    assert (peer["median"], peer["fraction"]) == (3.0, 0.25 / 3)
    assert ours["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert peer["ratio"] == {"median": 3.0, "low": 3.0, "high": 3.0}


def test_a_candidate_that_ends_elsewhere_is_refused():
    case = throughput.Case(DTYPE, "Euler", 4, 3, "block")
    found = throughput.candidates(case, 1e-3, measure.Report("made-up"))
    assert list(found) == [throughput.OURS, throughput.AS_DENSE]
    for name, candidate in found.items():
        throughput.check(case, name, candidate)
    wrong = found[throughput.OURS]._replace(call=lambda: np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"batch 3.*: wrong: expected states within .*, got"):
        throughput.check(case, "wrong", wrong)


def test_pictures(tmp_path):
    report = measure.Report("made-up")
    for n in (2, 20):
        case = throughput.Case("float32", "Euler", n, throughput.BATCH, "dense")
        seconds = {name: np.full(3, 1e-3) for name in throughput.STYLES}
        report.times(case.name, seconds, parameters=throughput.parameters(case), least=1e-4)
    draw(tmp_path, throughput.pictures(report, "made-up"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "made-up-neurons.png",
        "made-up-batch.png",
    }


@pytest.mark.parametrize("options", [(), ("--quick",)])
@pytest.mark.sampled(2)
@pytest.mark.long
def test_gpu_refuses_cpus(options):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", *options],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "gpu: expected an accelerator, got cpu\n" and done.stdout == ""


@pytest.mark.parametrize(
    "checks", [gpu_checks.products, pytest.param(gpu_checks.drift, marks=pytest.mark.rare)]
)
@pytest.mark.long
@pytest.mark.optimised
def test_gpu_checks_would_see_products_rounded_to_tf32(checks):
    done = list(checks("float32"))
    assert all(check.passed for check in done)
    assert "TF32" in done[-1].what


def test_work_of_the_programs_for_gpus():
    states = 4096 * 20
    through_memory = 11 * 4 * states / 1000  # the first ones and ten saves, of a thousand steps
    for name, flops, tanh in (
        ("simulate,20,Euler", 1, 1),
        ("simulate,20,Tsit5", 6, 6),
        ("simulate,20,PoissonSplitting", 2, 2),  # there and back
        ("grad,20,Tsit5", 18, 6),
        ("fit,20,Euler", 3, 1),
    ):
        found = gpu.work(gpu_cases.Case.named(name))
        assert found == (flops * states * 2 * 20, tanh * states, through_memory)
    flops, tanh, _ = gpu.work(gpu_cases.Case.named("lyapunov,4,Tsit5"))
    assert (flops, tanh) == (2 * 6 * 4096 * 32, 6 * 4096 * 4)
    assert gpu.work(gpu_cases.Case.named("period,2,Tsit5")) is None
    assert set(gpu.QUICK_CASES) < set(gpu_cases.CASES)


def test_costs_of_launches_are_those_that_explain_the_times():
    costs = launches.Overheads(launch=3e-6, graph=5e-6, node=1e-6, sync=2e-5)
    counts = [(2002, 0, 0, 0), (2, 1000, 11000, 0), (2, 1000, 51000, 0), (2002, 0, 0, 1001)]
    found = [launches.Launches(*each) for each in counts]
    seconds = [costs.least(each) for each in found]
    np.testing.assert_allclose(launches.fitted(found, seconds), costs, rtol=1e-9)
    assert launches.Overheads(1.0, 10.0, 100.0, 1000.0).least(found[1].each(1000)) == 1110.002
    with pytest.raises(launches.Uncounted, match="expected programs that tell them apart"):
        launches.fitted(found[:3], seconds[:3])


THUNKS = """\
001: kCopy  [source | next=002 (1)] kCopy
002: kWhile [prev=001 (1) | sink]
condition:
    003: kCustomKernel [source | sink] compare
  body:
    000: kCommandBuffer [source | sink]
        004: kCustomKernel [source | next=005 (1)] add
        005: kGemm [prev=004 (1) | sink] product
    006: kCustomKernel [source | sink] add
"""
PROGRAM = "  %loop.1 = (s32[]) while(%x), condition=%c, body=%b{rounds}"
METADATA = 'thunk_metadata {\n thunk_info {\n profile_annotation: "loop.1"\n thunk_id: 2 } }'


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("graphs", [True, False])
def test_launches_are_read_from_what_the_compiler_dumps(tmp_path, known, graphs):
    rounds = ', backend_config={"known_trip_count":{"n":"7"}}' if known else ""
    files = {
        "thunk_sequence_after_thunk_passes" if graphs else "thunk_sequence": THUNKS,
        "thunk_metadata": METADATA,
        "sm_9.0_gpu_after_optimizations": PROGRAM.format(rounds=rounds),
    }
    for name, text in ({"thunk_sequence": "of no graph"} | files).items():
        (tmp_path / f"module_0001.jit_case.{name}.txt").write_text(text)
    n = 7 if known else 1000
    wanted = (1 + n, n, 2 * n, 0) if known else (1 + n + (n + 1), n, 2 * n, n + 1)
    found = launches.launched(tmp_path)
    assert found == wanted and found.guessed is not known


def test_what_is_compiled_for_a_cpu_is_not_counted():
    with pytest.raises(launches.Uncounted, match="expected the thunks of one program, got 0"):
        launches.compiled(lambda x: x + 1, jnp.zeros(3))


def test_rows_of_a_program_tell_its_two_limits(tmp_path):
    report, name = measure.Report("made-up"), "simulate,20,Euler"
    seconds = {"ctrnn_jax": np.full(3, 8e-3), "lax.scan": np.full(3, 16e-3), "loop": np.ones(3)}
    counted = {
        "ctrnn_jax": launches.Launches(100, 1000, 2000, 0),  # more graphs than the budget has
        "lax.scan": launches.Launches(5000, 0, 0, 1001),  # guessed
        "loop": None,
    }
    costs = launches.Overheads(1e-6, 3e-6, 0.5e-6, 1e-5)
    gpu.tell(name, seconds, counted, report, least=2e-6, costs=costs)
    rows = {(row["candidate"], row["quantity"]): row for row in report.rows}
    times = [rows[candidate, "time of a step"] for candidate in seconds]
    assert [(row["median"], row["fraction"]) for row in times[:2]] == [(8e-6, 0.25), (16e-6, 0.125)]
    assert times[1]["ratio"]["median"] == 2.0
    values = {key[1]: row["median"] for key, row in rows.items() if key[0] == "ctrnn_jax"}
    assert values["launches of a step"] == 0.1 and values["nodes of a step"] == 2.0
    np.testing.assert_allclose(values["launch limit"], 0.1e-6 + 3e-6 + 1e-6)
    np.testing.assert_allclose(values["reached"], 4.1 / 8)
    assert len(rows) == 3 + 7 and "expected at most Budget" in report.notices[0]
    draw(tmp_path, {"gpu": lambda figure: gpu.picture(report, figure)})
    assert (tmp_path / "gpu.png").stat().st_size > 10_000


@pytest.mark.skipif(X64, reason="programs of float32, as are counted")
@pytest.mark.parametrize("name", ["simulate,2,Euler", "grad,2,Euler", "fit,2,Tsit5"])
@pytest.mark.long
def test_peers_make_the_programs_that_gpus_are_measured_with(name, monkeypatch):
    for module in (gpu, gpu_cases):
        for size, value in {"BATCH": 8, "STEPS": 20, "SAVE_EVERY": 10, "SAVES": 2}.items():
            monkeypatch.setattr(module, size, value)
    case, report = gpu_cases.Case.named(name), measure.Report("made-up")
    with jax.numpy_dtype_promotion("standard"):  # for optax
        found = gpu.candidates(case, gpu.arguments_of(case), report)
    wanted = {"ctrnn_jax", "diffrax vmap", "diffrax batched", "lax.scan"}
    assert wanted <= found.keys() and not any("left out" in told for told in report.notices)


def test_lowers_for_cuda():
    a, x = jnp.eye(128, dtype="float32"), jnp.ones((128, 64), "float32")
    limits = ((limit._products, (3, a, x)), (limit._tanh, (3, 2, x)), (limit._tanh_step, (3, 2, x)))
    tf32 = jax.jit(lambda A, x: gpu_checks.TF32(A).matvec(x)), (a, x)
    for function, arguments in (*limits, (limit._copies, (3, x)), tf32):
        function.trace(*arguments).lower(lowering_platforms=("cuda",))


SHAPE = sequence_models.Shape(m=2, k=3, T=9, pool="last")


@pytest.mark.skipif(X64, reason="models of float32, as the suite has")
@pytest.mark.parametrize("name", sequence_models.MODELS)
def test_sequence_models_answer_within_their_budget(name):
    n = sequence_models.width(name, SHAPE, 700)
    assert 0.7 * 700 < sequence_models.parameters(name, SHAPE, n) <= 700
    made = sequence_models.MODELS[name](jax.random.key(0), SHAPE, n)
    free, _ = sequence_models.trainable(made)
    leaves = jax.tree.leaves(free)
    assert sum(leaf.size for leaf in leaves) == sequence_models.parameters(name, SHAPE, n)
    inputs = jax.random.normal(jax.random.key(1), (4, 9, 2))
    assert made(inputs).shape == (4, 3) and np.all(np.isfinite(made(inputs)))


def test_oscillators_obey_their_equations():
    """Small steps against the equations themselves: coRNN and the linear one, by NumPy."""
    rng, n = np.random.default_rng(0), 3
    W, Z, V, C = (rng.normal(size=s) for s in ((n, n), (n, n), (n, 2), (n, n)))
    b, gamma, epsilon, a = rng.normal(size=n), *rng.uniform(0.2, 0.9, (3, n))
    y, z, u = rng.normal(size=n), rng.normal(size=n), rng.normal(size=2)
    arrays = [jnp.asarray(x) for x in (W, Z, V, b, np.log(gamma), np.log(epsilon))]
    found = sequence_models.CoRnn(*arrays)((jnp.asarray(y), jnp.asarray(z)), jnp.asarray(u))
    after = (z + np.tanh(W @ y + Z @ z + V @ u + b) - gamma * y) / (1 + epsilon)
    np.testing.assert_allclose(found, (y + after, after), rtol=200 * EPS, atol=200 * EPS)
    h = 0.3
    step = jnp.full(n, np.log(h / (1 - h)))
    cell = sequence_models.LinearOscillators(
        jnp.asarray(a), step, arrays[2], jnp.asarray(C), arrays[3]
    )
    new, speed = (
        np.asarray(part) for part in cell((jnp.asarray(y), jnp.asarray(z)), jnp.asarray(u))
    )
    # Implicit: both slopes are those at the end.
    np.testing.assert_allclose((new - y) / h, speed, rtol=1e3 * EPS, atol=1e3 * EPS)
    np.testing.assert_allclose((speed - z) / h, V @ u - a * new, rtol=1e3 * EPS, atol=1e3 * EPS)


def test_series_of_the_memory_suite():
    _, y = reservoirs.narma(400)
    assert y[20:-1].min() > 0 and y[:-1].max() < 1.5  # bounded, as published
    x, later = reservoirs.mackey_glass(600)
    np.testing.assert_array_equal(x[84:], later[:-84])
    assert 30 < 600 / np.sum((x[:-1] < 0) & (x[1:] >= 0)) < 70  # a pseudo-period near 50
    inputs, numbers = memory.recall(5, 2).test
    np.testing.assert_array_equal(inputs[:, :4, 0], numbers)
    assert not inputs[:, 4:].any()
    inputs, total = memory.adding(10, 2).test
    assert np.all(inputs[..., 1].sum(axis=1) == 2)
    np.testing.assert_allclose((inputs[..., 0] * inputs[..., 1]).sum(1), total[:, 0], rtol=1e-6)


def test_picture_of_the_memory_suite(tmp_path):
    report = measure.Report("made-up")
    for name in sequence_models.MODELS:
        for case in ("one", "another"):
            report.value(case, name, "error", [0.0, 0.1, 0.5], "", parameters={})
    draw(tmp_path, {"memory": lambda figure: memory.draw_trained(report.rows, figure)})
    assert (tmp_path / "memory.png").stat().st_size > 10_000
