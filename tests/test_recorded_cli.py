"""`ctrnn simulate --record` and `--resume`."""

import json

import numpy as np
import pytest
from conftest import X64

import ctrnn_jax as ct
from ctrnn_jax._command import options, recorded
from ctrnn_jax._command.app import app
from ctrnn_jax._files import record as record_module

pytestmark = pytest.mark.one_dtype

RUN = ["simulate", "--neurons", "4", "--states", "6", "--steps", "400", "--save-every", "2",
       "--dtype", "float64" if X64 else "float32", "--no-progress", "--devices", "1"]  # fmt: skip


def run(folder, *arguments):
    app([*RUN, "--out", str(folder), *map(str, arguments)], standalone_mode=False)
    return json.loads((folder / "summary.json").read_text())["results"]


def contents(folder):
    return {str(f): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.by_default(0)
def test_the_numbers_and_pictures_are_those_of_a_run_in_memory(tmp_path, capsys):
    recorded, plain = run(tmp_path / "r", "--record"), run(tmp_path / "p")
    assert recorded["recording"] == "recording.zarr" and plain["recording"] is None
    for name in ("median_relative_energy_drift", "max_relative_energy_drift"):
        np.testing.assert_allclose(recorded[name], plain[name], rtol=0.5)
    assert recorded["dominant_frequency_hz"] == pytest.approx(plain["dominant_frequency_hz"], 1e-5)
    xs = ct.open_recording(tmp_path / "r" / "recording.zarr").xs
    np.testing.assert_allclose(xs, ct.load(tmp_path / "p" / "trajectory.ctrnn").xs, atol=1e-5)
    names = [{p.name for p in (tmp_path / k).iterdir()} for k in "rp"]
    assert names[0] ^ names[1] == {"recording.zarr", "settings.json", "trajectory.ctrnn"}
    assert "compilation and writing included" in capsys.readouterr().out


class Stop(Exception):
    pass


def interrupted(folder, monkeypatch, *arguments):
    monkeypatch.setattr(record_module, "_CHUNK_BYTES", 5000)
    monkeypatch.setattr(record_module, "_LEAST_SAVES", 1)
    written = record_module._Writer.write

    def write(self, begin, run, end):
        written(self, begin, run, end)
        if begin > 80:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(record_module._Writer, "write", write)
        run(folder, "--record", *arguments)


@pytest.mark.by_default(0)
def test_it_is_resumed_with_the_options_it_had(tmp_path, capsys, monkeypatch):
    W = np.random.default_rng(0).normal(size=(4, 4))
    np.savetxt(tmp_path / "A.csv", W - W.T, delimiter=",")
    monkeypatch.chdir(tmp_path)
    more = ["--weights", "A.csv", "--solver", "RK4", "--bias", "0.1", "--max-norm", "9"]
    interrupted(tmp_path / "r", monkeypatch, *more)
    early = ct.open_recording(tmp_path / "r" / "recording.zarr")
    assert 80 < early.num_saves < 201
    monkeypatch.chdir("/")  # files are found from anywhere
    app(["simulate", "--resume", "--out", str(tmp_path / "r"), "--no-progress"],
        standalone_mode=False)  # fmt: skip
    whole = ct.open_recording(tmp_path / "r" / "recording.zarr")
    assert whole.complete and len(whole) == 201 and whole.settings["solver"] == "RK4()"
    monkeypatch.chdir(tmp_path)
    again = run(tmp_path / "r", "--record", *more)  # the same once more: nothing is to be done
    assert again["state_steps_per_s"] is None
    assert "not measured: recorded before" in capsys.readouterr().out
    run(tmp_path / "u", "--record", *more)
    np.testing.assert_array_equal(whole.xs, ct.open_recording(tmp_path / "u" / "recording.zarr").xs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--record", "--seed", "1"], "--out: expected a folder without a recording of other opt"),
        (["--resume", "--seed", "1"], "--resume: expected no options besides --out, "),
    ],
)
def test_another_run_does_not_go_on(tmp_path, monkeypatch, arguments, message):
    interrupted(tmp_path / "r", monkeypatch)
    before = contents(tmp_path / "r")
    with pytest.raises(ValueError) as refused:
        run(tmp_path / "r", *arguments)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
    assert contents(tmp_path / "r") == before


def test_nothing_to_resume(tmp_path):
    with pytest.raises(ValueError, match=r"^--resume: expected a folder in --out with a recording"):
        app(["simulate", "--resume", "--out", str(tmp_path)], standalone_mode=False)


@pytest.mark.by_default(0)
def test_states_that_would_take_half_of_the_memory_are_recorded(tmp_path, capsys, monkeypatch):
    saved = 6 * 201 * 4 * np.dtype(float if X64 else np.float32).itemsize
    for module in (options, recorded):
        monkeypatch.setattr(module, "available_memory", lambda: 2 * 5 * saved - 1)
    assert run(tmp_path / "r")["recording"] == "recording.zarr"
    assert "of memory available: they go to" in capsys.readouterr().out
    assert run(tmp_path / "p", "--no-record")["recording"] is None
    for module in (options, recorded):
        monkeypatch.setattr(module, "available_memory", lambda: 2 * 5 * saved)
    assert run(tmp_path / "q")["recording"] is None


@pytest.mark.by_default(0)
def test_info_export_and_initial_states_take_a_recording(tmp_path, capsys):
    run(tmp_path / "r", "--record", "--noise", "0.1")
    path = tmp_path / "r" / "recording.zarr"
    app(["info", str(path)], standalone_mode=False)
    told = capsys.readouterr().out
    assert "201 of 201" in told and "(6, 201, 4)" in told and "noise" in told
    app(["export", str(path), "--to", "npz", "--out", str(tmp_path / "a.npz")],
        standalone_mode=False)  # fmt: skip
    with np.load(tmp_path / "a.npz") as found:
        np.testing.assert_array_equal(found["x"], ct.open_recording(path).xs)
        assert json.loads(str(found["attributes"]))["solver"] == "Euler()"
    options = [*RUN[1:3], "--steps", "10", *RUN[9:]]
    begin = ["--initial-states", str(path), "--out", str(tmp_path / "s")]
    app(["simulate", *options, *begin], standalone_mode=False)
    xs = ct.load(tmp_path / "s" / "trajectory.ctrnn").xs
    np.testing.assert_array_equal(xs[:, 0], ct.open_recording(path).xs[:, -1])
