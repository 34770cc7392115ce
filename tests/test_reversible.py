"""Reverse mode by undoing steps, against the gradients of stored steps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from systems import DTYPE, normal
from test_poisson_splitting import WEIGHTS, network

import ctrnn_jax as ct
from ctrnn_jax._simulate import reversible

EPS = float(jnp.finfo(DTYPE).eps)


class _Steep(eqx.Module):
    """An activation with a parameter of its own."""

    gain: jax.Array

    def __call__(self, z):
        return jnp.tanh(self.gain * z)


def gradients(rnn, x0, solver, dt=0.1, **kwargs):
    """Of a loss that sees every save, by network, initial state and time step."""

    def loss(point, adjoint):
        rnn, x0, dt = point
        run = ct.simulate(
            rnn, x0, dt=dt, solver=solver, adjoint=adjoint,
            observe=lambda t, x: t * jnp.sum(x * x), **kwargs,
        )  # fmt: skip
        weight = jnp.arange(1, 1 + run.ts.size, dtype=DTYPE)[None, :, None]
        return jnp.sum(jnp.sin(run.xs) * weight) + jnp.sum(run.observed)

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    point = (rnn, x0, jnp.asarray(dt, DTYPE))
    (value, a), (other, b) = gradient(point, "direct"), gradient(point, "reversible")
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    gaps = [float(jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(x))) for x, y in pairs]
    return gaps, float(value), float(other)


@pytest.mark.parametrize("lost", [False, True], ids=["retraced", "lost"])
@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.long
@pytest.mark.sampled(5)
def test_every_structure_agrees_with_direct(name, form, lost, monkeypatch):
    # In the second run no trajectory counts as retraced: every segment is anchored densely.
    if lost:
        monkeypatch.setattr(reversible, "agrees", lambda x, start: jnp.zeros(x.shape[1:], bool))
        monkeypatch.setattr(reversible, "_SPAN_STEPS", 3)
    jax.clear_caches()
    monkeypatch.setattr(reversible, "_SEGMENT_STEPS", 13)
    rnn = network(WEIGHTS[name], form)
    solver = ct.PoissonSplitting(2, compensated=lost)
    gaps, *_ = gradients(rnn, normal(6, 3, rnn.size), solver, num_steps=42, save_every=6)
    assert max(gaps) < 4000 * EPS


@pytest.mark.parametrize(
    "solver",
    [*map(ct.PoissonSplitting, (1, 4, 6)), ct.ImplicitMidpoint(), ct.DiscreteGradient(order=4)],
    ids=["order 1", "order 4", "order 6", "midpoint", "discrete gradient"],
)
@pytest.mark.parametrize("name", ["dense", "bipartite"])
@pytest.mark.long
@pytest.mark.sampled(3)
def test_every_solver_and_the_activation_agree_with_direct(name, solver):
    activation = ct.CustomActivation(_Steep(jnp.asarray(1.2, DTYPE)), odd=True, bounded=True)
    if isinstance(solver, ct.DiscreteGradient):
        activation = ct.Arctan()  # the integral of a function takes long to compile
    rnn = network(WEIGHTS[name], activation=activation)
    gaps, *_ = gradients(rnn, normal(6, 3, rnn.size), solver, num_steps=20, save_every=20)
    assert max(gaps) < 4000 * EPS


@pytest.mark.parametrize(("name", "save_every"), [("dense", 75), ("bipartite", 6)])
@pytest.mark.long
def test_starts_that_are_found_anew(name, save_every, monkeypatch):
    monkeypatch.setattr(reversible, "_SEGMENT_STEPS", 3)
    jax.clear_caches()
    assert reversible.reversible_segment_steps(300) == 30
    rnn = network(WEIGHTS[name])
    gaps, value, other = gradients(
        rnn, normal(6, 3, rnn.size), ct.PoissonSplitting(), num_steps=300, save_every=save_every
    )
    assert value == pytest.approx(other, rel=100 * EPS) and max(gaps) < 20_000 * EPS


@pytest.mark.skipif(not X64, reason="float32 forgets within the run")
@pytest.mark.parametrize("segment", [1250, 100], ids=["all starts stored", "some"])
@pytest.mark.parametrize("kind", [ct.DenseSkew, ct.BipartiteSkew])
@pytest.mark.long
@pytest.mark.sampled(2)
def test_chaos_over_ten_thousand_steps(kind, segment, monkeypatch):
    monkeypatch.setattr(reversible, "_SEGMENT_STEPS", segment)
    jax.clear_caches()
    # Perturbations grow by more than e^50: a plain reversal would end somewhere else.
    rnn = ct.CTRNN(kind.init(jax.random.key(0), 20, scale=2.0))
    x0 = normal(6, 2, 20, scale=1.5)
    gaps, value, other = gradients(
        rnn, x0, ct.PoissonSplitting(), dt=0.05, num_steps=10_000, save_every=10_000
    )
    assert value == other and max(gaps) < 1e-8


@pytest.mark.long
def test_memory_does_not_grow_like_that_of_checkpoints():
    rnn = network(WEIGHTS["bipartite"], biased=False)
    x0 = normal(6, 64, 5)

    def temporary(num_steps, adjoint):
        def loss(x0):
            run = ct.simulate(
                rnn, x0, dt=0.1, num_steps=num_steps, save_every=num_steps,
                solver=ct.PoissonSplitting(), adjoint=adjoint,
            )  # fmt: skip
            return jnp.sum(run.xs[:, -1])

        analysis = jax.jit(jax.grad(loss)).lower(x0).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    state = x0.size * x0.dtype.itemsize
    # Three times the root of 800 segments is 85; starts and ends of them all would be 1600.
    growth = temporary(1_000_000, "reversible") - temporary(2_500, "reversible")
    assert growth <= 130 * state
    for steps, share in ((102_400, 0.6), (1_000_000, 0.06)):
        assert temporary(steps, "reversible") < share * temporary(steps, "checkpointed")


@pytest.mark.long
def test_lowers_for_cuda_and_under_vmap():
    rnn = network(WEIGHTS["dense"])

    def loss(rnn, x0):
        run = ct.simulate(
            rnn, x0, dt=0.1, num_steps=4, solver=ct.PoissonSplitting(), adjoint="reversible"
        )
        return jnp.sum(run.xs)

    x0 = normal(1, 3, 2, 7)
    jax.jit(jax.grad(loss)).trace(rnn, x0[0]).lower(lowering_platforms=("cuda",))
    together = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(rnn, x0)
    alone = jax.grad(loss)(rnn, x0[1])
    assert np.allclose(together.bias[1], alone.bias, rtol=1e3 * EPS)
