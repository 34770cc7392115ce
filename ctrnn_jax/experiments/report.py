"""All experiments in one go: figures, verdicts and one page that shows them."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
import typing
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from .._files.page import page, picture, table
from .._files.writing import appearing_together, place_for, write_json
from .._util import checks
from . import chaos, figure1, figure2, figure3, figure4, figure5, modes
from ._common import Verdict, float64, needs_float64

EXPERIMENTS: dict[str, ModuleType] = {
    "1": figure1,
    "2": figure2,
    "3": figure3,
    "4": figure4,
    "5": figure5,
    "chaos": chaos,
    "modes": modes,
}
_LONGEST_FIRST = ("modes", "chaos", "1", "2", "5", "4", "3")


def reproduce(
    out: str | Path,
    figures: Iterable[str] | None = None,
    changes: Mapping[str, str] | None = None,
    progress: bool = False,
) -> list[Verdict]:
    """Run experiments; leave figures (PNG, PDF), verdicts.json and report.html in a folder.

    All files appear together at the end, or none does. Needs float64.

    Args:
        out: the folder; made if missing.
        figures: which of "1" to "5", "chaos" and "modes"; all unless given.
        changes: values of configs as JSON texts by "figure4.duration" or, where only one
            figure is made, "duration".
        progress: whether a progress bar is shown on stderr.

    Returns:
        The verdicts.

    Raises:
        TypeError, ValueError: for an unknown figure or key, or a value of the wrong kind.
    """
    results = compute(out, figures, changes, progress)
    write(out, results)
    return [verdict for result in results.values() for verdict in result.verdicts]


class Result(NamedTuple):
    """What one experiment came to."""

    config: Any
    verdicts: list[Verdict]
    picture: Any
    files: dict[str, bytes]  # the picture by ending


def compute(
    out: str | Path,
    figures: Iterable[str] | None,
    changes: Mapping[str, str] | None,
    progress: bool,
) -> dict[str, Result]:
    """The part of `reproduce` that takes time, and checks everything before; writes nothing."""
    place_for(Path(out))
    chosen = list(EXPERIMENTS) if figures is None else list(dict.fromkeys(map(str, figures)))
    for name in chosen:
        checks.one_of("figures", name, EXPERIMENTS)
    configs = _configs(chosen, dict(changes or {}))
    needs_float64()

    # Side by side, as many as there are cores: compiling takes most of the time, and no core whole.
    # Those that take long begin first.
    pool = ThreadPoolExecutor(min(len(chosen), os.cpu_count() or 1))
    running = {
        pool.submit(_run, EXPERIMENTS[name], configs[name]): name
        for name in sorted(chosen, key=_LONGEST_FIRST.index)
    }
    results = {}
    try:
        for done in _with_progress(running, progress):
            name = running[done]
            experiment, data = EXPERIMENTS[name], done.result()
            # Here, not beside each other: pyplot belongs to one thread.
            picture = experiment.plot(data)
            results[name] = Result(
                configs[name], experiment.check(data), picture, _as_files(picture)
            )
    except BaseException:
        _close(results)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return {name: results[name] for name in chosen}


def _run(experiment: ModuleType, config: Any) -> Any:
    with float64():
        return experiment.run(config)


def write(out: str | Path, results: dict[str, Result]) -> None:
    """The files of `reproduce`; closes the pictures."""
    try:
        with appearing_together(Path(out)) as folder:
            for name, result in results.items():
                for ending, content in result.files.items():
                    (folder / f"{_title(name)}.{ending}").write_bytes(content)
            verdicts = {
                _title(name): [v.as_dict() for v in result.verdicts]
                for name, result in results.items()
            }
            write_json(folder / "verdicts.json", verdicts)
            (folder / "report.html").write_text(_report(results), encoding="utf-8")
    finally:
        _close(results)


def _as_files(picture: Any) -> dict[str, bytes]:
    png, pdf = BytesIO(), BytesIO()
    picture.savefig(png, format="png", dpi=150)
    # No date inside: a second run gives the same file.
    picture.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return {"png": png.getvalue(), "pdf": pdf.getvalue()}


def _close(results: dict[str, Result]) -> None:
    import matplotlib.pyplot as plt

    for result in results.values():
        plt.close(result.picture)


def _title(name: str) -> str:
    return f"figure{name}" if name.isdigit() else name


def _with_progress(running: dict[Future, str], progress: bool) -> Iterator[Future]:
    """What is done, as it is done."""
    if not progress:
        yield from as_completed(running)
        return
    import tqdm

    with tqdm.tqdm(total=len(running), unit="figure") as bar:
        waiting = set(running)
        while waiting:
            names = [_title(name) for future, name in running.items() if future in waiting]
            bar.set_description(", ".join(names[:2]) + ", ..." * (len(names) > 2))
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future
                bar.update()


def _configs(chosen: list[str], changes: dict[str, str]) -> dict[str, Any]:
    """The default configs with the changes made."""
    configs = {name: EXPERIMENTS[name].Config() for name in chosen}
    known = {
        f"{_title(name)}.{field.name}": (name, field.name)
        for name, config in configs.items()
        for field in dataclasses.fields(config)
    }
    if len(chosen) == 1:
        known |= {key.partition(".")[2]: where for key, where in known.items()}
    for key, text in changes.items():
        if key not in known:
            names = [k for k in known if len(chosen) > 1 or "." not in k]
            checks.fail("changes", "one of " + ", ".join(names), repr(key))
        name, field = known[key]
        value = _value(key, text, typing.get_type_hints(type(configs[name]))[field])
        configs[name] = dataclasses.replace(configs[name], **{field: value})
    return configs


def _value(key: str, text: str, kind: Any) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        checks.fail(f"changes {key}", _in_words(kind), repr(text))
    try:
        return _as_kind(value, kind)
    except TypeError:
        checks.fail(f"changes {key}", _in_words(kind), text)


def _as_kind(value: Any, kind: Any, signed: bool = False) -> Any:
    """The value as a number > 0, a list of them, or a pair, of any sign."""
    if typing.get_origin(kind) is tuple:
        arguments = typing.get_args(kind)
        if not isinstance(value, list) or not value:
            raise TypeError
        signed = arguments[-1] is not Ellipsis
        if not signed:
            arguments = (arguments[0],) * len(value)
        if len(arguments) != len(value):
            raise TypeError
        return tuple(_as_kind(v, a, signed) for v, a in zip(value, arguments, strict=True))
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise TypeError
    if not (math.isfinite(value) and (signed or value > 0)):
        raise TypeError
    return kind(value)


def _in_words(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        inner, *rest = typing.get_args(kind)
        if rest[-1] is not Ellipsis:
            return "a pair of numbers"
        return (
            "a list of pairs of numbers" if inner not in (int, float) else "a list of numbers > 0"
        )
    return "a whole number > 0" if kind is int else "a number > 0"


def _report(results: dict[str, Result]) -> str:
    """The page that shows them all."""
    verdicts = [v for result in results.values() for v in result.verdicts]
    counts = {s: sum(v.status == s for v in verdicts) for s in ("pass", "counter-example", "fail")}
    parts = [
        "<h1>Generative System Dynamics in Recurrent Neural Networks, reproduced</h1>",
        "<p>Figures and claims of Casoni, Guidi, Betti, Melacci, Gori (IJCNN 2025), computed by "
        "<code>ctrnn reproduce</code>. A counter-example is a claim that needs a condition: the "
        "verdict names it and the number shows what happens without it. Captions are the paper's "
        "in our words, with what is added here.</p>",
        f"<p>{len(verdicts)} verdicts: {counts['pass']} pass, {counts['counter-example']} "
        f"counter-examples, {counts['fail']} fail.</p>",
    ]
    for name, (config, vs, _, files) in results.items():
        module = EXPERIMENTS[name]
        heading = (module.__doc__ or "").split("\n")[0].rstrip(".")
        rows = [
            (
                f"{html.escape(v.claim)}<br><small>{html.escape(v.source)}</small>",
                html.escape(v.measured),
                (f"{v.value:.3g}", "number"),
                (f"{'≤' if v.relation == '<=' else '≥'} {v.threshold:g}", "number"),
                (v.status, v.status),
            )
            for v in vs
        ]
        settings = json.dumps(dataclasses.asdict(config), indent=1)
        meaning = html.escape((type(config).__doc__ or "").strip())
        parts += [
            f"<h2>{html.escape(heading)}</h2>",
            picture(files["png"], heading, module.CAPTION),
            f"<p>{html.escape(module.READING)}</p>",
            table(("claim", "measured", "value", "bound", "verdict"), rows),
            "<details><summary>Config</summary>",
            f"<pre><code>{html.escape(settings)}</code></pre><pre>{meaning}</pre></details>",
        ]
    return page("Generative System Dynamics, reproduced", parts)
