"""Programs compiled for an H100, on a machine without one, and what a step of each launches.

    python tests/gpu_programs.py [NAME...]     # a line of JSON of each, of all cases unless named

XLA's compiler for GPUs needs only the description of one. Needs the extra `gpu-compile`. The cases
are those of benchmarks/gpu_cases.py, or others named alike.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # what is taken from there is not dumped
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "benchmarks"))

import jax
from gpu_cases import BATCH, CASES, STEPS, Case
from jax.experimental import topologies
from launches import compiled

import ctrnn_jax as ct


def h100():
    target = (HERE / "h100.txtpb").read_text()
    topology = topologies.get_topology_desc(platform="cuda", target_config=target, topology="1x1x1")
    return topology.devices[0]


def main():
    device = h100()
    here, mesh = jax.sharding.SingleDeviceSharding(device), ct.batch_mesh([device])
    for name in sys.argv[1:] or CASES:
        case = Case.named(name)
        shapes = [
            jax.ShapeDtypeStruct(shape, "float32", sharding=here)
            for shape in ((case.n, case.n), (BATCH, case.n))
        ]
        began = time.perf_counter()
        _, found = compiled(case.program(mesh), *shapes, platforms=("cuda",))
        seconds = time.perf_counter() - began
        each = found.each(STEPS)._asdict()
        print(json.dumps({"case": name, "seconds": round(seconds, 1)} | each), flush=True)


if __name__ == "__main__":
    main()
