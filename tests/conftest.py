"""Strict numerics for every test: float64 (float32 with CTRNN_TEST_X64=0), no silent promotion."""

import gc
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import jax
import matplotlib
import pytest

# Most programs run once and for an instant: compiled without LLVM's optimisation and by XLA's older
# emitters the tests take half as long. With XLA_FLAGS set, if only to "", they are compiled as set.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
)
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = QUICK
    starts = "import jax; jax.devices()"  # a process is ended by flags that its XLA does not know
    if subprocess.run([sys.executable, "-c", starts], capture_output=True).returncode:
        os.environ["XLA_FLAGS"] = ""

# Compiled programs are shared by the workers of a run, and with the commands that tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    PROGRAMS = tempfile.TemporaryDirectory(prefix="ctrnn-programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

X64 = os.environ.get("CTRNN_TEST_X64", "1") != "0"

jax.config.update("jax_enable_x64", X64)
jax.config.update("jax_num_cpu_devices", 2)  # for meshes; all else runs on the first
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
matplotlib.use("Agg")

# Tracing makes many objects of which few are rubbish: at the usual thresholds a tenth of the time
# goes into looking for it.
gc.set_threshold(50_000, 20, 10)


@pytest.hookimpl(tryfirst=True)  # before -m looks
def pytest_collection_modifyitems(items):
    """Of the cases of a test that is `sampled(k)` every k-th is run, in float32 one in 3k, of the
    others where there are so many; what is left is rare. Of those that are not, the first k are run
    `by_default(k)`, the others are long. Slow ones first, so that no core waits.
    """
    cases, seen, left = Counter(item.function for item in items), Counter(), Counter()
    for item in items:
        sampled = item.get_closest_marker("sampled")
        if sampled is not None:
            case = seen[item.function]
            seen[item.function] += 1
            k = sampled.args[0] if X64 else 3 * sampled.args[0]
            run = 0 if X64 else min(k, cases[item.function]) // 2
            if case % k != run:
                item.add_marker(pytest.mark.rare)
        if not X64 and item.get_closest_marker("one_dtype") is not None:
            item.add_marker(pytest.mark.rare)
        by_default = item.get_closest_marker("by_default")
        if by_default is not None and item.get_closest_marker("rare") is None:
            left[item.function] += 1
            if left[item.function] > by_default.args[0]:
                item.add_marker(pytest.mark.long)
    # Set in a worker's own environment, too, as the first process left it there.
    if os.environ["XLA_FLAGS"] == QUICK:
        for item in items:
            if item.get_closest_marker("optimised") is not None:
                item.add_marker(pytest.mark.skip('with XLA_FLAGS="" alone, see .ci/run'))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def ctrnn(tmp_path, monkeypatch, capfd):
    """The command, in this process as that is faster: status, standard output and error."""
    from ctrnn_jax._command import app  # by now the types of its arguments are checked

    def run(*arguments):
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["ctrnn", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            app.main()
        return end.value.code, *capfd.readouterr()

    monkeypatch.chdir(tmp_path)
    yield run
    jax.config.update("jax_enable_x64", X64)


@pytest.fixture
def key():
    """A fixed key."""
    return jax.random.key(20250414)


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs():
    """XLA maps memory for each program, of which Linux allows a process 65530 pieces."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 2**14:
        jax.clear_caches()
