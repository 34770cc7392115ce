"""`ctrnn info`: versions, devices and precision."""

from __future__ import annotations

import importlib.metadata
import platform

import jax
import typer


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


def info() -> None:
    """Print versions, devices and precision: what a bug report needs."""
    for name, value in environment().items():
        typer.echo(f"{name:<12} {value}")
