"""`ctrnn reproduce`: the paper's figures and verdicts in a folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import jax
from typer import Option

from .._util import checks
from .options import Out, Progress


def reproduce(
    out: Out = Path("runs/reproduce"),
    figure: Annotated[
        list[str] | None,
        Option(help="1 to 5, chaos or modes; may be given several times.", show_default="all"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a config: figure4.duration=20, or duration=20 where one figure is made."
            " Lists as in figure4.w_m=[10,25]. May be given several times.",
        ),
    ] = None,
    progress: Progress = True,
) -> int:
    """Draw the paper's figures and check its claims; leave all of it in --out.

    Five figures, a map of chaos and the closed orbits of many neurons (PNG and PDF), verdicts.json,
    and report.html, one page that shows everything. Exit status 1 where a verdict is "fail".
    """
    for change in set_ or ():
        if "=" not in change:
            checks.fail("--set", "KEY=VALUE", repr(change))
    import matplotlib

    from ..experiments import report

    jax.config.update("jax_enable_x64", True)
    changes = dict(change.split("=", 1) for change in set_ or ())
    start = time.perf_counter()
    matplotlib.use("Agg")
    results = report.compute(out, figure, changes, progress)
    report.write(out, results)
    verdicts = [verdict for result in results.values() for verdict in result.verdicts]
    for verdict in verdicts:
        print(
            f"{verdict.status:<15}  {verdict.value:.3g} {verdict.relation} {verdict.threshold:g}"
            f"  {verdict.claim}"
        )
    failed = sum(verdict.status == "fail" for verdict in verdicts)
    print(f"{len(verdicts)} verdicts, {failed} failed, in {time.perf_counter() - start:.0f} s")
    print(f"report in {out / 'report.html'}")
    return 1 if failed else 0
