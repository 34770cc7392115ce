"""`ctrnn analyse`: what a matrix or a saved network does, on one page."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from typer import Argument, Option

from .._analysis.analyse import Analysis, analyse
from .._files.writing import appearing_together, write_json
from .._network.model import CTRNN, one_network
from .._network.weights import DenseSkew, not_skew
from .._train.oscillator import Oscillator
from .._util import checks
from .._util.classes import listed
from .info import environment
from .options import (
    ACTIVATIONS,
    ARRAY,
    Device,
    Dtype,
    Out,
    Progress,
    Seed,
    activation_named,
    prepared,
    seed_of,
)
from .parts import finite_array, loaded, matrix_of, read_part

NEARLY = 0.1  # largest symmetric part, as a share of the largest weight, that is left out unasked


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is analysed: a network, the matrix before its symmetric part was left out, a state."""

    name: str
    rnn: CTRNN
    given: np.ndarray
    x0: jax.Array | None
    remarks: list[str]


def analyse_to_folder(
    model: Annotated[
        Path | None,
        Argument(help="A .ctrnn file with a network or an oscillator.", show_default=False),
    ] = None,
    weights: Annotated[
        Path | None,
        Option(
            help=f"Instead, a skew-symmetric matrix A (n, n) in 1/s: {ARRAY}, or a .ctrnn file:"
            " the weights of its network."
        ),
    ] = None,
    array: Annotated[
        str | None, Option(help="Name of the array in a file of --weights that has several.")
    ] = None,
    skew_part: Annotated[
        bool,
        Option(
            "--skew-part",
            help="Analyse (A - A^T)/2 of a matrix that is far from skew; of one that is nearly so"
            " (10 % of its largest weight) it is done and told.",
        ),
    ] = False,
    activation: Annotated[
        str | None,
        Option(help=f"With --weights: {listed(ACTIVATIONS)}.", show_default="tanh"),
    ] = None,
    form: Annotated[
        str | None,
        Option(
            help="With --weights: rate: x' = f(A x + b); current: x' = A f(x) + b.",
            show_default="rate",
        ),
    ] = None,
    out: Out = Path("runs/analyse"),
    quick: Annotated[
        bool, Option("--quick", help="Less of everything: some 20 s for 20 neurons, not 2 minutes.")
    ] = False,
    seed: Seed = 0,
    dtype: Dtype = "float64",
    device: Device = None,
    progress: Progress = True,
) -> None:
    """Tell what a network with skew-symmetric weights does; leave report.html and .json in --out.

    The matrix, its linear frequencies and fixed point; families of closed orbits with their
    stability; which motion is periodic, quasi-periodic or chaotic, by amplitude; Lyapunov
    exponents and Poincare sections; energy conservation, and a solver with a step.
    """
    with prepared(out, dtype, device):
        start = time.perf_counter()
        kind = jnp.dtype(dtype)
        if (model is None) == (weights is None):
            expected = "either MODEL or --weights"
            checks.fail("MODEL", expected, "none" if model is None else "both")
        if model is not None:
            _only_with_weights(array=array, activation=activation, form=form)
            subject = _saved(model, kind, skew_part)
        else:
            assert weights is not None
            A = read_part("--weights", weights, matrix_of, array, selects=True)
            act = activation_named(activation or "tanh")
            subject = _skew(
                "--weights", weights.name, A, skew_part, kind,
                lambda w: CTRNN(w, act, form or "rate"),
            )  # fmt: skip
        found = _analysed(subject, quick, seed_of(seed), progress)
        settings = {
            "subject": subject.name, "form": found.rnn.form, "skew_part": skew_part,
            "activation": type(found.rnn.activation).__name__, "quick": quick, "seed": seed,
            "dtype": dtype,
        }  # fmt: skip
        seconds = time.perf_counter() - start
        _write(out, found, settings, seconds)


def _only_with_weights(**options: str | None) -> None:
    for name, value in options.items():
        if value is not None:
            checks.fail(f"--{name}", "none with MODEL, which has its own", value)


def _saved(path: Path, dtype: Any, skew_part: bool) -> Subject:
    with loaded("MODEL", path) as found:
        rnn = found.rnn if isinstance(found, Oscillator) else found
        if not isinstance(rnn, CTRNN):
            expected = "a file with a network or an oscillator"
            checks.fail("MODEL", expected, type(found).__name__)
        one_network(rnn)
        if rnn.leak is not None:
            checks.fail("MODEL", "a network without leak: damped motion dies out", "a leak")
        if rnn.has_own_equation:
            checks.fail("MODEL", "the equation of CTRNN", f"that of {type(rnn).__name__}")
        A, x0 = np.asarray(rnn.weights.as_matrix()), getattr(found, "x0", None)
        other = jax.tree.map(
            lambda leaf: np.asarray(leaf) if eqx.is_array(leaf) else leaf,
            (rnn.activation, rnn.bias),
        )
        inputs, form = rnn.num_inputs, rnn.form
        x0 = None if x0 is None else np.asarray(x0)
    activation, bias = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype) if eqx.is_inexact_array_like(leaf) and
        isinstance(leaf, np.ndarray) else leaf, other,
    )  # fmt: skip
    subject = _skew(
        "MODEL", path.name, A, skew_part, dtype, lambda w: CTRNN(w, activation, form, bias)
    )
    if inputs:
        subject.remarks.append(f"The network has {inputs} input(s), which are 0 here.")
    if x0 is None:
        return subject
    return dataclasses.replace(subject, x0=finite_array("MODEL", x0, dtype))


def _skew(option: str, name: str, A: np.ndarray, skew_part: bool, dtype: Any, network) -> Subject:
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        checks.fail(option, "a square matrix", f"shape {A.shape}")
    checks.finite(option, A)
    got, remarks = not_skew(A), []
    if got is not None:
        if not skew_part and not_skew(A, NEARLY) is not None:
            hint = "a skew-symmetric matrix, or nearly so (or the option --skew-part)"
            checks.fail(option, hint, got)
        remarks.append(
            f"The matrix is not skew-symmetric: it has {got}. Its skew part is analysed."
        )
    weights = DenseSkew.from_matrix(finite_array(option, A, dtype), skew_part=True)
    return Subject(name, network(weights), A.astype(np.float64), None, remarks)


def _analysed(subject: Subject, quick: bool, seed: int, progress: bool) -> Analysis:
    options = {"x0": subject.x0, "quick": quick, "given": subject.given, "seed": seed}
    if not progress:
        found = analyse(subject.rnn, **options)
    else:
        from tqdm import tqdm

        with tqdm(total=1, unit="part") as bar:

            def done(name: str, count: int, total: int) -> None:
                bar.total, bar.n = total, count
                bar.set_description(name)

            found = analyse(subject.rnn, **options, progress=done)
    return dataclasses.replace(found, remarks=subject.remarks + found.remarks)


def _write(out: Path, found: Analysis, settings: dict[str, Any], seconds: float) -> None:
    from .analyse_results import as_numbers, report, summary  # loads matplotlib

    with appearing_together(out) as workplace:
        results = as_numbers(found)
        told = {"results": results, "settings": settings, "environment": environment()}
        told["seconds"] = seconds
        write_json(workplace / "report.json", told)
        (workplace / "report.html").write_text(report(found, settings), encoding="utf-8")
    for line in summary(found):
        print(line)
    print(f"report in {out / 'report.html'}")
