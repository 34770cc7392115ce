"""Animations are checked by what their frames draw, and by the files that they leave."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.animation import FFMpegWriter, FuncAnimation
from PIL import Image
from test_plot import FLOAT, drawn, legend, make, no_figure_is_left, rotation, stopped_run

import ctrnn_jax.plot as plot
from ctrnn_jax._simulate.trajectory import Trajectory

pytestmark = pytest.mark.one_dtype

assert no_figure_is_left  # a fixture, for all tests here


def frames_of(animation):
    """How many, and what draws one."""
    animation._draw_was_started = True  # else matplotlib warns of one that nobody has seen
    return len(list(animation.new_frame_seq())), animation._func


def tail(ax):
    (line,) = [line for line in ax.lines if line.get_linewidth() == 2]
    return line.get_xydata()


def test_a_dot_goes_along_the_saves_with_its_tail_behind():
    ts, xs = (a.astype(FLOAT) for a in rotation(0.5, [1.5], saves=81))
    ax = plt.figure().subplots()
    animation = plot.animate(make(ts, xs), neurons=(1, 0), ax=ax)
    assert isinstance(animation, FuncAnimation)
    count, draw = frames_of(animation)
    assert count == 81  # no more than there are saves
    before = ax.get_xlim(), ax.get_ylim()
    for k in (0, 7, 80):
        draw(k)
        (dot,) = ax.collections
        np.testing.assert_array_equal(dot.get_offsets(), xs[:, k, ::-1])
        np.testing.assert_array_equal(tail(ax), xs[0, max(0, k - 81 // 8) : k + 1, ::-1])
        assert ax.get_title() == f"$t$ = {ts[k]:.2f} s"
    assert (ax.get_xlim(), ax.get_ylim()) == before
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$x_{1}$ (a.u.)", "$x_{0}$ (a.u.)")


@pytest.mark.parametrize("kind", ["state", "spectrum", "readout"])
def test_frames_and_points_are_bounded_however_long_the_run(kind):
    ts, xs = rotation(0.01, [1.0], saves=10**5 if kind == "spectrum" else 10**6, dt=1.0)
    ax = plt.figure().subplots()
    count, draw = frames_of(plot.animate(make(ts, xs), kind, max_frames=40, ax=ax))
    assert count == 40
    for k in (0, 20, 39):
        draw(k)
        assert sum(len(line.get_xdata()) for line in ax.lines) <= 20_000
    assert (kind == "spectrum") != (ax.get_title() == f"$t$ = {ts[-1]:.0f} s")


def test_what_stopped_or_left_is_marked_from_there_on():
    run = stopped_run()
    ax = plt.figure().subplots()
    count, draw = frames_of(plot.animate(run, ax=ax))
    assert count == 60 and legend(ax) == ["stopped"]
    for k, stopped in ((19, []), (20, [1]), (29, [1, 2]), (59, [1, 2])):
        draw(k)
        final = np.array([run.xs[row, min(k, 20 if row == 1 else 29)] for row in stopped])
        np.testing.assert_array_equal(drawn(ax, "stopped"), final.reshape(-1, 2))
    np.testing.assert_array_equal(
        ax.collections[0].get_offsets(), [run.xs[0, 59], run.xs[1, 20], run.xs[2, 29]]
    )


def test_a_readout_is_drawn_up_to_the_moment():
    ts, xs = rotation(0.5, [1.0, 2.0], saves=101)
    C = np.array([[1.0, 0.0], [0.5, -2.0], [0.0, 1.0]])
    ax = plt.figure().subplots()
    count, draw = frames_of(
        plot.animate(make(ts, xs), "readout", readout=C, index=1, duration=1.0, ax=ax)
    )
    assert count == 51  # a second of saves every 0.02 s
    draw(30)
    for k in range(3):
        line = drawn(ax, f"$y_{{{k}}}$")
        np.testing.assert_allclose(line[:, 0], ts[:31], rtol=1e-6)
        np.testing.assert_allclose(line[:, 1], xs[1, :31] @ C[k], rtol=1e-6)
    assert ax.get_ylabel() == "read-out (a.u.)"
    assert ax.get_title() == "trajectory 1 of 2, $t$ = 0.60 s"


def test_a_spectrum_follows_the_frequency():
    """A chirp: the highest point of a frame is at its frequency in the middle of the window."""
    ts = 0.02 * np.arange(4000)
    f = 1 + 4 * ts / ts[-1]
    phase = 2 * np.pi * (ts + 2 * ts**2 / ts[-1])
    xs = np.stack([np.cos(phase), -np.sin(phase)], axis=-1)[None]
    ax = plt.figure().subplots()
    count, draw = frames_of(plot.animate(make(ts, xs), "spectrum", max_frames=30, ax=ax))
    assert 25 <= count <= 30
    for k in (0, 12, count - 1):
        draw(k)
        line = drawn(ax, "$x_{0}$")
        now = float(ax.get_title().split()[2])
        peak = line[line[:, 1].argmax(), 0]
        assert abs(peak - np.interp(now, ts, f)) <= 0.4  # it sweeps 0.5 Hz a window
    assert ax.get_legend().get_title().get_text() == "windows of 10 s"


def test_a_gif_has_all_frames_and_their_time(tmp_path):
    ts, xs = rotation(0.5, [1.0], saves=9)
    path = tmp_path / "new" / "orbit.GIF"
    animation = plot.animate(make(ts, xs), path=path, fps=10)
    assert isinstance(animation, FuncAnimation)
    with Image.open(path) as image:
        assert image.n_frames == 9 and image.info["duration"] == 100
        first = np.asarray(image.convert("RGB"))
        image.seek(4)
        assert (np.asarray(image.convert("RGB")) != first).any()
    assert [p.name for p in path.parent.iterdir()] == ["orbit.GIF"]


def test_what_fails_leaves_the_old_file_and_no_figure(tmp_path, monkeypatch):
    path = tmp_path / "orbit.gif"
    path.write_bytes(b"old")

    def full(animation, *_, **__):
        animation._draw_was_started = True
        raise OSError("the disk is full")

    monkeypatch.setattr(FuncAnimation, "save", full)
    with pytest.raises(OSError, match="full"):
        plot.animate(make(*rotation(0.5, [1.0], saves=9)), path=path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["orbit.gif"]
    assert not plt.get_fignums()


@pytest.mark.skipif(not FFMpegWriter.isAvailable(), reason="ffmpeg is not installed")
def test_an_mp4_is_one(tmp_path):
    plot.animate(make(*rotation(0.5, [1.0], saves=9)), path=tmp_path / "orbit.mp4")
    assert (tmp_path / "orbit.mp4").read_bytes()[4:8] == b"ftyp"


def test_without_ffmpeg_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    with pytest.raises(ValueError) as error:
        plot.animate(make(*rotation(0.5, [1.0])), path=tmp_path / "a.mp4")
    expected = "path: expected a .gif file, as ffmpeg, which writes .mp4, is not found, got a.mp4"
    assert str(error.value) == expected and not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["state", "spectrum", "readout"])
def test_a_state_at_rest_and_one_that_stopped_at_once(kind):
    ts, rest = 0.1 * np.arange(20), np.zeros((1, 20, 2))
    if kind == "spectrum":
        with pytest.raises(ValueError, match="a signal of finite, positive power"):
            plot.animate(make(ts, rest), kind)
    else:
        frames_of(plot.animate(make(ts, rest), kind))[1](3)
    with pytest.raises(ValueError, match="saves before the stop"):
        plot.animate(make(ts, rest, [0]), kind)


def test_the_shortest_run_has_one_window():
    ts, xs = rotation(0.5, [1.0], saves=4, dt=0.2)
    for kind, count in (("state", 4), ("readout", 4), ("spectrum", 1)):
        assert frames_of(plot.animate(make(ts, xs), kind))[0] == count


def test_one_save_too_few_after_a_cut():
    ts, xs = rotation(0.5, [1.0])
    with pytest.raises(ValueError) as error:
        plot.animate(make(ts, xs), duration=0.01)
    expected = "seconds with 2 saves at least, got 0.01, in which there are 1"
    assert str(error.value) == f"duration: expected {expected}"


def test_leading_axes_are_one_batch():
    ts, xs = (a.astype(FLOAT) for a in rotation(0.5, np.arange(1.0, 7.0), saves=30))
    stopped = jnp.full((2, 3), -1)
    run = Trajectory(
        jnp.asarray(ts), jnp.asarray(xs).reshape(2, 3, 30, 2), None, None, stopped, stopped
    )
    ax = plt.figure().subplots()
    draw = frames_of(plot.animate(run, ax=ax))[1]
    draw(11)
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), xs[:, 11])
