"""What several commands share: where, in which precision and on which device they work."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from .._files.writing import place_for
from .._network import activations
from .._simulate.devices import batch_mesh
from .._util import checks


def environment() -> dict[str, str]:
    """Versions, devices and precision."""
    packages = ("ctrnn-jax", "jax", "jaxlib", "equinox", "diffrax", "optimistix", "optax", "numpy")
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return {
        **{name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "devices": ", ".join(str(device) for device in jax.devices()),
        "float64": "on" if jax.config.jax_enable_x64 else "off (default dtype float32)",  # pyright: ignore[reportAttributeAccessIssue]
        "matmul": precision or "highest inside a step (JAX's own default elsewhere)",
    }


@contextlib.contextmanager
def prepared(out: Path, dtype: str, device: str | None) -> Iterator[None]:
    """JAX as the options --dtype and --device want it, after a look at --out."""
    place_for(out)
    checks.one_of("--dtype", dtype, ("float32", "float64"))
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    with jax.default_device(_device(device)):
        yield


def seed_of(seed: int) -> int:
    """--seed: without float64, JAX would silently drop the bits of more than 32."""
    if not 0 <= seed < 2**32:
        checks.fail("--seed", "an integer from 0 to 2^32 - 1", seed)
    return seed


def fits(what: str, memory: int | float, disk: int | float, out: Path) -> None:
    """Refuse what cannot fit, in bytes, before it is begun."""
    memory, disk = (float(min(size, 1e30)) for size in (memory, disk))  # also of absurd integers
    available, free = _available_memory(), shutil.disk_usage(place_for(out)).free
    if available is not None and memory > available:
        expected = f"a run that fits into the {available / 1e9:.3g} GB of memory available"
        checks.fail("memory", expected, f"about {memory / 1e9:.3g} GB: {what}")
    if disk > free:
        expected = f"results that fit into the {free / 1e9:.3g} GB free on the disk of {out}"
        checks.fail("disk", expected, f"{disk / 1e9:.3g} GB: {what}")


def _available_memory() -> float | None:
    """Bytes that are free or can be freed; all there are, or None, where nobody tells."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return 1024 * float(text.partition("MemAvailable:")[2].split()[0])
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    return None


def mesh_of(devices: int, device: str | None) -> Mesh:
    """The mesh that --devices asks for, of the kind of --device."""
    devices = checks.integer("--devices", devices, 1)
    most = max(64, os.cpu_count() or 1)
    if devices > most:
        checks.fail("--devices", f"at most {most}", devices)
    with contextlib.suppress(RuntimeError):  # JAX has begun: it has the devices that it has
        jax.config.update("jax_num_cpu_devices", devices)
    chosen = _device(device)
    found = jax.devices(None if chosen is None else chosen.platform)
    if len(found) < devices:
        checks.fail("--devices", f"at most {len(found)}, as JAX finds here", devices)
    return batch_mesh(found[:devices])


def named(option: str, name: str, choices: dict[str, Callable[[], Any]]) -> Any:
    """One of the choices, whatever the case and however its words are joined."""
    found = {key.lower().replace("_", ""): make for key, make in choices.items()}
    key = name.lower().replace("_", "").replace("-", "")
    if key not in found:
        checks.fail(option, "one of " + ", ".join(sorted(choices)), repr(name))
    return found[key]()


def activation_named(name: str) -> activations.AbstractActivation:
    """An activation by --activation."""
    names = "Tanh HardTanh Linear Arctan Erf Sin Sigmoid ReLU Exp"
    choices = {name: getattr(activations, name) for name in names.split()}
    return named("--activation", name, choices)


def _device(name: str | None) -> Any:
    if name is None:
        return None
    kind, _, number = name.partition(":")
    try:
        return jax.devices(kind)[int(number or 0)]
    except (RuntimeError, ValueError, IndexError):
        found = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        checks.fail("--device", f"one of {found}", repr(name))
