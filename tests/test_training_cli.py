"""`ctrnn train` and `ctrnn generate` in a folder of their own, and signals as files."""

import json
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from scipy.io import wavfile

import ctrnn_jax as ct
from ctrnn_jax._files.signals import read_signal, write_signal

pytestmark = pytest.mark.one_dtype

QUIET = ["--no-progress"]


def _files(folder):
    return {path.name for path in folder.iterdir()}


def _strict(path):
    def refuse(token):
        raise ValueError(token)

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.long
def test_a_frequency(ctrnn, tmp_path):
    options = ["--neurons", "2", "--steps", "0", "--amplitude", "2", "--seed", "3", *QUIET]
    status, out, error = ctrnn("train", "--frequency", "3.2", *options, "--out", "deep/er")
    assert status == 0, error
    assert "3.2 Hz" in out and "results in deep/er" in out
    folder = tmp_path / "deep" / "er"
    pictures = {"spectrum.png", "signal.png", "phase_portrait.png"}
    assert _files(folder) == {"oscillator.ctrnn", "report.json", *pictures}
    assert _files(folder.parent) == {"er"}
    contents = _strict(folder / "report.json")
    assert contents["report"]["target_hz"] == 3.2 and contents["report"]["closed"] is True
    assert contents["report"]["error"] < 1e-3 and contents["settings"]["seed"] == 3

    # The model as the command wrote it, and its signal as the other command writes it.
    model = folder / "oscillator.ctrnn"
    status, out, error = ctrnn(
        "generate", model, "--duration", "10", "--rate", 64, "--out", "y.npy"
    )
    assert status == 0, error
    assert "640 samples" in out
    y = np.load(tmp_path / "y.npy")
    assert y.shape == (640, 1) and y.dtype == np.float64
    assert np.array_equal(y, ct.load(model).generate(1 / 64, 639))
    power = np.abs(np.fft.rfft(y[:, 0])) ** 2
    assert np.fft.rfftfreq(640, 1 / 64)[power.argmax()] == 3.2
    assert np.isclose(y.std(), 2, rtol=1e-2)


@pytest.mark.long
def test_a_chord(ctrnn, tmp_path):
    lines = ["--frequency", "4", "--frequency", "5"]
    status, out, error = ctrnn("train", *lines, "--neurons", "4", "--dtype", "float32", *QUIET)
    assert status == 0, error
    assert "4, 5 Hz" in out
    report = _strict(tmp_path / "runs" / "train" / "report.json")["report"]
    assert report["target_hz"] == [4, 5] and max(report["error"]) < 5e-3
    oscillator = ct.load(tmp_path / "runs" / "train" / "oscillator.ctrnn")
    assert oscillator.x0.dtype == jnp.float32 and oscillator.rnn.size == 4


@pytest.mark.long
def test_a_signal(ctrnn, tmp_path):
    t = 0.01 * np.arange(400)
    y = np.stack([np.sin(2 * np.pi * 1.3 * t), 0.5 * np.cos(2 * np.pi * 1.3 * t) + 1], axis=1)
    np.savetxt(tmp_path / "y.csv", np.c_[t, y], "%.6f", ",", header="time,a,b", comments="")
    options = ["--neurons", "2", "--steps", "2", "--hold-out", "0.25", *QUIET]
    status, out, error = ctrnn("train", "--signal", "y.csv", *options, "--out", "o")
    assert status == 0, error
    assert "y.csv, 400 samples every 0.01 s, 2 channels" in out
    names = {"oscillator.ctrnn", "report.json", "spectrum.png", "signal.png", "phase_portrait.png"}
    assert names <= _files(tmp_path / "o")
    contents = _strict(tmp_path / "o" / "report.json")
    assert contents["report"]["training_samples"] == 300
    assert len(contents["report"]["held_out_nrmse"]) == 2
    assert contents["settings"]["signal"] == "y.csv"


@pytest.mark.rare
def test_a_signal_with_gaps_at_uneven_times(ctrnn, tmp_path):
    random = np.random.default_rng(0)
    t = np.sort(random.uniform(0, 4, 200))
    y = np.stack([np.sin(2 * np.pi * 1.3 * t), 0.5 * np.cos(2 * np.pi * 1.3 * t) + 1], axis=1)
    cells = [[f"{1e3 * a:.6f}", f"{b:.6f}", f"{c:.6f}"] for a, (b, c) in zip(t, y, strict=True)]
    for row in cells[10:200:9]:
        row[1] = ""
    lines = ["time [ms],a,b", *(",".join(row) for row in cells)]
    (tmp_path / "y.csv").write_text("\n".join(lines) + "\n")
    options = ["--neurons", "2", "--steps", "0", *QUIET]
    status, out, error = ctrnn("train", "--signal", "y.csv", *options, "--out", "o")
    assert status == 0, error
    assert "22 values missing, at uneven times within" in out
    names = {"oscillator.ctrnn", "report.json", "spectrum.png", "signal.png", "phase_portrait.png"}
    assert names <= _files(tmp_path / "o")
    contents = _strict(tmp_path / "o" / "report.json")
    assert max(contents["report"]["held_out_nrmse"]) < (1e-4 if X64 else 0.05)
    oscillator = ct.load(tmp_path / "o" / "oscillator.ctrnn")
    there = oscillator.generate(0.01, save_at=jnp.asarray(t - t[0], oscillator.x0.dtype))
    np.testing.assert_allclose(there, y, atol=1e-4 if X64 else 0.05)


def _model(**options):
    """One exact sinusoid and a constant: y = (2 cos 2π 5 t, 3)."""
    rnn = ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([5.0])), ct.Linear())
    readout = jnp.array([[2.0, 0.0], [0.0, 0.0]])
    x0, offset = jnp.array([1.0, 0.0]), jnp.array([0.0, 3.0])
    return ct.Oscillator(rnn, x0, readout, offset=offset, **options)


def test_generate_to_each_format(ctrnn, tmp_path):
    ct.save("m.ctrnn", _model())
    tolerance = 1e-3 if X64 else 3e-3
    for name in ("y.npy", "y.csv", "deep/y.wav"):
        status, _, error = ctrnn("generate", "m.ctrnn", "--duration", "0.5", "--out", name)
        assert status == 0, error
    assert _files(tmp_path) == {"m.ctrnn", "y.npy", "y.csv", "deep"}
    assert _files(tmp_path / "deep") == {"y.wav"}

    # A twentieth of the period of 5 Hz, unless the model knows better.
    y = np.load("y.npy")
    exact = np.stack([2 * np.cos(2 * np.pi * 5 * 0.01 * np.arange(50)), np.full(50, 3.0)], axis=1)
    assert y.shape == (50, 2) and np.allclose(y, exact, atol=tolerance)
    table = np.genfromtxt("y.csv", delimiter=",", names=True)
    assert table.dtype.names == ("t", "y1", "y2")
    assert np.allclose(table["t"], 0.01 * np.arange(50), rtol=0, atol=1e-12)
    assert np.array_equal(np.c_[table["y1"], table["y2"]].astype(y.dtype), y)
    rate, samples = wavfile.read("deep/y.wav")
    assert rate == 44100 and samples.dtype == np.int16 and samples.shape == (22050, 2)
    exact = 2 * np.cos(2 * np.pi * 5 * np.arange(22050) / 44100)
    assert np.abs(samples[:, 0] - 0.9 * 32767 * exact / 3).max() < 2 + 3e4 * tolerance
    assert (samples[:, 1] == round(0.9 * 32767)).all()


def test_samples_far_apart_are_integrated_in_steps_that_suit_the_model(ctrnn, tmp_path):
    ct.save("m.ctrnn", _model(max_step=0.001))
    options = ["--dt", "0.19", "--out", "y.npy"]
    status, _, error = ctrnn("generate", "m.ctrnn", "--duration", "1.9", *options)
    assert status == 0, error
    exact = 2 * np.cos(2 * np.pi * 5 * 0.19 * np.arange(10))
    assert np.allclose(np.load("y.npy")[:, 0], exact, atol=1e-6 if X64 else 1e-3)


@pytest.mark.parametrize("name", ["y.npy", "y.csv", "y.wav"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_signals_round_trip(tmp_path, name, dtype):
    y = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype(dtype)
    y[7] = 1
    write_signal(tmp_path / name, y, 1 / 8000)
    assert _files(tmp_path) == {name}
    read = read_signal(tmp_path / name)
    again, dt = read.samples, read.dt
    assert again.dtype == np.float64 and again.shape == y.shape
    if name == "y.wav":
        assert dt == 1 / 8000 and np.allclose(again, 0.9 * y, atol=1e-4)
    else:
        assert np.array_equal(again.astype(dtype), y)
        assert (dt is None) == (name == "y.npy") and (dt is None or np.isclose(dt, 1 / 8000))


@pytest.mark.parametrize(
    "text,shape,dt",
    [
        ("1\n2\n3\n4\n5\n", (5,), None),
        ("1,2.5\n3,4\n5,6\n8,8\n", (4, 2), None),
        ("# made by hand\nvoltage\n1 # first\n2\n\n3\n4\n", (4,), None),
        ("\ufeffTime (s);volt\n0,5;1,5\n1,0;2\n1,5;3\n2,0;4\n", (4,), 0.5),
        ('"t",a,b\n0.0,1,2\n0.3333,3,4\n0.6667,5,6\n1.0,7,8\n', (4, 2), 1 / 3),
        ("t y\n0 1\n2 3\n4 5\n6 7\n", (4,), 2.0),
        ("trend,y\n0,1\n2,3\n5,5\n6,7\n", (4, 2), None),
    ],
)
def test_csv_dialects(tmp_path, text, shape, dt):
    (tmp_path / "y.csv").write_text(text, encoding="utf-8")
    read = read_signal(tmp_path / "y.csv")
    y, found = read.samples, read.dt
    assert y.shape == shape and (found is None) == (dt is None)
    assert dt is None or np.isclose(found, dt)


@pytest.mark.parametrize("dtype,zero,full", [(np.uint8, 128, 128), (np.int16, 0, 2**15),
                                             (np.int32, 0, 2**31), (np.float32, 0, 1)])  # fmt: skip
def test_wav_samples_are_scaled(tmp_path, dtype, zero, full):
    samples = (np.array([0, 0.5, -0.5, -1]) * full + zero).astype(dtype)
    wavfile.write(tmp_path / "y.WAV", 100, samples)
    read = read_signal(tmp_path / "y.WAV")
    y, dt = read.samples, read.dt
    assert dt == 0.01 and np.array_equal(y, [0, 0.5, -0.5, -1])


@pytest.mark.rare
def test_a_driven_signal(ctrnn, tmp_path):
    """Trained from tables of inputs and outputs; then another input, answered exactly as before."""
    random = np.random.default_rng(0)
    u = np.repeat(random.normal(size=60), 5)
    y, after = np.zeros(300), np.exp(-0.1 * (0.3 + 2j))
    state = 0j
    for k in range(299):
        state = after * state + u[k]
        y[k + 1] = state.real
    t = 0.1 * np.arange(300)
    np.savetxt("y.csv", np.c_[t, y], "%.9g", ",", header="t,y", comments="")
    np.savetxt("u.csv", np.c_[t, u], "%.9g", ",", header="t,force", comments="")
    options = ["--neurons", "2", "--steps", "10", *QUIET, "--out", "o"]
    status, out, error = ctrnn("train", "--signal", "y.csv", "--inputs", "u.csv", *options)
    assert status == 0, error
    assert "inputs        1, held" in out and "ARX of orders" in out
    names = {"oscillator.ctrnn", "report.json", "signal.png", "phase_portrait.png", "loss.png"}
    assert names <= _files(tmp_path / "o")
    contents = _strict(tmp_path / "o" / "report.json")
    assert contents["report"]["held_out_nrmse"][0] < 1e-3
    assert contents["settings"]["inputs"] == "u.csv"
    made = ["--inputs", "u.csv"]
    status, out, error = ctrnn("generate", "o/oscillator.ctrnn", *made, "--out", "again.csv")
    assert status == 0, error
    assert "300 samples of 1 channel, 0.1 s apart" in out
    again = np.genfromtxt("again.csv", delimiter=",", names=True)
    np.testing.assert_allclose(again["y1"], y, atol=2e-3 * y.std())
    for arguments, message in (
        (["generate", "o/oscillator.ctrnn", "--duration", "1"], "--inputs: expected a file with t"),
        (
            ["generate", "o/oscillator.ctrnn", *made, "--duration", "99"],
            "--duration: expected at m",
        ),
        (["generate", "o/oscillator.ctrnn", *made, "--dt", "1"], "--dt: expected none, or the 0.1"),
    ):
        status, _, error = ctrnn(*arguments)
        assert status == 2 and message in error and error.count("\n") == 1


GENERATE = ["generate", "m.ctrnn", "--duration", "1", "--out", "o.csv"]
BAD = [
    (["train"], "--frequency: expected either --frequency or --signal, got neither"),
    (["train", "--frequency", "1", "--signal", "a.csv"], "--signal, got both"),
    (["train", "--frequency", "0"], "--frequency: expected a finite number > 0, got 0.0"),
    (["train", "--frequency", "3", "--frequency", "nan"], "--frequency: expected a finite number"),
    (["train", "--frequency", "1", "--dt", "1"], "--dt: expected none with one --frequency"),
    (["train", "--frequency", "1", "--hold-out", "0"], "--hold-out: expected none with one"),
    (["train", "--frequency", "1", "--frequency", "2", "--steps", "5"], "--steps: expected none"),
    (["train", "--signal", "a.csv", "--amplitude", "1"], "--amplitude: expected none with --sig"),
    (["train", "--frequency", "1", "--frequency", "2", "--mode", "0"], "--mode: expected none"),
    (["train", "--frequency", "1", "--mode", "4"], "--mode: expected below the number of modes, 4"),
    (["train", "--frequency", "1", "--energy", "4"], "--energy: expected none without mode"),
    (["train", "--frequency", "1", "--neurons", "1"], "--neurons: expected an integer >= 2, got 1"),
    (["train", "--frequency", "1", "--activation", "swish"], "--activation: expected one of"),
    (["train", "--frequency", "1", "--activation", "relu"], "--activation: expected an odd one"),
    (["train", "--frequency", "1", "--form", "spiking"], "--form: expected one of 'rate'"),
    (["train", "--frequency", "1", "--dtype", "int8"], "--dtype: expected one of 'float32'"),
    (["train", "--frequency", "1", "--device", "tpu:9"], "--device: expected one of cpu:0"),
    (["train", "--frequency", "1", "--out", "a.csv"], "--out: expected a folder, got the file"),
    (["train", "--signal", "a.csv"], "--dt: expected the sampling interval of a.csv in seconds"),
    (["train", "--signal", "a.csv", "--dt", "0"], "--dt: expected a finite number > 0, got 0.0"),
    (["train", "--signal", "t.csv", "--dt", "1"], "--dt: expected none, or the 0.5 s that t.csv"),
    (["train", "--signal", "no.csv"], "--signal: expected an existing file, got no.csv"),
    (["train", "--signal", "y.txt"], "--signal: expected a .npy, .npz, .csv or .wav file, got y"),
    (["train", "--frequency", "1", "--array", "a"], "--array: expected none with one --frequency"),
    (["train", "--signal", "uneven.csv", "--dt", "1"], "--dt: expected none, as uneven.csv has un"),
    (["train", "--signal", "uneven.csv", "--inputs", "t.csv"], "--inputs: expected none, as sampl"),
    (["train", "--signal", "nan.npy", "--dt", "1", "--inputs", "t.csv"], "--inputs: expected none"),
    (["train", "--signal", "t.csv", "--inputs", "gap.csv"], "--inputs: expected finite values"),
    (["train", "--signal", "inf.csv"], "--signal: expected finite values, got 1 non-finite of 4"),
    (["train", "--signal", "ms.csv"], "--signal: expected times in s, ms, us, ns, min or h"),
    (["train", "--signal", "words.csv"], "--signal: expected rows of numbers, got 'c,d' in line 2"),
    (["train", "--signal", "empty.csv"], "--signal: expected rows of numbers, got none"),
    (["train", "--signal", "commas.csv"], "one number or two (--decimal decides)"),
    (["train", "--signal", "rising.csv"], "a channel (--time-column or --columns decides)"),
    (["train", "--signal", "two.npz"], "--signal: expected a file of one array, got 2 arrays:"
     " a (9,), b (9,) (--array decides)"),
    (["train", "--signal", "bad.wav"], "--signal: expected a readable .wav file, got bad.wav"),
    (["train", "--signal", "bad.npy"], "--signal: expected a readable .npy file, got bad.npy"),
    (["train", "--signal", "nan.npy"], "--dt: expected the sampling interval of nan.npy in sec"),
    (["train", "--signal", "few.npy"], "--signal: expected at least 4 samples, got 3"),
    (["train", "--signal", "wide.npy"], "expected samples (S,) or (S, channels), got shape (2, 9)"),
    (["train", "--signal", "complex.npy"], "--signal: expected real numbers, got dtype complex128"),
    ([*GENERATE, "--dt", "0.1", "--rate", "9"], "--rate: expected either --dt or --rate, got both"),
    ([*GENERATE, "--rate", "0"], "--rate: expected a finite number > 0, got 0.0"),
    ([*GENERATE, "--duration", "0"], "--duration: expected a finite number > 0, got 0.0"),
    ([*GENERATE, "--duration", "0.001"], "--duration: expected at least two samples of 0.01 s"),
    ([*GENERATE, "--duration", "1e9"], "--duration: expected at most 2^28 values"),
    ([*GENERATE, "--dt", "1e9", "--duration", "1e10"], "--duration: expected at most 2^28 values"),
    ([*GENERATE, "--out", "o.mp3"], "--out: expected a .npy, .csv or .wav file, got o.mp3"),
    ([*GENERATE, "--out", "o.wav", "--rate", "9.5"], "--rate: expected a whole number of samples"),
    ([*GENERATE, "--out", "o.wav", "--rate", "3e9"], "--rate: expected 1 to 1073741823 samples"),
    (["generate", "no.ctrnn", "--duration", "1"], "MODEL: expected an existing file, got no.ctrnn"),
    (["generate", "rnn.ctrnn", "--duration", "1"], "MODEL: expected a file with an Oscillator"),
    (["generate", "ensemble.ctrnn", "--duration", "1"], "MODEL: expected one Oscillator, got an"),
    (["generate", "a.csv", "--duration", "1"], "a.csv: expected"),
    ([*GENERATE[:-1], "a.csv"], "--out: expected a file that is not there yet, got a.csv"),
    (["generate", "m.ctrnn"], "--duration: expected the length of the signal in seconds, got none"),
    ([*GENERATE, "--inputs", "t.csv"], "--inputs: expected none, as MODEL has no inputs, got t"),
    ([*GENERATE, "--inputs", "no.csv"], "--inputs: expected an existing file, got no.csv"),
    (["train", "--frequency", "1", "--inputs", "t.csv"], "--inputs: expected none with one --freq"),
    (["train", "--signal", "t.csv", "--inputs", "no.csv"], "--inputs: expected an existing file"),
    (["train", "--signal", "t.csv", "--inputs", "few.npy"], "--inputs: expected 4 samples, as many "
     "as t.csv has, got 3"),
    (["train", "--signal", "t.csv", "--inputs", "other.csv"], "--inputs: expected samples every "
     "0.5 s, as t.csv has, got 0.25 s"),
]  # fmt: skip


def test_bad_input_is_one_line_and_leaves_nothing(ctrnn, tmp_path):
    texts = {
        "a.csv": "1\n2\n3\n4\n", "t.csv": "t,y\n0,1\n0.5,1\n1,2\n1.5,1\n",
        "other.csv": "t,u\n0,1\n0.25,1\n0.5,2\n0.75,1\n", "y.txt": "1\n2\n3\n4\n",
        "uneven.csv": "t,y\n0,1\n1,2\n3,3\n4,4\n", "ms.csv": "time [years],y\n0,1\n1,2\n2,3\n3,4\n",
        "words.csv": "a,b\nc,d\n", "empty.csv": "", "bad.wav": "RIFF", "bad.npy": "numpy",
        "gap.csv": "t,u\n0,1\n0.5,\n1,2\n1.5,1\n", "inf.csv": "t,y\n0,1\n1,inf\n2,2\n3,1\n",
        "commas.csv": "1,5\n2,5\n1,5\n4,5\n", "rising.csv": "0.0 1\n0.1 2\n0.2 1\n0.3 1\n",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    np.save("nan.npy", [np.nan, *range(8)])
    np.save("few.npy", np.arange(3.0))
    np.savez("two.npz", a=np.ones(9), b=np.ones(9))
    np.save("wide.npy", np.zeros((2, 9)))
    np.save("complex.npy", np.zeros(9, complex))
    model = _model()
    ct.save("m.ctrnn", model)
    ct.save("rnn.ctrnn", model.rnn)
    ct.save("ensemble.ctrnn", jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), model))
    before = _files(tmp_path)
    for arguments, message in BAD:
        status, out, error = ctrnn(*arguments, *QUIET * (arguments[0] == "train"))
        assert message in error, arguments
        assert status == 2 and error.count("\n") == 1 and not out, arguments
        assert _files(tmp_path) == before, arguments


@pytest.mark.long
def test_interrupt_ends_a_training_at_once_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "ctrnn_jax", "train", "--frequency", "3", "--steps", "1000000"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        while b"%" not in process.stderr.read(8):  # the progress bar: it is computing
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) != 0
    assert list(tmp_path.iterdir()) == []


def test_help_explains(ctrnn):
    assert all(word in ctrnn("--help")[1] for word in ("train", "generate"))
    assert "--hold-out" in ctrnn("train", "--help")[1]
    assert "--rate" in ctrnn("generate", "--help")[1]
