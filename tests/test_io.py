"""save and load: exact to the bit, complete or not at all, and clear about what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from inspect import isabstract
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrnn_jax._files import models
from ctrnn_jax._files.models import load, save
from ctrnn_jax._network import activations, weights
from ctrnn_jax._network.activations import Arctan, CustomActivation, Linear, Tanh
from ctrnn_jax._network.model import CTRNN
from ctrnn_jax._network.weights import BlockSkew, DenseSkew
from ctrnn_jax._simulate.api import simulate
from ctrnn_jax._simulate.trajectory import Trajectory
from ctrnn_jax._train.oscillator import Oscillator

KEY = jax.random.key(0)
# Those that arrays of this run can have: 64 bits only with x64.
DTYPES = [name for name in models._DTYPES if jax.dtypes.canonicalize_dtype(name) == name]


def special_floats(dtype):
    """Zero, the smallest subnormal, infinity and a signalling NaN, of both signs."""
    bits = np.dtype(f"u{dtype.itemsize}")
    infinity, sign = (np.array(x, dtype).view(bits) for x in (np.inf, -0.0))
    values = np.stack([0 * sign, 0 * sign + 1, infinity, infinity + 1]).astype(bits)
    return np.concatenate([values, values | sign]).view(dtype)


def leaf_bits(leaf):
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return leaf.dtype.name, leaf.shape, np.asarray(leaf).tobytes()
    return type(leaf), repr(leaf)


def assert_same(got, expected):
    """The same structure, static settings, types and bits; arrays are JAX arrays now."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert leaf_bits(a) == leaf_bits(b)
        assert isinstance(a, jax.Array) == isinstance(b, jax.Array | np.ndarray | np.generic)


def concrete(base):
    """Every class of the package below `base` that can have instances."""
    found = [c for sub in base.__subclasses__() for c in [sub, *concrete(sub)]]
    return [c for c in found if c.__module__.startswith("ctrnn_jax.") and not isabstract(c)]


WEIGHTS = {c.__name__: c for c in concrete(weights.AbstractWeights)}
KINDS = concrete(activations.AbstractActivation)
ACTIVATIONS = {c.__name__: c for c in KINDS if c.__module__ == activations.__name__}


def make_weights(name, dtype):
    if name == "SkewMatrix":
        return make_weights("DenseSkew", dtype).prepared()
    if name == "SkewFactors":
        return make_weights("LowRankSkew", dtype).prepared()
    if name == "BipartitePair":
        return make_weights("BipartiteSkew", dtype).prepared()
    return jax.tree.map(lambda leaf: leaf.astype(dtype), WEIGHTS[name].init(KEY, 6))


def make_trajectory():
    return Trajectory(
        ts=jnp.arange(3.0),
        xs=jnp.ones((2, 3, 4), jnp.float32),
        observed={
            "z": [jnp.asarray(special_floats(jnp.result_type(float))), None, ()],
            "a": (1, -0.0, float("nan"), True, "ω\ud800"),
        },
        folded=[
            {"max": np.float32(2), "b": 1 - 0j},
            {3: 4},
            (2**80, float("inf"), complex("nan-0j")),
            {},
            [],
        ],
        stopped_at=jnp.array([-1, 7]),
        unconverged_at=jnp.array([-1, -1], jnp.int32),
    )


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dtype", [name for name in DTYPES if name in ("float32", "float64")])
def test_every_weights_class_round_trips(tmp_path, name, dtype):
    rnn = CTRNN(make_weights(name, dtype), Linear(), form="current", bias=jnp.ones(6, dtype))
    save(tmp_path / "rnn", rnn)
    assert_same(load(tmp_path / "rnn"), rnn)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_round_trips(tmp_path, name):
    args = (Tanh(),) if name == "CustomActivation" else ()
    activation = ACTIVATIONS[name](*args)
    save(tmp_path / "a", activation)
    assert_same(load(tmp_path / "a"), activation)


def test_a_loaded_model_computes_the_same(tmp_path):
    rnn, x = CTRNN(BlockSkew.init(KEY, 6), leak=0.5), jnp.linspace(0.0, 1.0, 6)
    save(tmp_path / "rnn", rnn)
    same = load(tmp_path / "rnn")
    assert (
        eqx.filter_jit(same)(0.0, x, None).tobytes() == eqx.filter_jit(rnn)(0.0, x, None).tobytes()
    )


def test_trajectory_with_nested_trees_round_trips(tmp_path):
    save(str(tmp_path / "run.with.dots"), make_trajectory())  # a string, and no extension added
    assert_same(load(str(tmp_path / "run.with.dots")), make_trajectory())
    assert [file.name for file in tmp_path.iterdir()] == ["run.with.dots"]


def test_an_ensemble_of_vmap_round_trips(tmp_path):
    keys = jax.random.split(KEY, 5)
    make = eqx.filter_vmap(lambda key: CTRNN(DenseSkew.init(key, 4), form="current", leak=0.1))
    ensemble = make(keys)
    assert ensemble.weights.W.shape == (5, 4, 4)
    save(tmp_path / "ensemble", ensemble)
    assert_same(load(tmp_path / "ensemble"), ensemble)


def test_files_of_before_there_were_inputs_load():
    """`tests/saved`, by commit f76f46a, in float32: an oscillator with a leak, and a run of it."""
    folder = Path(__file__).parent / "saved"
    rnn = CTRNN(DenseSkew(jnp.arange(9, dtype="float32").reshape(3, 3) / 8), Arctan(), "current",
                leak=jnp.float32(0.5))  # fmt: skip
    x0, readout = jnp.array([0.1, 0.2, 0.3], "float32"), jnp.eye(3, dtype="float32")[:1]
    assert_same(load(folder / "oscillator.ctrnn"), Oscillator(rnn, x0, readout))
    run = load(folder / "trajectory.ctrnn")
    again = simulate(rnn, jnp.ones((2, 3), "float32"), dt=0.1, num_steps=4, save_every=2)
    np.testing.assert_allclose(run.xs, again.xs, rtol=1e-6)
    with pytest.raises(ValueError, match="end: expected a trajectory made by simulate"):
        _ = run.end


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_keeps_every_bit(tmp_path, dtype):
    dtype = jnp.dtype(dtype)
    bits = np.random.default_rng(0).bytes(24 * dtype.itemsize)
    array = np.frombuffer(bits, "u1") < 99 if dtype.kind == "b" else np.frombuffer(bits, dtype)
    array = array[:24].reshape(2, 3, 4)
    trees = [array, jnp.asarray(array), array.T, array[:, ::2], array[0, 0, 0], array[:0]]
    if jnp.issubdtype(dtype, jnp.floating):
        trees += [special_floats(dtype), jnp.asarray(special_floats(dtype))]
    save(tmp_path / "tree", trees)
    assert_same(load(tmp_path / "tree"), trees)


def test_foreign_byte_order_is_converted(tmp_path):
    save(tmp_path / "a", np.arange(3, dtype=">f4"))
    assert_same(load(tmp_path / "a"), np.arange(3, dtype="f4"))


def test_dict_order_and_key_types_survive(tmp_path):
    tree = {"b": 1, 2: "two", None: 3, False: 4, 0.5: 5}
    save(tmp_path / "d", tree)
    assert [*map(repr, load(tmp_path / "d").items())] == [*map(repr, tree.items())]


def test_the_same_object_gives_the_same_bytes(tmp_path):
    save(tmp_path / "a", make_trajectory())
    save(tmp_path / "b", make_trajectory())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# What cannot be saved.


class Pair(NamedTuple):
    a: int
    b: int


class Foreign(eqx.Module):
    a: int = 0


class Lookalike(eqx.Module):
    pass


Lookalike.__name__ = "Tanh"


@pytest.mark.parametrize(
    "bad, message",
    [
        (CTRNN(BlockSkew.init(KEY, 2), CustomActivation(jnp.sin)), r"obj\.activation\.fn: .* sin,"),
        (CustomActivation(lambda z: z), r"obj\.fn: expected .*, got function <lambda>"),
        ({"k": [0, {1}]}, r"obj\['k'\]\[1\]: expected .*, got set"),
        (Foreign(), "obj: expected .*, got Foreign"),
        (Lookalike(), "obj: expected .*, got Tanh"),
        (Pair(1, 2), "obj: expected .*, got Pair"),
        (Tanh, "obj: expected .* Tanh"),
        (KEY, r"obj: expected a dtype out of .*, got key<fry>"),
        (np.array(["a"]), r"obj: expected a dtype out of .*, got str"),
        (np.array([None]), r"obj: expected a dtype out of .*, got object"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "obj: expected .*, got MaskedArray"),
        ({(1, 2): 0}, r"key of obj: expected .*, got tuple \(1, 2\)"),
        ({np.float64(1): 0}, r"key of obj: expected .*, got float64 "),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, bad, message):
    with pytest.raises(TypeError, match=message):
        save(tmp_path / "bad", bad)
    assert list(tmp_path.iterdir()) == []


def test_traced_arrays_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"obj\.weights\.omega: .* outside jit"):
        eqx.filter_jit(lambda rnn: save(tmp_path / "rnn", rnn))(CTRNN(BlockSkew.init(KEY, 2)))


def test_what_equinox_can_save_is_named(tmp_path):
    for bad in (CustomActivation(jnp.sin), Foreign()):
        with pytest.raises(TypeError, match=r"eqx\.tree_serialise_leaves"):
            save(tmp_path / "bad", bad)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    for obj in (1, 2):
        save(tmp_path / "link", obj)
        assert (tmp_path / "link").is_symlink() and load(tmp_path / "real" / "a") == obj


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"path: expected .*{tmp_path / 'no'}"):
        save(tmp_path / "no" / "rnn", 1)


# Writes that fail leave everything as it was.


def assert_fails_cleanly(folder, error, path, obj):
    before = {file: file.is_dir() or file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(error):
        save(path, obj)
    assert {file: file.is_dir() or file.read_bytes() for file in folder.iterdir()} == before


def test_an_unsaveable_leaf_keeps_the_old_file(tmp_path):
    save(tmp_path / "a", [jnp.ones(3)])
    assert_fails_cleanly(tmp_path, TypeError, tmp_path / "a", [jnp.zeros(3), object()])
    save(tmp_path / "a", [jnp.zeros(3)])
    assert_same(load(tmp_path / "a"), [jnp.zeros(3)])


def test_a_failed_replace_leaves_no_temporary(tmp_path):
    (tmp_path / "folder").mkdir()
    assert_fails_cleanly(tmp_path, OSError, tmp_path / "folder", jnp.ones(3))


def test_a_full_disk_keeps_the_old_file(tmp_path):
    resource = pytest.importorskip("resource")
    save(tmp_path / "a", jnp.ones(3))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # a real write error, for root also
    try:
        assert_fails_cleanly(tmp_path, OSError, tmp_path / "a", jnp.zeros(4096))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# What cannot be loaded.


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A saved model with a static setting, and its bytes."""
    rnn = CTRNN(BlockSkew(jnp.array([1.0, 2.0])), form="current", leak=0.5)
    path = tmp_path_factory.mktemp("good") / "rnn"
    save(path, rnn)
    return rnn, path.read_bytes()


def refusal(path: Path, data: bytes | None = None) -> str:
    """The message of the ValueError that loading must give: one line that starts with the path."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        load(path)
    message = str(caught.value)
    assert type(caught.value) is ValueError
    assert message.startswith(f"{path}: expected ")
    assert "\n" not in message
    return message


def test_truncation_anywhere_is_refused(tmp_path, good):
    _, data = good
    for length in [*np.linspace(0, len(data) - 1, 30).astype(int), len(data) - 2]:
        assert "undamaged" in refusal(tmp_path / "part", data[:length]), length


def test_truncation_behind_a_file_within_the_file_is_refused(tmp_path, good):
    _, inner = good
    save(tmp_path / "outer", np.frombuffer(inner, np.uint8))
    outer = (tmp_path / "outer").read_bytes()
    assert_same(load(tmp_path / "outer"), np.frombuffer(inner, np.uint8))
    end = outer.index(inner) + len(inner)
    assert "a whole, uncompressed file" in refusal(tmp_path / "part", outer[:end])


def test_sizes_beyond_the_file_are_refused_before_reading(tmp_path, good):
    with zipfile.ZipFile(BytesIO(good[1])) as archive:
        header = archive.read("header.json")
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", header)
        archive.writestr("0.npy", bytes(10**6))
    assert "a whole, uncompressed file" in refusal(tmp_path / "bomb")


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_is_refused_or_harmless(tmp_path, good, flip):
    rnn, data = good
    refused = 0
    for position in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[position] ^= flip
        (tmp_path / "rnn").write_bytes(damaged)
        try:
            got = load(tmp_path / "rnn")
        except ValueError as error:
            assert str(error).startswith(f"{tmp_path / 'rnn'}: expected ")
            refused += 1
        else:
            assert_same(got, rnn)
    assert refused > 0.7 * len(range(0, len(data), 5))  # the rest: dates, attributes, versions


def test_every_flipped_byte_of_content_is_refused(tmp_path, good):
    _, data = good
    with zipfile.ZipFile(BytesIO(data)) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    for content in contents:
        start = data.index(content)
        for position in range(start, start + len(content), 7):
            damaged = bytearray(data)
            damaged[position] ^= 0x10
            refusal(tmp_path / "rnn", bytes(damaged))


def test_files_of_another_kind_are_refused(tmp_path):
    np.savez(tmp_path / "plain.npz", a=np.ones(3))
    assert "zip of another kind" in refusal(tmp_path / "plain.npz")
    np.savez_compressed(tmp_path / "small.npz", a=np.ones(3000))
    assert "zip of another kind" in refusal(tmp_path / "small.npz")
    refusal(tmp_path / "text", b"not a zip file\n" * 100)
    refusal(tmp_path / "empty", b"")
    with zipfile.ZipFile(tmp_path / "foreign", "w") as archive:
        archive.writestr("header.json", "{}")
    refusal(tmp_path / "foreign")


def test_missing_files_and_folders_keep_their_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)


def rewritten(path: Path, source: Path, change) -> Path:
    """A copy with a changed header, or members, and valid checksums."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(members["header.json"])
    change(header, members)
    members["header.json"] = json.dumps(header).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def fields(header):
    return header["tree"]["module"][1]


def array(header):
    return fields(header)["weights"]["module"][1]["omega"]["array"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda h, m: h.update(version=2), "version 1, got 2: written by a newer version"),
        (lambda h, m: h.update(version="x"), "undamaged"),
        (lambda h, m: h.update(format="other"), "got other"),
        (lambda h, m: h.pop("tree"), "undamaged"),
        (lambda h, m: h["tree"]["module"].__setitem__(0, "os.system"), "got os.system"),
        (lambda h, m: fields(h).pop("bias"), "fields .*'bias'"),
        (lambda h, m: fields(h).update(extra=1), "got .*'extra'"),
        (lambda h, m: fields(h).update(bias={"set": []}), "got {'set': "),
        (lambda h, m: fields(h).update(bias=1.5), "got 1.5"),
        (lambda h, m: fields(h).update(weights="A"), "CTRNN that its constructor takes"),
        (lambda h, m: fields(h).update(form="spiking"), "form: expected one of"),
        (lambda h, m: fields(h).update(leak="0.5"), "an array as leak of CTRNN, got str"),
        (lambda h, m: array(h).__setitem__(1, "int32"), "of int32 .*, got float"),
        (lambda h, m: array(h).__setitem__(1, "object"), "got object"),
        (lambda h, m: array(h).__setitem__(2, [1, 2]), r"\(1, 2\), got .*\(2,\)"),
        (lambda h, m: m.pop("0.npy"), "member 0.npy, got none"),
        (lambda h, m: m.update({"9.npy": b""}), r"no further members, got \['9.npy'\]"),
        (lambda h, m: m.update({"0.npy": m["0.npy"][:-8]}), "undamaged"),
        (lambda h, m: m.update({"0.npy": m["0.npy"] + bytes(8)}), "undamaged"),
        (lambda h, m: m.update({"0.npy": b"junk"}), "undamaged"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, good, change, message):
    rnn, data = good
    (tmp_path / "good").write_bytes(data)
    assert_same(load(rewritten(tmp_path / "same", tmp_path / "good", lambda h, m: None)), rnn)
    with pytest.raises(ValueError, match=message):
        load(rewritten(tmp_path / "bad", tmp_path / "good", change))
    refusal(tmp_path / "bad")


def test_pickled_arrays_are_never_unpickled(tmp_path, good):
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "exploded").touch, ())

    (tmp_path / "good").write_bytes(good[1])
    np.save(tmp_path / "bomb.npy", np.array([Bomb(), Bomb()]), allow_pickle=True)
    bomb = (tmp_path / "bomb.npy").read_bytes()
    refusal(rewritten(tmp_path / "bad", tmp_path / "good", lambda h, m: m.update({"0.npy": bomb})))
    assert not (tmp_path / "exploded").exists()


def test_64_bit_arrays_need_x64(tmp_path):
    trees = {"float64": np.ones(2), "int64": np.arange(2), "complex128": np.ones(2, complex)}
    for name, tree in trees.items():
        save(tmp_path / name, tree)
    save(tmp_path / "float32", jnp.ones(2, jnp.float32))
    script = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("error")
import jax
jax.config.update("jax_enable_x64", False)  # whatever the environment says
from ctrnn_jax._files.models import load
print(load(Path(sys.argv[1], "float32")).dtype)
for name in ("float64", "int64", "complex128"):
    try:
        load(Path(sys.argv[1], name))
    except ValueError as error:
        print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    expected = [
        f"{tmp_path / name}: expected jax_enable_x64 on for {name} arrays, got off; first call "
        'jax.config.update("jax_enable_x64", True)'
        for name in trees
    ]
    assert run.stdout.splitlines() == ["float32", *expected]
