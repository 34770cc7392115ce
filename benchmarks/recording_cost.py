"""Cost of recording a run, as a ratio to the run alone, to the disk alone, and to other ways.

    python benchmarks/recording_cost.py [--quick] [--out DIR]

x' = tanh(A x), 20 neurons, 4096 states, float32, Euler. "run alone" is the same chunks, of which
nothing is kept; "disk alone" writes as many bytes in files of the same size, each brought to the
disk; "zarr" appends each chunk to an array of zarr-python without a codec before the next one is
begun, which does not bring it to the disk. Files are written beside those of --out.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import diffrax
import jax
import numpy as np
from measure import OURS, Report, interleaved, parser

import ctrnn_jax as ct

CASES = ((20, 6000), (100, 3000))  # steps between saves, saves
QUICK_CASES = ((5, 60),)
BATCH, N, CHUNK = 4096, 20, 200
DT = 0.05


def chunks(rnn: ct.CTRNN, x0: jax.Array, save_every: int, saves: int, keep: bool):
    end = x0
    for begin in range(0, saves, CHUNK):
        steps = min(CHUNK, saves - begin) * save_every
        run = ct.simulate(rnn, end, dt=DT, num_steps=steps, solver=diffrax.Euler(),
                          save_every=save_every if keep else steps)  # fmt: skip
        end = run.end
        yield run


def alone(rnn: ct.CTRNN, x0: jax.Array, save_every: int, saves: int) -> None:
    last = None
    for run in chunks(rnn, x0, save_every, saves, keep=False):
        last = run.xs
    jax.block_until_ready(last)


def by_record(folder: Path, rnn: ct.CTRNN, x0: jax.Array, save_every: int, saves: int) -> None:
    path = folder / "run.zarr"
    shutil.rmtree(path, ignore_errors=True)
    ct.record(path, rnn, x0, dt=DT, num_steps=saves * save_every, save_every=save_every,
              chunk=CHUNK, solver=diffrax.Euler())  # fmt: skip


def by_zarr(folder: Path, rnn: ct.CTRNN, x0: jax.Array, save_every: int, saves: int) -> None:
    import zarr

    shape, chunk = (BATCH, saves, N), (BATCH, CHUNK, N)
    array = zarr.create_array(folder / "zarr", shape=shape, chunks=chunk, dtype="float32",
                              compressors=None, overwrite=True)  # fmt: skip
    for k, run in enumerate(chunks(rnn, x0, save_every, saves, keep=True)):
        xs = np.asarray(run.xs)[:, 1:]
        array[:, k * CHUNK : k * CHUNK + xs.shape[1]] = xs


def disk(folder: Path, saves: int) -> None:
    values = np.random.default_rng(0).integers(0, 255, BATCH * CHUNK * N * 4, np.uint8)
    shutil.rmtree(folder / "disk", ignore_errors=True)
    (folder / "disk").mkdir()
    for k in range(-(-saves // CHUNK)):
        with open(folder / "disk" / str(k), "wb") as file:
            file.write(values)
            os.fsync(file.fileno())


def compare(report: Report, folder: Path, case: tuple[int, int], rounds: int) -> None:
    save_every, saves = case
    rnn = ct.CTRNN(ct.DenseSkew.init(jax.random.key(0), N))
    x0 = jax.random.normal(jax.random.key(1), (BATCH, N))
    found: dict[str, Callable] = {
        OURS: lambda: by_record(folder, rnn, x0, save_every, saves),
        f"{OURS}, run alone": lambda: alone(rnn, x0, save_every, saves),
        "disk alone": lambda: disk(folder, saves),
        "zarr": lambda: by_zarr(folder, rnn, x0, save_every, saves),
    }
    report.times(
        f"{saves} saves of {BATCH} states, {saves * BATCH * N * 4 / 1e9:.3g} GB,"
        f" {save_every} steps apart",
        interleaved(found, rounds, 120.0),
        parameters={"saves": saves, "save_every": save_every, "batch": BATCH, "n": N},
    )


def main() -> None:
    options, report = parser(__doc__, "recording-cost").parse_args(), Report("recording-cost")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        for case in QUICK_CASES if options.quick else CASES:
            compare(report, Path(folder), case, 1 if options.quick else 3)
    report.write(options.out)


if __name__ == "__main__":
    main()
