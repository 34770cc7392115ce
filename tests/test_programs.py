"""What programs are made of, read from what XLA is given: precise products, loops with an end."""

import inspect
import re

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import DTYPE, normal

import ctrnn_jax as ct

pytestmark = pytest.mark.one_dtype

INPUTS = normal(4, 6, 1)


def network(cls=ct.DenseSkew, n=4, form="rate", driven=False, activation=ct.Tanh(), **options):  # noqa: B008
    weights = cls.init(jax.random.key(n), n)
    options = {"bias": weights.matvec(normal(1, n, scale=0.3))} | options
    drive = normal(2, n, 1) if driven else None
    return ct.CTRNN(weights, activation, form, input_weights=drive, **options)


def simulated(rnn, *, adjoint="checkpointed", batch=(3,), gradient=True, save_every=3, **options):
    options = {"num_steps": 6, "save_every": save_every, "adjoint": adjoint} | options

    def loss(rnn, x0):
        return jnp.sum(ct.simulate(rnn, x0, dt=0.1, **options).xs ** 2)

    x0 = normal(3, *batch, rnn.size)
    program = eqx.filter_jit(eqx.filter_grad(loss) if gradient else loss)
    return program.lower(rnn, x0).as_text()


def runs():
    solvers = [
        diffrax.Euler(), diffrax.Tsit5(), ct.RK4(), diffrax.Kvaerno3(), ct.PoissonSplitting(4),
        ct.PoissonSplitting(2, compensated=True), ct.DiscreteGradient(), ct.ImplicitMidpoint(),
        diffrax.LeapfrogMidpoint(), ct.Projected(diffrax.Heun()),
    ]  # fmt: skip
    for solver in solvers:
        for form in ("rate", "current"):
            # Inputs where they are taken, in the one form: in the other the programs without them.
            refuses = isinstance(solver, (ct.Projected, diffrax.LeapfrogMidpoint))
            inputs = None if form == "rate" or refuses else INPUTS
            rnn = network(form=form, driven=inputs is not None)
            yield lambda a=solver, b=rnn, c=inputs: simulated(b, solver=a, inputs=c)
    for solver in (ct.PoissonSplitting(), ct.ImplicitMidpoint(), ct.DiscreteGradient()):
        yield lambda a=solver: simulated(network(), solver=a, adjoint="reversible")
        sizes = network(ct.BipartiteSkew, 40, "current")
        yield lambda a=solver, b=sizes: simulated(b, solver=a, adjoint="reversible")
    for cls in (ct.BlockSkew, ct.LowRankSkew, ct.DenseWeights, ct.Damped):
        for n in (4, 130):
            yield lambda a=cls, b=n: simulated(network(a, b, bias=None))
    linear = network(ct.BlockSkew, activation=ct.Linear(), driven=True)
    yield lambda: simulated(linear, solver=ct.ExactLinear(), inputs=INPUTS)
    yield lambda: simulated(network(), rtol=1e-4)
    yield lambda: simulated(network(), adjoint="direct", rtol=1e-4, gradient=False)
    for options in ({"solver": ct.PoissonSplitting()}, {"rtol": 1e-4}):
        times = jnp.array([0.1, 0.25], DTYPE)
        yield lambda a=options, b=times: simulated(network(), save_at=b, save_every=1, **a)
    noise = {"solver": diffrax.Heun(), "noise": normal(6, 4, 2), "key": jax.random.key(0)}
    yield lambda: simulated(network(), **noise)


def oscillator(**options):
    return ct.Oscillator(network(**options), normal(3, 4), normal(4, 2, 4))


def fit_signal(**options):
    t = np.arange(80) * 0.1
    y = np.stack([np.sin(3 * t), np.cos(3 * t) + np.sin(5 * t)], 1)
    ct.fit_signal(y, 0.1, neurons=4, steps=2, progress=False, **options)


def fitted_readout():
    model = ct.SequenceModel(network(driven=True), normal(5, 2, 4), dt=0.1)
    ct.fit_readout(model, normal(4, 2, 9, 1), normal(5, 2, 9, 2))
    ct.fit(model, lambda m: jnp.sum(m(INPUTS) ** 2), steps=2)


STATES = normal(7, 3, 9, 4)
SECTION = ct.Event(lambda t, x: x[0], 1)
SIGNAL = jnp.sin(jnp.arange(64, dtype=DTYPE))
CALLS = {
    "energy": lambda: [
        ct.energy(network(form=f, driven=True), STATES, normal(8, 1)) for f in ("rate", "current")
    ],
    "casimirs": lambda: [
        ct.casimirs(network(n=5, form=f), normal(3, 5)) for f in ("rate", "current")
    ],
    "energy_drift": lambda: ct.energy_drift(network(), STATES),
    "drift_loss": lambda: ct.drift_loss(network(), STATES),
    "energy_balance": lambda: [
        ct.energy_balance(
            network(form=f, driven=True, leak=0.1), normal(7, 3, 7, 4), INPUTS, dt=0.1
        )
        for f in ("rate", "current")
    ],
    "supplied_energy": lambda: ct.supplied_energy(
        network(driven=True), normal(7, 3, 7, 4), INPUTS, dt=0.1, solver=ct.DiscreteGradient()
    ),
    "natural_frequencies": lambda: ct.natural_frequencies(network()),
    "orbit_frequency": lambda: ct.orbit_frequency(network(n=2, bias=None), normal(3, 2)),
    "crossings": lambda: [
        ct.crossings(network(), normal(3, 4), SECTION, count=2, dt=0.1, num_steps=8),
        simulated(network(), until=SECTION),
    ],
    "period": lambda: [ct.period(network(form=f), normal(3, 4)) for f in ("rate", "current")],
    "nonlinear_modes": lambda: jax.grad(
        lambda b: ct.nonlinear_modes(network(bias=b), 0, jnp.array([0.1], DTYPE)).periods.sum()
    )(normal(1, 4, scale=0.1)),
    "fixed_points": lambda: [ct.fixed_points(network(form=f)) for f in ("rate", "current")],
    "monodromy, floquet_multipliers": lambda: [
        f(network(), normal(3, 4), 1.0) for f in (ct.monodromy, ct.floquet_multipliers)
    ],
    "lyapunov_spectrum": lambda: ct.lyapunov_spectrum(network(), normal(3, 4), dt=0.1, num_steps=6),
    "regime": lambda: [
        ct.regime(network(form=f), normal(3, 4), num_steps=64) for f in ("rate", "current")
    ],
    "power_spectrum": lambda: ct.power_spectrum(SIGNAL, 0.1),
    "spectrogram": lambda: ct.spectrogram(SIGNAL, 0.1),
    "dominant_frequency": lambda: [
        ct.dominant_frequency(SIGNAL, 0.1, method=m)
        for m in ("periodogram", "autocorrelation", "zero_crossings")
    ],
    "memory_capacity": lambda: ct.memory_capacity(
        network(driven=True, leak=0.1), 0.5, key=jax.random.key(0), num_steps=300, washout=50
    ),
    "fit_frequency": lambda: ct.fit_frequency([1.0, 1.5], neurons=4, steps=2, progress=False),
    "fit_spectrum": lambda: ct.fit_spectrum([1.0, 2.0], neurons=6),
    "fit_signal": fit_signal,
    "fit_signal with inputs": lambda: fit_signal(inputs=np.sin(np.arange(80.0) ** 2)),
    "fit_readout, fit": fitted_readout,
    "Oscillator": lambda: [
        oscillator(form="current").generate(0.1, 6),
        oscillator(driven=True).generate(0.1, 6, inputs=INPUTS),
    ],
    "losses": lambda: [
        ct.losses.frequency_loss(SIGNAL, 0.1, 1.0),
        ct.losses.spectrum_loss(SIGNAL, 0.1, np.ones(1)),
        ct.losses.waveform_loss(SIGNAL, SIGNAL),
        ct.losses.period_loss(network(n=2, bias=None), normal(3, 2), 1.0),
    ],
}  # fmt: skip
# What makes no program of products of its own: files, meshes, NumPy, and all of these in one.
NO_PRODUCTS = {
    "simulate", "batch_mesh", "use_cpu_cores", "harmonic_regression", "autoregression", "save",
    "load", "record", "open_recording", "read_signal", "analyse",
}  # fmt: skip


def test_every_public_function_is_looked_at():
    functions = {name for name in ct.__all__ if inspect.isfunction(getattr(ct, name))}
    called = {part for name in CALLS for part in re.split(r",? ", name)}
    assert functions <= called | NO_PRODUCTS


@pytest.fixture
def programs(tmp_path):
    """The programs that are compiled from here on."""
    jax.clear_caches()
    jax.config.update("jax_dump_ir_to", str(tmp_path))
    yield lambda: {path.name: path.read_text() for path in tmp_path.glob("*.mlir")}
    jax.config.update("jax_dump_ir_to", None)


COUNTS = re.compile(r"compare\s+[GL][TE],[^\n]*tensor<[0-9x]*u?i(32|64)>")


def check(programs):
    assert programs
    for name, text in programs.items():
        for dot in re.findall(r"= stablehlo\.dot_general .*", text):
            assert "precision = [HIGHEST, HIGHEST]" in dot, f"{name}: {dot}"
        conditions = re.findall(r"cond \{(.*?)\} do \{", text, re.DOTALL)
        assert len(conditions) == text.count("= stablehlo.while(")
        for condition in conditions:
            assert COUNTS.search(condition), f"{name}: {condition}"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.sampled(7)
@pytest.mark.by_default(2)
def test_products_are_precise_and_loops_end(call, programs):
    call()
    check(programs())


@pytest.mark.rare
def test_products_of_every_solver_are_precise_and_loops_end():
    texts = {str(k): lowered() for k, lowered in enumerate(runs())}
    assert sum(text.count("= stablehlo.dot_general") for text in texts.values()) > 100
    check(texts)


def test_what_is_looked_for_is_found(programs):
    a = normal(0, 3, 3)
    (a @ a).block_until_ready()
    jax.jit(lambda x: jax.lax.while_loop(lambda x: jnp.sum(x) > 1, lambda x: x / 2, x))(a)
    texts = programs()
    for part in ("matmul", "lambda"):
        with pytest.raises(AssertionError):
            check({name: text for name, text in texts.items() if part in name})
