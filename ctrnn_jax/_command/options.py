"""Options: how a command has them, those that several share, and what these mean."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import shutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jax
import typer
from jax.sharding import Mesh
from typer import Option

from .._files.arrays import FORMATS
from .._files.writing import place_for
from .._network import activations
from .._simulate.devices import batch_mesh
from .._simulate.size_rules import cpu_cores, devices_pay
from .._util import checks
from .._util.classes import by_name, chosen, defined_in
from ..solvers._foreign import adapted

ARRAY = FORMATS
ACTIVATIONS: dict[str, Any] = by_name(defined_in(activations, activations.AbstractActivation))

Out = Annotated[Path, Option(help="Folder for the results; made if missing.")]
Seed = Annotated[int, Option(help="Seed of what is random.")]
Form = Annotated[str, Option(help="rate: x' = f(A x + b); current: x' = A f(x) + b.")]
Dtype = Annotated[str, Option(help="float32 or float64; training gains from the latter.")]
Device = Annotated[str | None, Option(help="cpu, gpu, gpu:1, ...; JAX's default if left out.")]
Progress = Annotated[bool, Option(help="Show a progress bar.")]
Context: Any = typer.Context.__base__  # what typer passes is not its own subclass

_Settings = TypeVar("_Settings")


def as_command(run: Callable[[_Settings], int | None]) -> Callable[..., int | None]:
    """`run(settings)` as typer takes a command: with an option for each field of the dataclass."""
    (kind,) = (hint for name, hint in typing.get_type_hints(run).items() if name != "return")
    hints = typing.get_type_hints(kind, include_extras=True)

    def command(**options: Any) -> int | None:
        return run(kind(**options))

    parameters = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[f.name],
                          default=f.default)
        for f in dataclasses.fields(kind)
    ]  # fmt: skip
    command.__doc__ = run.__doc__
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    return command


@contextlib.contextmanager
def prepared(out: Path, dtype: str, device: str | None) -> Iterator[None]:
    """JAX as the options --dtype and --device want it, after a look at --out."""
    place_for(out)
    checks.one_of("--dtype", dtype, ("float32", "float64"))
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    with jax.default_device(_device(device)):
        yield


def new_file(out: Path) -> None:
    """Refuse what --out is not made for: a file that is there stays."""
    if out.is_dir():
        checks.fail("--out", "a file", f"the folder {out}")
    if out.exists():
        checks.fail("--out", "a file that is not there yet", out)
    place_for(out.parent)


def seed_of(seed: int) -> int:
    """--seed: without float64, JAX would silently drop the bits of more than 32."""
    if not 0 <= seed < 2**32:
        checks.fail("--seed", "an integer from 0 to 2^32 - 1", seed)
    return seed


def fits(what: str, memory: int | float, disk: int | float, out: Path) -> None:
    """Refuse what cannot fit, in bytes, before it is begun."""
    memory, disk = (float(min(size, 1e30)) for size in (memory, disk))  # also of absurd integers
    available, free = available_memory(), shutil.disk_usage(place_for(out)).free
    if available is not None and memory > available:
        expected = f"a run that fits into the {available / 1e9:.3g} GB of memory available"
        checks.fail("memory", expected, f"about {memory / 1e9:.3g} GB: {what}")
    if disk > free:
        expected = f"results that fit into the {free / 1e9:.3g} GB free on the disk of {out}"
        checks.fail("disk", expected, f"{disk / 1e9:.3g} GB: {what}")


def available_memory() -> float | None:
    """Bytes that are free or can be freed; all there are, or None, where nobody tells."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return 1024 * float(text.partition("MemAvailable:")[2].split()[0])
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    return None


def make_devices(devices: int | None) -> None:
    """A CPU of as many devices as --devices says or it has cores; before JAX is first used."""
    if devices is not None:
        devices = checks.integer("--devices", devices, 1)
        most = max(64, os.cpu_count() or 1)
        if devices > most:
            checks.fail("--devices", f"at most {most}", devices)
    with contextlib.suppress(RuntimeError):  # JAX has begun: it has the devices that it has
        jax.config.update("jax_num_cpu_devices", devices or cpu_cores())


def mesh_of(devices: int | None, device: str | None, x0: jax.Array, solver: Any) -> Mesh | None:
    """The mesh that --devices asks for, of the kind of --device; else all cores where they pay."""
    chosen = _device(device)
    found = jax.devices(None if chosen is None else chosen.platform)
    if devices is None:
        # As many as there are cores, whatever JAX has made of the CPU before.
        found = found[: cpu_cores()]
        one = (
            len(found) == 1 or found[0].platform != "cpu" or (device is not None and ":" in device)
        )
        pays = not one and adapted(solver).works_alone and devices_pay(*x0.shape)
        return batch_mesh(found) if pays else None
    if len(found) < devices:
        checks.fail("--devices", f"at most {len(found)}, as JAX finds here", devices)
    return batch_mesh(found[:devices])


def activation_named(name: str) -> activations.AbstractActivation:
    """An activation by --activation."""
    return chosen("--activation", name, ACTIVATIONS)()


def _device(name: str | None) -> Any:
    if name is None:
        return None
    kind, _, number = name.partition(":")
    try:
        return jax.devices(kind)[int(number or 0)]
    except (RuntimeError, ValueError, IndexError):
        found = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        checks.fail("--device", f"one of {found}", repr(name))
