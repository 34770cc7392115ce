"""What `ctrnn simulate` integrates, from its options: network, states, inputs and noise."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._files.arrays import read_array
from .._network.model import CTRNN
from .._network.products import AbstractWeights
from .._network.weights import DenseSkew, DenseWeights, not_skew
from .._simulate.event import Event
from .._util import checks
from .drive import Drive, Inputs
from .options import activation_named, fits, seed_of
from .parts import finite_array, input_weights_of, matrix_of, read_part, states_of
from .simulate_options import Settings

MEMORY = 5.0  # times the saved states: these, and their energies to draw the drift


def network_and_states(
    settings: Settings, dtype: Any, saves: int, read: Inputs | None = None
) -> tuple[CTRNN, jax.Array]:
    key_weights, key_states = jax.random.split(jax.random.key(seed_of(settings.seed)))
    checks.positive("--amplitude", settings.amplitude, dtype)
    checks.positive("--scale", settings.scale, dtype)
    states = settings.states
    if states is None:
        states = 4096 if read is None or read.values.ndim == 2 else len(read.values)
    states = checks.integer("--states", states, 1)
    if settings.weights is None:
        for option in ("array", "skew_part", "unconstrained"):
            if getattr(settings, option):
                option = f"--{option.replace('_', '-')}"
                checks.fail(option, "a matrix in --weights", "none")
        n = checks.integer("--neurons", 20 if settings.neurons is None else settings.neurons, 2)
        check_size(settings, n, states, saves)
        weights = DenseSkew.init(key_weights, n, scale=settings.scale, dtype=dtype)
    else:
        weights = _weights(settings, dtype)
        n = weights.size
        if settings.neurons not in (None, n):
            checks.fail("--neurons", f"the size {n} of --weights", settings.neurons)
    bias = None
    if settings.bias is not None:
        try:
            bias = np.full(n, float(settings.bias))
        except ValueError:
            bias = read_array("--bias", Path(settings.bias))
            bias = bias.ravel() if bias.ndim == 2 and 1 in bias.shape else bias
        bias = finite_array("--bias", bias, dtype)
    leak = None
    if settings.leak is not None:
        leak = finite_array("--leak", np.asarray(settings.leak), dtype)
    activation = activation_named(settings.activation)
    B = _input_weights(settings, read, n, dtype)
    rnn = CTRNN(weights, activation, settings.form, bias=bias, leak=leak, input_weights=B)

    if settings.initial_states is None:
        check_size(settings, n, states, saves)
        return rnn, settings.amplitude * jax.random.normal(key_states, (states, n), dtype)
    x0 = np.atleast_2d(read_part("--initial-states", settings.initial_states, states_of))
    if x0.ndim != 2 or x0.shape[1] != n:
        checks.fail("--initial-states", f"shape (states, {n})", x0.shape)
    if settings.states not in (None, len(x0)):
        checks.fail("--states", f"the {len(x0)} states of --initial-states", settings.states)
    check_size(settings, n, len(x0), saves)
    return rnn, finite_array("--initial-states", x0, dtype)


def _weights(settings: Settings, dtype: Any) -> AbstractWeights:
    assert settings.weights is not None
    A = read_part("--weights", settings.weights, matrix_of, settings.array, selects=True)
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        checks.fail("--weights", "a square matrix", f"shape {A.shape}")
    checks.finite("--weights", A)
    if settings.unconstrained:
        if settings.skew_part:
            checks.fail("--unconstrained", "either --skew-part or --unconstrained", "both")
        return DenseWeights(finite_array("--weights", A, dtype))
    got = None if settings.skew_part else not_skew(A)  # at the precision of the file
    if got is not None:
        hint = "a skew-symmetric matrix (or the option --skew-part or --unconstrained)"
        checks.fail("--weights", hint, got)
    return DenseSkew.from_matrix(finite_array("--weights", A, dtype), skew_part=True)


def _input_weights(settings: Settings, read: Inputs | None, n: int, dtype: Any) -> Any:
    """B (n, inputs), from a file or random; None without inputs."""
    for option in ("input_weights", "input_scale"):
        value = getattr(settings, option)
        if read is None and value is not None:
            checks.fail(f"--{option.replace('_', '-')}", "none without --inputs", value)
    if read is None:
        return None
    if settings.input_weights is None:
        scale = 1.0 if settings.input_scale is None else settings.input_scale
        checks.positive("--input-scale", scale, dtype)
        key = jax.random.fold_in(jax.random.key(settings.seed), 0)
        return scale * jax.random.normal(key, (n, read.count), dtype)
    if settings.input_scale is not None:
        got = "both"
        checks.fail("--input-scale", "either --input-weights or --input-scale", got)
    B = read_part("--input-weights", settings.input_weights, input_weights_of)
    B = B[:, None] if B.ndim == 1 else B
    if B.shape != (n, read.count):
        expected = f"shape {(n, read.count)}, neurons and inputs of {read.name}"
        checks.fail("--input-weights", expected, B.shape)
    return finite_array("--input-weights", B, dtype)


def check_size(settings: Settings, n: int, states: int, saves: int) -> None:
    """Refuse a network, states and saves for which there is no room."""
    size = jnp.dtype(settings.dtype).itemsize
    saved = states * saves * n * size
    what = f"{states} states of {n} neurons, each saved {saves} times (see --save-every)"
    # Weights and their products; what is not recorded is in memory.
    memory = 4 * n**2 * size + (MEMORY * saved if settings.record is False else 0)
    fits(what, memory, n**2 * size + saved, settings.out)


def drive_of(settings: Settings, read: Inputs | None, states: int, dtype: Any) -> Drive:
    """Inputs and noise for so many states."""
    inputs, noise, key = None, None, None
    if read is not None:
        if read.values.ndim == 3 and len(read.values) != states:
            expected = f"inputs shared or of {states} states, ({states}, steps, inputs)"
            checks.fail("--inputs", expected, f"shape {read.values.shape}")
        inputs = finite_array("--inputs", read.values, dtype)
    if settings.noise is not None:
        checks.positive("--noise", settings.noise, dtype)
        noise, key = settings.noise, jax.random.fold_in(jax.random.key(settings.seed), 1)
    return Drive(inputs, noise, key)


def times_of(settings: Settings) -> np.ndarray | None:
    """--save-at: a list of times, or a file of them."""
    given = settings.save_at
    if given is None:
        return None
    for option in ("save_every", "noise"):
        if (value := getattr(settings, option)) is not None:
            checks.fail(f"--{option.replace('_', '-')}", "none with --save-at", value)
    try:
        times = np.array([float(cell) for cell in given.split(",")])
    except ValueError:
        times = read_array("--save-at", Path(given))
    times = times.ravel() if times.ndim == 2 and 1 in times.shape else times
    if times.ndim != 1 or not times.size:
        checks.fail("--save-at", "times (S,)", f"shape {times.shape}")
    times = np.asarray(finite_array("--save-at", times, jnp.dtype(settings.dtype)))
    if (np.diff(times) <= 0).any() or times[0] < 0:
        expected = "times from 0 on that increase"
        checks.fail("--save-at", expected, ",".join(f"{t:g}" for t in times[:8]))
    return times


def event_of(settings: Settings, n: int) -> Event | None:
    """--until: where a neuron passes a level."""
    if settings.until is None:
        return None
    if settings.noise is not None:
        checks.fail("--until", "none with --noise", settings.until)
    match = re.fullmatch(r"\s*(\d+)\s*=\s*([^:\s]+)\s*(?::\s*(up|down)\s*)?", settings.until)
    try:
        level = math.nan if match is None else float(match[2])
    except ValueError:
        level = math.nan
    if match is None or not math.isfinite(level):
        checks.fail("--until", "NEURON=LEVEL, NEURON=LEVEL:up or :down", repr(settings.until))
    if (neuron := int(match[1])) >= n:
        checks.fail("--until", f"a neuron from 0 to {n - 1}", neuron)
    dtype = jnp.dtype(settings.dtype)
    level = jnp.asarray(checks.number("--until", level, dtype))
    return Event(lambda t, x: x[neuron] - level, {None: 0, "up": 1, "down": -1}[match[3]])


def driven_by(settings: Settings, read: Inputs | None) -> dict[str, Any] | None:
    """What the summary says of inputs and noise."""
    told: dict[str, Any] = {}
    if read is not None:
        scale = 1.0 if settings.input_scale is None else settings.input_scale
        told["inputs"] = read.count
        told["inputs_file"] = read.name
        told["inputs_shared"] = read.values.ndim == 2
        told["input_weights"] = (
            f"random, standard deviation {scale:g}"
            if settings.input_weights is None
            else settings.input_weights.name
        )
    if settings.noise is not None:
        told["noise"] = settings.noise
    return told or None
