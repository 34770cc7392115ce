"""The trainable generator: what it generates, what is frozen, and files."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import DTYPE, normal

import ctrnn_jax as ct

EPS = float(jnp.finfo(DTYPE).eps)


def oscillator(frozen=(), **options):
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 6), **options)
    return ct.Oscillator(rnn, normal(1, 6, scale=0.4), normal(2, 2, 6), frozen)


@pytest.mark.long
def test_generates_what_the_network_does():
    made = oscillator()
    y = made.generate(0.1, 200, save_every=4)
    assert y.shape == (51, 2)
    xs = ct.simulate(made.rnn, made.x0, dt=0.01, num_steps=2000, save_every=40).xs
    np.testing.assert_allclose(y, xs @ made.readout.T, atol=2e-4)
    # Far beyond any training window the energy is still there, and one channel is one channel.
    far = made.generate(0.1, 100_000, save_every=100)
    assert 0.5 < float(jnp.std(far[500:]) / jnp.std(far[:500])) < 2
    damped = oscillator(leak=1.0).generate(0.1, 200)
    assert jnp.max(jnp.abs(damped[-1])) < 1e-3


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [
        ((), {"weights", "bias", "x0", "readout"}),
        (("readout",), {"weights", "bias", "x0"}),
        (("weights", "x0", "readout"), {"bias"}),
    ],
)
def test_frozen_parts_are_not_trainable(frozen, expected):
    made = oscillator(frozen, bias=normal(3, 6))
    free, _ = eqx.partition(made, made.trainable)
    parts = {
        "weights": free.rnn.weights, "bias": free.rnn.bias, "x0": free.x0, "readout": free.readout
    }  # fmt: skip
    assert {name for name, part in parts.items() if jax.tree.leaves(part)} == expected


@pytest.mark.long
def test_an_ensemble_is_one_oscillator_with_a_leading_axis(tmp_path):
    keys = jax.random.split(jax.random.key(5), 3)

    def make(key):
        return ct.Oscillator(
            ct.CTRNN(ct.DenseSkew.init(key, 4)), jnp.full(4, 0.3), jnp.ones((1, 4))
        )

    ensemble = eqx.filter_vmap(make)(keys)
    together = jax.vmap(lambda o: o.generate(0.1, 20))(ensemble)
    assert together.shape == (3, 21, 1)
    alone = jnp.stack([make(key).generate(0.1, 20) for key in keys])
    np.testing.assert_allclose(together, alone, atol=50 * EPS)
    ct.save(tmp_path / "o", ensemble)
    back = ct.load(tmp_path / "o")
    assert eqx.tree_equal(back, ensemble) and back.frozen == ()


@pytest.mark.long
@pytest.mark.optimised
def test_offset_and_steps_divided():
    plain = oscillator()
    made = ct.Oscillator(
        plain.rnn, plain.x0, plain.readout, ["offset"], offset=jnp.array([2.0, -1.0]), max_step=0.1
    )
    y = made.generate(0.4, 50)
    fine = plain.generate(0.1, 200, save_every=4)
    np.testing.assert_array_equal(y, fine + jnp.array([[2.0, -1.0]]))
    # Under jit read-out and offset are one program, which some CPUs round once: so in both.
    np.testing.assert_array_equal(
        eqx.filter_jit(lambda o: o.generate(0.4, 50))(made),
        eqx.filter_jit(lambda o, d: o.generate(0.1, 200, save_every=4) + d)(
            plain, made.offset[None]
        ),
    )
    np.testing.assert_array_equal(made.generate(0.4, 50, save_every=2), y[::2])
    assert made.trainable.offset is False and made.trainable.readout is True
    with pytest.raises(ValueError, match="dt: expected a number known beforehand"):
        jax.jit(lambda dt: made.generate(dt, 50))(0.4)


@pytest.mark.long
def test_gradient_reaches_every_part():
    made = oscillator(bias=normal(3, 6, scale=0.1))
    gradient = eqx.filter_grad(lambda o: jnp.sum(o.generate(0.1, 30) ** 2))(made)
    for part in (gradient.rnn.weights.W, gradient.rnn.bias, gradient.x0, gradient.readout):
        assert float(jnp.linalg.norm(part)) > 0


BAD = [
    (
        {"x0": jnp.ones((2, 6))},
        ValueError,
        "x0: expected one initial state, shape (6,), got",
    ),
    (
        {"x0": jnp.ones(5)},
        ValueError,
        "x0: expected shape (..., 6), one value per neuron",
    ),
    ({"readout": jnp.ones(6)}, ValueError, "readout: expected shape (channels, 6), got (6,)"),
    (
        {"readout": jnp.ones((1, 5))},
        ValueError,
        "readout: expected shape (channels, 6), got",
    ),
    ({"offset": jnp.ones(2)}, ValueError, "offset: expected shape (1,), got (2,)"),
    ({"max_step": 0.0}, ValueError, "max_step: expected a finite number > 0, got 0.0"),
    ({"frozen": ["W"]}, ValueError, "frozen: expected one of 'weights', 'activation'"),
    ({"frozen": "x0"}, TypeError, "frozen: expected a list of names, got 'x0'"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_calls(change, error, message):
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 6))
    arguments = {"x0": jnp.ones(6), "readout": jnp.ones((1, 6)), **change}
    with pytest.raises(error) as caught:
        ct.Oscillator(rnn, **arguments)
    assert str(caught.value).startswith(message)
