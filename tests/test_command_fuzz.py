"""Random options, files and numbers: each is answered in one line, none by a traceback.

Combinations are drawn anew for each seed; most are nonsense, some are runs.
"""

import contextlib
import io
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import X64
from safetensors.numpy import save_file
from scipy.io import wavfile

import ctrnn_jax as ct
from ctrnn_jax._command import app

NUMBERS = [
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e-300",
    "1e300",
    "1e30",
    "2147483648",
    "1" + 400 * "0",
]
NUMBERS += [
    str(2**63),
    str(2**64),
    "-9223372036854775809",
    "",
    "é",
    "1.5",
    "٣",
    "1_0",
    " 2",
    "None",
]
WORDS = ["", "é", "\udcff", "a b", "tanh:3", "-", "--", "🎵", "rk4", "nan", "x" * 300, "a\nb", "."]
FILES = ["skew.npy", "skew.csv", "states.npy", "vector.npy", "vector.csv", "nan.npy", "huge.npy",
         "int.npy", "objects.npy", "complex.npy", "none.npy", "one.npy", "scalar.npy", "cube.npy",
         "words.csv", "binary.csv", "empty.csv", "broken.npz", "two.npz", "good.npz", "folder.npy",
         "folder", "notes.txt", "m.ctrnn", "rnn.ctrnn", "half.ctrnn", "junk.ctrnn", "missing.npy",
         "report.json", "nested.json", "list.json", "y.csv", "t.csv", "tone.wav", "short.wav",
         "half.wav", "two.safetensors", "junk.safetensors", "junk.pt",
         "/dev/null", "/proc/x/y", "notes.txt/x", "é.npy", "x" * 300,
         "", "."]  # fmt: skip
OUT = ["o", "deep/er/o", "folder", *FILES, *WORDS]
SOLVERS = ["euler", "rk4", "discrete_gradient", "poisson_splitting:4", "poisson_splitting:99"]
SOLVERS += ["exact_linear", "projected:heun", "projected:", "kvaerno3", ":", "rk4:2", *WORDS]
ACTIVATIONS = ["linear", "relu", "exp", "sigmoid", "sin", "Hard-Tanh", *WORDS]
FORMS = ["rate", "current", *WORDS]
DTYPES = ["float32", "float64", "float16", *WORDS]
DEVICES = ["cpu", "cpu:0", "cpu:-1", "cpu:9", "gpu", "cpu:", ":", *WORDS]

# What is always there keeps a run short, and a value that is drawn comes after it.
SMALL = {
    "simulate": ["--states", "2", "--neurons", "2", "--steps", "4", "--no-progress"],
    "train": ["--no-progress"],
    "generate": ["--duration", "0.5"],
    "reproduce": ["--no-progress"],
    "bench": ["--quick"],
    "compare": [],
    "info": [],
    "export": [],
    "analyse": ["--quick", "--no-progress"],
}
OPTIONS = {
    "simulate": {
        "--weights": FILES, "--array": ["a", *WORDS], "--initial-states": FILES,
        "--bias": FILES + NUMBERS, "--leak": NUMBERS,
        "--neurons": NUMBERS, "--scale": NUMBERS, "--states": NUMBERS, "--amplitude": NUMBERS,
        "--seed": NUMBERS, "--activation": ACTIVATIONS, "--form": FORMS, "--solver": SOLVERS,
        "--dt": NUMBERS, "--steps": NUMBERS, "--duration": NUMBERS, "--save-every": NUMBERS,
        "--rtol": NUMBERS, "--atol": NUMBERS, "--max-norm": NUMBERS, "--dtype": DTYPES,
        "--inputs": ["u4.npy", *FILES], "--input-weights": FILES, "--input-scale": NUMBERS,
        "--noise": NUMBERS,
        "--device": DEVICES, "--devices": NUMBERS, "--skew-part": None, "--unconstrained": None,
        "--out": OUT,
    },
    "train": {
        "--frequency": NUMBERS, "--signal": FILES, "--inputs": FILES, "--dt": NUMBERS,
        "--hold-out": NUMBERS,
        "--neurons": NUMBERS, "--activation": ACTIVATIONS, "--form": FORMS, "--amplitude": NUMBERS,
        "--steps": NUMBERS, "--seed": NUMBERS, "--dtype": DTYPES, "--device": DEVICES, "--out": OUT,
    },
    "generate": {"--duration": NUMBERS, "--dt": NUMBERS, "--rate": NUMBERS, "--inputs": FILES,
                 "--out": [*OUT, "o.csv", "o.wav", "o.npy"]},
    "reproduce": {"--figure": ["1", "chaos", *NUMBERS], "--out": OUT,
                  "--set": ["figure1.omega=1e300", "figure1.omega=nan", "x", "=", "omega=", "a=[",
                            "figure1.points=0", "figure4.w_m=[]", "figure4.w_m=" + "[" * 5000]},
    "bench": {"--suite": ["throughput", *WORDS], "--out": OUT},
    "compare": {},
    "info": {"--x": WORDS},
    "export": {"--to": ["csv", "npz", "mat", "nc", "zarr", *WORDS],
               "--out": [*OUT, "o.csv", "o.npz", "o.mat", "o.nc", "o.zarr"]},
    "analyse": {"--weights": FILES, "--array": ["a", *WORDS], "--activation": ACTIVATIONS,
                "--form": FORMS, "--seed": NUMBERS, "--device": DEVICES, "--skew-part": None,
                "--out": OUT},
}  # fmt: skip
ARGUMENTS = {"generate": ["m.ctrnn", *FILES], "compare": FILES, "info": FILES,
             "export": ["rnn.ctrnn", *FILES],
             "analyse": ["rnn.ctrnn", "m.ctrnn", *FILES]}  # fmt: skip
TOLD = r"expected .+, got .+|\[Errno|Invalid value|No such|Missing|requires an arg|[Uu]nexpected"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of all kinds, good and bad."""
    monkeypatch.chdir(tmp_path)
    A = np.array([[0, 1.0], [-1, 0]])
    arrays = {"skew": A, "states": np.ones((3, 2)), "vector": np.ones(2), "nan": A * np.nan,
              "huge": A * 1e300, "int": A.astype(int), "complex": A * 1j, "none": np.zeros((0, 0)),
              "one": np.zeros((1, 1)), "scalar": np.array(1.0), "cube": np.zeros((2, 2, 2)),
              "u4": np.ones((4, 2)), "é": A.astype(np.float16)}  # fmt: skip
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    np.save("objects.npy", np.array([{}, None]), allow_pickle=True)
    np.savez("two.npz", a=A, b=A)
    np.savez("good.npz", A)
    save_file({"a": A, "b": A}, "two.safetensors")
    texts = {"skew.csv": "0,1\n-1,0\n", "vector.csv": "1\n2\n", "words.csv": "a,b\nc,d\n",
             "empty.csv": "", "notes.txt": "notes", "broken.npz": "PK\3\4", "junk.ctrnn": "PK\3\4",
             "junk.safetensors": "PK\3\4", "junk.pt": "PK\3\4",
             "nested.json": "[" * 100000, "list.json": "[]", "y.csv": "1\n2\n1\n2\n",
             "t.csv": "t,y\n0,1\n1,2\n2,1\n3,2\n"}  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    (tmp_path / "report.json").write_text(json.dumps({"environment": {}, "suites": {}}))
    for name in ("folder", "folder.npy"):
        (tmp_path / name).mkdir()
    wavfile.write("tone.wav", 8000, np.zeros(100, np.int16))
    wavfile.write("short.wav", 8000, np.zeros(1, np.int16))
    (tmp_path / "half.wav").write_bytes((tmp_path / "tone.wav").read_bytes()[:50])
    rnn = ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([5.0])), ct.Linear())
    ct.save("rnn.ctrnn", rnn)
    ct.save("m.ctrnn", ct.Oscillator(rnn, jnp.array([1.0, 0.0]), jnp.array([[1.0, 0.0]])))
    (tmp_path / "half.ctrnn").write_bytes((tmp_path / "m.ctrnn").read_bytes()[:300])
    yield tmp_path
    jax.config.update("jax_enable_x64", X64)


def combination(random):
    """The arguments of one call."""
    commands = list(OPTIONS)
    shares = [0.38, 0.17, 0.15, 0.08, 0.04, 0.05, 0.02, 0.05, 0.06]
    command = commands[random.choice(len(commands), p=shares)]
    options = OPTIONS[command]
    chosen = []
    for _ in range(random.integers(1, 5) if options else 0):
        name = str(random.choice(list(options)))
        values = options[name]
        chosen += [name] if values is None else [name, values[random.integers(len(values))]]
    places = ARGUMENTS.get(command, [])
    count = {"generate": 1, "compare": 2, "info": 1, "export": 1}.get(command, 0)
    count += int(command == "analyse" and "--weights" not in chosen)
    count += int(random.random() < 0.05)
    chosen += [places[random.integers(len(places))] for _ in range(count) if places]
    # What is right takes seconds: one is wrong.
    if command in ("train", "reproduce", "bench", "analyse"):
        chosen += {
            "train": ["--dtype", "float16"], "reproduce": ["--set", "no.such=1"],
            "bench": ["--suite", "no"], "analyse": ["--dtype", "float16"],
        }[command] * bool(random.random() < 0.97)  # fmt: skip
    name = ["bench", "compare"] if command == "compare" else [command]
    return [*name, *SMALL[command], *chosen]


def answer(arguments):
    """Status, standard output and error."""
    jax.config.update("jax_enable_x64", False)
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["ctrnn", *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            app.main()
    return end.value.code, out.getvalue(), error.getvalue()


def check(folder, arguments):
    """One call: what it says, and what it leaves."""
    status, _, error = answer(arguments)
    assert status in (0, 1, 2), arguments
    if status == 2:
        assert error.startswith("ctrnn: ") and error.count("\n") == 1, (arguments, error)
        assert re.search(TOLD, error), (arguments, error)
    hidden = [path for path in folder.rglob(".*") if path.name != "."]
    assert not hidden, (arguments, hidden)


@pytest.mark.slow
def test_no_combination_ends_in_a_traceback(folder):
    random = np.random.default_rng(2025)
    for _ in range(300):
        check(folder, combination(random))
