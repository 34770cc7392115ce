"""Runs on disk: the numbers of `simulate`, whatever happens while they are written."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple

import diffrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray
import zarr
from systems import DTYPE, normal

import ctrnn_jax as ct
from ctrnn_jax._files import record as record_module

EPS = float(jnp.finfo(DTYPE).eps)
OPTIONS = {"dt": 0.05, "num_steps": 100, "save_every": 5}
Pair = namedtuple("Pair", "a b")


def smooth(t):
    return jnp.stack([jnp.sin(2 * t)])


def network(n=4):
    weights = ct.DenseSkew.init(jax.random.key(n), n, dtype=DTYPE)
    return ct.CTRNN(weights, input_weights=normal(2, n, 1))


def observed(t, x):
    return {"e": (x[0] * t, x > 0), "c": Pair(jax.lax.complex(x[:2], x[1:3]), x)}


WAYS = {
    "plain": {},
    "adaptive": {"rtol": 1e-6},
    "compensated": {"solver": ct.PoissonSplitting(2, compensated=True)},
    "two steps": {"solver": diffrax.LeapfrogMidpoint()},
    "observe": {"observe": observed},
    "observe alone": {"observe": lambda t, x: x[0], "keep_states": False},
    "fold": {"fold": ((0.0, 0), lambda c, t, x: (c[0] + x[0], c[1] + 1))},
    "fold of a class": {"fold": (Pair(0.0, 0), lambda c, t, x: Pair(c.a + x[0], c.b + 1))},
    "stopped": {"max_norm": 2.0},
    "noise": {"noise": 0.3, "key": jax.random.key(0), "solver": diffrax.Euler()},
    "held inputs": {"inputs": np.asarray(normal(4, 100, 1))},
    "listed inputs": {"inputs": np.asarray(normal(4, 100, 1)).tolist()},
    "inputs of each": {"inputs": normal(4, 3, 100, 1)},
    "function": {"inputs": smooth},
    "mesh": {"mesh": ct.batch_mesh(jax.devices()[:2])},
}


def assert_same(recording, run, tolerance=1e3 * EPS):
    assert recording.complete and len(recording) == len(run.ts)
    np.testing.assert_array_equal(recording.ts, run.ts)
    for name in ("xs", "observed", "folded", "stopped_at", "unconverged_at"):
        found, expected = (jax.tree.leaves(getattr(r, name)) for r in (recording, run))
        assert len(found) == len(expected), name
        for a, b in zip(found, expected, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype), name
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.by_default(2)
def test_it_is_the_run_of_simulate(tmp_path, way):
    rnn, x0 = network(), normal(3, 3, 4)
    recording = ct.record(tmp_path / "run", rnn, x0, **OPTIONS, **way, chunk=6)
    tolerance = 1e-4 if "rtol" in way else 1e3 * EPS
    assert_same(recording, ct.simulate(rnn, x0, **OPTIONS, **way), tolerance)
    same = {k: way[k] for k in ("solver", "rtol", "noise", "key") if k in way}
    gone_on = ct.simulate(recording.rnn, recording.end, dt=0.05, num_steps=5, **same)
    assert int(gone_on.end.step) == 105


@pytest.mark.sampled(3)
@pytest.mark.parametrize("chunk", [1, 2, 7, 10, 20, 21, 50, None])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.by_default(3)
def test_chunks_of_any_length_and_batches_of_any_shape(tmp_path, chunk, batch):
    rnn, x0 = network(), normal(3, *batch, 4)
    run = ct.simulate(rnn, x0, **OPTIONS)
    recording = ct.record(tmp_path / "run", rnn, x0, **OPTIONS, chunk=chunk)
    assert_same(recording, run)
    assert [len(part.ts) for part in recording.parts()] == [
        min(chunk or 21, 21 - k) for k in range(0, 21, chunk or 21)
    ]
    np.testing.assert_array_equal(recording[3:17:2].xs, np.asarray(recording.xs)[..., 3:17:2, :])
    # As others read it, through the metadata of all arrays and of each.
    with xarray.open_zarr(recording.path) as dataset:
        np.testing.assert_array_equal(dataset.x, recording.xs)
        assert dataset.time.attrs["units"] == "s" and dataset.attrs["solver"] == "Tsit5()"
    for consolidated in (True, False):
        group = zarr.open_group(recording.path, mode="r", use_consolidated=consolidated)
        np.testing.assert_array_equal(group["x"][...], recording.xs)
        np.testing.assert_array_equal(group["stopped_at"][...], run.stopped_at)


INDICES = [
    np.s_[0], np.s_[...], np.s_[..., 1], np.s_[[1, 2], 2:9:3, -1], np.s_[:, -1], np.s_[:, ::-2],
    np.s_[2, [5, 1, 5, 0]], np.s_[-1:, 20:], np.s_[:, 3:3], np.s_[np.array([True, False, True])],
    np.s_[:, :, [0, 3]], np.s_[1, 2, 3], np.s_[:, []], np.s_[:, np.int64(4)],
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_stored_arrays_are_indexed_as_arrays(tmp_path, index):
    stored = ct.record(tmp_path / "run", network(), normal(3, 3, 4), **OPTIONS, chunk=6).xs
    expected = np.asarray(stored)[index]
    found = stored[index]
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(stored[[0, 1], [2, 9, 4]], np.asarray(stored)[:2][:, [2, 9, 4]])


@pytest.mark.parametrize("index", [3, np.s_[:, 21], np.s_[0, 0, 0, 0], "x", 0.5, None, [[1]]])
def test_bad_indices(tmp_path, index):
    stored = ct.record(tmp_path / "run", network(), normal(3, 3, 4), **OPTIONS).xs
    with pytest.raises(IndexError, match=r"^(index: expected|index 21 is)"):
        stored[index]


def test_invariants_take_a_part_at_a_time(tmp_path):
    rnn, x0 = network(5), normal(3, 2, 3, 5)
    run = ct.simulate(rnn, x0, **OPTIONS)
    recording = ct.record(tmp_path / "run", rnn, x0, **OPTIONS, chunk=4)
    for function in (ct.energy, ct.casimirs, ct.energy_drift):
        found, expected = function(rnn, recording.xs), function(rnn, run.xs)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=100 * EPS, atol=100 * EPS)


CHILD = textwrap.dedent("""
    import sys, os, resource
    import jax
    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    import ctrnn_jax as ct, diffrax
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), 20))
    x0 = jax.random.normal(jax.random.key(1), (64, 20))
    if len(sys.argv) > 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    ct.record(sys.argv[1], rnn, x0, dt=0.05, num_steps=4000, save_every=2, chunk=50,
              observe=lambda t, x: x[0] * t, fold=(0.0, lambda c, t, x: c + x[0]),
              solver=ct.PoissonSplitting(2, compensated=True))
""")


def child(path, *more):
    command = [sys.executable, "-c", CHILD, str(path), *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **pipes)


def succeeds(path):
    with child(path) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors


def contents(path):
    """The bytes of all that a reader sees; ends differ in nothing but the time of writing."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name not in ("lock", "network.ctrnn")
    }


def assert_whole_or_nothing(path, undisturbed):
    """What is told to be there is right, as this library reads it and as others do."""
    if not (path / "zarr.json").exists():
        return 0
    recording = ct.open_recording(path)
    if recording.num_saves:
        np.testing.assert_array_equal(recording.xs, undisturbed.xs[:, : len(recording)])
        with xarray.open_zarr(path) as dataset:
            np.testing.assert_array_equal(dataset.x, recording.xs)
            assert dataset.sizes["time"] == len(recording)
    return recording.num_saves


@pytest.mark.long
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.rare)])
@pytest.mark.skipif(not jax.config.jax_enable_x64, reason="the child runs in float64")
def test_survives_kills(tmp_path, kills):
    succeeds(tmp_path / "undisturbed")
    undisturbed = ct.open_recording(tmp_path / "undisturbed")
    path, chances, seen = tmp_path / "killed", random.Random(0), set()
    for _ in range(kills):
        with child(path) as process:
            before = assert_whole_or_nothing(path, undisturbed)
            # Until some chunks more are there; then at a moment that is no end of one.
            while process.poll() is None:
                if (path / "zarr.json").exists() and ct.open_recording(path).num_saves > before:
                    break
            time.sleep(0.02 * chances.random())
            process.send_signal(signal.SIGKILL)
            process.communicate()
        seen.add(assert_whole_or_nothing(path, undisturbed))
    assert max(seen) > 0
    succeeds(path)
    assert contents(path) == contents(undisturbed.path)


@pytest.mark.long
@pytest.mark.skipif(not jax.config.jax_enable_x64, reason="the child runs in float64")
def test_goes_on_where_there_was_no_room(tmp_path):
    path, limit = tmp_path / "run", 200_000  # bytes of a file: fewer than a chunk's
    process = child(path, str(limit))
    _, errors = process.communicate()
    assert process.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith("OSError: [Errno 27] path: expected a disk to write to;")
    assert ct.open_recording(path).num_saves == 0
    assert not list(path.rglob("*.partial"))
    for other in (path, tmp_path / "undisturbed"):
        succeeds(other)
    assert contents(path) == contents(tmp_path / "undisturbed")


def interrupted(path, saves, **changes):
    """A recording of which only so many saves are made."""
    rnn, x0 = network(), normal(3, 3, 4)
    stop = {"at": saves}

    def observe(t, x):
        return x[0]

    class Stop(Exception):
        pass

    written = record_module._Writer.write

    def write(self, begin, run, end):
        written(self, begin, run, end)
        if begin + self.header["chunk"] >= stop["at"]:
            raise Stop

    options = OPTIONS | {"chunk": 4, "observe": observe} | changes
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(record_module._Writer, "write", write)
        ct.record(path, rnn, x0, **options)
    return rnn, x0, options


def test_what_a_process_did_not_live_to_describe(tmp_path):
    rnn, x0 = network(), normal(3, 3, 4)
    path = ct.record(tmp_path / "run", rnn, x0, **OPTIONS, chunk=6).path
    told = (path / "x" / "zarr.json").read_bytes()
    (path / "x" / "zarr.json").write_bytes(told.replace(b"21", b"12"))
    ct.record(path, rnn, x0, **OPTIONS)
    assert (path / "x" / "zarr.json").read_bytes() == told


def test_one_that_grows_can_be_read(tmp_path):
    path = tmp_path / "run"
    rnn, x0, options = interrupted(path, 8)
    early = ct.open_recording(path)
    assert (len(early), early.complete, early.xs.shape) == (8, False, (3, 8, 4))
    assert int(early.end.step) == 40
    whole = ct.record(path, rnn, x0, **options)
    assert early[:3].xs.shape == (3, 3, 4)
    assert int(early.end.step) == 100  # the latest there is
    options.pop("chunk")
    assert_same(whole, ct.simulate(rnn, x0, **options))
    again = ct.record(path, rnn, x0, **options)  # nothing to do
    assert again.complete


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rnn": ct.CTRNN(network().weights)}, "rnn: {ELSE}"),
        ({"x0": normal(9, 3, 4)}, "x0: {ELSE}"),
        ({"dt": 0.051}, "dt: {ELSE}"),
        ({"num_steps": 200}, "num_steps: {ELSE}"),
        ({"save_every": 10}, "save_every: {ELSE}"),
        ({"solver": diffrax.Heun()}, "solver: {ELSE}"),
        ({"max_norm": 3.0}, "max_norm: {ELSE}"),
        ({"inputs": normal(1, 100, 1)}, "inputs: {ELSE}"),
        ({"chunk": 5}, "chunk: expected the 4 that"),
        ({"observe": None}, "observe: {ELSE}"),
    ],
)
@pytest.mark.by_default(3)
def test_another_run_does_not_go_on(tmp_path, changes, message):
    rnn, x0, options = interrupted(tmp_path / "run", 8)
    before = contents(tmp_path / "run")
    given = {"rnn": rnn, "x0": x0, **options} | changes
    with pytest.raises(ValueError) as refused:
        ct.record(tmp_path / "run", **given)
    message = message.format(ELSE="expected what ")
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
    assert contents(tmp_path / "run") == before


def test_another_machine_is_told(tmp_path):
    rnn, x0, options = interrupted(tmp_path / "run", 8)
    mesh = ct.batch_mesh(jax.devices()[:2])
    with pytest.warns(UserWarning, match="on 1 cpu device, not jax .* on 2 cpu devices: what fol"):
        assert ct.record(tmp_path / "run", rnn, x0, **options, mesh=mesh).complete


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": 3}, TypeError, "options: expected of solver, "),
        ({"adjoint": "direct"}, TypeError, "options: expected of solver, "),
        ({"num_steps": 101}, ValueError, "num_steps: expected a multiple of save_every = 5"),
        ({"chunk": 0}, ValueError, "chunk: expected an integer >= 1"),
        ({"keep_states": False}, ValueError, "observe: expected a function where keep_states"),
        ({"inputs": normal(1, 20, 1)}, ValueError, "inputs: expected shape (100, 1)"),
        ({"x0": normal(1, 3, 5)}, ValueError, "x0: expected shape (..., 4)"),
        ({"rtol": -1.0}, ValueError, "rtol: expected a finite number >= 0"),
        ({"path": "missing/run"}, FileNotFoundError, "path: expected a folder to make in an"),
        ({"path": "file"}, FileExistsError, "path: expected a folder to make, got the file"),
        ({"path": "other"}, ValueError, "path: expected a folder written by ctrnn_jax.record"),
    ],
)
def test_bad_calls_write_nothing(tmp_path, monkeypatch, changes, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("mine")
    before = contents(tmp_path)
    given = {"path": "run", "rnn": network(), "x0": normal(3, 3, 4)} | OPTIONS | changes
    with pytest.raises(error) as refused:
        ct.record(given.pop("path"), **given)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
    assert contents(tmp_path) == before and not (tmp_path / "run").exists()


def test_traced_values_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"^x0: expected known values: record outside jit"):
        jax.jit(lambda x: ct.record(tmp_path / "run", network(), x, **OPTIONS).xs)(normal(3, 3, 4))


def damaged(path, how):
    if how == "a lost chunk":
        (path / "x" / "c" / "0" / "1" / "0").unlink()
    elif how == "half a chunk":
        os.truncate(path / "x" / "c" / "0" / "1" / "0", 8)
    elif how == "no description":
        (path / "zarr.json").unlink()
    elif how == "half a description":
        os.truncate(path / "zarr.json", 100)
    else:
        root = json.loads((path / "zarr.json").read_text())
        root["attributes"]["ctrnn"]["version"] = 99
        (path / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize(
    "how", ["a lost chunk", "half a chunk", "no description", "half a description", "newer"]
)
def test_damage_is_told(tmp_path, how):
    path = ct.record(tmp_path / "run", network(), normal(3, 3, 4), **OPTIONS, chunk=6).path
    damaged(path, how)
    with pytest.raises(ValueError, match=r"^path: expected ") as refused:
        ct.open_recording(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(FileNotFoundError):
        ct.open_recording(tmp_path / "none")


def test_two_at_once_are_refused(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    rnn, x0, options = interrupted(tmp_path / "run", 8)
    with open(tmp_path / "run" / "ctrnn" / "lock", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match=r"^path: expected no process that records there"):
            ct.record(tmp_path / "run", rnn, x0, **options)
    assert ct.record(tmp_path / "run", rnn, x0, **options).complete


def test_an_end_may_begin_a_recording(tmp_path):
    rnn, x0 = network(), normal(3, 3, 4)
    whole = ct.simulate(rnn, x0, dt=0.05, num_steps=140, save_every=5)
    first = ct.record(tmp_path / "first", rnn, x0, dt=0.05, num_steps=40, save_every=5)
    then = ct.record(tmp_path / "then", rnn, first.end, **OPTIONS, chunk=6)
    np.testing.assert_array_equal(then.ts, whole.ts[8:])
    np.testing.assert_allclose(then.xs, whole.xs[:, 8:], rtol=1e3 * EPS, atol=1e3 * EPS)


@pytest.fixture
def no_figure_is_left():
    yield
    plt.close("all")


PICTURES = {
    "time_series": lambda rnn, run: ct.plot.time_series(run, index=1),
    "phase_portrait": lambda rnn, run: ct.plot.phase_portrait(run),
    "energy_drift": ct.plot.energy_drift,
    "spectrum": lambda rnn, run: ct.plot.spectrum(run),
    "spectrogram": lambda rnn, run: ct.plot.spectrogram(run, index=2),
}


@pytest.mark.usefixtures("no_figure_is_left")
@pytest.mark.parametrize("batch", [(3,), (3, 2)])
@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.by_default(4)
def test_pictures_are_those_of_the_run(tmp_path, name, batch):
    rnn, x0, options = network(), normal(3, *batch, 4), OPTIONS | {"num_steps": 400}
    runs = ct.simulate(rnn, x0, **options), ct.record(tmp_path / "run", rnn, x0, **options)
    lines = [[line.get_xydata() for line in PICTURES[name](rnn, run).lines] for run in runs]
    for expected, found in zip(*lines, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("no_figure_is_left")
def test_pictures_of_long_recordings_read_what_can_be_seen(tmp_path, monkeypatch):
    from ctrnn_jax.plot import _saves

    monkeypatch.setattr(_saves, "_MOST_ROWS", 2)
    monkeypatch.setattr(_saves, "_LEAST_SAVES", 7)
    monkeypatch.setattr(_saves, "_MOST_VALUES", 7)
    rnn, x0 = network(), normal(3, 3, 4)
    recording = ct.record(tmp_path / "run", rnn, x0, **OPTIONS, chunk=4)
    assert len(ct.plot.energy_drift(rnn, recording).lines[0].get_xdata()) == 6  # 0 left out
    ax = ct.plot.phase_portrait(recording)
    texts = [ax.get_title(), *(text.get_text() for text in ax.texts)]
    assert any("2 of 3" in text for text in texts)
