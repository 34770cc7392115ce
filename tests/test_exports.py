"""Exports, read by other libraries; what is told of a file; arrays by name."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import X64
from safetensors.numpy import save_file
from scipy.io import loadmat

import ctrnn_jax as ct
from ctrnn_jax._command import simulate, simulate_network
from ctrnn_jax._files.arrays import read_array
from ctrnn_jax._files.models import writer

F = jnp.result_type(float)
RNN = ct.CTRNN(ct.BlockSkew(jnp.array([1.0, 2.0], F)), leak=0.1)
FORMATS = ("csv", "npz", "mat", "nc", "zarr")


def observed(t, x):
    return {"norm": jnp.vdot(x, x), "z": (jax.lax.complex(x[:2], x[2:]), x.astype(jnp.float16)[:1])}


def run_of(shape=(3,), **options):
    x0 = jnp.linspace(0.1, 1.0, 4 * int(np.prod(shape)), dtype=F).reshape(*shape, 4)
    largest = (jnp.zeros((), F), lambda carry, t, x: jnp.maximum(carry, jnp.abs(x).max()))
    options = {"observe": observed, "fold": largest, "max_norm": 0.9, **options}
    return ct.simulate(RNN, x0, dt=0.1, num_steps=6, save_every=2, solver=ct.RK4(), **options)


@pytest.mark.parametrize(
    ("shape", "dims"),
    [((), ()), ((3,), ("trajectory",)), ((2, 3), ("batch_0", "batch_1"))],
)
def test_dataset_of_a_run(shape, dims):
    run = run_of(shape)
    data = run.to_xarray()
    assert data.x.dims == (*dims, "time", "neuron") and data.stopped_at.dims == dims
    assert data.time.attrs["units"] == "s" and set(data.coords) == {"time"}
    assert data.attrs["ctrnn_jax_version"] == ct.__version__
    np.testing.assert_array_equal(data.x.sel(time=0.4, method="nearest"), run.xs[..., 2, :])
    np.testing.assert_array_equal(data.observed_norm, run.observed["norm"])
    assert data.observed_z_0.dims == (*dims, "time", "observed_z_0_0")
    np.testing.assert_array_equal(data.folded, run.folded)
    np.testing.assert_array_equal(data.stopped_at, run.stopped_at)
    assert data.x.dtype == F and data.observed_z_1.dtype == np.float32


def test_datasets_of_vmapped_runs():
    def with_step(dt):
        return ct.simulate(RNN, jnp.ones(4, F), dt=dt, num_steps=3)

    same = jax.vmap(lambda x0: ct.simulate(RNN, x0, dt=0.1, num_steps=3))(jnp.ones((2, 5, 4), F))
    assert same.to_xarray().x.dims == ("batch_0", "batch_1", "time", "neuron")
    own = jax.vmap(with_step)(jnp.array([0.1, 0.2], F)).to_xarray()
    assert own.x.dims == ("trajectory", "save", "neuron")
    assert own.time.dims == ("trajectory", "save") and "time" in own.coords


def test_no_dataset_of_what_is_traced():
    with pytest.raises(TypeError, match=r"^run: expected known values: outside jit, .*, got a tr"):
        jax.jit(lambda: run_of().to_xarray())()


def read_back(path):
    """The arrays of a file by name, read by what others read it with, and its attributes."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = dict(file)
        return arrays, json.loads(arrays.pop("attributes").item())
    if path.suffix == ".mat":
        arrays = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
        told = arrays.pop("attributes")[0, 0]
        return arrays, {name: told[name].item() for name in told.dtype.names}
    opened = xr.open_zarr(path) if path.suffix == ".zarr" else xr.open_dataset(path)
    with opened as data:
        return {name: value.to_numpy() for name, value in data.variables.items()}, data.attrs


def table_of(path):
    """By Python's conversion: that of pandas rounds."""
    return pd.read_csv(path, dtype=str).astype(float)


@pytest.mark.parametrize("to", FORMATS[1:])
def test_trajectories_come_back_to_the_bit(ctrnn, tmp_path, to):
    run = run_of()
    ct.save(tmp_path / "run.ctrnn", run)
    status, told, error = ctrnn("export", tmp_path / "run.ctrnn", "--to", to)
    assert status == 0 and told.count("\n") == 1 and "x (3, 4, 4)" in told, error
    arrays, attributes = read_back(tmp_path / f"run.{to}")
    assert attributes["kind"] == "Trajectory"
    assert attributes["ctrnn_jax_version"] == ct.__version__
    z = np.asarray(run.observed["z"][0])
    expected = {"time": run.ts, "x": run.xs, "observed_norm": run.observed["norm"],
                "observed_z_1": run.observed["z"][1], "folded": run.folded,
                "stopped_at": run.stopped_at, "unconverged_at": run.unconverged_at,
                **({"observed_z_0_real": z.real, "observed_z_0_imag": z.imag} if to == "nc"
                   else {"observed_z_0": z})}  # fmt: skip
    assert arrays.keys() == expected.keys()
    for name, value in expected.items():
        found = arrays[name].squeeze() if to == "mat" else arrays[name]
        value = np.asarray(value).squeeze() if to == "mat" else np.asarray(value)
        np.testing.assert_array_equal(found, value, err_msg=name)
        assert found.dtype == value.dtype or value.dtype.itemsize == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["run.ctrnn", f"run.{to}"])


def test_a_table_of_a_run_has_a_row_for_each_save(ctrnn, tmp_path):
    run = run_of((2, 3))
    ct.save(tmp_path / "run.ctrnn", run)
    assert ctrnn("export", tmp_path / "run.ctrnn", "--to", "csv")[0] == 0
    table = table_of(tmp_path / "run.csv")
    assert [*table][:7] == ["batch_0", "batch_1", "time", "x1", "x2", "x3", "x4"]
    assert {"observed_norm", "observed_z_0_real2", "folded", "stopped_at"} <= {*table}
    assert len(table) == 2 * 3 * 4
    row = table[(table.batch_0 == 1) & (table.batch_1 == 2)].iloc[3]
    assert F.type(row.time) == run.ts[3] and row.stopped_at == int(run.stopped_at[1, 2])
    np.testing.assert_array_equal(row[["x1", "x2", "x3", "x4"]].astype(F), run.xs[1, 2, 3])
    assert F.type(row.folded) == run.folded[1, 2]


def test_a_table_of_one_trajectory_is_read_as_a_signal(ctrnn, tmp_path):
    run = run_of((), observe=None, fold=None)
    ct.save(tmp_path / "run.ctrnn", run)
    ctrnn("export", tmp_path / "run.ctrnn", "--out", tmp_path / "y.csv")
    signal = ct.read_signal(tmp_path / "y.csv", columns=["x1", "x3"])
    assert signal.dt == pytest.approx(0.2, rel=1e-6)
    np.testing.assert_array_equal(signal.samples.astype(F), np.asarray(run.xs)[:, [0, 2]])


def test_a_table_of_a_run_without_saves_has_a_row_for_each_trajectory(ctrnn, tmp_path):
    ct.save(tmp_path / "run.ctrnn", run_of(keep_states=False, observe=None))
    ctrnn("export", tmp_path / "run.ctrnn", "--to", "csv")
    table = table_of(tmp_path / "run.csv")
    assert [*table] == ["trajectory", "folded", "stopped_at", "unconverged_at"] and len(table) == 3


def network(key=None):
    weights = ct.DenseSkew.init(jax.random.key(0) if key is None else key, 4, dtype=F)
    B, b = jnp.arange(8.0, dtype=F).reshape(4, 2), jnp.arange(4.0, dtype=F)
    return ct.CTRNN(ct.Damped(weights, 0.5), ct.Sin(), "current", bias=b, leak=0.25,
                    input_weights=B)  # fmt: skip


@pytest.mark.parametrize("to", FORMATS)
def test_networks_and_oscillators(ctrnn, tmp_path, to):
    rnn = network()
    readout = jnp.arange(8.0, dtype=F).reshape(2, 4)
    model = ct.Oscillator(rnn, jnp.ones(4, F), readout, ["x0"], offset=jnp.ones(2, F))
    ct.save(tmp_path / "m.ctrnn", model)
    assert ctrnn("export", tmp_path / "m.ctrnn", "--to", to)[0] == 0
    A = np.asarray(rnn.weights.as_matrix())
    if to == "csv":
        table = table_of(tmp_path / "m.csv")
        np.testing.assert_array_equal(table[["A1", "A2", "A3", "A4"]].astype(F), A)
        np.testing.assert_array_equal(table[["readout1", "readout2"]].astype(F), readout.T)
        assert [*table.bias] == [0, 1, 2, 3] and set(table.leak) == {0.25} == {table.leak[0]}
        assert len(table) == 4 and "input_weights2" in table and "offset2" in table
        return
    arrays, told = read_back(tmp_path / f"m.{to}")
    parts = {"A": A, "bias": rnn.bias, "leak": rnn.leak, "input_weights": rnn.input_weights,
             "x0": model.x0, "readout": model.readout, "offset": model.offset}  # fmt: skip
    assert arrays.keys() == parts.keys()
    for name, value in parts.items():
        value = np.asarray(value)
        np.testing.assert_array_equal(arrays[name].reshape(value.shape), value, err_msg=name)
    assert told["kind"] == "Oscillator" and told["weights"] == "Damped"
    assert (told["activation"], told["form"], told["frozen"]) == ("Sin", "current", "x0")


def test_ensembles_and_weights_alone(ctrnn, tmp_path):
    ensemble = jax.vmap(network)(jax.random.split(jax.random.key(1), 3))
    for name, obj in (("e", ensemble), ("w", network().weights)):
        ct.save(tmp_path / f"{name}.ctrnn", obj)
        ctrnn("export", tmp_path / f"{name}.ctrnn", "--to", "nc")
    with xr.open_dataset(tmp_path / "e.nc") as data:
        assert data.A.dims == ("member", "neuron", "source") and data.bias.dims == data.A.dims[:2]
        matrix = jax.vmap(lambda weights: weights.as_matrix())(ensemble.weights)
        np.testing.assert_array_equal(data.A, matrix)
        assert data.A.attrs["units"] == "1/s" and data.leak.dims == ("member",)
    ctrnn("export", tmp_path / "e.ctrnn", "--to", "csv")
    assert len(table_of(tmp_path / "e.csv")) == 3 * 4
    # A table of weights alone is a matrix that the command reads.
    ctrnn("export", tmp_path / "w.ctrnn", "--to", "csv")
    matrix = read_array("--weights", tmp_path / "w.csv").astype(F)
    np.testing.assert_array_equal(matrix, network().weights.as_matrix())


BAD = [
    (["run.ctrnn"], "--to: expected one of 'csv', 'npz', 'mat', 'nc', 'zarr', got None"),
    (["run.ctrnn", "--to", "hdf"], "--to: expected one of 'csv', "),
    (["run.ctrnn", "--out", "run.hdf"], "--to: expected one of 'csv', "),
    (["no.ctrnn", "--to", "csv"], "FILE: expected an existing file, got no.ctrnn"),
    (["run.npz", "--to", "csv"], "run.npz: expected a file written by ctrnn_jax.save, got a zip"),
    (["tree.ctrnn", "--to", "csv"], "FILE: expected a file with a trajectory, a network, an oscill"
     "ator or weights, got dict"),
    (["run.ctrnn", "--to", "zarr", "--out", "folder"], "--out: expected a file, got the folder f"),
    (["run.ctrnn", "--to", "npz"], "--out: expected a file that is not there yet, got run.npz"),
    (["run.ctrnn", "--to", "csv", "--out", "run.ctrnn"], "--out: expected a file that is not th"),
    (["run.ctrnn", "--to", "nc", "--out", "run.npz/a.nc"], "--out: expected a folder, got the f"),
]  # fmt: skip


@pytest.mark.parametrize("arguments,message", BAD)
@pytest.mark.by_default(4)
def test_bad_exports_are_one_line_and_leave_nothing(ctrnn, tmp_path, arguments, message):
    ct.save("run.ctrnn", run_of())
    ct.save("tree.ctrnn", {"rnn": RNN})
    np.savez("run.npz", a=np.eye(2))
    (tmp_path / "folder").mkdir()
    before = {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    status, _, error = ctrnn("export", *arguments)
    assert status == 2 and error.startswith(f"ctrnn: {message}") and error.count("\n") == 1, error
    assert {p.name: p.stat().st_size for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("module,to", [("xarray", "nc"), ("zarr", "zarr")])
def test_what_is_not_installed_is_named(ctrnn, tmp_path, monkeypatch, module, to):
    monkeypatch.setitem(sys.modules, module, None)  # as Python marks what cannot be imported
    ct.save(tmp_path / "run.ctrnn", run_of())
    status, _, error = ctrnn("export", tmp_path / "run.ctrnn", "--to", to)
    hint = f'{module}: expected what pip install "ctrnn-jax[files]" brings, got '
    assert status == 2 and error.startswith(f"ctrnn: {hint}") and error.count("\n") == 1
    if module == "xarray":
        with pytest.raises(ImportError, match=re.escape(hint)):
            run_of().to_xarray()


@pytest.mark.parametrize("to", FORMATS)
def test_a_full_disk_leaves_nothing(ctrnn, tmp_path, to):
    resource = pytest.importorskip("resource")
    ct.save(tmp_path / "w.ctrnn", ct.DenseWeights.init(jax.random.key(0), 100))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        status, _, error = ctrnn("export", tmp_path / "w.ctrnn", "--to", to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2 and error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["w.ctrnn"]


def test_info_tells_what_a_file_holds(ctrnn, tmp_path):
    ct.save(tmp_path / "m.ctrnn", network())
    ct.save(tmp_path / "t.ctrnn", {"runs": [run_of()], "seed": 3, "σ": ct.Tanh()})
    status, told, _ = ctrnn("info", tmp_path / "m.ctrnn")
    rows = dict(re.split(" +", row, maxsplit=1) for row in told.splitlines())
    assert status == 0
    assert (rows["kind"], rows["weights"], rows["activation"]) == ("CTRNN", "Damped", "Sin")
    assert rows["A"] == f"{F} (4, 4): neuron, source, in 1/s" and rows["form"] == "current"
    assert rows["ctrnn_jax_version"] == writer(tmp_path / "m.ctrnn") == ct.__version__
    _, told, _ = ctrnn("info", tmp_path / "t.ctrnn")
    for row in (
        r"kind +dict of 3",
        r"runs\.0\.kind +Trajectory",
        rf"runs\.0\.time +{F} \(4,\): time, in s, from 0 to 0.6",
        rf"runs\.0\.x +{F} \(3, 4, 4\): trajectory, time, neuron",
        r"runs\.0\.stopped_at +int32 \(3,\): trajectory, 2 of 3",
        r"seed +3",
        r"σ +Tanh",
    ):
        assert re.search(rf"^{row}$", told, re.M), (row, told)
    status, _, error = ctrnn("info", tmp_path / "no.ctrnn")
    assert status == 2 and error.startswith("ctrnn: FILE: expected an existing file, got ")


@pytest.mark.long
def test_settings_of_a_run_are_found_beside_it(ctrnn, tmp_path):
    simulate.simulate_to_folder(
        simulate.Settings(tmp_path, states=2, neurons=2, steps=40, solver="rk4", progress=False)
    )
    run = ct.load(tmp_path / "trajectory.ctrnn")
    ct.save(
        tmp_path / "other.ctrnn", jax.tree.map(lambda leaf: leaf[:1] if leaf.ndim else leaf, run)
    )
    for name, known in (("trajectory", True), ("other", False)):
        _, told, _ = ctrnn("info", tmp_path / f"{name}.ctrnn")
        assert (re.search(r"^solver +RK4$", told, re.M) is not None) == known
        assert (re.search(r"^dt +0.05$", told, re.M) is not None) == known
    ctrnn("export", tmp_path / "trajectory.ctrnn", "--to", "npz")
    assert read_back(tmp_path / "trajectory.npz")[1]["solver"] == "RK4"


# Arrays by name.

SKEW = np.array([[0, 1.5], [-1.5, 0]], np.float32)


@pytest.fixture(params=[".npz", ".safetensors", ".pt"])
def several(request, tmp_path):
    """A file of two arrays, `cell.A` and `b`."""
    path, arrays = tmp_path / f"model{request.param}", {"cell.A": SKEW, "b": np.ones(3)}
    if request.param == ".npz":
        np.savez(path, **arrays)
    elif request.param == ".safetensors":
        save_file(arrays, path)
    else:
        torch = pytest.importorskip("torch", reason="PyTorch, which writes .pt files, is missing")
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        # As trainings save it: the state dict within other things.
        torch.save({"cell": {"A": tensors["cell.A"]}, "b": tensors["b"], "epoch": 3}, path)
    return path


def test_weights_by_name(ctrnn, several):
    np.testing.assert_array_equal(read_array("--weights", several, "cell.A"), SKEW)
    settings = simulate.Settings(weights=several, array="cell.A")
    weights = simulate_network._weights(settings, F)
    np.testing.assert_array_equal(weights.as_matrix(), SKEW.astype(F))
    listed = (r"cell\.A \(2, 2\)", r"b \(3,\)")
    either = f"(?:{', '.join(listed)}|{', '.join(reversed(listed))})"
    for arguments, message in (
        (["--weights", several], f"--weights: expected a file of one array, got 2 arrays: {either}"
                                 r" \(--array decides\)"),
        (["--weights", several, "--array", "W"], f"--array: expected one of {either}, got 'W'"),
        (["--bias", several], f"--bias: expected a file of one array, got 2 arrays: {either}"),
        (["--array", "W"], "--array: expected a matrix in --weights, got none"),
    ):  # fmt: skip
        arguments = [*arguments, "--out", several.parent / "o", "--no-progress"]
        status, _, error = ctrnn("simulate", *arguments)
        assert status == 2 and re.fullmatch(f"ctrnn: {message}\n", error), error


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_half_precision_and_junk(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch = pytest.importorskip("torch", reason="PyTorch, which writes .pt files, is missing")
        torch.save(torch.tensor(SKEW, dtype=torch.bfloat16), path)
    else:
        save_file({"A": SKEW.astype(jnp.bfloat16)}, path)
    found = read_array("--weights", path)
    assert found.dtype == np.float32 and np.array_equal(found, SKEW)
    path.write_bytes(b"junk" * 9)
    with pytest.raises(ValueError, match=r"^--weights: expected .*, got a\.\w+[^\n]*$"):
        read_array("--weights", path)


def test_the_only_array_has_no_name(tmp_path):
    (tmp_path / "A.csv").write_text("0,1\n-1,0\n")
    np.save(tmp_path / "A.npy", SKEW)
    for name in ("A.csv", "A.npy"):
        with pytest.raises(ValueError, match="array: expected none: the file holds one array, got"):
            read_array("--weights", tmp_path / name, "A")


def test_torch_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pt").write_bytes(b"junk")
    with pytest.raises(ImportError, match="torch: expected what pip install torch brings, got"):
        read_array("--weights", tmp_path / "a.pt")


def test_x64_is_as_before(ctrnn, tmp_path):
    ct.save(tmp_path / "run.ctrnn", run_of())
    ctrnn("export", tmp_path / "run.ctrnn", "--to", "npz")
    assert jax.config.jax_enable_x64 == X64
