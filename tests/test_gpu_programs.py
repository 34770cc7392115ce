"""What programs for a GPU launch, compiled for an H100: 4096 states, 1000 steps, 10 saves."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Of each step, at most: launches and graphs together; nodes in graphs; waits of the host.
BUDGETS = {
    "simulate,2,Euler": (0.25, 0.5, 0.05),
    "simulate,8,Euler": (0.5, 2.0, 0.05),
    "simulate,20,Euler": (0.2, 2.5, 0.05),
    "simulate,512,Euler": (0.2, 2.5, 0.05),
    "simulate,2,Tsit5": (0.3, 1.0, 0.05),
    "simulate,8,Tsit5": (0.3, 13.0, 0.05),
    "simulate,20,Tsit5": (0.2, 13.0, 0.05),
    "simulate,2,PoissonSplitting": (0.3, 1.0, 0.05),
    "simulate,20,PoissonSplitting": (1.5, 25.0, 0.05),
    "simulate,128,PoissonSplitting": (20.0, 150.0, 0.05),
    "simulate,512,PoissonSplitting": (80.0, 550.0, 0.05),
    "grad,20,Euler": (0.8, 10.0, 0.05),
    "grad,20,Tsit5": (0.8, 60.0, 0.05),
    "fit,20,Euler": (0.8, 10.0, 0.05),
    "lyapunov,4,Tsit5": (2.0, 25.0, 0.05),
    "period,2,Tsit5": (70.0, 6.0, 1.1),  # of a round of the adaptive loop, whose end the host sees
}
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found():
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        pytest.skip("needs the extra gpu-compile")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
    command = [sys.executable, HERE / "gpu_programs.py", *BUDGETS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line for line in lines}


@pytest.mark.parametrize("case", BUDGETS)
@pytest.mark.slow
def test_a_step_launches_no_more_than(case, found):
    each, (launches, nodes, waits) = found[case], BUDGETS[case]
    assert each["launches"] + each["graphs"] <= launches
    assert each["nodes"] <= nodes
    assert each["syncs"] <= waits
    assert each["launches"] + each["graphs"] + each["nodes"] > 0.1
