"""Runs that go on from their end: to the bits of one run, whatever they are made of."""

import os
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import QUICK
from systems import DTYPE, normal

import ctrnn_jax as ct
from ctrnn_jax._simulate import run as run_module

EPS = float(jnp.finfo(DTYPE).eps)
# To the last bit where XLA optimises; else the programs of the two may round differently.
OPTIMISED = os.environ["XLA_FLAGS"] != QUICK
# Of these it was seen to round differently then, too; they remember nothing that could be lost.
IMPLICIT = {"discrete gradient", "midpoint", "Kvaerno3"}


def equal(a, b, to_the_bit=OPTIMISED):
    a, b = np.asarray(a), np.asarray(b)
    if to_the_bit or not np.issubdtype(b.dtype, np.inexact):
        np.testing.assert_array_equal(a, b)
    else:
        np.testing.assert_allclose(a, b, rtol=1e3 * EPS, atol=1e3 * EPS)


SOLVERS = {
    "Euler": diffrax.Euler(), "Tsit5": diffrax.Tsit5(), "splitting": ct.PoissonSplitting(),
    "compensated": ct.PoissonSplitting(2, compensated=True), "leapfrog": diffrax.LeapfrogMidpoint(),
    "reversible Heun": diffrax.ReversibleHeun(), "projected": ct.Projected(diffrax.Heun()),
    "discrete gradient": ct.DiscreteGradient(), "midpoint": ct.ImplicitMidpoint(),
    "Kvaerno3": diffrax.Kvaerno3(), "half": diffrax.HalfSolver(diffrax.Euler()),
}  # fmt: skip
FIRST, THEN = 40, 60


def smooth(t):
    return jnp.stack([jnp.sin(2 * t)])


def network(form="rate", n=4, **options):
    weights = ct.BipartiteSkew.init(jax.random.key(n), n)
    bias = weights.matvec(normal(1, n, scale=0.3))
    return ct.CTRNN(weights, form=form, bias=bias, input_weights=normal(2, n, 1), **options)


def in_two(rnn, x0, *, inputs=None, first=FIRST, then=THEN, other=None, **options):
    """One run, and two; `other`: options of the second."""
    solve = partial(ct.simulate, rnn, dt=0.05, **options)
    held = inputs is not None and not callable(inputs)
    before, after = (inputs[..., :first, :], inputs[..., first:, :]) if held else (inputs,) * 2
    whole = solve(x0, num_steps=first + then, inputs=inputs)
    begun = solve(x0, num_steps=first, inputs=before)
    return whole, begun, solve(begun.end, num_steps=then, inputs=after, **other or {})


def assert_same(whole, begun, gone_on, equal=equal):
    first = len(begun.ts)
    equal(jnp.concatenate([begun.ts, gone_on.ts[1:]]), whole.ts)
    equal(gone_on.stopped_at, whole.stopped_at)
    equal(gone_on.unconverged_at, whole.unconverged_at)
    for name in ("xs", "observed"):
        parts = [jax.tree.leaves(getattr(run, name)) for run in (begun, gone_on, whole)]
        for a, b, all_of_it in zip(*parts, strict=True):
            equal(a, all_of_it[..., :first, *[slice(None)] * (a.ndim - 2)])
            equal(b, all_of_it[..., first - 1 :, :][..., : b.shape[-1]])
    for a, b in zip(*map(jax.tree.leaves, (gone_on.folded, whole.folded)), strict=True):
        equal(a, b)
    for a, b in zip(*map(jax.tree.leaves, (gone_on.end, whole.end)), strict=True):
        equal(a, b)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.by_default(2)
def test_two_runs_are_one(name, form):
    rnn, x0 = network(form), normal(3, 3, 4)
    runs = in_two(rnn, x0, solver=SOLVERS[name], save_every=10)
    assert_same(*runs, partial(equal, to_the_bit=OPTIMISED and name not in IMPLICIT))


WAYS = {
    "fold": {"fold": (0.0, lambda c, t, x: c + t * x[1])},
    "fold by the state": {"fold": (lambda x: x[0], lambda c, t, x: jnp.maximum(c, x[0]))},
    "observe": {"observe": lambda t, x: jnp.stack([t, x[0]]), "keep_states": False},
    "shared inputs": {"inputs": normal(4, FIRST + THEN, 1)},
    "inputs of each": {"inputs": normal(4, 3, FIRST + THEN, 1)},
    "function": {"inputs": smooth},
    "noise": {"noise": 0.3, "key": jax.random.key(0), "solver": diffrax.Euler()},
    "noise of order 1.5": {"noise": 0.3, "key": jax.random.key(0), "solver": diffrax.ShARK()},
    "another mesh": {"other": {"mesh": ct.batch_mesh(jax.devices()[:2])}},
    "reversible": {"adjoint": "reversible"},
    "direct": {"adjoint": "direct"},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.sampled(2)
@pytest.mark.by_default(2)
def test_with_all_that_a_run_may_have(way):
    options = {"solver": ct.PoissonSplitting(2, compensated=True), "save_every": 5} | way
    assert_same(*in_two(network(), normal(3, 3, 4), **options))


def test_what_was_stopped_stays_so():
    rnn, x0, options = network(), normal(3, 8, 4), {"solver": ct.RK4(), "save_every": 5}
    norms = jnp.linalg.norm(in_two(rnn, x0, **options)[0].xs, axis=-1)
    bound = float(jnp.median(jnp.max(norms, axis=1)))
    whole, begun, gone_on = in_two(rnn, x0, max_norm=bound, **options)
    assert_same(whole, begun, gone_on)
    assert 0 < begun.num_stopped <= whole.num_stopped < 8


@pytest.mark.parametrize(
    ("first", "then", "options"),
    [
        (40, 60, {"inputs": normal(4, 100, 1)}),
        (700, 500, {"save_every": 10}),
        (40, 20, {"save_every": 5, "max_norm": 2.5}),
        (40, 1200, {"save_every": 1, "fold": (0.0, lambda c, t, x: c + x[0])}),
        (600, 600, {"save_every": 600}),
    ],
)
@pytest.mark.sampled(5)
@pytest.mark.by_default(0)
def test_adaptive_steps_go_on_within_their_segment(first, then, options):
    options = {"rtol": 1e-6, "first": first, "then": then} | options
    whole, begun, gone_on = in_two(network(), normal(3, 3, 4), **options)
    np.testing.assert_allclose(begun.xs, whole.xs[:, : len(begun.ts)], atol=1e-4)
    equal(gone_on.xs[:, 1:], whole.xs[:, len(begun.ts) :])
    equal(gone_on.stopped_at, whole.stopped_at)
    # In three runs, twice within the same segment.
    more = {k: v for k, v in options.items() if k not in ("first", "then", "inputs")}
    if "inputs" not in options and then % 20 == 0:
        solve = partial(ct.simulate, network(), dt=0.05, num_steps=then // 2, **more)
        if then // 2 % options["save_every"] == 0:
            last = solve(solve(begun.end).end)
            equal(last.xs[:, -1], whole.xs[:, -1])


def test_blocks_vmap_and_saved_ends_go_on_alike(tmp_path, monkeypatch):
    rnn, x0 = network(), normal(3, 6, 4)
    options = {"solver": diffrax.LeapfrogMidpoint(), "save_every": 20}
    whole, begun, _ = in_two(rnn, x0, **options)
    ct.save(tmp_path / "run.ctrnn", begun)
    ct.save(tmp_path / "end.ctrnn", (rnn, begun.end))
    other, end = ct.load(tmp_path / "end.ctrnn")
    solve = partial(ct.simulate, other, dt=0.05, num_steps=THEN, **options)
    ends = [solve(end), solve(ct.load(tmp_path / "run.ctrnn").end)]
    each = jax.vmap(lambda x: ct.simulate(rnn, x, dt=0.05, num_steps=FIRST, **options).end)(x0)
    ends.append(jax.vmap(solve)(each))
    monkeypatch.setattr(run_module, "block_size", lambda *_: 2)
    ends.append(jax.jit(lambda end: solve(end))(end))
    for run in ends:
        np.testing.assert_allclose(run.xs[:, -1], whole.xs[:, -1], rtol=0, atol=100 * EPS)
    equal(ends[0].xs, whole.xs[:, FIRST // 20 :])


@pytest.mark.parametrize("adjoint", ["checkpointed", "reversible"])
@pytest.mark.by_default(0)
def test_gradients_pass_from_run_to_run(adjoint):
    rnn, x0 = network("current"), normal(3, 3, 4)
    solve = partial(
        ct.simulate, dt=0.05, solver=ct.PoissonSplitting(), save_every=20, adjoint=adjoint
    )

    def whole(rnn, x0):
        return jnp.sum(jnp.sin(solve(rnn, x0, num_steps=FIRST + THEN).xs[:, -1]))

    def two(rnn, x0):
        return jnp.sum(
            jnp.sin(solve(rnn, solve(rnn, x0, num_steps=FIRST).end, num_steps=THEN).xs[:, -1])
        )

    a, b = (jax.jit(jax.grad(f, (0, 1)))(rnn, x0) for f in (whole, two))
    for one, other in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e4 * EPS, atol=1e4 * EPS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rnn": network(n=6)}, "x0: expected shape (..., 6), one value per neuron, got (3, 4)"),
        (
            {"rnn": network("current")},
            "rnn: {ELSE} another",
        ),
        (
            {"rnn": network(leak=0.1)},
            "rnn: {ELSE} another",
        ),
        (
            {"rnn": jax.tree.map(lambda a: a * (1 + 4 * EPS), network())},
            "rnn: {ELSE} other values",
        ),
        (
            {"solver": diffrax.Heun()},
            "solver: {ELSE} another",
        ),
        ({"dt": 0.051}, "dt: {ELSE} another"),
        ({"noise": None, "key": None}, "noise, key: {ELSE} others"),
        ({"key": jax.random.key(1)}, "noise, key: {ELSE} others"),
        ({"noise": 0.2}, "noise, key: {ELSE} others"),
        ({"num_steps": 2**31 - 3}, "num_steps: expected at most 2147483606, got 2147483645"),
        ({"inputs": normal(4, 9, 1)}, "inputs: expected shape (10, 1) or (3, 10, 1), got (9, 1)"),
    ],
)
def test_another_network_solver_step_or_noise_is_refused(changes, message):
    noise = {"noise": 0.3, "key": jax.random.key(0), "solver": diffrax.Euler()}
    end = ct.simulate(network(), normal(3, 3, 4), dt=0.05, num_steps=FIRST, **noise).end
    given = {"rnn": network(), "dt": 0.05, "num_steps": 10} | noise | changes
    with pytest.raises(ValueError) as refused:
        ct.simulate(given.pop("rnn"), end, **given)
    message = message.format(ELSE="expected what the run that goes on was made with, got")
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_a_trajectory_of_ones_own_has_no_end():
    run = ct.simulate(network(), normal(3, 4), dt=0.05, num_steps=2)
    own = ct.Trajectory(run.ts, run.xs, None, None, run.stopped_at, run.unconverged_at)
    with pytest.raises(ValueError, match=r"^end: expected a trajectory made by"):
        _ = own.end
