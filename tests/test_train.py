"""Training: what a step does, what stops it, and that neither chunks nor kills change a bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from systems import DTYPE, normal

import ctrnn_jax as ct
from ctrnn_jax._train import descent
from ctrnn_jax._train import fit as fit_module
from ctrnn_jax._train.fit import fit

EPS = float(jnp.finfo(DTYPE).eps)
KILLS = int(os.environ.get("CTRNN_TEST_KILLS", "2"))


class Point(eqx.Module):
    """A model with a trained, a fixed and an integer part."""

    p: jax.Array
    fixed: jax.Array
    count: jax.Array
    label: str = eqx.field(static=True, default="a")

    @property
    def trainable(self):
        return Point(True, False, False, self.label)


def point(*p, **options):
    return Point(jnp.array(p, DTYPE), jnp.asarray(3, DTYPE), jnp.arange(2), **options)


def bowl(model):
    return jnp.sum((model.p - model.fixed) ** 2) / 2


def noisy(model, batch, key):
    return jnp.mean((model.p - batch) ** 2) + 0.1 * jax.random.normal(key, (), DTYPE) ** 2


def chunks_of(monkeypatch, steps):
    monkeypatch.setattr(descent, "CAPACITY", steps)


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


SGD = optax.sgd(0.25)


def test_sgd_on_a_quadratic_is_the_closed_form():
    made = point(1.0, 5.0)
    best, history = fit(made, bowl, steps=9, optimizer=SGD, clip_norm=None)
    distance = 0.75 ** np.arange(9)
    np.testing.assert_allclose(history.losses, 4 * distance**2, rtol=20 * EPS)
    np.testing.assert_allclose(history.gradient_norms, np.sqrt(8) * distance, rtol=20 * EPS)
    np.testing.assert_allclose(best.p, 3 + np.array([-2, 2]) * distance[-1], rtol=20 * EPS)
    assert (history.stopped, int(history.best_step), int(history.skipped)) == ("steps", 8, 0)
    # Neither marked nor floating-point: the same arrays as before.
    same_bits((best.fixed, best.count), (made.fixed, made.count))


def test_clipping_bounds_the_step():
    losses = fit(point(7.0, 6.0), bowl, steps=2, optimizer=SGD, clip_norm=2.0)[1].losses
    # The gradient (4, 3) has norm 5; the step is 0.25 * 2 along it, which leaves 4.5 of 5.
    np.testing.assert_allclose(losses, [12.5, 4.5**2 / 2], rtol=20 * EPS)
    big = 0.9 * float(jnp.finfo(DTYPE).max) ** 0.75  # its square is not finite
    _, history = fit(point(0.0), lambda m: -big * jnp.sum(m.p), steps=2, optimizer=SGD)
    np.testing.assert_allclose(history.losses, [0, -0.25 * big], rtol=20 * EPS)
    assert history.skipped == 0


def wall(model):
    """Falls to the right, but there is nothing beyond 1, except a valley at 0.99."""
    x = model.p[0]
    return jnp.where(x > 1, jnp.nan, (x - 0.99) ** 2)


def test_guard_backs_off_from_a_wall():
    # From 0 the first update leads to 1.98, half of it to 0.99, where the gradient vanishes.
    optimizer = optax.sgd(1.0)
    best, history = fit(point(0.0), wall, steps=4, optimizer=optimizer, clip_norm=None)
    np.testing.assert_allclose(history.losses[jnp.array([0, 2])], [0.9801, 0], atol=1e-3)
    assert np.isnan(history.losses[1]) and history.skipped == 1
    assert abs(float(best.p[0]) - 0.99) < 4 * EPS and history.stopped == "steps"


def test_optimizer_does_not_see_skipped_steps():
    def loss(model, batch):
        return bowl(model) + batch[0]

    data = jnp.array([0, jnp.nan, 0, 0], DTYPE)
    seen = fit(
        point(1.0), loss, steps=4, optimizer=optax.adam(0.1), key=jax.random.key(0),
        data=data, batch_size=1,
    )[1]  # fmt: skip
    assert int(seen.skipped) == 1
    clean = fit(point(1.0), bowl, steps=4, optimizer=optax.adam(0.1))[1].losses
    finite = np.asarray(seen.losses)[np.isfinite(seen.losses)]
    k = int(np.argmin(np.isfinite(seen.losses)))
    np.testing.assert_allclose(finite[:k], clean[:k], rtol=20 * EPS)
    if 0 < k < 3:  # after the skipped one comes half an update, and then less is gained
        assert clean[k] < finite[k] < clean[k - 1]


def test_never_finite_and_never_again():
    made = point(1.0)
    best, history = fit(made, lambda m: jnp.log(-m.p[0]), steps=50)
    assert (history.stopped, history.losses.shape, int(history.best_step)) == (
        "non-finite",
        (1,),
        -1,
    )
    same_bits(best, made)

    def cliff(model):  # finite at the start only
        return jnp.where(model.p[0] == 1, model.p[0], jnp.nan)

    _, history = fit(made, cliff, steps=50)
    # 30 halvings, or fewer where they come down to round-off before.
    skipped = int(history.skipped)
    assert history.stopped == "non-finite" and len(history.losses) == skipped + 1
    assert skipped == 30 if jnp.float64 == DTYPE else 15 < skipped < 20


def test_best_is_kept_when_it_diverges():
    best, history = fit(point(0.0), bowl, steps=30, optimizer=optax.sgd(2.5), clip_norm=None)
    assert history.losses[-1] > 1e3 and history.best_step == 0 and best.p[0] == 0


@pytest.mark.parametrize("capacity", [1000, 4])
def test_stops_exactly(capacity, monkeypatch):
    chunks_of(monkeypatch, capacity)
    options = {"steps": 200, "optimizer": SGD, "clip_norm": None}
    _, history = fit(point(1.0), bowl, target_loss=2 * 0.75**20 * 1.001, **options)
    assert history.stopped == "target" and history.losses.shape == (11,)
    # The bowl is flat once the steps fall below 0.1 % of a loss that keeps 1.
    _, history = fit(point(1.0), lambda m: bowl(m) + 1, patience=5, **options)
    last = int(np.flatnonzero(np.asarray(history.losses) < 1.001 * history.losses[-1])[0])
    assert history.stopped == "patience" and last + 5 <= len(history.losses) <= last + 7


@pytest.mark.long
def test_ensemble_is_its_members_alone():
    keys = jax.random.split(jax.random.key(3), 4)
    models = eqx.filter_vmap(lambda x: Point(x[None], 3 * x**0, jnp.arange(2)))(
        jnp.array([0.0, 2.5, 40.0, -1.0], DTYPE)
    )
    data = normal(7, 4, 12)

    def loss(model, batch, key):
        return jnp.where(model.p[0] == -1, jnp.nan, bowl(model)) + 0.01 * noisy(model, batch, key)

    options = {"steps": 40, "batch_size": 5, "patience": 9, "target_loss": 0.3}
    options |= {"optimizer": optax.adam(0.1)}
    key = jax.random.key(1)
    best, history = fit(models, loss, data=data, key=key, ensemble=True, **options)
    keys = jax.random.split(key, 4)
    assert set(history.stopped) == {"target", "steps", "non-finite"}
    for i in range(4):
        model = jax.tree.map(lambda leaf, i=i: leaf[i], models)
        alone, its = fit(model, loss, data=data[i], key=keys[i], **options)
        np.testing.assert_allclose(best.p[i], alone.p, rtol=100 * EPS)
        done = len(its.losses)
        np.testing.assert_allclose(history.losses[:done, i], its.losses, rtol=200 * EPS)
        assert np.all(np.isnan(history.losses[done:, i]))
        assert history.stopped[i] == its.stopped and history.skipped[i] == its.skipped


def test_epochs_see_each_example_once_however_cut(monkeypatch):
    data = {"x": jnp.arange(10, dtype=DTYPE), "y": normal(1, 10, 2)}

    def loss(model, batch):  # three digits of one number hold which examples there were
        return 0 * model.p[0] + jnp.sum(2 ** batch["x"]) + 0 * jnp.sum(batch["y"])

    options = {"steps": 10, "data": data, "batch_size": 4, "key": jax.random.key(0)}
    losses = fit(point(1.0), loss, **options)[1].losses
    batches = [{j for j in range(10) if int(code) >> j & 1} for code in losses]
    assert all(len(batch) == 4 for batch in batches)
    epochs = list(zip(batches[::2], batches[1::2], strict=True))
    assert all(not first & second for first, second in epochs)
    assert len({frozenset(first) for first, _ in epochs}) > 1  # a new permutation each
    for capacity in (1, 3):
        chunks_of(monkeypatch, capacity)
        eqx.clear_caches()
        same_bits(fit(point(1.0), loss, **options)[1].losses, losses)


def test_a_key_is_fresh_in_each_step():
    def loss(model, *, key):
        return jax.random.uniform(key, (), DTYPE) + 0 * model.p[0]

    first = fit(point(1.0), loss, steps=20, key=jax.random.key(0))[1].losses
    assert len(np.unique(first)) == 20
    same_bits(first, fit(point(1.0), loss, steps=20, key=jax.random.key(0))[1].losses)
    assert not np.any(first == fit(point(1.0), loss, steps=20, key=jax.random.key(1))[1].losses)


def test_compiles_once():
    traces = []

    def loss(model):
        traces.append(1)
        return bowl(model)

    optimizer = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(1e-2))
    for steps, start in ((30, 1.0), (2000, 2.0), (7, 3.0)):
        fit(point(start), loss, steps=steps, optimizer=optimizer)
    assert len(traces) == 1
    fit(point(1.0), loss, steps=3)
    fit(point(2.0), loss, steps=4)
    assert len(traces) == 2


def test_callbacks_and_bar(capsys):
    seen = []

    def callback(step, model, history):
        seen.append((step, float(bowl(model)), history.losses.shape[0], history.stopped))
        return history.best_loss < 0.2

    fit_ = {"steps": 40, "callbacks": [callback], "callback_every": 4, "progress": True}
    _, history = fit(point(1.0), bowl, optimizer=SGD, **fit_)
    assert [step for step, *_ in seen] == [4, 8] and history.stopped == "callback"
    assert seen[0][2:] == (4, "running") and seen[1][1] == pytest.approx(float(history.best_loss))
    assert "8/40" in (bar := capsys.readouterr().err) and "best loss" in bar
    assert repr(history).splitlines()[0] == "History: 8 steps, stopped by callback"


class Interruption(Exception):
    pass


def test_resumes_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_module, "CHUNK_SECONDS", 0.0)  # a chunk a step, each written
    key, data = jax.random.key(0), normal(2, 11)
    options = {"optimizer": optax.adam(0.05), "key": key, "data": data, "batch_size": 3}
    whole = fit(point(1.0, 2.0), lambda m, b, key: noisy(m, b[:2], key), steps=60, **options)

    def stop_at(n):
        def callback(step, model, history):
            if step == n:
                raise Interruption

        return callback

    path = tmp_path / "run"
    loss = lambda m, b, key: noisy(m, b[:2], key)  # noqa: E731
    for n in (17, 30):
        with pytest.raises(Interruption):
            fit(point(1.0, 2.0), loss, steps=60, checkpoint=path, callbacks=[stop_at(n)],
                callback_every=1, **options)  # fmt: skip
    half = fit(point(1.0, 2.0), loss, steps=40, checkpoint=path, **options)
    assert half[1].losses.shape == (40,) and half[1].stopped == "steps"
    same_bits(fit(point(1.0, 2.0), loss, steps=60, checkpoint=path, **options), whole)
    before = path.read_bytes()

    def never(model, batch, key):
        raise AssertionError

    same_bits(fit(point(1.0, 2.0), never, steps=60, checkpoint=path, **options), whole)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    same_bits(ct.load(_saved(tmp_path / "history", whole[1])), whole[1])


def _saved(path, obj):
    ct.save(path, obj)
    return path


def test_checkpoints_of_others_are_refused(tmp_path):
    path = tmp_path / "run"
    fit(point(1.0), bowl, steps=3, checkpoint=path)
    expected = "checkpoint: expected a file of the same model, data, key and settings"
    training = f"{expected}, got {path} of another"
    for model, options in (
        (point(1.5), {}),
        (point(1.0, label="b"), {}),
        (point(1.0), {"clip_norm": 2.0}),
        (point(1.0), {"patience": 2}),
        (point(1.0), {"key": jax.random.key(0)}),
    ):
        with pytest.raises(ValueError) as caught:
            fit(model, bowl, steps=3, checkpoint=path, **options)
        assert str(caught.value) == training
    for options, message in (
        ({"optimizer": SGD}, "checkpoint: expected a file of the same kind of optimizer, got"),
        ({"steps": 2}, "steps: expected at least the 3 of the checkpoint, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(point(1.0), bowl, **{"steps": 3, "checkpoint": path, **options})
    with pytest.raises(ValueError, match="checkpoint: expected a file written by fit, got"):
        fit(point(1.0), bowl, steps=3, checkpoint=_saved(tmp_path / "x", {"a": 1}))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="expected an undamaged file"):
        fit(point(1.0), bowl, steps=3, checkpoint=path)


T, V = TypeError, ValueError
KEY = jax.random.key(0)
ROWS = jnp.ones((4, 2), DTYPE)
INT = jnp.result_type(int)
AXIS = "data: expected one axis of examples in all arrays, as batch_size is given, got sizes"
BAD = [
    ({"steps": 0}, V, "steps: expected an integer >= 1, got 0"),
    ({"steps": 2.0}, T, "steps: expected an integer >= 1, got 2.0"),
    ({"model": {"n": 3}}, V, "model: expected floating-point arrays to train, got dict without"),
    ({"model": {"n": jnp.arange(3)}}, V,
     "model: expected floating-point arrays to train, got dict without"),
    ({"loss": 1.0}, T, "loss: expected a function, got 1.0"),
    ({"loss": lambda m: m.p}, T,
     f"loss: expected a floating-point scalar to be returned, got {DTYPE} of shape (1,)"),
    ({"loss": lambda m: (m.fixed, 0)}, T,
     "loss: expected a floating-point scalar to be returned, got tuple"),
    ({"loss": lambda m: m.count[0]}, T,
     f"loss: expected a floating-point scalar to be returned, got {INT} of shape ()"),
    ({"loss": lambda m, key: 0.0}, T,
     "key: expected a PRNG key, as loss has a parameter key, got None"),
    ({"optimizer": optax.adam}, T,
     "optimizer: expected an optax optimizer such as optax.adam(1e-2), got function"),
    ({"key": 0}, T, "key: expected a PRNG key such as jax.random.key(0), got int"),
    ({"data": "rows"}, T, "data: expected a PyTree of arrays, got str"),
    ({"data": ROWS, "batch_size": 2}, T,
     "key: expected a PRNG key, as batch_size is given, got None"),
    ({"data": ROWS, "batch_size": 5, "key": KEY}, V,
     "batch_size: expected at most the 4 examples, got 5"),
    ({"data": ROWS, "batch_size": 0, "key": KEY}, V,
     "batch_size: expected an integer >= 1, got 0"),
    ({"data": [ROWS, ROWS[1:]], "batch_size": 2, "key": KEY}, V,
     f"{AXIS} [(3,), (4,)]"),
    ({"batch_size": 2, "key": KEY}, V,
     f"{AXIS} []"),
    ({"ensemble": 1}, T, "ensemble: expected True or False, got 1"),
    ({"ensemble": True}, V, "ensemble: expected one leading axis of members in all arrays of model"
     " and data, got shapes [(1,), (), (2,)]"),
    ({"clip_norm": 0.0}, V, "clip_norm: expected a finite number > 0, got 0.0"),
    ({"target_loss": "low"}, T, "target_loss: expected a finite number, got 'low'"),
    ({"patience": 0}, V, "patience: expected an integer >= 1, got 0"),
    ({"callbacks": print}, T,
     "callbacks: expected a list of functions, got builtin_function_or_method"),
    ({"callbacks": [3]}, T, "callbacks: expected a list of functions, got 3"),
    ({"callback_every": 0}, V, "callback_every: expected an integer >= 1, got 0"),
    ({"progress": 1}, T, "progress: expected True or False, got 1"),
    ({"checkpoint": "/no/where"}, FileNotFoundError,
     "checkpoint: expected a file in an existing folder, got '/no'"),
]  # fmt: skip


@pytest.fixture
def unchecked():
    """Our own checks speak, not the type checker that the tests switch on."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_calls(change, error, message, unchecked):
    with pytest.raises(error) as caught:
        fit(**{"model": point(1.0), "loss": bowl, "steps": 3, **change})
    assert caught.type is error and str(caught.value) == message


SCRIPT = """
import sys, jax, jax.numpy as jnp, ctrnn_jax as ct
from ctrnn_jax._train import fit
fit.CHUNK_SECONDS = 0.03  # many files to be killed in
rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 4))
model = ct.Oscillator(rnn, jnp.full(4, 0.4), jnp.ones((1, 4)))
def loss(model, batch, key):
    noise = 1e-3 * jax.random.normal(key, (4,))
    y = model.generate(0.05, 200, solver=ct.RK4())[:, 0]
    return jnp.mean((y[:, None] - batch) ** 2) + noise @ model.x0
data = jnp.sin(jnp.arange(201.0)[:, None] * jnp.array([0.1, 0.11, 0.12, 0.13, 0.14]))
fit.fit(model, lambda m, b, key: loss(m, b.T, key), steps=int(sys.argv[2]), data=data.T,
          key=jax.random.key(1), batch_size=2, checkpoint=sys.argv[1])
"""
KILL_STEPS = 2400


@pytest.mark.slow
def test_survives_kills(tmp_path):
    def start(path):
        return subprocess.Popen([sys.executable, "-c", SCRIPT, path, str(KILL_STEPS)])

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    moments, kills = random.Random(20250414), 0
    for _ in range(KILLS):
        before = killed.stat().st_mtime_ns if killed.exists() else 0
        process = start(killed)
        while process.poll() is None:
            if killed.exists() and killed.stat().st_mtime_ns != before:
                time.sleep(moments.uniform(0, 0.2))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        kills += process.wait() == -signal.SIGKILL
        print(f"killed at step {ct.load(killed)['step'] if not jax.config.jax_enable_x64 else '?'}")
    assert kills >= min(KILLS, 2)
    assert start(killed).wait() == 0
    assert Path(killed).read_bytes() == Path(whole).read_bytes()
