"""The options of `ctrnn simulate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from typer import Option

from .._util.classes import listed
from ..solvers._names import described
from .options import ACTIVATIONS, ARRAY, Device, Dtype, Form, Out, Progress, Seed


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of `ctrnn simulate`; None where one is left out."""

    out: Out = Path("runs/simulate")
    weights: Annotated[
        Path | None,
        Option(
            help=f"Skew-symmetric matrix A (n, n) in 1/s: {ARRAY},"
            " or a .ctrnn file: the weights of its network."
        ),
    ] = None
    array: Annotated[
        str | None, Option(help="Name of the array in a file of --weights that has several.")
    ] = None
    skew_part: Annotated[
        bool, Option("--skew-part", help="Use (A - A^T)/2 of a matrix that is not skew.")
    ] = False
    unconstrained: Annotated[
        bool, Option("--unconstrained", help="Use the matrix as it is, skew or not.")
    ] = False
    initial_states: Annotated[
        Path | None,
        Option(
            help=f"Initial states (states, n) or one state (n,): {ARRAY},"
            " or a .ctrnn file or a recording: its last states."
        ),
    ] = None
    neurons: Annotated[
        int | None, Option(help="Neurons of a random network.", show_default="20")
    ] = None
    scale: Annotated[
        float, Option(help="Size of random weights: largest omega near 2 scale, in rad/s.")
    ] = 2.0
    states: Annotated[
        int | None, Option(help="Number of random initial states.", show_default="4096")
    ] = None
    amplitude: Annotated[float, Option(help="Standard deviation of random initial states.")] = 0.1
    seed: Seed = 0
    activation: Annotated[str, Option(help=f"{listed(ACTIVATIONS)}.")] = "tanh"
    form: Form = "rate"
    bias: Annotated[str | None, Option(help=f"b: one number for all neurons, or {ARRAY}.")] = None
    leak: Annotated[float | None, Option(help="Leak rate in 1/s; breaks every invariant.")] = None
    inputs: Annotated[
        Path | None,
        Option(
            help=f"Inputs u (steps, inputs), shared, or (states, steps, inputs): {ARRAY}. Each is"
            " held through its step; a column of times of a .csv file gives --dt."
        ),
    ] = None
    input_weights: Annotated[
        Path | None,
        Option(
            help=f"B (n, inputs): {ARRAY}, or a .ctrnn file: that of its network.",
            show_default="random",
        ),
    ] = None
    input_scale: Annotated[
        float | None,
        Option(help="Standard deviation of random input weights.", show_default="1"),
    ] = None
    noise: Annotated[
        float | None,
        Option(
            help="Intensity of white noise, in units of a state over the root of a second,"
            " independent for each neuron; its paths follow from --seed."
        ),
    ] = None
    solver: Annotated[
        str | None,
        Option(
            help=f"{described()}. With --noise one of stochastic equations: euler, heun, ...",
            show_default="tsit5; euler with --noise",
        ),
    ] = None
    dt: Annotated[
        float | None,
        Option(help="Time step in seconds.", show_default="that of --inputs, else 0.05"),
    ] = None
    steps: Annotated[
        int | None,
        Option(help="Number of steps.", show_default="as many as --inputs, else 2000"),
    ] = None
    duration: Annotated[
        float | None, Option(help="Simulated time in seconds, instead of --steps.")
    ] = None
    save_every: Annotated[
        int | None,
        Option(
            help="Steps between saves, a divisor of --steps. Unless given, about 100 saves, for"
            " which --steps may be rounded up; with --inputs at least 80, if need be all.",
            show_default="about 100 saves",
        ),
    ] = None
    save_at: Annotated[
        str | None,
        Option(
            help="Times in seconds at which states are saved instead, increasing: 0,0.5,2 or"
            f" {ARRAY}. Without --steps the run ends with the last one."
        ),
    ] = None
    until: Annotated[
        str | None,
        Option(
            help="Stop each trajectory where a neuron passes a level: 0=0.5, or 0=0.5:up or"
            " 0=0.5:down in that direction alone. When, event_times.csv tells.",
            metavar="NEURON=LEVEL[:up|down]",
        ),
    ] = None
    rtol: Annotated[float | None, Option(help="Relative tolerance: adaptive steps.")] = None
    atol: Annotated[float | None, Option(help="Absolute tolerance: adaptive steps.")] = None
    max_norm: Annotated[float | None, Option(help="Stop a trajectory whose norm passes this.")] = (
        None
    )
    animate: Annotated[
        bool, Option("--animate", help="Leave the motion of some states as animation.gif, too.")
    ] = False
    dtype: Dtype = "float32"
    device: Device = None
    devices: Annotated[
        int | None,
        Option(
            help="Devices that share the states; a CPU becomes as many as asked for.",
            show_default="all cores, where it is faster",
        ),
    ] = None
    progress: Progress = True
    record: Annotated[
        bool | None,
        Option(
            help="Write the states to recording.zarr in --out while they are computed, whatever"
            " their size, instead of trajectory.ctrnn.",
            show_default="where they would take half of the memory",
        ),
    ] = None
    resume: Annotated[
        bool,
        Option("--resume", help="Go on with the recording in --out, with the options it had."),
    ] = False
