"""What programs for a GPU launch, compiled for an H100: 4096 states, 1000 steps, 10 saves."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "benchmarks"))
gpu_cases = importlib.import_module("gpu_cases")


@pytest.fixture(scope="module")
def found():
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        pytest.skip("needs the extra gpu-compile")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
    command = [sys.executable, HERE / "gpu_programs.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line for line in lines}


@pytest.mark.parametrize("case", gpu_cases.CASES)
@pytest.mark.slow
def test_a_step_launches_no_more_than(case, found):
    each, (launches, nodes, waits) = found[case], gpu_cases.CASES[case]
    assert each["launches"] + each["graphs"] <= launches
    assert each["nodes"] <= nodes
    assert each["syncs"] <= waits
    assert each["launches"] + each["graphs"] + each["nodes"] > 0.1
