"""`ctrnn bench` with small scripts in place of the suites, and `ctrnn bench compare`."""

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ctrnn_jax._command import bench

pytestmark = pytest.mark.one_dtype

FOLDER = bench.suites_folder()
STUB = """
import json, sys
from pathlib import Path

here, out = Path(__file__), Path(sys.argv[sys.argv.index("--out") + 1])
report = json.loads(here.with_suffix(".json").read_text())
report["suites"][next(iter(report["suites"]))]["facts"]["quick"] = "--quick" in sys.argv
name = here.stem.replace("_", "-")
print("told by", name)
(out / f"{name}.json").write_text(json.dumps(report))
(out / f"{name}.png").write_bytes(b"a plot")
"""
FAILING = STUB + "sys.exit(3)\n"
# A child holds standard output open as long as it lives.
ENDLESS = STUB + (
    "import subprocess\n"
    "subprocess.run([sys.executable, '-c', 'print(\"begun\", flush=True);"
    " import time; time.sleep(60)'])\n"
)


@pytest.fixture
def measure():
    """The module that suites write their reports with."""
    spec = importlib.util.spec_from_file_location("measure", FOLDER / "measure.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path, monkeypatch, measure):
    """A checkout of stubs, and a function that adds one."""
    folder = tmp_path / "checkout" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "measure.py").touch()
    monkeypatch.setattr(bench, "_PACKAGE", folder.parent / "ctrnn_jax")

    def add(suite, script=STUB, **environment):
        report = measure.Report(suite)
        times = {"ctrnn_jax": np.array([1e-3, 2e-3, 3e-3])}
        times["numpy loop"] = 4 * times["ctrnn_jax"]
        about = {"parameters": {"n": 2}}
        report.times("n = 2", times, least=1e-3, **about)
        halved = {name: times["ctrnn_jax"] / 2 for name in ("numpy loop", "ctrnn_jax mesh")}
        report.times("n = 8", times | halved, **about)
        report.value("n = 2", "ctrnn_jax", "memory", 7.0, "MiB", **about)
        report.notice(f"{suite}: heyoka is not installed: skipped")
        report.write(folder)
        stem = folder / suite.replace("-", "_")
        written = json.loads((folder / f"{suite}.json").read_text())
        written["environment"] |= environment
        stem.with_suffix(".json").write_text(json.dumps(written))
        stem.with_suffix(".py").write_text(script)

    return add


@pytest.fixture
def ctrnn(ctrnn, tmp_path, monkeypatch, checkout):
    """In a folder beside the checkout."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return ctrnn


def _files(folder):
    return {path.name for path in folder.iterdir()}


def test_suites_make_one_report_and_a_summary(ctrnn, checkout, tmp_path):
    checkout("work-precision", devices="cpu:0", float64="on")
    checkout("scaling", devices="cpu:0, cpu:1", float64="on")
    suites = ["--suite", "work-precision", "--suite", "scaling", "--suite", "scaling"]
    status, out, error = ctrnn("bench", *suites, "--quick", "--out", "deep/er")
    assert status == 0, error
    folder = tmp_path / "work" / "deep" / "er"
    made = {f"{name}.{kind}" for name in ("work-precision", "scaling") for kind in ("json", "png")}
    assert _files(folder) == made | {"bench.json"} and _files(folder.parent) == {"er"}

    report = json.loads((folder / "bench.json").read_text())
    assert list(report["suites"]) == ["work-precision", "scaling"]
    assert report["environment"]["float64"] == "on" and "cores" in report["environment"]
    for name, devices in (("work-precision", "cpu:0"), ("scaling", "cpu:0, cpu:1")):
        alone = json.loads((folder / f"{name}.json").read_text())["suites"][name]
        assert report["suites"][name] == {**alone, "environment": {"devices": devices}}
        assert alone["facts"]["quick"] is True and len(alone["rows"]) == 6

    # In order: what the children print, then the summary.
    told = ["work-precision, suite 1 of 2", "told by work-precision", "scaling, suite 2 of 2"]
    told += ["told by scaling", "work-precision: 6 rows", "scaling: 6 rows", "results in deep/er"]
    assert [out.index(text) for text in told] == sorted(map(out.index, told))
    summary = out[out.index("scaling: 6 rows") :]
    lines = [" ".join(line.split()) for line in summary.splitlines()]
    assert "time / ctrnn_jax numpy loop 2 2.25 [0.85, 3.65] 0.125 [0.125, 0.125]" in lines
    assert "time / ctrnn_jax ctrnn_jax 2 1 [1, 1] 0.5 [0.5, 0.5]" in lines
    assert "ahead of ctrnn_jax: numpy loop, 0.5 [0.5, 0.5] in n = 8" in summary
    assert summary.count("ahead of") == 1
    assert "note: scaling: heyoka is not installed" in summary


def test_a_suite_that_fails_leaves_the_others(ctrnn, checkout, tmp_path):
    checkout("throughput")
    checkout("gradients", FAILING)
    checkout("training", "print('nothing written')")
    checkout("compile")
    names = ("throughput", "gradients", "training", "compile")
    suites = [word for name in names for word in ("--suite", name)]
    status, out, error = ctrnn("bench", *suites)
    assert status == 1 and error.count("\n") == 2
    assert "ctrnn: gradients: expected exit status 0, got 3" in error
    assert "ctrnn: training: expected an existing file" in error
    folder = tmp_path / "work" / "runs" / "bench"
    kept = {"throughput.json", "throughput.png", "compile.json", "compile.png", "bench.json"}
    assert _files(folder) == kept and _files(folder.parent) == {"bench"}
    report = json.loads((folder / "bench.json").read_text())
    assert list(report["suites"]) == ["throughput", "compile"]
    assert report["suites"]["compile"]["facts"] == {"quick": False}
    assert "compile: 6 rows" in out and "gradients: 6 rows" not in out

    # What a failing suite left at another time is not taken for new.
    status, *_ = ctrnn("bench", "--suite", "gradients")
    assert status == 1 and _files(folder) == kept


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_children_and_leaves_what_is_complete(checkout, tmp_path, number):
    checkout("throughput")
    checkout("gradients", ENDLESS)
    code = (
        "import sys; from pathlib import Path; from ctrnn_jax._command import app, bench;"
        f"bench._PACKAGE = Path({str(bench._PACKAGE)!r}); app.main()"
    )
    options = ["bench", "--suite", "throughput", "--suite", "gradients", "--out", "o"]
    work = tmp_path / "work"
    work.mkdir()
    command, environment = [sys.executable, "-c", code, *options], dict(os.environ)
    environment.pop("PYTHONUNBUFFERED", None)
    with subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = itertools.takewhile(lambda line: line != b"begun\n", process.stdout)
        assert [line.strip() for line in told] == [
            b"", b"throughput, suite 1 of 2", b"told by throughput",
            b"", b"gradients, suite 2 of 2", b"told by gradients",
        ]  # fmt: skip
        process.send_signal(number)
        process.communicate(timeout=20)  # till nobody holds the output
    assert process.returncode == 130
    assert _files(work) == {"o"}
    assert _files(work / "o") == {"throughput.json", "throughput.png", "bench.json"}
    assert list(json.loads((work / "o" / "bench.json").read_text())["suites"]) == ["throughput"]


def test_suites_are_found_and_nothing_else_is_taken_for_them(tmp_path, monkeypatch, ctrnn):
    for name in (*bench.SUITES, *bench.ON_ACCELERATORS):
        assert (FOLDER / f"{name.replace('-', '_')}.py").is_file()
    site = tmp_path / "site"
    monkeypatch.setattr(bench, "_PACKAGE", site / "ctrnn_jax")
    (site / "benchmarks").mkdir(parents=True)  # of another package
    status, _, error = ctrnn("bench")
    assert status == 2 and error.count("\n") == 1
    assert "ctrnn bench: expected the suites in" in error and not os.listdir()
    for place in (site, site / "ctrnn_jax"):
        (place / "benchmarks").mkdir(parents=True, exist_ok=True)
        (place / "benchmarks" / "measure.py").touch()
        assert bench.suites_folder() == place / "benchmarks"


def test_children_measure_the_checkout_of_the_command(ctrnn, checkout):
    checkout("compile", STUB + "print('first:', sys.path[1])\n")
    _, out, _ = ctrnn("bench", "--suite", "compile")
    assert f"first: {bench._PACKAGE.parent}" in out


def _row(candidate, spread, *, unit="s", quantity="time", ratio=None, case="n = 2"):
    """`spread`: median, low, high."""
    names = ("median", "low", "high")
    ratio = ratio and dict(zip(names, ratio, strict=True))
    about = {"case": case, "candidate": candidate, "quantity": quantity, "unit": unit}
    about |= {"ratio": ratio, "fraction": None, "parameters": {}}
    return about | dict(zip(names, spread, strict=True))


def _write(path, rows, suite="scaling", **environment):
    suites = {suite: {"rows": rows, "notices": [], "facts": {}}}
    environment = {"processor": "A", "cores": 2, "backend": "cpu", "jax": "1", **environment}
    path.write_text(json.dumps({"environment": environment, "suites": suites}))


ONE = (1.0, 1.0, 1.0)
OLD = [
    _row("diffrax", (3.0, 2.9, 3.1), ratio=(3.0, 2.9, 3.1)),
    _row("ctrnn_jax", (1.0, 0.9, 1.1), ratio=ONE),
    _row("numba", (2.0, 1.8, 2.2), ratio=(2.0, 1.8, 2.2)),
    _row("ctrnn_jax", (5e-4, 5e-4, 5e-4), quantity="first call"),
    _row("ctrnn_jax mesh", (4e-4, 4e-4, 4e-4), quantity="first call"),
    _row("ctrnn_jax", (1e-9, 1e-9, 1e-9), quantity="error", unit=""),
    _row("torchdiffeq", (None, None, None), quantity="error", unit=""),
    _row("ctrnn_jax", ONE, case="dropped"),
]
NEW = [
    _row("diffrax", (4.0, 3.9, 4.1), ratio=(8.0, 7.8, 8.2)),
    _row("ctrnn_jax", (0.5, 0.4, 0.6), ratio=ONE),
    _row("numba", (2.1, 2.0, 2.3), ratio=(2.3, 2.1, 2.5)),
    _row("ctrnn_jax", (8e-4, 8e-4, 8e-4), quantity="first call"),
    _row("ctrnn_jax mesh", (4.4e-4, 4.4e-4, 4.4e-4), quantity="first call"),
    _row("ctrnn_jax", (1e-8, 1e-8, 1e-8), quantity="error", unit=""),
    _row("torchdiffeq", (0.5, 0.5, 0.5), quantity="error", unit=""),
    _row("ctrnn_jax", ONE, case="added"),
    _row("ctrnn_jax", ONE, case="added too"),
]
WORDS = ("faster", "slower", "higher", "lower")


def _changes(out):
    """Each line of a change, and its title."""
    title, found = "", []
    for line in out.splitlines():
        words = line.split()
        if words and words[0] in WORDS:
            found.append((title, " ".join(words)))
        elif words:
            title = line
    return found


def test_compare_prints_what_changed_beyond_the_spread(ctrnn):
    _write(Path("old.json"), OLD)
    _write(Path("new.json"), NEW, jax="2")
    status, out, error = ctrnn("bench", "compare", "old.json", "new.json")
    assert status == 0, error
    assert _changes(out) == [
        ("ctrnn_jax", "faster 0.5 1 s -> 500 ms ctrnn_jax, time; scaling: n = 2"),
        ("ctrnn_jax", "slower 1.6 500 µs -> 800 µs ctrnn_jax, first call; scaling: n = 2"),
        ("ctrnn_jax", "higher 10 1e-09 -> 1e-08 ctrnn_jax, error; scaling: n = 2"),
        ("others", "slower 1.33 3 s -> 4 s diffrax, time; scaling: n = 2"),
        ("others", "slower 2.67 3 -> 8 diffrax, time / ctrnn_jax; scaling: n = 2"),
        ("others", "lower 0 inf -> 0.5 torchdiffeq, error; scaling: n = 2"),
    ]
    assert "scaling: 5 changed, 2 unchanged, 2 new, 1 gone, 0 not compared" in out
    assert "jax: 1 -> 2" in out and "another machine" not in out and "cores" not in out


@pytest.mark.parametrize("other", [{"processor": "B"}, {"cores": 4}, {"backend": "gpu"}])
def test_times_of_another_machine_are_not_compared(ctrnn, other):
    _write(Path("old.json"), OLD)
    _write(Path("new.json"), NEW, **other)
    status, out, error = ctrnn("bench", "compare", "old.json", "new.json")
    assert status == 0, error
    assert [line.split(";")[0].split("-> ")[1] for _, line in _changes(out)] == [
        "1e-08 ctrnn_jax, error",
        "8 diffrax, time / ctrnn_jax",
        "0.5 torchdiffeq, error",
    ]
    ((key, value),) = other.items()
    assert f"{key}: " in out and f"-> {value}" in out and "another machine" in out
    assert "scaling: 3 changed, 2 unchanged, 2 new, 1 gone, 2 not compared" in out


def test_compare_takes_the_report_of_a_run_and_of_a_suite(ctrnn, checkout):
    checkout("scaling", devices="cpu:0, cpu:1")
    checkout("compile", devices="cpu:0")
    assert ctrnn("bench", "--suite", "scaling", "--suite", "compile")[0] == 0
    run, suite = Path("runs/bench/bench.json"), Path("runs/bench/scaling.json")
    status, out, error = ctrnn("bench", "compare", run, suite)
    assert status == 0, error
    assert "scaling: 0 changed, 6 unchanged, 0 new, 0 gone" in out
    assert "compile: 0 changed, 0 unchanged, 0 new, 6 gone" in out
    assert "->" not in out  # the environment of this suite is the same


BAD_REPORTS = {
    "none.json": None,
    "words.json": "words",
    "binary.json": b"\xff\xfe\x00",
    "deep.json": "[" * 100_000,
    "list.json": "[]",
    "other.json": '{"environment": {}, "results": 1}',
    "rows.json": '{"environment": {}, "suites": {"scaling": {"rows": [{}], "notices": []}}}',
    "flat.json": '{"environment": {}, "suites": {"scaling": []}}',
    "environment.json": '{"environment": [], "suites": {"a": {"rows": [], "notices": []}}}',
}


@pytest.mark.parametrize("name", BAD_REPORTS)
def test_compare_refuses_what_is_no_report(ctrnn, name):
    text = BAD_REPORTS[name]
    if text is not None:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    _write(Path("good.json"), OLD)
    for files, refused in (((name, "good.json"), "OLD"), (("good.json", name), "NEW")):
        status, out, error = ctrnn("bench", "compare", *files)
        assert status == 2 and not out and error.count("\n") == 1
        assert f"{refused}: expected" in error and f"got {name}" in error


BAD = [
    (
        ["--suite", "speed"],
        "--suite: expected one of 'throughput', 'gradients', 'work-precision', ",
    ),
    (["--out", "file"], "--out: expected a folder, got the file file"),
    (["--quick", "compare", "a.json", "b.json"], "compare: expected no option before it"),
    (["compare", "a.json"], "Missing argument 'NEW'"),
    (["contrast"], "No such command"),
]


@pytest.mark.parametrize("arguments,message", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(ctrnn, tmp_path, arguments, message):
    (tmp_path / "work" / "file").touch()
    status, out, error = ctrnn("bench", *arguments)
    assert status == 2 and not out and error.count("\n") == 1 and message in error
    if "--suite" in arguments:
        assert all(repr(name) in error for name in (*bench.SUITES, *bench.ON_ACCELERATORS))
    assert _files(tmp_path / "work") == {"file"}


def test_help_explains(ctrnn):
    text = ctrnn("bench", "--help")[1]
    assert all(name in text for name in bench.SUITES)
    assert all(word in text for word in ("--quick", "--out", "compare"))
    assert "OLD" in ctrnn("bench", "compare", "--help")[1] and "bench" in ctrnn("--help")[1]
