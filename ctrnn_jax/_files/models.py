"""Models and trajectories as files: exact to the bit, written at once or not at all.

A file is an uncompressed zip in the style of .npz: `header.json` describes the tree, and one
.npy member holds each array. There is no pickle in it; reading never imports or runs code that
the file names, it only fills the fields of the classes registered here.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import zipfile
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._network import activations, products, weights
from .._network.model import CTRNN
from .._simulate.resume import End, Remembered
from .._simulate.trajectory import Trajectory
from .._util import checks
from .._util.classes import defined_in
from ..solvers import _names
from .arrays import add_npy, npy_array
from .writing import appearing

FORMAT, VERSION = "ctrnn_jax", 1
HEADER = "header.json"

_NAMES = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 "
    "float16 bfloat16 float32 float64 complex64 complex128"
)
_DTYPES = {name: jnp.dtype(name) for name in _NAMES.split()}

# Fields without a default that files of before there were inputs lack.
_LATER = {"CTRNN": {"input_weights": None}}
_CLASSES: dict[str, type[eqx.Module]] = {}


def register(*classes: type[eqx.Module]) -> None:
    """Let `save` and `load` know `classes`; a file holds their bare names, so keep them."""
    for cls in classes:
        if _CLASSES.setdefault(cls.__name__, cls) is not cls:
            checks.fail("classes", "names that are not taken", repr(cls.__name__))


register(CTRNN, Trajectory, End, Remembered)
register(*defined_in(activations, activations.AbstractActivation))
register(*defined_in(weights, products.AbstractWeights))
register(*defined_in(products, products.AbstractWeights))  # what weights prepare for a loop
register(*_names.own().values(), *_names.wrappers().values(), *_names.OF_DIFFRAX)


class _Unreadable(Exception):
    """Why a file cannot be loaded, still without the file's name."""


def save(path: str | os.PathLike[str], obj: Any) -> None:
    """Write a model, a trajectory, or a tree of them to one file that `load` restores exactly.

    The file appears complete or not at all: where writing fails, one that was there before is
    left as it was. The same object gives the same bytes in every process of one version.

    Args:
        path: where to; taken as given, no extension is added.
        obj: models, trajectories, arrays, Python numbers, strings and None, nested in dict,
            list and tuple. Weakly typed arrays come back with their dtype as an ordinary one.

    Raises:
        TypeError: where `obj` holds something else, such as the function of a
            `CustomActivation` or a class of one's own, for which there is
            `equinox.tree_serialise_leaves`, or is traced.
        FileNotFoundError: where the folder does not exist.

    Example:
        >>> rnn = ct.CTRNN(ct.BlockSkew.from_hz(jnp.array([1.0])))
        >>> ct.save("rnn.ctrnn", {"rnn": rnn, "seed": 0})
        >>> ct.load("rnn.ctrnn")["rnn"]
    """
    path = os.path.realpath(os.fspath(path))
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        checks.fail("path", "a file in an existing folder", repr(folder), FileNotFoundError)
    if os.path.isdir(path):
        checks.fail("path", "a file", f"the folder {path!r}", IsADirectoryError)
    arrays: dict[str, np.ndarray] = {}
    tree = _encode(obj, "obj", arrays)
    written_by = version("ctrnn-jax")
    header = json.dumps({"format": FORMAT, "version": VERSION, "library": written_by, "tree": tree})
    with appearing(Path(path), name="path") as temporary, open(temporary, "xb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo(HEADER), header)
            for name, array in arrays.items():
                add_npy(archive, name.removesuffix(".npy"), array.view(_stored(array.dtype)))
        file.flush()
        os.fsync(file.fileno())


def load(path: str | os.PathLike[str]) -> Any:
    """Read what `save` wrote: the same classes, structure, dtypes, shapes and bits.

    Every array comes back as a JAX array, also what was a numpy array.

    Args:
        path: the file.

    Raises:
        FileNotFoundError, IsADirectoryError: where there is no such file.
        ValueError: where the file is damaged, of another kind, written by a newer version,
            or holds 64-bit arrays while jax_enable_x64 is off.

    Example:
        >>> rnn = ct.load("rnn.ctrnn")["rnn"]
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        try:
            return _decode_file(_members(file))
        except _Unreadable as error:
            raise ValueError(f"{path}: {error}") from None
        except Exception as error:  # damaged bytes make zipfile, json and numpy raise many kinds
            got = f"{type(error).__name__}: {error}"
            checks.fail(path, "an undamaged file written by ctrnn_jax.save", got)


def writer(path: str | os.PathLike[str]) -> str | None:
    """The version of this library that wrote a file, for one that `load` reads.

    None where it does not say so, as those of the first version.
    """
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(HEADER)).get("library")


def _refuse(expected: str, got: Any) -> NoReturn:
    raise _Unreadable(f"expected {expected}, got {got}")


def _stored(dtype: np.dtype) -> np.dtype:
    # .npy has no name for bfloat16, so its bits are stored as integers.
    return np.dtype(np.uint16) if dtype == jnp.bfloat16 else dtype


def _encode(value: Any, where: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON, every object of one key that says its kind; arrays go to `arrays`."""
    kind = type(value)
    if checks.is_traced(value):
        checks.fail(where, "known values: save outside jit, vmap, grad", "a tracer", TypeError)
    # Of numpy's subclasses only the map of a file is a plain array: a mask would be lost.
    if isinstance(value, jax.Array | np.generic) or kind in (np.ndarray, np.memmap):
        dtype = _DTYPES.get(value.dtype.name)
        if dtype is None:
            checks.fail(where, f"a dtype out of {_NAMES}", value.dtype.name, TypeError)
        name = f"{len(arrays)}.npy"
        arrays[name] = np.asarray(value, dtype, order="C")
        return {"array": [name, dtype.name, list(value.shape)]}
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return {"float": value.hex()}  # JSON has no infinity and NaN
    if kind is complex:
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if kind in (list, tuple):
        items = [_encode(item, f"{where}[{i}]", arrays) for i, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if kind is dict:
        for key in value:
            if key is not None and type(key) not in (bool, int, float, complex, str):
                got = f"{type(key).__name__} {key!r}"
                checks.fail(f"key of {where}", "a Python number, string or None", got, TypeError)
        keys = [_encode(key, where, arrays) for key in value]
        items = [_encode(item, f"{where}[{key!r}]", arrays) for key, item in value.items()]
        return {"dict": list(zip(keys, items, strict=True))}
    if _CLASSES.get(kind.__name__) is kind:
        names = [field.name for field in dataclasses.fields(value)]
        fields = {n: _encode(getattr(value, n), f"{where}.{n}", arrays) for n in names}
        return {"module": [kind.__name__, fields]}
    expected = "arrays, numbers, strings, None, dict, list, tuple, and models of this package"
    got = f"{kind.__name__} {getattr(value, '__name__', '')}".strip()
    way = "which cannot be saved"
    if callable(value) or isinstance(value, eqx.Module):
        way += "; use eqx.tree_serialise_leaves, and load into a model that you build anew"
    checks.fail(where, expected, f"{got}, {way}", TypeError)


def _members(file: Any) -> dict[str, bytes]:
    """The whole content of the zip; reading a member to its end checks its CRC."""
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if not infos or infos[0].filename != HEADER:
            _refuse("a file written by ctrnn_jax.save", "a zip of another kind")
        # Sizes first, lest a damaged one asks for all memory. A header that is not at the start
        # belongs to a file stored inside this one, found because the end of this one is lost.
        total, size = sum(info.file_size for info in infos), os.fstat(file.fileno()).st_size
        packed = any(info.compress_type != zipfile.ZIP_STORED for info in infos)
        if total > size or packed or infos[0].header_offset:
            _refuse("a whole, uncompressed file", f"{size} bytes that are not")
        if len({info.filename for info in infos}) < len(infos):
            _refuse("one member of each name", "several")
        return {info.filename: archive.read(info) for info in infos}


def _decode_file(members: dict[str, bytes]) -> Any:
    header = json.loads(members.pop(HEADER))
    if header["format"] != FORMAT:
        _refuse(f"format {FORMAT}", header["format"])
    if header["version"] > VERSION:
        got = f"{header['version']}: written by a newer version of ctrnn_jax, which can read it"
        _refuse(f"format version {VERSION}", got)
    value = _decode(header["tree"], members)
    if members:
        _refuse("no further members", list(members))
    return value


def _decode(node: Any, members: dict[str, bytes]) -> Any:
    match node:
        case None | bool() | int() | str():
            return node
        case {"float": text}:
            return float.fromhex(text)
        case {"complex": [real, imag]}:
            return complex(float.fromhex(real), float.fromhex(imag))
        case list():
            return [_decode(item, members) for item in node]
        case {"tuple": items}:
            return tuple(_decode(item, members) for item in items)
        case {"dict": pairs}:
            return {_decode(key, members): _decode(item, members) for key, item in pairs}
        case {"array": [name, dtype, shape]}:
            if name not in members:
                _refuse(f"a member {name}", "none")
            return _decode_array(name, members.pop(name), dtype, tuple(shape))
        case {"module": [name, fields]}:
            return _decode_module(name, {n: _decode(v, members) for n, v in fields.items()})
    _refuse("a tree in the header", str(node)[:80])


def _decode_array(name: str, data: bytes, dtype_name: str, shape: tuple[int, ...]) -> jax.Array:
    if dtype_name not in _DTYPES:
        _refuse(f"a dtype out of {_NAMES}", dtype_name)
    dtype = _DTYPES[dtype_name]
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        hint = 'jax.config.update("jax_enable_x64", True)'
        _refuse(f"jax_enable_x64 on for {dtype_name} arrays", f"off; first call {hint}")
    stored, stream = _stored(dtype), BytesIO(data)
    array = npy_array(stream, len(data))
    if (array.dtype, array.shape) != (stored, shape):
        _refuse(f"{name} of {stored} {shape}", f"{array.dtype} {array.shape}")
    if stream.read(1):
        raise ValueError(f"{len(data)} bytes, more than {name} has")
    return jnp.asarray(array.view(dtype))


def _decode_module(name: str, fields: dict[str, Any]) -> eqx.Module:
    if name not in _CLASSES:
        _refuse("a class known to ctrnn_jax.save", name)
    cls = _CLASSES[name]
    expected = {field.name for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    later = {
        field.name: field.default
        for field in dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
        if field.default is not dataclasses.MISSING and field.name not in fields
    }
    fields = _LATER.get(name, {}) | later | fields  # a file of before there was the field
    if fields.keys() != expected:
        _refuse(f"{name} with fields {sorted(expected)}", sorted(fields))
    # As equinox unflattens: without __init__, whose checks refuse the stacked arrays of vmap.
    module = object.__new__(cls)
    for field, value in fields.items():
        object.__setattr__(module, field, value)
    _check_module(name, cls, module)
    return module


def _check_module(name: str, cls: type[eqx.Module], module: eqx.Module) -> None:
    """The checks of the constructor, for members of an ensemble those where they may fail."""
    for field in dataclasses.fields(module):  # pyright: ignore[reportArgumentType]
        value, kind = getattr(module, field.name), str(field.type)
        optional = value is None and "None" in kind
        if "Array," in kind and not optional and not isinstance(value, jax.Array | int | float):
            _refuse(f"an array as {field.name} of {name}", type(value).__name__)
    leaves = jax.tree.leaves(module)
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    refusal = None
    for axes in range(1 + min((leaf.ndim for leaf in arrays), default=0)):
        if len({leaf.shape[:axes] for leaf in arrays}) > 1:
            break
        if any(0 in leaf.shape[:axes] for leaf in arrays):
            break
        try:
            for member in _extreme_members(arrays, axes):
                _construct(cls, _member(module, member))
            return
        except (TypeError, ValueError) as error:
            refusal = refusal or error
    _refuse(f"{name} that its constructor takes", " ".join(str(refusal).split())[:200])


def _member(module: Any, index: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda leaf: leaf[index] if isinstance(leaf, jax.Array) else leaf, module)


def _extreme_members(arrays: list[Any], axes: int) -> set[tuple[int, ...]]:
    """Where each array is least and greatest, or first not a number."""
    found: set[tuple[int, ...]] = {(0,) * axes}
    for leaf in arrays if axes else ():
        values = np.asarray(leaf)
        for place in (values.argmin(), values.argmax()):
            index = np.unravel_index(place, values.shape)[:axes]
            found.add(tuple(int(k) for k in index))
    return found


def _construct(cls: type[eqx.Module], module: Any) -> None:
    """What `module` holds, given to the constructor of its class."""
    taken = inspect.signature(cls.__init__).parameters
    given = {field.name: getattr(module, field.name) for field in dataclasses.fields(module)}  # pyright: ignore[reportArgumentType]
    if "potential_fn" in given:  # a field that cannot have the name of its argument: a method has
        given["potential"] = given.pop("potential_fn")
    cls(**{name: value for name, value in given.items() if name in taken})
