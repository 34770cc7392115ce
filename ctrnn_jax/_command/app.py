"""The command `ctrnn`."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from .._files import writing

app = typer.Typer(
    name="ctrnn",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_bench = typer.Typer(rich_markup_mode=None)
app.add_typer(_bench, name="bench")

# typer brings its own copy of click or depends on it, by version: this finds the bases of either.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
_Context: Any = typer.Context.__base__  # what typer passes is not its own subclass

_FILE = "a .npy, .npz or .csv file"
_SIGNAL = "a .npy, .csv or .wav file"
_OURS = "or a .ctrnn file"


@app.callback(invoke_without_command=True)
def ctrnn(
    context: _Context,  # pyright: ignore[reportInvalidTypeForm]
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Continuous-time recurrent networks with skew-symmetric weights.

    Simulate them, train oscillators, generate their signals, reproduce the paper, measure the
    speed.
    """
    if version:
        typer.echo(importlib.metadata.version("ctrnn-jax"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="Folder for the results; made if missing.")] = Path(
        "runs/simulate"
    ),
    weights: Annotated[
        Path | None,
        typer.Option(
            help=f"Skew-symmetric matrix A (n, n) in 1/s: {_FILE},"
            f" {_OURS}: the weights of its network."
        ),
    ] = None,
    skew_part: Annotated[
        bool, typer.Option("--skew-part", help="Use (A - A^T)/2 of a matrix that is not skew.")
    ] = False,
    unconstrained: Annotated[
        bool, typer.Option("--unconstrained", help="Use the matrix as it is, skew or not.")
    ] = False,
    initial_states: Annotated[
        Path | None,
        typer.Option(
            help=f"Initial states (states, n) or one state (n,): {_FILE},"
            f" {_OURS}: the last states of its trajectory."
        ),
    ] = None,
    neurons: Annotated[
        int | None, typer.Option(help="Neurons of a random network.", show_default="20")
    ] = None,
    scale: Annotated[
        float, typer.Option(help="Size of random weights: largest omega near 2 scale, in rad/s.")
    ] = 2.0,
    states: Annotated[
        int | None, typer.Option(help="Number of random initial states.", show_default="4096")
    ] = None,
    amplitude: Annotated[
        float, typer.Option(help="Standard deviation of random initial states.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of what is random.")] = 0,
    activation: Annotated[
        str,
        typer.Option(
            help="tanh, hard_tanh, linear, arctan, erf, sin, sigmoid, relu or exp.",
        ),
    ] = "tanh",
    form: Annotated[
        str, typer.Option(help="rate: x' = f(A x + b); current: x' = A f(x) + b.")
    ] = "rate",
    bias: Annotated[
        str | None, typer.Option(help=f"b: one number for all neurons, or {_FILE}.")
    ] = None,
    leak: Annotated[
        float | None, typer.Option(help="Leak rate in 1/s; breaks every invariant.")
    ] = None,
    solver: Annotated[
        str,
        typer.Option(
            help="poisson_splitting[:ORDER], discrete_gradient[:ORDER], implicit_midpoint, rk4,"
            " exact_linear, one of diffrax (tsit5, ...), or projected:SOLVER."
        ),
    ] = "tsit5",
    dt: Annotated[float, typer.Option(help="Time step in seconds.")] = 0.05,
    steps: Annotated[int | None, typer.Option(help="Number of steps.", show_default="2000")] = None,
    duration: Annotated[
        float | None, typer.Option(help="Simulated time in seconds, instead of --steps.")
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between saves, a divisor of --steps. Unless given, about 100 saves, for"
            " which --steps may be rounded up.",
            show_default="about 100 saves",
        ),
    ] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance: adaptive steps.")] = None,
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance: adaptive steps.")] = None,
    max_norm: Annotated[
        float | None, typer.Option(help="Stop a trajectory whose norm passes this.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    device: Annotated[
        str | None, typer.Option(help="cpu, gpu, gpu:1, ...; JAX's default if left out.")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(help="Devices that share the states; a CPU becomes as many as asked for."),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Simulate many initial states of one network; leave states, summary and plots in --out.

    Without options: 4096 random initial states of a random 20-neuron tanh network, small enough
    for quasi-periodic motion; --amplitude 1 is chaotic.
    """
    from . import runs  # jax and matplotlib are loaded only by those who compute

    runs.simulate_to_folder(runs.Settings(**{k: v for k, v in locals().items() if k != "runs"}))


@app.command()
def reproduce(
    out: Annotated[Path, typer.Option(help="Folder for the results; made if missing.")] = Path(
        "runs/reproduce"
    ),
    figure: Annotated[
        list[str] | None,
        typer.Option(help="1 to 5 or chaos; may be given several times.", show_default="all"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a config: figure4.duration=20, or duration=20 where one figure is made."
            " Lists as in figure4.w_m=[10,25]. May be given several times.",
        ),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Draw the paper's figures and check its claims; leave all of it in --out.

    Five figures and a map of chaos (PNG and PDF), verdicts.json, and report.html, one page that
    shows everything. Exit status 1 where a verdict is "fail".
    """
    from . import runs

    sys.exit(runs.reproduce_to_folder(out, figure, set_ or [], progress))


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for the results; made if missing.")] = Path(
        "runs/train"
    ),
    frequency: Annotated[
        list[float] | None,
        typer.Option(help="Target in Hz; given several times: that many lines in one signal."),
    ] = None,
    signal: Annotated[
        Path | None,
        typer.Option(
            help="Target signal (samples,) or (samples, channels): a .npy, .npz, .csv or .wav file."
            " A column t, time, timestamp, date, ms, ... of a .csv file is its time."
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(help="Channels of --signal: names, or positions from 0, as in a,b or 1,2."),
    ] = None,
    time_column: Annotated[
        str | None, typer.Option(help="Column of times in --signal: a name, or a position from 0.")
    ] = None,
    time_unit: Annotated[
        str | None, typer.Option(help="Unit of that column: s, ms, us, ns, min or h.")
    ] = None,
    array: Annotated[str | None, typer.Option(help="Name of the array in an .npz file.")] = None,
    decimal: Annotated[
        str | None, typer.Option(help="Decimal mark of a .csv file, . or , where it is not clear.")
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(help="Whether the first line of a .csv file of numbers names its columns."),
    ] = None,
    dt: Annotated[
        float | None,
        typer.Option(
            help="Sampling interval of --signal in seconds, where the file does not say it."
        ),
    ] = None,
    hold_out: Annotated[
        float | None,
        typer.Option(help="Part at the end of --signal kept from training.", show_default="0.2"),
    ] = None,
    neurons: Annotated[
        int | None,
        typer.Option(help="Neurons.", show_default="8; 12 for several lines; 16 for a signal"),
    ] = None,
    activation: Annotated[
        str,
        typer.Option(
            help="tanh, hard_tanh, linear, arctan, erf or sin: odd ones, around 0 they oscillate."
        ),
    ] = "tanh",
    form: Annotated[
        str, typer.Option(help="rate: x' = f(A x + b); current: x' = A f(x) + b.")
    ] = "rate",
    amplitude: Annotated[
        float | None,
        typer.Option(help="Root mean square of the output, with --frequency.", show_default="1"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Training steps, with one --frequency or --signal.",
            show_default="60; 30 a horizon for a signal",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random initial network.")] = 0,
    dtype: Annotated[
        str, typer.Option(help="float32 or float64; training gains from the latter.")
    ] = "float64",
    device: Annotated[
        str | None, typer.Option(help="cpu, gpu, gpu:1, ...; JAX's default if left out.")
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train an oscillator to one or several frequencies, or to a signal; leave it in --out.

    ctrnn train --frequency 3.2, ctrnn train --signal data.csv --dt 0.01: the model
    (oscillator.ctrnn, for ctrnn generate), report.json, and plots of its signal and spectrum
    beside the target's, of its orbit and of the loss.
    """
    from . import train

    options = {k: v for k, v in locals().items() if k != "train"}
    train.train_to_folder(train.TrainSettings(**options))


@app.command()
def generate(
    model: Annotated[Path, typer.Argument(help="oscillator.ctrnn, as ctrnn train leaves it.")],
    duration: Annotated[float, typer.Option(help="Length of the signal in seconds.")],
    dt: Annotated[
        float | None,
        typer.Option(
            help="Time between samples in seconds.",
            show_default="1/44100 for .wav, else the model's longest step",
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Samples a second, in Hz, instead of --dt.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help=f"{_SIGNAL.capitalize()}; .csv has a column t of times, .wav 16 bits a sample,"
            " scaled so that the highest peak is 0.9 of the range."
        ),
    ] = Path("runs/signal.csv"),
) -> None:
    """Generate the signal of a trained oscillator, for as long as you like; write it to --out.

    Samples are at 0, dt, 2 dt, ..., before --duration. The integration keeps to steps that the
    model is accurate with, however far apart the samples are.
    """
    from . import train

    train.generate_to_file(model, duration, dt, rate, out)


@_bench.callback(invoke_without_command=True)
def bench(
    context: _Context,  # pyright: ignore[reportInvalidTypeForm]
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="throughput, gradients, work-precision, training, scaling or compile; may be given"
            " several times.",
            show_default="all",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter cases.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results; made if missing.", show_default="runs/bench"),
    ] = None,
) -> None:
    """Measure the speed of this library, of its peers and of the machine; leave it in --out.

    A report (.json) and plots of each suite, and bench.json, the report of this run's suites.
    Candidates take turns, so that ratios hold on a machine whose speed drifts: leave it alone
    meanwhile. Exit status 1 where a suite fails. Peers that are not installed are left out; all of
    them come with ctrnn-jax[bench].
    """
    if context.invoked_subcommand is None:
        from . import bench

        sys.exit(bench.bench_to_folder(suite, quick, out or Path("runs/bench")))
    if suite or quick or out:
        _refuse("compare: expected no option before it, got --suite, --quick or --out")


@_bench.command()
def compare(
    old: Annotated[
        Path, typer.Argument(metavar="OLD", help="bench.json, or the report of one suite.")
    ],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another, measured later.")],
) -> None:
    """Print what changed beyond its spread from one report to another.

    That is: numbers whose intervals from 10 % to 90 % have nothing in common; a single measurement
    is given 10 % to either side. Times are compared on the same processor only.
    """
    from . import bench

    bench.compare(old, new)


@app.command()
def info() -> None:
    """Print versions, devices and precision: what a bug report needs."""
    from . import options

    for name, value in options.environment().items():
        typer.echo(f"{name:<12} {value}")


def main() -> None:
    """Run the command line; exit status 2 and one line on bad input, 130 on an interrupt."""
    with writing.interruptible():
        try:
            status = app(standalone_mode=False)
        except _UsageError as error:
            _refuse(error.format_message())
        except typer.Abort:
            sys.exit(130)
        except BrokenPipeError:  # whoever reads the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except MemoryError as error:
            _refuse(f"memory: expected enough for this run, got {error or 'too little'}")
        except (ValueError, TypeError, OSError) as error:
            _refuse(_with_options(str(error)))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            _refuse(f"memory: expected enough for this run, got {error}")
        else:
            sys.exit(status if isinstance(status, int) else 0)


def _with_options(message: str) -> str:
    """The message of an error, by the option where the library names its argument."""
    command: Any = typer.main.get_command(app)
    options = {
        "num_steps": "--steps",
        "x0": "--initial-states",
        "target_hz": "--frequency",
        "figures": "--figure",
        "changes": "--set",
        "out": "--out",
    }
    for subcommand in command.commands.values():
        flags = {p.name: p.opts[0] for p in subcommand.params if p.opts[0].startswith("--")}
        options = {**flags, **options}
    name, colon, rest = message.partition(":")
    first, space, more = name.partition(" ")
    return options.get(first, first) + space + more + colon + rest


def _refuse(message: str) -> None:
    typer.echo("ctrnn: " + " ".join(message.split()), err=True)
    sys.exit(2)
