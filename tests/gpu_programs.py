"""Programs compiled for an H100, on a machine without one, and what a run of each launches.

    python tests/gpu_programs.py [NAME...]     # each case, a line of JSON

XLA's compiler for GPUs needs only the description of one. It dumps the sequence of thunks: what
is launched, what is captured into graphs, and the loops around it, whose rounds the optimised
program tells. Needs the extra `gpu-compile`.
"""

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

DUMP = Path(tempfile.mkdtemp(prefix="ctrnn-gpu-"))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"--xla_dump_to={DUMP} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=case_"
)
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # what is taken from there is not dumped
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import diffrax
import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies

import ctrnn_jax as ct

STEPS, SAVE_EVERY, BATCH = 1000, 100, 4096
SOLVERS = {
    "Euler": diffrax.Euler(),
    "Tsit5": diffrax.Tsit5(),
    "PoissonSplitting": ct.PoissonSplitting(),
}
THUNK = re.compile(r"^( *)(\d+): (k\w+)\s*(.*)$")


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
                n = STEPS
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


def launched(name):
    """Of one call of a program."""
    (dump,) = DUMP.glob(f"*jit_{name}.*thunk_sequence_after_thunk_passes.txt")
    base = str(dump).removesuffix(".thunk_sequence_after_thunk_passes.txt")
    (program,) = DUMP.glob(f"{Path(base).name}.*gpu_after_optimizations.txt")
    metadata = Path(base + ".thunk_metadata.txt").read_text()
    thunks = tree(dump.read_text().splitlines())
    total = dict.fromkeys(("launches", "graphs", "nodes", "syncs"), 0)
    count(thunks, rounds_of(program.read_text(), metadata), total)
    if not total["launches"] + total["nodes"]:
        raise RuntimeError(f"no thunks found in the dump of {name}")
    return total


# Cases: a function and its arguments.


def network(W):
    return ct.CTRNN(ct.DenseSkew(W))


def simulated(n, solver, mesh):
    def run(W, x0):
        options = {"num_steps": STEPS, "save_every": SAVE_EVERY, "solver": SOLVERS[solver]}
        return ct.simulate(network(W), x0, dt=0.05, mesh=mesh, **options).xs

    return run, (jnp.zeros((n, n), jnp.float32), jnp.zeros((BATCH, n), jnp.float32))


def gradient(n, solver, mesh):
    run, arguments = simulated(n, solver, mesh)
    return jax.grad(lambda W, x0: jnp.sum(run(W, x0) ** 2), (0, 1)), arguments


def step_of_fit(n, solver, mesh):
    run, arguments = simulated(n, solver, mesh)
    adam = optax.adam(1e-3)

    def step(W, x0):
        slope = jax.grad(lambda W: jnp.mean(run(W, x0) ** 2))(W)
        return optax.apply_updates(W, adam.update(slope, adam.init(W))[0])

    return step, arguments


def lyapunov(n, solver, mesh):
    arguments = simulated(n, solver, mesh)[1]
    return lambda W, x0: ct.lyapunov_spectrum(
        network(W), x0, dt=0.05, num_steps=STEPS, k=1, solver=SOLVERS[solver]
    ), arguments


def period(n, solver, mesh):
    arguments = simulated(n, solver, mesh)[1]
    return lambda W, x0: ct.period(network(W), x0), arguments


KINDS = {"simulate": simulated, "grad": gradient, "fit": step_of_fit, "lyapunov": lyapunov,
         "period": period}  # fmt: skip


def main():
    target = (Path(__file__).parent / "h100.txtpb").read_text()
    topology = topologies.get_topology_desc(platform="cuda", target_config=target, topology="1x1x1")
    device = topology.devices[0]
    here = jax.sharding.SingleDeviceSharding(device)
    mesh = ct.batch_mesh([device])
    for k, name in enumerate(sys.argv[1:]):
        kind, n, solver = name.split(",")
        function, arguments = KINDS[kind](int(n), solver, mesh)

        def case(*arguments, function=function):
            return function(*arguments)

        case.__name__ = f"case_{k}"
        shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here) for a in arguments]
        began = time.perf_counter()
        jax.jit(case).trace(*shapes).lower(lowering_platforms=("cuda",)).compile()
        seconds = time.perf_counter() - began
        each = {key: value / STEPS for key, value in launched(case.__name__).items()}
        print(json.dumps({"case": name, "seconds": round(seconds, 1)} | each), flush=True)


if __name__ == "__main__":
    main()
