"""Pictures of trained oscillators are checked by their data, as in test_plot.py."""

import inspect

import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ctrnn_jax import plot

pytestmark = pytest.mark.one_dtype

T = 0.01 * np.arange(300)
Y = np.sin(2 * np.pi * 5 * T)


@pytest.fixture(autouse=True)
def no_figure_is_left():
    yield
    plt.close("all")


def _lines(ax):
    return {line.get_label(): line.get_xydata() for line in ax.get_lines()}


def test_signal_and_residual_share_the_grid_and_the_held_out_part():
    made = 0.9 * Y
    above, below = (
        draw(Y, made, 0.01, training_samples=200, window=(1.0, 2.5))
        for draw in (plot.signal_fit, plot.signal_residual)
    )
    assert above.get_xlabel() == below.get_xlabel() == "time (s)"
    assert np.allclose(_lines(above)["target"], np.c_[T, Y][100:251])
    assert np.allclose(_lines(above)["generated"], np.c_[T, made][100:251])
    assert np.allclose(below.get_lines()[0].get_xydata(), np.c_[T, Y - made][100:251])
    for ax in (above, below):
        (held_out,) = ax.patches
        assert np.isclose(held_out.get_x(), 1.995)  # between the last and the first
        assert np.allclose(ax.get_xlim(), (1, 2.5))
    assert "held out" in [text.get_text() for text in above.get_legend().get_texts()]


def test_samples_at_uneven_times_are_dots():
    at = np.sort(np.random.default_rng(0).permutation(T)[:200])
    y, made = np.sin(2 * np.pi * 5 * at), 0.9 * Y
    y[7] = np.nan
    above = plot.signal_fit(y, made, 0.01, times=at, training_samples=150, window=(1.0, 2.5))
    below = plot.signal_residual(y, np.nan_to_num(0.9 * y), 0.01, times=at)
    np.testing.assert_array_equal(below.get_lines()[0].get_xydata()[:, 0], at)
    left = below.get_lines()[0].get_ydata() - 0.1 * y
    assert np.allclose(np.delete(left, 7), 0, atol=1e-6)
    lines = {line.get_label(): line for line in above.get_lines()}
    assert lines["target"].get_linestyle() == "None" and lines["target"].get_marker() == "o"
    np.testing.assert_array_equal(lines["target"].get_xydata(), np.c_[at, y])
    assert np.allclose(lines["generated"].get_xydata(), np.c_[T, made][100:251])
    assert np.isclose(above.patches[0].get_x(), (at[149] + at[150]) / 2)


def test_the_spectrum_of_uneven_samples_is_that_of_even_ones():
    both = [plot.spectrum_fit(Y, 0.01, target=Y), plot.spectrum_fit(Y, 0.01, target=Y, times=T)]
    (f, even), (same, uneven) = (_lines(ax)["target"].T for ax in both)
    at = slice(10, 20)
    assert np.allclose(same[at], f[at]) and np.allclose(uneven[at], even[at], rtol=0.02)
    at = np.sort(np.random.default_rng(0).uniform(0, 3, 2000))
    y = 2 * np.sin(2 * np.pi * 5 * at)
    f, density = _lines(plot.spectrum_fit(Y, 0.01, target=y, times=at))["target"].T
    power = np.sum(density[(f > 4) & (f < 6)]) * (f[1] - f[0])
    assert np.isclose(f[density.argmax()], 5) and np.isclose(power, 2, rtol=0.05)


def test_of_very_many_samples_the_extremes_are_drawn():
    y = np.random.default_rng(0).normal(size=100_000).astype(jnp.result_type(float))
    drawn = _lines(plot.signal_fit(y, y, 1.0))["target"]
    assert len(drawn) < 5000 and drawn[:, 1].max() == y.max() and drawn[:, 1].min() == y.min()
    assert (np.diff(drawn[:, 0]) >= 0).all()
    assert np.array_equal(drawn[:, 1], y[drawn[:, 0].astype(int)])


def test_spectrum_peaks_at_the_lines():
    ax = plot.spectrum_fit(2 * Y, 0.01, target=Y, lines_hz=[5.0])
    lines = _lines(ax)
    for name, power in (("target", 1 / 2), ("generated", 2)):
        f, density = lines[name].T
        assert np.isclose(f[density.argmax()], 5) and np.isclose(
            density.sum() / 3, power, rtol=1e-3
        )
    assert (lines["target 5 Hz"][:, 0] == 5).all()
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "frequency (Hz)"


def test_loss_curve_leaves_out_what_is_not_finite():
    ax = plot.loss_curve(np.array([4.0, np.nan, 5.0, 1.0, np.inf, 2.0]))
    assert np.array_equal(ax.get_lines()[0].get_xydata(), [[0, 4], [2, 5], [3, 1], [5, 2]])
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize(
    "name,args,options,message",
    [
        ("signal_fit", (Y, Y[:-1], 0.01), {}, "generated: expected shape (300,) as the target"),
        ("signal_fit", (Y, Y * np.nan, 0.01), {}, "generated: expected finite values"),
        ("signal_fit", (Y, Y, 0), {}, "dt: expected a finite number > 0, got 0"),
        ("signal_fit", (Y, Y, 1), {"training_samples": 0}, "training_samples: expected an integer"),
        ("signal_residual", (Y, Y, 0.01), {"window": (9, 10)}, "window: expected (start, end)"),
        ("signal_fit", (Y, Y, 1), {"times": T[:-1]}, "times: expected shape (300,) as the target"),
        ("signal_fit", (Y, Y, 1), {"times": 0 * T}, "times: expected increasing times"),
        ("spectrum_fit", (0 * Y, 0.01), {}, "generated: expected a signal that varies"),
        ("spectrum_fit", (Y, 0.01), {"lines_hz": [-1]}, "lines_hz: expected a finite number > 0"),
        ("loss_curve", (np.array([np.nan]),), {}, "losses: expected at least one finite loss"),
    ],
)
def test_bad_calls_say_what_is_wrong(name, args, options, message):
    with pytest.raises((TypeError, ValueError)) as error:
        inspect.unwrap(getattr(plot, name))(*args, **options)
    assert message in str(error.value)
