"""What is drawn is checked by its data; every picture was also looked at by eye."""

import inspect
import io

import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from pictures import assert_readable
from scipy.integrate import solve_ivp

import ctrnn_jax.plot as plot
from ctrnn_jax._analysis.balance import EnergyBalance
from ctrnn_jax._analysis.nonlinear_modes import NonlinearModes
from ctrnn_jax._analysis.regime import Regime
from ctrnn_jax._network.activations import HardTanh, Linear, ReLU, Sin, Tanh
from ctrnn_jax._network.model import CTRNN
from ctrnn_jax._network.weights import BlockSkew, DenseSkew
from ctrnn_jax._simulate.trajectory import Trajectory

pytestmark = pytest.mark.one_dtype

FLOAT = jnp.result_type(float)
EPS = np.finfo(FLOAT).eps
CLOSE = {"rtol": 1e-9, "atol": 10 * EPS}


@pytest.fixture(autouse=True)
def no_figure_is_left():
    assert not plt.get_fignums()
    yield
    plt.close("all")


def make(ts, xs, stopped_at=None):
    xs = jnp.asarray(xs)
    never = np.full(xs.shape[:-2], -1)
    stopped_at = jnp.asarray(never if stopped_at is None else stopped_at)
    return Trajectory(jnp.asarray(ts), xs, None, None, stopped_at, jnp.asarray(never))


def two_neurons(activation=Tanh(), omega=1.0, **options):  # noqa: B008
    return CTRNN(BlockSkew(jnp.array([omega])), activation, **options)


def tanh_orbits(saves=300):
    """x' = tanh(A x) from three starts, by scipy: (3, saves, 2)."""

    def orbit(x0):
        return solve_ivp(
            lambda _, x: np.tanh([x[1], -x[0]]), (0, ts[-1]), x0, "DOP853", ts, rtol=1e-10
        ).y.T

    ts = np.linspace(0, 12, saves)
    xs = np.stack([orbit(x0) for x0 in ([0.4, 0.0], [0.0, -1.5], [2.0, 2.0])])
    return ts.astype(FLOAT), xs.astype(FLOAT)


def rotation(hz, amplitude, saves=400, dt=0.02):
    """A linear oscillator's exact orbits, one for each amplitude (B,): times and (B, saves, 2)."""
    ts = dt * np.arange(saves)
    wave = np.stack([np.cos(2 * np.pi * hz * ts), -np.sin(2 * np.pi * hz * ts)], axis=-1)
    return ts, np.reshape(amplitude, (-1, 1, 1)) * wave


def stopped_run():
    """Four trajectories of 60 saves: whole, stopped at save 20, nan from save 30, always nan."""
    ts, xs = rotation(0.5, [1.0, 2.0, 3.0, 4.0], 60)
    xs[1, 20:] = xs[1, 20]
    xs[2, 30:] = np.nan
    xs[3] = np.nan
    return make(ts, xs, [-1, 41, -1, 0])  # step 41: the number of the step, not of the save


def drawn(ax, label):
    """The data of the one line that the legend calls `label`."""
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return np.asarray(line.get_xydata())


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# ------------------------------------------------------------------------------ phase portrait


def test_portrait_draws_every_save_of_every_trajectory():
    ts, xs = tanh_orbits()
    ax = plot.phase_portrait(make(ts, xs))
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    pieces, when = lines.get_segments(), lines.get_array()
    assert len(pieces) == len(when) <= 3 * 256
    # 299 intervals in 256 pieces a trajectory, one after the other.
    for k, orbit in enumerate(np.split(np.arange(len(pieces)), 3)):
        points = np.concatenate([pieces[i][:-1] for i in orbit] + [pieces[orbit[-1]][-1:]])
        np.testing.assert_array_equal(points, xs[k])
        assert (np.diff(when[orbit]) > 0).all()
    assert lines.get_clim() == (ts[0], ts[-1])
    assert lines.get_cmap().name == "viridis"
    early, late = lines.get_cmap()([0.0, 1.0])[:, :3]
    assert early[2] > early[1] and late[1] > 0.8 > 0.3 > late[2]  # violet, yellow


def test_portrait_marks_starts_and_ends_and_labels_everything():
    ts, xs = tanh_orbits()
    ax = plot.phase_portrait(make(ts, xs), neurons=(1, 0))
    np.testing.assert_array_equal(drawn(ax, "start"), xs[:, 0, ::-1])
    np.testing.assert_array_equal(drawn(ax, "end"), xs[:, -1, ::-1])
    assert legend(ax) == ["start", "end"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$x_{1}$ (a.u.)", "$x_{0}$ (a.u.)")
    assert ax.get_aspect() == 1
    (bar,) = ax.child_axes
    assert bar.get_ylabel() == "time (s)"
    assert not plot.phase_portrait(make(ts, xs), colorbar=False).child_axes


def test_portrait_ends_at_the_stop():
    trajectory = stopped_run()
    xs = np.asarray(trajectory.xs)
    ax = plot.phase_portrait(trajectory)
    np.testing.assert_array_equal(drawn(ax, "start"), xs[:3, 0])
    np.testing.assert_array_equal(drawn(ax, "end"), xs[:1, -1])
    np.testing.assert_array_equal(drawn(ax, "stopped"), [xs[1, 20], xs[2, 29]])
    (lines,) = ax.collections
    assert len(lines.get_segments()) == 59 + 20 + 29
    assert np.isfinite(np.concatenate(lines.get_segments())).all()
    # Where all stop early the colours end with the last of them.
    only = plot.phase_portrait(make(trajectory.ts, xs[1], 41)).collections[0]
    np.testing.assert_allclose(only.get_clim(), [0, 0.4])


def test_portrait_of_a_large_batch_is_a_spread_of_it():
    ts, xs = rotation(0.5, np.arange(1.0, 101.0), 10)
    trajectory = make(ts, xs.reshape(4, 25, 10, 2))
    ax = plot.phase_portrait(trajectory, max_trajectories=12)
    radii = drawn(ax, "start")[:, 0]
    np.testing.assert_array_equal(radii, np.arange(1, 101, 9))
    assert len(drawn(plot.phase_portrait(trajectory), "start")) == 64


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_few_saves_a_turn_are_dots_and_never_a_polygon(scale):
    (ts, few), (_, many) = rotation(0.5, scale, 60, 0.25), rotation(0.5, scale, 60, 0.125)
    few, many = few.astype(FLOAT), many.astype(FLOAT)
    ax = plot.phase_portrait(make(ts, np.concatenate([few, many])))
    lines, dots = ax.collections
    assert isinstance(lines, LineCollection) and len(lines.get_segments()) == 59
    np.testing.assert_array_equal(lines.get_segments()[7], many[0, 7:9])
    np.testing.assert_array_equal(dots.get_offsets(), few[0])
    assert lines.norm is dots.norm
    assert ax.get_legend().get_title().get_text().startswith("dots: saves, fewer than 12 a turn")
    assert len(ax.child_axes) == 1


def test_few_saves_a_cycle_are_dots_on_a_faint_line_and_very_few_are_dots():
    ts, slow = rotation(0.2, 1.0)
    xs = np.concatenate([slow, rotation(9.0, 1.0)[1]], axis=-1)
    xs[..., 3] = np.cos(2 * np.pi * 20.0 * ts)
    ax = plot.time_series(make(ts, xs))
    styles = [(line.get_label(), line.get_linestyle(), line.get_marker()) for line in ax.lines]
    assert [s for s in styles if s[0][0] != "_"] == [
        ("$x_{0}$", "-", "None"),
        ("$x_{1}$", "--", "None"),
        ("$x_{2}$", "None", "D"),
        ("$x_{3}$", "None", "^"),
    ]
    (faint,) = [line for line in ax.lines if line.get_label()[0] == "_"]
    assert faint.get_alpha() < 0.5
    np.testing.assert_array_equal(faint.get_ydata(), xs[0, :, 2].astype(FLOAT))
    # A state at rest turns by rounding alone.
    still = make(ts, 0.1 + 1e-17 * np.random.default_rng(0).normal(size=(400, 2)))
    assert not plot.time_series(still).get_legend().get_title().get_text()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_what_grows_beyond_all_bounds_is_drawn_up_to_where_it_leaves(scale):
    ts, xs = rotation(0.5, np.array([1.0, 2.0]) * scale, 2000)
    growth = np.exp(ts)[:, None]
    alone = plot.phase_portrait(make(ts, xs[:1] * growth))
    # At most ten times from the middle of what is shown to its end, hence some 100 times in all.
    (left,) = drawn(alone, "leaves the picture")
    assert 50 * scale < np.abs(left).max() <= 120 * scale
    assert alone.get_xlim()[1] < 200 * scale and "end" not in legend(alone)
    # Beside one that stays the picture is of the size of that one.
    xs[1] *= growth
    both = plot.phase_portrait(make(ts, xs))
    (left,) = drawn(both, "leaves the picture")
    assert 1.5 * scale < np.abs(left).max() <= 3.1 * scale
    np.testing.assert_array_equal(drawn(both, "end"), xs[:1, -1].astype(FLOAT))


def test_what_grows_and_settles_or_grows_slowly_is_drawn_whole():
    ts, xs = rotation(0.5, [1.0, 1.0], 2000)
    xs[0] *= 1 / (1 + 1e6 * np.exp(-2 * ts))[:, None]  # onto a cycle, from 10⁻⁶ of its size
    xs[1] *= 1 + 10 * ts[:, None]
    ax = plot.phase_portrait(make(ts, xs))
    np.testing.assert_array_equal(drawn(ax, "end"), xs[:, -1].astype(FLOAT))


def test_pictures_name_the_trajectories_that_they_show():
    ts, xs = rotation(0.5, np.arange(1.0, 13.0), 100)
    batch = make(ts, xs.reshape(3, 4, 100, 2))
    for draw in (plot.time_series, plot.spectrogram):
        assert draw(batch, index=7).get_title() == "trajectory 7 of 12"
        assert draw(make(ts, xs[0])).get_title() == ""
    titles = {1: "trajectory 0 of 12", 5: "5 of 12 trajectories", 64: "all 12 trajectories"}
    for most, title in titles.items():
        assert plot.phase_portrait(batch, max_trajectories=most).get_title() == title
    ax = plt.figure().subplots()
    ax.set_title("mine")
    assert plot.phase_portrait(batch, ax=ax).get_title() == "mine"


# ------------------------------------------------------------------- time series, energy drift


def test_time_series_draws_the_chosen_neurons_of_the_chosen_trajectory():
    rng = np.random.default_rng(0)
    ts, phase = np.linspace(0, 1, 30, dtype=FLOAT), rng.uniform(0, 6, size=(2, 3, 1, 8))
    xs = np.cos(4 * ts[:, None] + phase).astype(FLOAT)
    ax = plot.time_series(make(ts, xs))
    assert legend(ax) == [f"$x_{{{k}}}$" for k in range(6)]
    np.testing.assert_array_equal(drawn(ax, "$x_{5}$"), np.stack([ts, xs[0, 0, :, 5]], 1))
    ax = plot.time_series(make(ts, xs), neurons=[7, 2], index=4)
    assert legend(ax) == ["$x_{7}$", "$x_{2}$"]
    np.testing.assert_array_equal(drawn(ax, "$x_{7}$"), np.stack([ts, xs[1, 1, :, 7]], 1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (s)", "state (a.u.)")
    seven, two = ax.lines
    assert seven.get_linestyle() != two.get_linestyle()


def test_time_series_ends_at_the_stop():
    trajectory = stopped_run()
    ax = plot.time_series(trajectory, index=1)
    ts, xs = np.asarray(trajectory.ts), np.asarray(trajectory.xs[1])
    np.testing.assert_array_equal(drawn(ax, "$x_{0}$"), np.stack([ts, xs[:, 0]], 1)[:21])
    np.testing.assert_array_equal(drawn(ax, "stopped"), [[ts[20], v] for v in xs[20]])


def drifting_orbits():
    """Twenty spirals of the linear oscillator: E grows by exactly (1 + 10⁻³ k t)² - 1."""
    ts, xs = rotation(1 / (2 * np.pi), np.linspace(0.5, 2, 20), 50, dt=0.1)
    growth = 1 + 1e-3 * np.arange(1, 21)[:, None] * ts
    return ts, xs * growth[:, :, None], growth**2 - 1


def test_drift_is_the_median_the_band_and_the_maximum():
    ts, xs, expected = drifting_orbits()
    ax = plot.energy_drift(two_neurons(Linear()), make(ts, xs))
    middle, top = drawn(ax, "median of 20"), drawn(ax, "maximum")
    np.testing.assert_allclose(middle[:, 0], ts[1:])
    np.testing.assert_allclose(middle[:, 1], np.median(expected, 0)[1:], **CLOSE)
    np.testing.assert_allclose(top[:, 1], expected[-1, 1:], **CLOSE)
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    at_end = corners[np.isclose(corners[:, 0], ts[-1]), 1]
    np.testing.assert_allclose(at_end.min(), np.quantile(expected[:, -1], 0.1), **CLOSE)
    np.testing.assert_allclose(at_end.max(), np.quantile(expected[:, -1], 0.9), **CLOSE)
    assert legend(ax) == ["median of 20", "10 to 90 %", "maximum"]
    assert ax.get_yscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (s)", "|relative energy drift|")


def test_drift_of_stopped_trajectories_is_held_and_marked():
    ts, xs, expected = drifting_orbits()
    xs[19, 31:] = xs[19, 30]
    xs[18, 41:] = np.nan
    xs[17] = np.nan
    stopped_at = np.where(np.arange(20) == 19, 31, -1)
    ax = plot.energy_drift(two_neurons(Linear()), make(ts, xs, stopped_at))
    crosses = drawn(ax, "stopped (3 of 20)")
    # The one without a finite state has no place in the picture, but is counted.
    shown = crosses[np.isfinite(crosses).all(axis=1)]
    np.testing.assert_allclose(
        shown, [[ts[40], expected[18, 40]], [ts[30], expected[19, 30]]], **CLOSE
    )
    top = drawn(ax, "maximum")
    held = np.maximum(expected[19, np.minimum(np.arange(50), 30)], expected[16])
    held = np.maximum(held, expected[18, np.minimum(np.arange(50), 40)])
    np.testing.assert_allclose(top[:, 1], held[1:], **CLOSE)


def test_drift_of_one_trajectory_ends_at_its_stop():
    ts, xs, expected = drifting_orbits()
    xs[3, 20:] = xs[3, 20]
    ax = plot.energy_drift(two_neurons(Linear()), make(ts, xs[3], 21))
    line = ax.lines[0].get_xydata()
    np.testing.assert_allclose(line, np.stack([ts, expected[3]], 1)[1:21], **CLOSE)
    assert legend(ax) == ["stopped (1 of 1)"]


def test_no_drift_at_all_is_drawn_at_the_rounding_unit():
    ax = plot.energy_drift(two_neurons(Linear()), make(np.arange(50.0), np.ones((50, 2))))
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), EPS)
    assert legend(ax) == ["rounding unit"]
    bottom, top = ax.get_ylim()
    assert 0 < bottom < EPS < top


def test_drift_is_told_as_a_table_would():
    ts, xs, expected = drifting_orbits()
    xs[19, 30:] = xs[19, 30]  # stopped: drawn, but no part of the numbers
    stopped_at = np.where(np.arange(20) == 19, 31, -1)
    rnn = two_neurons(Linear())
    title = plot.energy_drift(rnn, make(ts, xs, stopped_at)).get_legend().get_title().get_text()
    worst = expected[:19].max(axis=1)
    told = f"largest of a run: median {np.median(worst):.3g}, maximum {worst.max():.3g}"
    assert title.replace("\n", " ") == told
    alone = plot.energy_drift(rnn, make(ts, xs[3])).get_legend()
    assert alone.get_title().get_text() == f"largest: {expected[3].max():.3g}"


def balance_of(energy, supplied, dissipated):
    """A balance of (B, S), where what was exchanged is what came in and what went out."""
    parts = [jnp.asarray(a, FLOAT) for a in (energy, supplied, dissipated, supplied + dissipated)]
    return EnergyBalance(jnp.asarray(0.1 * np.arange(parts[0].shape[-1]), FLOAT), *parts)


def test_a_balance_is_its_parts_and_what_is_missing_on_an_axis_of_its_own():
    t = np.arange(50)
    supplied, dissipated = 3.0 * t, 1.0 * t
    missing = 1e-3 * (t > 0) * (1 + t % 5)
    ax = plot.energy_balance(balance_of(7 + supplied - dissipated + missing, supplied, dissipated))
    change = drawn(ax, "change of energy")
    np.testing.assert_allclose(change[:, 0], 0.1 * t, **CLOSE)
    np.testing.assert_allclose(change[:, 1], 2 * t + missing, atol=1e3 * EPS)
    np.testing.assert_allclose(drawn(ax, "supplied by the input")[:, 1], supplied)
    np.testing.assert_allclose(drawn(ax, "dissipated")[:, 1], dissipated)
    _, right = ax.figure.axes
    assert right.get_yscale() == "log" and right.get_ylabel() == "|missing energy| (a.u.)"
    below = drawn(right, "|missing| (right)")
    np.testing.assert_allclose(below[:, 1], missing[1:], rtol=1e6 * EPS)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (s)", "energy (a.u.)")
    told = ax.get_legend().get_title().get_text()
    assert told == "missing: at most 0.005, exchanged: 2e+02"
    # Below all else, and none of it left out.
    heights = right.transData.transform(below)[:, 1]
    assert heights.max() < ax.transData.transform(change)[:, 1].min()
    assert right.get_ylim()[0] <= missing[1:].min()
    assert_clear(ax)
    assert_readable(ax.figure)


def test_a_balance_of_a_batch_is_medians_and_bands():
    t, growth = np.arange(40), np.linspace(1, 2, 11)[:, None]
    balance = balance_of(growth * t, growth * t, 0 * growth * t)
    ax = plot.energy_balance(balance)
    np.testing.assert_allclose(drawn(ax, "change of energy, median of 11")[:, 1], 1.5 * t)
    corners = ax.collections[0].get_paths()[0].vertices
    assert np.isclose(corners[:, 1].max(), 39 * 1.9)
    assert "dissipated" not in legend(ax) and ax.get_title() == "11 trajectories, bands: 10 to 90 %"
    # Nothing at all is missing: drawn at the rounding of what was exchanged.
    right = ax.figure.axes[1].lines[0].get_ydata()
    np.testing.assert_allclose(right, EPS * 1.5 * t[1:], rtol=1e-5)
    with pytest.raises(ValueError, match="balance: expected 2 finite states at least, got fewer"):
        plot.energy_balance(balance_of(*np.full((3, 2, 5), np.nan)))


@pytest.mark.parametrize("quiet", [3, 9])  # saves until an input comes, of 9: until none
def test_energy_balance_draws_what_is_missing_of_nothing(quiet):
    supplied = np.maximum(np.arange(9.0) - quiet, 0)[None]
    ax = plot.energy_balance(balance_of(7 + supplied, supplied, 0 * supplied))
    ax.figure.savefig(io.BytesIO())
    low, high = np.log10(ax.figure.axes[1].get_ylim())
    assert 4 < high - low < 60


# ------------------------------------------------------------------------------------ spectra


def test_spectrum_marks_the_known_frequency():
    ts, xs = rotation(2.5, [1.0, 2.0, 4.0])
    ax = plot.spectrum(make(ts, xs))
    ((at, height),) = drawn(ax, "peak at 2.5 Hz")
    np.testing.assert_allclose(at, 2.5)
    line = drawn(ax, "median of 3")
    np.testing.assert_allclose(height, line[:, 1].max())
    # One-sided density: its integral is the variance, here 2²/2.
    np.testing.assert_allclose(line[:, 1].sum() * line[0, 0], 2.0, rtol=1e-6)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("frequency (Hz)", "power of $x_{0}$ (a.u.²/Hz)")
    assert ax.get_yscale() == "log"
    assert ax.get_ylim()[0] == pytest.approx(height / 1e10)
    assert legend(ax) == ["median of 3", "10 to 90 %", "peak at 2.5 Hz"]


def test_spectrum_leaves_out_stopped_trajectories_and_says_so():
    ts, xs = rotation(1.25, [1.0, 1.0, 1.0, 0.0])  # the last one rests
    xs[1, 200:] = xs[1, 200]
    ax = plot.spectrum(make(ts, xs, [-1, 201, -1, -1]))
    np.testing.assert_allclose(drawn(ax, "peak at 1.25 Hz")[0, 0], 1.25)
    assert ax.get_legend().get_title().get_text() == "1 of 4 stopped, left out"
    assert "median of 3" in legend(ax)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("cycles", [0.3, 0.45])
def test_less_than_a_period_has_no_peak(cycles, batch):
    ts, xs = rotation(cycles / 8, np.ones(batch))
    ax = plot.spectrum(make(ts, xs), neuron=1)
    assert not any("peak" in str(line.get_label()) for line in ax.lines)
    assert ax.get_legend().get_title().get_text().replace("\n", " ").startswith("no peak: ")


def test_several_periods_in_a_trend_keep_their_peak():
    ts, xs = rotation(1.25, [1.0])
    ax = plot.spectrum(make(ts, xs + 0.02 * ts[:, None]))
    np.testing.assert_allclose(drawn(ax, "peak at 1.25 Hz")[0, 0], 1.25)


def test_spectrum_of_all_neurons_is_the_mean_of_their_powers():
    ts, xs = rotation(1.25, 1.0)
    xs = np.concatenate([xs, 3 * rotation(2.5, 1.0)[1]], axis=-1)
    trajectory = make(ts, xs)
    one = [plot.spectrum(trajectory, neuron=k).lines[0].get_ydata() for k in range(4)]
    ax = plot.spectrum(trajectory, neuron=None)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.mean(one, axis=0))
    assert "all neurons" in ax.get_ylabel()


@pytest.mark.long
def test_frequency_axis_holds_the_power_or_what_was_asked():
    ts, xs = rotation(2.5, [1.0], 4000)
    assert 2.6 < plot.spectrum(make(ts, xs)).get_xlim()[1] < 6
    assert plot.spectrum(make(ts, xs), max_frequency=7).get_xlim() == (0, 7)
    assert plot.spectrogram(make(ts, xs), max_frequency=7.5).get_ylim()[1] == 7.5
    # Weak windows count as much as strong ones: the early 10 Hz stay in the picture.
    xs[:, :2000] = 1e-4 * rotation(10.0, [1.0], 2000)[1]
    assert plot.spectrogram(make(ts, xs)).get_ylim()[1] > 11


def test_spectrogram_shows_when_the_frequency_changes():
    ts, xs = rotation(2.0, [1.0, 1.0], 2000)
    xs[1, 1000:] = rotation(6.0, [3.0], 2000)[1][0, 1000:]
    ax = plot.spectrogram(make(ts + 5, xs), index=1)
    (image,) = ax.images
    power = image.get_array()
    left, right, bottom, top = image.get_extent()
    # Times are those of the trajectory; windows of an eighth of it fit half inside its ends.
    assert 5 < left < 5 + 2.6 and 5 + 40 - 2.6 < right < 5 + 40
    rows, columns = power.shape
    height, width = (top - bottom) / rows, (right - left) / columns
    np.testing.assert_allclose([bottom, top, height], [0.1, 25.1, 0.2])  # windows of 250 samples
    f = bottom + height * (np.arange(rows) + 0.5)
    t = left + width * (np.arange(columns) + 0.5)
    strongest = f[power.argmax(axis=0)]
    np.testing.assert_allclose(strongest[t < 5 + 17], 2.0, atol=height)
    np.testing.assert_allclose(strongest[t > 5 + 23], 6.0, atol=height)
    # In decibels, hence 20 log₁₀ 3 between the two amplitudes.
    np.testing.assert_allclose(power[:, -1].max() - power[:, 0].max(), 20 * np.log10(3), atol=0.01)
    assert np.ptp(power) <= 100 + 1e-9
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (s)", "frequency (Hz)")
    assert image.colorbar.ax.get_ylabel() == "power of $x_{0}$ (dB re 1 a.u.²/Hz)"
    assert image.get_cmap().name == "viridis"


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_spectrogram_shows_the_line_and_not_the_floor(scale):
    ts, xs = rotation(0.5, [scale], 4000)
    ax = plot.spectrogram(make(ts, xs))
    (image,) = ax.images
    low, high = image.get_clim()
    power = np.asarray(image.get_array())
    assert high == power.max() and 30 <= high - low <= 60
    # The line is at a visible height, and windows hold four of its periods.
    assert 0.05 < 0.5 / ax.get_ylim()[1] < 0.8
    short = plot.spectrogram(make(ts[:600], xs[:, :600])).images[0]
    assert len(short.get_array()) == 600 // 4 // 2


def test_spectrogram_ends_at_the_stop_and_may_be_one_window():
    trajectory = stopped_run()
    ax = plot.spectrogram(trajectory, index=1, window_length=21)
    (image,) = ax.images
    left, right, *_ = image.get_extent()
    assert image.get_array().shape == (10, 1)
    np.testing.assert_allclose([left, right], [0.0, 0.42], atol=0.0101)  # to half a sample


# --------------------------------------------------------------------------------- level sets


@pytest.mark.parametrize("activation", [Tanh(), Linear(), HardTanh()])
def test_level_sets_are_closed_and_on_their_level(activation):
    levels = (0.2, 1.5, 3.0)
    ax = plot.level_sets(two_neurons(activation), levels)
    # The potentials once more, by numpy.
    potential = {
        "Tanh": lambda z: np.log(np.cosh(z)),
        "Linear": lambda z: z**2 / 2,
        "HardTanh": lambda z: np.where(abs(z) < 1, z**2 / 2, abs(z) - 0.5),
    }[type(activation).__name__]
    (curves,) = ax.collections
    for level, path in zip(levels, curves.get_paths(), strict=True):
        (curve,) = path.to_polygons(closed_only=False)
        np.testing.assert_allclose(potential(curve).sum(axis=1), level, rtol=5e-3)
        np.testing.assert_allclose(curve[0], curve[-1])
    assert legend(ax) == ["$E$ = 0.2", "$E$ = 1.5", "$E$ = 3"]
    assert ax.get_aspect() == 1
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$x_{0}$ (a.u.)", "$x_{1}$ (a.u.)")


def test_level_sets_follow_a_bias():
    ax = plot.level_sets(two_neurons(bias=jnp.array([40.0, -30.0])), [2])
    (curve,) = ax.collections[0].get_paths()[0].to_polygons()
    # Around the fixed point A x + b = 0.
    np.testing.assert_allclose((curve.min(axis=0) + curve.max(axis=0)) / 2, [-30, -40], atol=0.01)
    assert np.diff(ax.get_xlim()) < 1.5 * np.ptp(curve[:, 0])


@pytest.mark.parametrize("activation", [ReLU(), Sin()])
def test_open_level_sets_are_drawn_across_a_square(activation):
    ax = plot.level_sets(two_neurons(activation), (0.2, 1.5))
    assert all(len(path.vertices) > 10 for path in ax.collections[0].get_paths())


def test_level_sets_keep_the_extent_asked_for():
    ax = plot.level_sets(two_neurons(), [1.0], extent=(-3, 4, -5, 6))
    assert ax.get_xlim() == (-3, 4)
    assert ax.get_ylim()[0] == -5


# -------------------------------------------------------------------------- what all have in common


RNN = two_neurons()
CALLS = {
    "phase_portrait": lambda trajectory, **k: plot.phase_portrait(trajectory, **k),
    "time_series": lambda trajectory, **k: plot.time_series(trajectory, **k),
    "energy_drift": lambda trajectory, **k: plot.energy_drift(RNN, trajectory, **k),
    "spectrum": lambda trajectory, **k: plot.spectrum(trajectory, **k),
    "spectrogram": lambda trajectory, **k: plot.spectrogram(trajectory, **k),
    "level_sets": lambda trajectory, **k: plot.level_sets(RNN, **k),
}


@pytest.mark.parametrize("size", [(6.4, 4.8), (2.6, 2.6)], ids=["wide", "narrow"])
@pytest.mark.parametrize(
    ("time", "state"), [(1, 1), (1e-5, 2.4e-4), (37.0, 3.3e5)], ids=["plain", "tiny", "large"]
)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.sampled(12)
def test_tick_labels_do_not_touch(call, time, state, size):
    ts, xs = tanh_orbits(80)
    ax = plt.figure(figsize=size, layout="compressed").subplots()
    if call is CALLS["level_sets"]:
        half = 2 * state
        plot.level_sets(two_neurons(omega=1 / state), [0.3], extent=(-half, half) * 2, ax=ax)
    else:
        call(make(1e4 * time + ts * time, xs * state), ax=ax)
    assert_readable(plt.gcf())


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_given_axes_are_used_and_none_made(call):
    figure, (left, right) = plt.subplots(1, 2)
    before = dict(plt.rcParams)
    assert call(make(*tanh_orbits(80)), ax=left) is left
    assert left.has_data() and not right.has_data()
    assert plt.get_fignums() == [figure.number]
    assert dict(plt.rcParams) == before


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("stops", [False, True])
def test_nothing_is_cut_off_and_the_legend_covers_no_data(call, stops):
    ts, xs = tanh_orbits(80)
    stopped_at = [-1, -1, -1]
    if stops:
        xs[2, 50:], stopped_at = xs[2, 50], [-1, -1, 51]
    ax = call(make(ts, xs, stopped_at))
    assert_clear(ax)


def test_a_wide_portrait_has_room_for_everything():
    ts, xs = rotation(1.0, [1.0])
    assert_clear(plot.phase_portrait(make(ts, xs * np.array([9.0, 1.0]))))


def assert_clear(ax):
    assert plt.get_fignums() == [ax.figure.number]
    ax.figure.canvas.draw()
    renderer = ax.figure.canvas.get_renderer()
    whole, page = ax.figure.get_tightbbox(renderer), ax.figure.bbox_inches
    assert whole.x0 >= 0 and whole.y0 >= 0
    assert whole.x1 <= page.x1 and whole.y1 <= page.y1
    if ax.get_legend():
        box = ax.get_legend().get_window_extent(renderer)
        points = [ax.transData.transform(line.get_xydata()) for line in ax.lines]
        points += [
            ax.transData.transform(path.vertices) for c in ax.collections for path in c.get_paths()
        ]
        points = np.concatenate(points)
        assert not box.count_contains(points[np.isfinite(points).all(axis=1)])


def test_two_pictures_share_axes():
    ax = plot.level_sets(RNN)
    plot.phase_portrait(make(*tanh_orbits(80)), ax=ax)
    plot.phase_portrait(make(*tanh_orbits(80)), colorbar=False, ax=ax)
    assert legend(ax) == ["$E$ = 0.2", "$E$ = 1.5", "$E$ = 3", "start", "end"]
    assert len(ax.child_axes) == 1


@pytest.mark.long
def test_float32():
    ts, xs = (jnp.asarray(a, jnp.float32) for a in rotation(1.25, [1.0, 2.0]))
    rnn = CTRNN(BlockSkew(jnp.array([2.5 * np.pi], jnp.float32)), Linear())
    ax = plot.energy_drift(rnn, make(ts, xs))
    assert ax.lines[0].get_ydata().min() >= np.finfo(np.float32).eps
    np.testing.assert_allclose(drawn(plot.spectrum(make(ts, xs)), "peak at 1.25 Hz")[0, 0], 1.25)


# ------------------------------------------------------------------------------------- errors


GOOD = make(*rotation(1.0, [1.0, 2.0], 40))
WITHOUT = Trajectory(GOOD.ts, None, None, None, GOOD.stopped_at, GOOD.unconverged_at)
SHORT = make([0.0], np.ones((1, 2)))
THREE = make(np.arange(3.0), np.ones((3, 2)))
LOST = make(GOOD.ts, np.full((2, 40, 2), np.nan))
STOPPED = make(GOOD.ts, GOOD.xs, [3, 4])
RESTING = make(GOOD.ts, np.full((2, 40, 2), 0.1))
ONE_NEURON = make(GOOD.ts, np.ones((40, 1)))
FOUR = CTRNN(DenseSkew(jnp.asarray(np.random.default_rng(1).normal(size=(4, 4)))))
STATES = "trajectory.xs: expected states, as simulate"
ERRORS = [
    *((f, (WITHOUT,), {}, STATES) for f in ("phase_portrait", "time_series", "spectrum")),
    ("energy_drift", (RNN, WITHOUT), {}, STATES),
    ("spectrogram", (WITHOUT,), {}, STATES),
    ("phase_portrait", ("x",), {}, "trajectory: expected a Trajectory, as of simulate, got str"),
    ("time_series", (GOOD.xs,), {}, "trajectory: expected a Trajectory"),
    ("time_series", (Trajectory,), {}, "got the class Trajectory; call it"),
    ("phase_portrait", (SHORT,), {}, "trajectory.xs: expected at least 2 saves, got 1"),
    ("energy_drift", (RNN, SHORT), {}, "trajectory.xs: expected at least 2 saves, got 1"),
    ("spectrum", (THREE,), {}, "trajectory.xs: expected at least 4 saves, got 3"),
    ("spectrogram", (THREE,), {}, "trajectory.xs: expected at least 4 saves, got 3"),
    ("phase_portrait", (LOST,), {}, "finite states, got 2 of 2 not finite from the start"),
    ("time_series", (LOST,), {}, "finite states, got 1 of 1 not finite from the start"),
    ("energy_drift", (RNN, LOST), {}, "finite states, got 2 of 2 not finite"),
    ("spectrum", (STOPPED,), {}, "trajectory: expected one that ran to its end, got 2 of 2"),
    ("spectrum", (RESTING,), {}, "trajectory.xs: expected a signal that varies, got zero power"),
    (
        "spectrogram",
        (RESTING,),
        {"window_length": 20},
        "trajectory.xs: expected a signal of finite, positive power",
    ),
    ("phase_portrait", (ONE_NEURON,), {}, "trajectory.xs: expected at least 2 neurons, got 1"),
    ("phase_portrait", (GOOD,), {"neurons": (0, 2)}, "neurons: expected an index below 2, got 2"),
    ("phase_portrait", (GOOD,), {"neurons": (0,)}, "neurons: expected two indices, got [0]"),
    ("phase_portrait", (GOOD,), {"max_trajectories": 0}, "max_trajectories: expected an integer"),
    ("phase_portrait", (GOOD,), {"cmap": "no such"}, "no such"),
    ("time_series", (GOOD,), {"neurons": [-1]}, "neurons: expected an integer >= 0, got -1"),
    ("time_series", (GOOD,), {"neurons": []}, "neurons: expected at least one index"),
    ("time_series", (GOOD,), {"index": 2}, "index: expected an index below 2, got 2"),
    ("time_series", (GOOD,), {"index": 1.0}, "index: expected an integer >= 0, got 1.0"),
    ("spectrum", (GOOD,), {"neuron": 5}, "neuron: expected an index below 2, got 5"),
    ("spectrum", (GOOD,), {"max_frequency": 0}, "max_frequency: expected a finite number > 0"),
    ("spectrogram", (GOOD,), {"neuron": 5}, "neuron: expected an index below 2, got 5"),
    ("spectrogram", (GOOD,), {"window_length": 41}, "window_length: expected at most the 40"),
    ("spectrogram", (GOOD,), {"window_length": 3}, "window_length: expected an integer >= 4"),
    ("energy_drift", (FOUR, GOOD), {}, "(..., 4)"),
    ("energy_balance", (GOOD,), {}, "balance: expected an EnergyBalance, as of energy_balance"),
    ("level_sets", (FOUR,), {}, "rnn: expected a network of 2 neurons, got 4"),
    ("level_sets", (GOOD,), {}, "rnn: expected a CTRNN, got Trajectory"),
    ("level_sets", (RNN, []), {}, "levels: expected one or more finite energies"),
    ("level_sets", (RNN, [np.nan]), {}, "levels: expected one or more finite energies"),
    ("level_sets", (RNN, [-1.0]), {}, "levels: expected energies that the network takes"),
    ("level_sets", (RNN, [-1.0, 1.0]), {}, "levels: expected between"),
    ("level_sets", (RNN,), {"extent": (1, 0, 0, 1)}, "extent: expected (left, right, bottom, top)"),
    ("level_sets", (RNN,), {"extent": (0, 1)}, "extent: expected (left, right, bottom, top)"),
    ("level_sets", (RNN,), {"resolution": 4}, "resolution: expected an integer >= 8, got 4"),
    ("level_sets", (RNN,), {"ax": 3}, "ax: expected one matplotlib Axes, or None, got int"),
]


@pytest.mark.parametrize(
    ("name", "args", "options", "message"),
    [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(ERRORS)],
)
def test_bad_calls_say_what_is_wrong_and_make_no_figure(name, args, options, message):
    # Without the type checker of the tests, which would word some of them its own way.
    with pytest.raises((TypeError, ValueError)) as error:
        inspect.unwrap(getattr(plot, name))(*args, **options)
    assert message in str(error.value)
    assert not plt.get_fignums()


def found_modes(**changes):
    """Three families: stable, unstable for a while, and turning back."""
    E = np.geomspace(0.01, 10, 6).astype(FLOAT)
    periods = np.stack([2 + E, 1 + 0.3 * E, 0.5 + 0.1 * E]).astype(FLOAT)
    status = np.zeros((3, 6), np.int32)
    status[1, 2:4] = 1
    status[2, 4:], periods[2, 4:] = 2, np.nan
    nothing = jnp.zeros((3, 6, 6), FLOAT)
    parts = {
        "energies": E, "periods": periods, "states": nothing, "residuals": periods,
        "multipliers": nothing, "status": status, "reached": E[[5, 5, 3]],
        "fixed_point": nothing[0, 0],
    } | changes  # fmt: skip
    return NonlinearModes(**{name: jnp.asarray(value) for name, value in parts.items()})


def test_backbone_curves_tell_stable_from_unstable():
    modes = found_modes()
    ax = plot.backbone(modes)
    f = 1 / np.asarray(modes.periods)
    stable = [line for line in ax.lines if line.get_label() == "stable"]
    assert [line.get_linestyle() for line in stable] == ["-"] * 3
    for k, line in enumerate(stable):
        expected = np.where(np.asarray(modes.status)[k] == 0, f[k], np.nan)
        np.testing.assert_allclose(line.get_ydata(), expected, **CLOSE)
    unstable = drawn(ax, "unstable")  # with the parts that lead to stable ones
    np.testing.assert_allclose(unstable[1:5, 1], f[1, 1:5], **CLOSE)
    assert np.isnan(unstable[[0, 5], 1]).all()
    end = drawn(ax, "found no further")
    np.testing.assert_allclose(end, [[modes.energies[3], f[2, 3]]], **CLOSE)
    assert_readable(ax.figure)
    alone = found_modes(status=np.zeros((3, 6), np.int32), periods=np.ones((3, 6), FLOAT))
    assert {line.get_label() for line in plot.backbone(alone).lines} == {"stable"}


def test_backbone_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="modes: expected at least one closed orbit"):
        plot.backbone(found_modes(periods=np.full((3, 6), np.nan, FLOAT)))


def found_regimes(status):
    codes, nothing = jnp.asarray(status, jnp.int32), jnp.zeros(np.shape(status), FLOAT)
    names = "share", "exponent", "uncertainty", "period", "distance", "drift"
    return Regime(
        codes, codes, frequencies=nothing[..., None], bound=jnp.zeros((), FLOAT),
        **dict.fromkeys(names, nothing),
    )  # fmt: skip


def test_regimes_are_shares_of_each_amplitude():
    ax = plot.regimes(found_regimes([[2, 2, 1, 4], [3, 3, 3, 3]]), [0.1, 1.0])
    bars = {c.get_label(): [(b.get_y(), b.get_height()) for b in c] for c in ax.containers}
    assert bars == {
        "periodic": [(0, 25), (0, 0)],
        "quasi-periodic": [(25, 50), (0, 0)],
        "chaotic": [(75, 0), (0, 100)],
        "undecided": [(75, 25), (100, 0)],
    }
    assert_readable(ax.figure)


@pytest.mark.parametrize(
    ("status", "amplitudes", "line"),
    [
        ([1, 2], [0.1, 1.0], r"regime: expected that of states \(A, ..., n\)"),
        ([[1, 2]], [0.1, 1.0], r"amplitudes: expected shape \(1,\)"),
    ],
)
def test_regimes_refuse_what_has_no_amplitudes(status, amplitudes, line):
    with pytest.raises(ValueError, match=line):
        plot.regimes(found_regimes(status), amplitudes)
