"""Runs written to disk while they are made: chunk by chunk, and gone on with after an interrupt.

A recording is a folder in the layout of zarr 3, whose chunks are written as they are, without a
codec. What it holds is told by one file, `zarr.json`, which is replaced by one rename once all that
it tells of is on the disk: whenever a process dies, what is read is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, GetAttrKey, SequenceKey

from .._network.model import CTRNN, states_for
from .._simulate.api import simulate
from .._simulate.resume import End
from .._simulate.trajectory import Trajectory, labelled_run
from .._util import checks
from .._util.digest import digest
from .._util.stored import Stored
from .._util.types import ArrayLike, PyTree
from .models import save
from .recordings import KIND, NETWORK, OWN, VERSION, Recording, end_file, open_recording
from .store import ROOT, as_json, bytes_of, filled_up, metadata_of, root_of, write_file
from .writing import place_for

_CHUNK_BYTES, _MOST_BYTES, _LEAST_SAVES = 2**26, 2**29, 8
_OPTIONS = [
    name
    for name, p in inspect.signature(simulate).parameters.items()
    if p.kind is p.KEYWORD_ONLY
    and name not in ("dt", "num_steps", "save_every", "save_at", "until", "adjoint", "progress")
]
_DEFAULTS = {name: inspect.signature(simulate).parameters[name].default for name in _OPTIONS}
_NUMBERS = ("dt", "rtol", "atol", "max_norm", "noise")


def record(
    path: str | os.PathLike[str],
    rnn: CTRNN,
    x0: ArrayLike | End,
    *,
    dt: ArrayLike,
    num_steps: int,
    save_every: int = 1,
    chunk: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Recording:
    """`simulate`, written to a folder chunk by chunk while the next chunk is computed.

    Memory holds two chunks, whatever the length of the run. Where a recording of the same run is at
    `path` already, it goes on from its last chunk: killed at any moment, a run goes on to the bits
    of one that was left alone, by the same call.

    Args:
        path: the folder to write, made by this; its own folder exists. It is a store of zarr 3
            that zarr and xarray open, also while it grows: see `Recording`.
        rnn: the network.
        x0: (..., n) initial states, or the `end` of a run.
        dt: time step in seconds.
        num_steps: number of steps, a multiple of `save_every`.
        save_every: steps between saves.
        chunk: saves in a chunk; about 64 MiB of them unless given, at least 8 up to 512 MiB. What
            lies between two chunks is lost at an interrupt, and computed again.
        progress: whether to show a progress bar on stderr.
        options: of `simulate`: solver, rtol, atol, observe, keep_states, fold, max_norm, inputs,
            noise, key, mesh. Of functions among them only names are compared when it goes on.

    Returns:
        The complete `Recording`.

    Raises:
        TypeError, ValueError: as `simulate`; where a recording of something else is at `path`.
        FileExistsError: where something that is no recording is.
        BlockingIOError: where another process records there.
        OSError: where the disk is full: what is recorded stays, and goes on with room.

    Warns:
        UserWarning: where it goes on with another version of JAX or on other devices: what follows
            may differ from an undisturbed run by roundings.

    Example:
        >>> run = ct.record("run.zarr", rnn, x0, dt=0.05, num_steps=10**5, save_every=100)
        >>> run.xs[0, -1000:, :3]  # only this is read
        >>> ct.energy_drift(rnn, run.xs)  # a part at a time
    """
    path = Path(os.path.realpath(os.fspath(path)))
    for name in options:
        if name not in _OPTIONS:
            checks.fail("options", f"of {', '.join(_OPTIONS)}", name, TypeError)
    if not isinstance(x0, End):
        x0 = states_for(rnn, x0)
    if any(map(checks.is_traced, jax.tree.leaves((rnn, x0, dt, options)))):
        checks.fail("x0", "known values: record outside jit, vmap, grad", "a tracer", TypeError)
    checks.flag("progress", progress)
    if chunk is not None:
        chunk = checks.integer("chunk", chunk, 1)
    settings = {"dt": dt, "num_steps": num_steps, "save_every": save_every, **options}
    if _is_held(options.get("inputs")):
        settings["inputs"] = jnp.asarray(options["inputs"])
    # Refuses what is wrong before anything is written, and tells the shapes.
    run = jax.eval_shape(lambda start: simulate(rnn, start, **settings), x0)
    mesh = options.get("mesh")
    if mesh is not None and mesh.is_multi_process:
        checks.fail("mesh", "devices of this process", "some of others")
    if run.xs is None and not jax.tree.leaves(run.observed):
        checks.fail("observe", "a function where keep_states is False", None)
    _check_place(path)
    made_with = {"rnn": rnn, "x0": x0, **_DEFAULTS, **settings}
    identity = {name: _identity(name, value, rnn.dtype) for name, value in made_with.items()}
    environment = _environment(mesh)
    with _alone(path):
        if not (path / ROOT).exists():
            size = _saves_in_chunk(run) if chunk is None else chunk
            header = {"chunk": min(size, run.ts.size), "of": run.ts.size, "saves": 0}
            header |= {"made_with": identity, "environment": environment, "observed": None}
            _begin(path, rnn, header, _told(rnn, settings))
        found = open_recording(path)
        _check_same(found, identity, None if chunk is None else min(chunk, run.ts.size))
        if found.complete:
            _describe_each(path)  # which a process may not have lived to do
            return found
        before = found.header["environment"]
        if before != environment:
            text = f"{path} was begun with {_words(before)}, not {_words(environment)}: "
            warnings.warn(text + "what follows may differ in its last bits", stacklevel=2)
        start = x0
        if found.num_saves:
            # The carry of a fold in the classes that it is made of.
            carry = jax.tree.structure(run.folded).unflatten(jax.tree.leaves(found.end.folded))
            start = dataclasses.replace(found.end, folded=carry)
        _go_on(_Writer(path, found), rnn, start, settings, progress)
    return open_recording(path)


def _check_place(path: Path) -> None:
    """Refuse what is neither free nor a recording."""
    if not path.parent.is_dir():
        got = repr(str(path.parent))
        checks.fail("path", "a folder to make in an existing one", got, FileNotFoundError)
    place_for(path.parent, "path")
    if path.exists() and not path.is_dir():
        checks.fail("path", "a folder to make", f"the file {path}", FileExistsError)
    if path.is_dir() and not set(os.listdir(path)) <= {OWN}:  # more than one that was to begin
        open_recording(path)


def _check_same(found: Recording, identity: dict[str, Any], chunk: int | None) -> None:
    """Refuse to go on with another run than was begun."""
    for name, value in found.header["made_with"].items():
        if identity.get(name) != value:
            checks.fail(name, f"what {found.path} was begun with", "another")
    if chunk not in (None, found.header["chunk"]):
        begun = f"the {found.header['chunk']} that {found.path} was begun with"
        checks.fail("chunk", begun, chunk)


def _is_held(inputs: Any) -> bool:
    smooth = isinstance(inputs, diffrax.AbstractPath) or callable(inputs)
    return inputs is not None and not smooth


def _go_on(
    writer: _Writer, rnn: CTRNN, start: Any, settings: dict[str, Any], progress: bool
) -> None:
    """Make and write what is missing."""
    from tqdm import tqdm

    header = writer.header
    chunk, intervals, save_every = header["chunk"], header["of"] - 1, settings["save_every"]
    first, held = header["saves"], _is_held(settings.get("inputs"))
    pending = None
    with tqdm(
        total=settings["num_steps"], initial=first * save_every, unit="step", disable=not progress
    ) as bar:
        for begin in range(first, intervals, chunk):
            count = min(chunk, intervals - begin)
            here = settings | {"num_steps": count * save_every}
            if held:
                steps = slice(begin * save_every, (begin + count) * save_every)
                here["inputs"] = settings["inputs"][..., steps, :]
            run = simulate(rnn, start, **here)  # is begun, and goes on while the last is written
            start = run.end
            if pending is not None:
                writer.write(*pending)
                bar.update(chunk * save_every)
            # Made now: what JAX is asked for later waits for the run that was begun.
            pending = begin, run, start
        if pending is not None:
            writer.write(*pending)
            bar.update(bar.total - bar.n)


class _Writer:
    """Puts a recording's chunks on the disk, each with all that the next one needs."""

    def __init__(self, path: Path, found: Recording):
        self.path, self.header, self.told = path, found.header, found.settings

    def write(self, begin: int, run: Trajectory, end: End) -> None:
        """The saves of a run that began with save `begin`, and its end."""
        chunk, of = self.header["chunk"], self.header["of"]
        found, total = labelled_run(run), begin + len(run.ts)
        complete = total == of
        total = of if complete else begin + chunk
        arrays: dict[str, Any] = {}
        for name, (dims, values, attributes) in found.variables.items():
            axis = dims.index("time") if "time" in dims else None
            if axis is None and not complete:
                continue
            file = list(values.shape)
            if axis is not None:
                file[axis] = chunk
            shape = list(file)
            if axis is not None:
                shape[axis] = total
            arrays[name] = metadata_of(dims, shape, file, values.dtype, attributes)
            if axis is None:
                target = (self.path / name).joinpath("c", *"0" * values.ndim)
                write_file(target, [bytes_of(values)], self.path)
                continue
            stored = Stored(self.path / name, tuple(shape), values.dtype, axis, chunk)
            for ahead in range(0, total - begin, chunk):
                part = values[(slice(None),) * axis + (slice(ahead, ahead + chunk),)]
                pieces = filled_up(part, axis, chunk)
                write_file(stored.file((begin + ahead) // chunk), pieces, self.path)
        observed = (name for name in found.variables if name.startswith("observed"))
        self.header |= {"saves": total, "observed": _nested(run.observed, observed)}
        own = self.path / OWN
        try:
            save(own / end_file(total), end)
        except TypeError:  # a carry of other classes than dict, list and tuple
            leaves = jax.tree.leaves(end.folded)
            save(own / end_file(total), dataclasses.replace(end, folded=leaves))
        attributes = {**self.told, "complete": complete, OWN: self.header}
        root = root_of(attributes, arrays)
        write_file(self.path / ROOT, [root], self.path)
        # From here on the chunk counts.
        _describe_each(self.path)
        for file in own.glob("end-*.ctrnn"):
            if file.name != end_file(total):
                file.unlink()


def _describe_each(path: Path) -> None:
    """The metadata of each array beside it, for programs that do not read them together."""
    arrays = json.loads((path / ROOT).read_bytes())["consolidated_metadata"]["metadata"]
    for name, metadata in arrays.items():
        told, text = path / name / ROOT, as_json(metadata)
        if not told.is_file() or told.read_bytes() != text:
            write_file(told, [text], path, sync=False)


def _begin(path: Path, rnn: CTRNN, header: dict[str, Any], told: dict[str, Any]) -> None:
    """A recording of nothing; is none before all is written."""
    with contextlib.suppress(TypeError):  # of a class of one's own
        save(path / OWN / NETWORK, rnn)
    header = {"kind": KIND, "version": VERSION, **header}
    write_file(path / ROOT, [root_of({**told, "complete": False, OWN: header}, {})], path)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process records there; the lock ends with the process, however it ends."""
    own = path / OWN
    own.mkdir(parents=True, exist_ok=True)
    with open(own / "lock", "wb") as file:
        with contextlib.suppress(ImportError):  # Windows has none
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                checks.fail("path", "no process that records there", path, BlockingIOError)
        for left in own.glob(".*"):  # of a process that died
            shutil.rmtree(left)
        yield


def _identity(name: str, value: Any, dtype: Any) -> Any:
    """What has to be the same when it goes on; the devices need not be."""
    if name in ("num_steps", "save_every", "keep_states"):
        return value
    if name == "mesh":
        return None
    if name in _NUMBERS and value is not None:
        value = jnp.asarray(value, dtype)

    def as_jax(leaf: Any) -> Any:
        return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf

    return digest(jax.tree.map(as_jax, value))


def _saves_in_chunk(run: Trajectory) -> int:
    saves = jax.tree.leaves((run.ts, run.xs, run.observed))
    each = sum(leaf.size * leaf.dtype.itemsize for leaf in saves) / run.ts.size
    return max(1, min(_LEAST_SAVES, int(_MOST_BYTES / each)), int(_CHUNK_BYTES / each))


def _environment(mesh: Any) -> dict[str, Any]:
    """What the last bits of a run hang on."""
    devices = jax.devices()[:1] if mesh is None else mesh.devices.ravel()
    return {"jax": jax.__version__, "platform": devices[0].platform, "devices": len(devices)}


def _words(environment: dict[str, Any]) -> str:
    one = environment["devices"] == 1
    device = f"{environment['devices']} {environment['platform']} device{'s' * (not one)}"
    return f"jax {environment['jax']} on {device}"


def _told(rnn: CTRNN, settings: dict[str, Any]) -> dict[str, Any]:
    """For readers: network, solver and steps in words and numbers."""
    solver = settings.get("solver", _DEFAULTS["solver"])
    told: dict[str, Any] = {
        "kind": "Recording",
        "ctrnn_jax_version": version("ctrnn-jax"),
        "jax_version": jax.__version__,
        "neurons": rnn.size,
        "weights": type(rnn.weights).__name__,
        "activation": type(rnn.activation).__name__,
        "form": rnn.form,
        "solver": " ".join(eqx.tree_pformat(solver).split()),
        "num_steps": settings["num_steps"],
        "save_every": settings["save_every"],
    }
    for name in _NUMBERS:
        value = settings.get(name)
        if value is not None and np.ndim(value) == 0:
            told[name] = float(value)
    return told


def _nested(tree: PyTree, names: Iterator[str]) -> Any:
    """The tree as dicts and lists of the names of its leaves; None where it has none."""
    leaves = [(path, next(names)) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    if not leaves:
        return None

    def build(leaves: list[tuple[Any, str]], depth: int) -> Any:
        if len(leaves) == 1 and len(leaves[0][0]) == depth:
            return leaves[0][1]
        groups: dict[Any, list[tuple[Any, str]]] = {}
        for path, name in leaves:
            groups.setdefault(path[depth], []).append((path, name))
        if all(isinstance(key, SequenceKey) for key in groups):
            return [build(group, depth + 1) for group in groups.values()]
        return {_key(key): build(group, depth + 1) for key, group in groups.items()}

    return build(leaves, 0)


def _key(key: Any) -> str:
    if isinstance(key, DictKey):
        return str(key.key)
    return key.name if isinstance(key, GetAttrKey) else str(key).strip(".[]'\"")
