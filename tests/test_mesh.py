"""A batch over the devices of a mesh, in blocks, and over two processes."""

import faulthandler
import inspect
import re
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64

import ctrnn_jax as ct
from ctrnn_jax._simulate import run as run_module
from ctrnn_jax._simulate import size_rules

EPS = float(jnp.finfo(jnp.zeros(()).dtype).eps)
READ = jnp.arange(1.0, 6.0)


def network(n=5):
    return ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), n, scale=2.0))


def states(*batch, n=5):
    return jax.random.normal(jax.random.key(1), (*batch, n))


def largest_difference(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert p.shape == q.shape and p.dtype == q.dtype
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(p, float) - np.asarray(q, float)))) for p, q in pairs)


ALL = {
    "observe": lambda t, x: {"read": x @ READ, "t": t},
    "fold": (lambda x: 0 * x, lambda total, t, x: total + x),
    "max_norm": 3.0,
}
RUNS = {
    "Tsit5": {},
    "everything": ALL,
    "adaptive": {"rtol": 1e-6},
    "implicit": {"solver": ct.DiscreteGradient()},
    "implicit of diffrax": {"solver": diffrax.Kvaerno3()},
    "projected": {"solver": ct.Projected(ct.RK4())},
    "reversible": {"solver": ct.PoissonSplitting(), "adjoint": "reversible"},
}


CASES = [(name, (3, 7)) for name in RUNS] + [("everything", b) for b in ((), (1,), (64,))]


@pytest.mark.parametrize(("name", "batch"), CASES)
@pytest.mark.sampled(10)
def test_devices_share_a_batch(name, batch):
    def run(mesh):
        settings = {"dt": 0.05, "num_steps": 40, "save_every": 4, "mesh": mesh, **RUNS[name]}
        return ct.simulate(network(), states(*batch), **settings)

    shared = run(ct.batch_mesh())
    # Kernels for other shapes round differently; nothing else may differ.
    assert largest_difference(shared, run(None)) <= 5000 * EPS
    if batch == (64,):
        assert len(shared.xs.sharding.device_set) == 2
        assert {s.data.shape for s in shared.xs.addressable_shards} == {(32, 11, 5)}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("adaptive", "implicit")]


@pytest.mark.parametrize("name", ["Tsit5", "reversible", *SLOW])
@pytest.mark.long
@pytest.mark.sampled(3)
def test_gradients_are_summed_over_devices(name):
    def loss(point, mesh):
        rnn, x0, speed = point
        run = ct.simulate(
            rnn, x0, dt=0.05 * speed, num_steps=20, mesh=mesh, save_every=20, **RUNS[name],
        )  # fmt: skip
        return jnp.mean(jnp.square(run.xs[:, -1] @ READ))

    point = network(), states(7), jnp.ones(())
    shared, alone = jax.grad(loss)(point, ct.batch_mesh()), jax.grad(loss)(point, None)
    assert largest_difference(shared, alone) <= 2e5 * EPS


@pytest.mark.parametrize("name", ["Tsit5", "adaptive"])
@pytest.mark.long
@pytest.mark.sampled(2)
def test_gradients_by_what_functions_close_over(name):
    def loss(read, mesh):
        run = ct.simulate(
            network(), states(6), dt=0.1, num_steps=8, mesh=mesh, save_every=4, **RUNS[name],
            observe=lambda t, x: read @ x, fold=(0.0, lambda total, t, x: total + read @ x),
        )  # fmt: skip
        return jnp.sum(run.observed**2) + jnp.sum(run.folded)

    shared, alone = jax.grad(loss)(READ, ct.batch_mesh()), jax.grad(loss)(READ, None)
    assert largest_difference(shared, alone) <= 2e5 * EPS


@pytest.mark.parametrize(
    ("solver", "dt"),
    # At so long a step the discrete gradient's iteration fails, and Newton's method is called.
    [(ct.DiscreteGradient(), 2.0), (ct.ImplicitMidpoint(), 2.0), (diffrax.ImplicitEuler(), 0.1)],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.long
@pytest.mark.optimised
@pytest.mark.sampled(3)
def test_linear_equations_do_not_wait_for_each_other(solver, dt):
    # Many enough for jaxlib to spread them over the threads that the devices run on.
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 20, scale=2.0))
    x0 = jax.random.normal(jax.random.key(1), (256, 20))
    run = partial(ct.simulate, rnn, x0, dt=dt, num_steps=4, save_every=4, solver=solver)
    faulthandler.dump_traceback_later(300, exit=True)  # a failure would be a wait for ever
    shared = jax.block_until_ready(run(mesh=ct.batch_mesh()))
    faulthandler.cancel_dump_traceback_later()
    alone = run()
    assert largest_difference(shared.xs, alone.xs) <= 1e5 * EPS


@pytest.mark.long
def test_a_diverging_state_stops_alone_on_its_device():
    rnn = ct.CTRNN(ct.DenseWeights(jnp.eye(2) * 3), ct.Linear())
    x0 = jnp.zeros((6, 2)).at[4].set(1.0)
    run = ct.simulate(rnn, x0, dt=0.1, num_steps=5000, save_every=50, mesh=ct.batch_mesh())
    alone = ct.simulate(rnn, x0, dt=0.1, num_steps=5000, save_every=50)
    np.testing.assert_array_equal(run.stopped_at, alone.stopped_at)
    assert list(run.stopped_at >= 0) == [False] * 4 + [True, False]


@pytest.mark.long
def test_any_mesh_will_do():
    expected = ct.simulate(network(), states(8), dt=0.1, num_steps=10).xs
    for mesh in (jax.make_mesh((2, 1), ("a", "b")), ct.batch_mesh(jax.devices()[1:])):
        found = ct.simulate(network(), states(8), dt=0.1, num_steps=10, mesh=mesh).xs
        assert largest_difference(found, expected) <= 5000 * EPS


@pytest.mark.parametrize("batch", [10, 11, 4096])  # the second is no multiple of any block
@pytest.mark.parametrize("name", ["everything", "adaptive"])
@pytest.mark.long
@pytest.mark.sampled(3)
def test_blocks_change_nothing(monkeypatch, name, batch):
    def run():
        jax.clear_caches()
        return ct.simulate(network(), states(batch), dt=0.05, num_steps=20, **RUNS[name])

    whole = run()
    size = 4 if batch < 100 else 1000
    monkeypatch.setattr(run_module, "block_size", lambda *_: size)
    assert largest_difference(run(), whole) <= 5000 * EPS


@pytest.mark.parametrize("save_every", [1, 2, 6])
@pytest.mark.parametrize("size", [4, None])
@pytest.mark.long
@pytest.mark.sampled(4)
def test_derivatives_of_all_that_is_saved(monkeypatch, size, save_every):
    monkeypatch.setattr(run_module, "block_size", lambda *_: size)
    monkeypatch.setattr(run_module, "spare_columns", lambda *_: 3)
    jax.clear_caches()
    rnn, x0, v = network(), states(11), states(11) + 1

    def saved(x0):
        def observe(t, x):
            return t * (READ @ x), jnp.argmax(x)

        settings = {"dt": 0.1, "num_steps": 12, "save_every": save_every}
        run = ct.simulate(rnn, x0, solver=diffrax.Euler(), observe=observe, **settings)
        return run.xs, run.observed

    def plainly(x0):
        A, xs = rnn.weights.as_matrix(), [x0]
        for _ in range(12):
            xs.append(xs[-1] + 0.1 * jnp.tanh(xs[-1] @ A.T))
        xs = jnp.stack(xs[::save_every], 1)
        ts = 0.1 * save_every * jnp.arange(xs.shape[1], dtype=xs.dtype)
        return xs, (xs @ READ * ts[None], jnp.argmax(xs, -1))

    def all_of(f):
        def loss(x0):
            xs, (read, _) = f(x0)
            return jnp.sum(jnp.sin(xs)) + jnp.sum(read**2)

        backward = jax.grad(loss)
        forward = jax.jvp(loss, (x0,), (v,))[1]
        second = jax.jvp(backward, (x0,), (v,))[1]
        return f(x0), backward(x0), forward, second, jax.vmap(backward)(jnp.stack([x0, v]))

    assert largest_difference(all_of(saved), all_of(plainly)) <= 2e5 * EPS


@pytest.mark.long
def test_progress_passes_through_blocks_and_devices(monkeypatch, capfd):
    monkeypatch.setattr(run_module, "block_size", lambda *_: 2)
    for mesh in (None, ct.batch_mesh()):
        jax.clear_caches()
        run = ct.simulate(network(), states(8), dt=0.1, num_steps=100, progress=True, mesh=mesh)
        jax.block_until_ready(run)
        jax.effects_barrier()
        shown = [float(s) for s in re.findall(r"(\d+\.\d+)%\|", capfd.readouterr().err)]
        assert shown == sorted(shown) and shown[-1] == 100 and len(set(shown)) > 8


def test_a_block_fits_where_it_is_worked_on(monkeypatch):
    monkeypatch.setattr(size_rules, "cpu_cores", lambda: 2)
    lone = size_rules.block_size(20, 4, 4, "cpu", devices=2)
    assert lone * 20 * 4 * 4 == pytest.approx(2**18.5, rel=0.42)  # to a power of two: √2
    assert size_rules.block_size(20, 4, 9, "cpu", devices=2) < lone
    assert size_rules.block_size(20, 4, 4, "cpu", devices=1) > lone
    assert size_rules.block_size(10**9, 8, 4, "cpu", devices=1) == 32
    for itemsize, least in ((4, 64), (8, 32)):
        assert size_rules.block_size(300, itemsize, 10, "cpu", devices=2) == least
    assert size_rules.block_size(20, 4, 4, "gpu", devices=1) is None


@pytest.mark.parametrize("batch", [1, 64, 128, 200, 256])
@pytest.mark.sampled(2)
def test_saved_states_may_have_columns_to_spare(batch):
    spare = size_rules.spare_columns(batch, states().dtype.itemsize, "cpu")
    assert bool(spare) == (batch == 256 or (batch == 128 and X64))
    assert size_rules.spare_columns(256, 4, "gpu") == 0
    settings = {"dt": 0.1, "num_steps": 6, "save_every": 2, "observe": lambda t, x: x}
    run = ct.simulate(network(), states(batch), **settings)
    assert run.xs.shape == (batch, 4, 5)
    np.testing.assert_array_equal(run.xs, run.observed)


@pytest.mark.long
def test_use_cpu_cores():
    """In a process of its own: JAX is in use here."""
    code = (
        "import ctrnn_jax as ct, jax, jax.numpy as jnp\n"
        "mesh = ct.use_cpu_cores(3)\n"
        "assert mesh.size == 3 and mesh == ct.use_cpu_cores(3) and ct.use_cpu_cores(2).size == 2\n"
        "rnn = ct.CTRNN(ct.BlockSkew(jnp.ones(1)))\n"
        "run = ct.simulate(rnn, jnp.ones((6, 2)), dt=0.1, num_steps=3, mesh=mesh)\n"
        "print(len(run.xs.sharding.device_set))\n"
        "ct.use_cpu_cores(64)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "3\n"
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: use_cpu_cores: expected to be called before JAX is first used, to make the"
        " CPU 64 devices, got a CPU of 3 already"
    )
    assert ct.use_cpu_cores(2) == ct.batch_mesh(jax.devices("cpu")[:2])
    with pytest.raises(ValueError, match=r"^count: expected"):
        ct.use_cpu_cores(0)


WORKER = """
import sys
import jax, numpy as np
import ctrnn_jax as ct
from jax.experimental.multihost_utils import process_allgather

rank, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_enable_x64", True)
if rank >= 0:
    jax.config.update("jax_num_cpu_devices", 2)
    options = eval(sys.argv[4])
    jax.distributed.initialize("localhost:" + port, num_processes=2, process_id=rank, **options)
mesh = ct.batch_mesh() if rank >= 0 else None
rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 8))
x0 = np.random.default_rng(0).normal(size=(10, 8))

def loss(rnn):
    xs = ct.simulate(rnn, x0, dt=0.05, num_steps=100, save_every=10, mesh=mesh).xs
    return (xs[:, -1] ** 2).mean()

run = ct.simulate(rnn, x0, dt=0.05, num_steps=100, save_every=10, mesh=mesh)
xs = np.asarray(process_allgather(run.xs, tiled=True) if rank >= 0 else run.xs)
gradient = jax.jit(jax.grad(loss))(rnn).weights.W
if out == "die" and rank == 1:
    import os
    os._exit(3)
best, history = ct.fit(rnn, loss, steps=5)
np.savez(out, xs=xs, gradient=gradient, losses=history.losses, W=best.weights.W)
"""


def launch(folder, outs, options=None):
    """Two processes with two devices each, or one process alone (rank -1), to their ends."""
    (folder / "worker.py").write_text(WORKER)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    ranks = range(2) if len(outs) == 2 else [-1]
    running = [
        subprocess.Popen(
            [sys.executable, "worker.py", str(rank), str(port), out, repr(options or {})],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, out in zip(ranks, outs, strict=True)
    ]
    try:
        return [(p.communicate(timeout=300)[0], p.returncode) for p in running]
    finally:
        for p in running:
            p.kill()


@pytest.mark.slow
@pytest.mark.skipif(not X64, reason="the processes choose their own precision")
def test_two_processes_are_one(tmp_path: Path):
    for said, status in launch(tmp_path, ["0", "1"]) + launch(tmp_path, ["alone"]):
        assert status == 0, said
    first, second, alone = (np.load(tmp_path / f"{name}.npz") for name in ("0", "1", "alone"))
    for name in alone.files:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], alone[name], rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(not X64, reason="the processes choose their own precision")
@pytest.mark.rare
def test_a_process_that_dies_ends_the_others(tmp_path: Path):
    # Older JAX has no such option, and waits for 100 seconds.
    known = "heartbeat_timeout_seconds" in inspect.signature(jax.distributed.initialize).parameters
    options = {"heartbeat_timeout_seconds": 10} if known else {}
    (said, status), (_, died) = launch(tmp_path, ["die", "die"], options)
    assert died == 3 and status not in (0, 3)
    assert "another task died" in said or "Gloo" in said
    assert not list(tmp_path.glob("*.npz"))
