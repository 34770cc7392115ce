"""What a call of a program compiled for a GPU launches, and the time that this takes at least.

XLA's compiler dumps the sequence of thunks: what is launched, what is captured into graphs, and the
loops around it, whose rounds the optimised program tells.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from measure import interleaved
from scipy.optimize import nnls

ROUNDS = 1000  # that a loop is counted with where their number is not known
THUNK = re.compile(r"^( *)(\d+): (k\w+)\s*(.*)$")


class Uncounted(ValueError):
    """What a program launches, or what that costs, cannot be told."""


class Launches(NamedTuple):
    """Launches outside graphs; graphs and the nodes in them; waits of the host."""

    launches: float
    graphs: float
    nodes: float
    syncs: float

    @property
    def guessed(self) -> bool:
        """Whether there is a loop whose rounds are not known."""
        return self.syncs > ROUNDS

    def each(self, times: int) -> Launches:
        return Launches(*(value / times for value in self))


class Overheads(NamedTuple):
    """Seconds of each."""

    launch: float
    graph: float
    node: float
    sync: float

    def least(self, found: Launches) -> float:
        """Seconds that launching takes."""
        return float(np.dot(self, found))


ASSUMED = Overheads(launch=2.5e-6, graph=5e-6, node=1.2e-6, sync=10e-6)


def compiled(
    function: Callable, *arguments: Any, platforms: tuple[str, ...] | None = None
) -> tuple[Callable, Launches]:
    """The program for these arguments, or arrays of their shapes, and what a call launches.

    Raises:
        Uncounted: where the compiler leaves no thunks, as for CPUs, or where JAX took the program
            from its cache on disk.
    """

    def case(*arguments):
        return function(*arguments)

    lowered = jax.jit(case).trace(*arguments).lower(lowering_platforms=platforms)
    with tempfile.TemporaryDirectory(prefix="ctrnn-gpu-") as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        program = lowered.compile(compiler_options=options)
        return program, launched(Path(folder))


def launched(folder: Path) -> Launches:
    """Of a call of the program `case` that was dumped there."""
    dumps = list(folder.glob("*jit_case.thunk_sequence.txt"))
    if len(dumps) != 1:
        got = f"{len(dumps)} of them, for {jax.default_backend()}"
        raise Uncounted(f"launches: expected the thunks of one program, got {got}")
    base = dumps[0].name.removesuffix("thunk_sequence.txt")
    # Left out where no pass changed them: where nothing became a graph.
    final = folder / f"{base}thunk_sequence_after_thunk_passes.txt"
    thunks = (final if final.exists() else dumps[0]).read_text()
    (program,) = folder.glob(f"{base}*gpu_after_optimizations.txt")
    metadata = (folder / f"{base}thunk_metadata.txt").read_text()
    total = dict.fromkeys(Launches._fields, 0)
    rounds = rounds_of(program.read_text(), metadata)
    count(tree(thunks.splitlines()), rounds, total)
    if not total["launches"] + total["nodes"]:
        raise Uncounted("launches: expected some thunks, got none")
    return Launches(**total)


# Thunks: a line each, what they hold indented below them.


def tree(lines):
    """[(id, kind, text, [(label, children), ...]), ...] of a dump."""
    found, at = [], 0
    depth = next((len(m[1]) for m in map(THUNK.match, lines) if m), 0)
    while at < len(lines):
        match = THUNK.match(lines[at])
        if match is None or len(match[1]) != depth:
            at += 1
            continue
        end = at + 1
        while end < len(lines) and not ((m := THUNK.match(lines[end])) and len(m[1]) <= depth):
            end += 1
        found.append((int(match[2]), match[3], match[4], parts(lines[at + 1 : end])))
        at = end
    return found


def parts(lines):
    """The blocks below a thunk, by their labels, such as "body"."""
    depth = min((len(m[1]) for m in map(THUNK.match, lines) if m), default=0)
    blocks, label, block = [], "", []
    for k, line in enumerate(lines):
        following = next((m for m in map(THUNK.match, lines[k:]) if m), None)
        # Labels are not indented by depth: that of a block here has a thunk of it next.
        if THUNK.match(line) is None and following and len(following[1]) == depth:
            if block:
                blocks.append((label, tree(block)))
            label, block = line.strip().rstrip(":"), []
        else:
            block.append(line)
    if any(map(THUNK.match, block)):
        blocks.append((label, tree(block)))
    return blocks


def rounds_of(program, metadata):
    """How often each while thunk goes round, by its id; None where that is not known."""
    known = {}
    for line in program.splitlines():
        if match := re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = .* while\(", line):
            count = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            known[match[1]] = int(count[1]) if count else None
    found = {}
    for block in re.split(r"thunk_metadata", metadata):
        name = re.search(r'profile_annotation: "([^"]+)"', block)
        number = re.search(r"thunk_id: (\d+)", block)
        if name and number:
            found[int(number[1])] = known.get(name[1])
    return found


def size(thunks):
    return sum(1 + sum(size(inner) for _, inner in below) for *_, below in thunks)


def count(thunks, rounds, total, times=1, in_graph=False):
    for number, kind, _, below in thunks:
        if kind == "kWhile":
            blocks, n = dict(below), rounds.get(number)
            if n is None:  # the host looks at the condition after each round
                n = ROUNDS
                total["syncs"] += 0 if in_graph else times * (n + 1)
                count(blocks.get("condition", []), rounds, total, times * (n + 1), in_graph)
            count(blocks["body"], rounds, total, times * n, in_graph)
        elif kind == "kConditional":
            total["syncs"] += 0 if in_graph else times
            # What is seldom done is the longer branch.
            shorter = min((inner for _, inner in below), key=size)
            count(shorter, rounds, total, times, in_graph)
        elif kind == "kCommandBuffer":
            total["graphs"] += times
            for _, inner in below:
                count(inner, rounds, total, times, True)
        elif kind == "kSequential":
            for _, inner in below:
                count(inner, rounds, total, times, in_graph)
        else:
            total["nodes" if in_graph else "launches"] += times


# What launching costs here, from programs that do next to nothing else.


def chain(length):
    """A thousand rounds of so many kernels, one after another."""

    def rounds(x):
        def body(_, x):
            for _ in range(length):
                x = lax.optimization_barrier(x + 1)
            return x

        return lax.fori_loop(0, ROUNDS, body, x)

    return rounds


def looked_at(x):
    """A thousand rounds, after each of which the host looks whether it was the last."""
    return lax.while_loop(lambda x: x[0] < ROUNDS, lambda x: x + 1, x)


TRIVIAL = {"one kernel": chain(1), "graph of 10": chain(10), "graph of 50": chain(50),
           "wait": looked_at}  # fmt: skip


def overheads() -> Overheads:
    """Measured on this device, which must not be a CPU."""
    x = jnp.zeros(256, "float32")
    programs = {name: compiled(function, x) for name, function in TRIVIAL.items()}
    calls = {name: (lambda call=call: call(x)) for name, (call, _) in programs.items()}
    seconds = {name: float(times.min()) for name, times in interleaved(calls, 10, 3.0).items()}
    return fitted([found for _, found in programs.values()], list(seconds.values()))


def fitted(found: list[Launches], seconds: list[float]) -> Overheads:
    """The costs, none below 0, with which the launches take these times.

    Raises:
        Uncounted: where they do not tell the costs apart.
    """
    counts = np.array(found, float)
    if np.linalg.matrix_rank(counts / counts.max(axis=0, initial=1)) < len(Overheads._fields):
        raise Uncounted("overheads: expected programs that tell them apart, got others")
    return Overheads(*map(float, nnls(counts, np.array(seconds))[0]))
