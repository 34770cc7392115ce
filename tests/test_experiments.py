"""The paper's figures in small: every verdict holds, files are whole, a second run is the same."""

import html
import json
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import X64
from pictures import assert_readable

from ctrnn_jax import experiments
from ctrnn_jax.experiments import figure4, figure5
from ctrnn_jax.experiments._common import Verdict, at_least, at_most
from ctrnn_jax.experiments.report import EXPERIMENTS, compute, reproduce, write


@pytest.fixture(autouse=True)
def no_figure_is_left():
    yield
    plt.close("all")


SMALL = {
    "1": {"sizes": "[2]", "states": "2", "duration": "5", "points": "24"},
    "2": {"omegas": "[2.0]", "starts": "[[1.8, 0.4]]", "sizes": "[3, 4]", "linear_steps": "1000"},
    "3": {"starts": "[[-1.0, 0.6]]", "long_duration": "60", "omega": "1.5"},
    "4": {"w_m": "[25]", "fractions": "[0.2, 1.0]", "duration": "40"},
    "5": {"sizes": "[2, 20]", "seeds": "24"},
    "chaos": {"sizes": "[3, 6]", "seeds": "8", "steps": "10000"},
    "modes": {"sizes": "[3, 12]", "families": "6", "energies": "[0.001, 0.1]", "states": "6"},
}


@pytest.mark.skipif(not X64, reason="the bounds are those of float64")
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.rare] * (n == "modes")) for n in EXPERIMENTS]
)
@pytest.mark.sampled(2)
def test_every_verdict_passes_or_is_a_counter_example(name, tmp_path):
    results = compute(tmp_path / "out", [name], SMALL[name], progress=False)
    assert_readable(results[name].picture)
    if name == "2":
        assert_orbits_close(results[name].picture, json.loads(SMALL["2"]["starts"]))
    assert len(results[name].picture.legends) <= 1
    write(tmp_path / "out", results)
    verdicts = results[name].verdicts
    assert verdicts and {v.status for v in verdicts} <= {"pass", "counter-example"}
    title = f"figure{name}" if name.isdigit() else name
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert set(files) == {f"{title}.png", f"{title}.pdf", "verdicts.json", "report.html"}
    stored = json.loads(files["verdicts.json"].read_text())
    assert [v["claim"] for v in stored[title]] == [v.claim for v in verdicts]
    page = files["report.html"].read_text()
    assert page.count("<img") == 1 and 'src="data:image/png;base64,' in page
    for text in (EXPERIMENTS[name].CAPTION, EXPERIMENTS[name].READING):
        assert text.endswith(".") and html.escape(text) in page
    assert "://" not in page and all(f">{v.status}<" in page for v in verdicts)
    assert not plt.get_fignums()


def assert_orbits_close(figure, starts):
    """Each is drawn once around, in axes of equal aspect."""
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert len(panels) == 3
    for ax in panels:
        for lines, start in zip(ax.collections, starts, strict=True):
            segments = lines.get_segments()
            np.testing.assert_allclose(segments[0][0], start)
            np.testing.assert_allclose(segments[-1][-1], start, atol=1e-8)
        assert not ax.get_legend() and ax.get_aspect() == 1


@pytest.mark.parametrize("w_m", [(25.0,), (10.0, 25.0)])
def test_figure_4_has_the_panels_of_the_caption_first(w_m):
    config = figure4.Config(w_m=w_m)
    keys = [(name, w) for name in figure4.ACTIVATIONS for w in w_m]
    f, rows = np.linspace(0, 5, 50), len(config.fractions)
    amplitudes = {key: np.full((rows, 50), 0.1) for key in keys}
    peaks = {key: np.linspace(0.3, 3, rows) for key in keys}
    figure = figure4.plot(figure4.Data(config, f, amplitudes, peaks, peaks))
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    names = ["linear", "tanh", "hard tanh", "hard tanh"]
    of = [w_m[0]] * 3 + [*w_m[1:]]
    caption = [
        f"({letter}) {name}, $w_m$ = {w:g} rad/s"
        for letter, name, w in zip("abcd", names, of, strict=False)
    ]
    assert titles[: len(of)] == caption
    grid = {title.split(") ")[-1] for title in titles}
    assert grid == {f"{name}, $w_m$ = {w:g} rad/s" for name in set(names) for w in w_m}
    assert_readable(figure)
    plt.close(figure)


@pytest.mark.skipif(not X64, reason="the bounds are those of float64")
@pytest.mark.long
def test_verdicts_fail_where_the_numbers_are_wrong():
    config = figure4.Config(w_m=(25.0,), fractions=(0.2, 1.0), duration=20.0)
    data = figure4.run(config)
    wrong = data._replace(measured={k: 1.01 * v for k, v in data.measured.items()})
    assert sum(v.status == "fail" for v in figure4.check(wrong)) >= 3
    again = figure4.run(config)
    for key, amplitudes in data.amplitudes.items():
        np.testing.assert_array_equal(again.amplitudes[key], amplitudes)


def test_what_a_verdict_says():
    assert at_most("c", "s", "m", [1.0, 2.0], 2.0).status == "pass"
    assert at_most("c", "s", "m", [1.0, 2.0], 1.5).status == "fail"
    assert at_least("c", "s", "m", [1.0, 2.0], 1.0, counterexample=True).status == "counter-example"
    # A counter-example that is not found fails, as does what could not be measured.
    assert at_least("c", "s", "m", [1.0, 2.0], 1.5, counterexample=True).status == "fail"
    lost = at_most("c", "s", "m", [1.0, np.nan], 2.0)
    assert lost.status == "fail" and json.dumps(lost.as_dict(), allow_nan=False)
    assert Verdict("c", "s", "m", np.inf, "<=", 2.0).as_dict()["value"] is None


BAD = [
    (["6"], {}, "figures: expected one of '1', '2', '3', '4', '5', 'chaos', 'modes', got '6'"),
    (
        ["4"],
        {"omega": "1"},
        "changes: expected one of w_m, fractions, start, duration, dt, got 'omega'",
    ),
    (["4", "5"], {"dt": "1"}, "changes: expected one of figure4.w_m, figure4.fractions"),
    (["4"], {"dt": "fast"}, "changes dt: expected a number > 0, got 'fast'"),
    (["4"], {"start": "[1]"}, "changes start: expected a pair of numbers, got [1]"),
    (["4"], {"w_m": "10"}, "changes w_m: expected a list of numbers > 0, got 10"),
    (["4"], {"dt": "-0.1"}, "changes dt: expected a number > 0, got -0.1"),
    (["5"], {"seeds": "2.5"}, "changes seeds: expected a whole number > 0, got 2.5"),
    (["4"], {"w_m": "[10, 0]"}, "changes w_m: expected a list of numbers > 0, got [10, 0]"),
    (
        ["3"],
        {"starts": "[1, 2]"},
        "changes starts: expected a list of pairs of numbers, got [1, 2]",
    ),
    (["5"], {"seeds": "0"}, "changes seeds: expected a whole number > 0, got 0"),
]


@pytest.mark.skipif(not X64, reason="float64 is asked for first")
@pytest.mark.parametrize(("figures", "changes", "message"), BAD)
def test_bad_calls_name_what_is_wrong_and_write_nothing(figures, changes, message, tmp_path):
    with pytest.raises(ValueError) as caught:
        reproduce(tmp_path / "out", figures, changes)
    assert str(caught.value).startswith(message)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(X64, reason="float32 is refused")
def test_float32_is_refused():
    with pytest.raises(ValueError, match="jax_enable_x64: expected float64"):
        figure5.run()


def test_out_must_not_be_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match=r"^out: expected a folder"):
        experiments.reproduce(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.rare
def test_command_line_twice(tmp_path):
    def run(out, *options):
        command = [sys.executable, "-m", "ctrnn_jax", "reproduce", "--out", out, *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    options = ("--figure", "4", "--set", "w_m=[25]", "--set", "duration=20")
    first, second = run("a", *options), run("b", *options, "--no-progress")
    assert first.returncode == second.returncode == 0, first.stderr
    assert "figure4" in first.stderr and not second.stderr
    assert "9 verdicts, 0 failed" not in first.stdout and "0 failed" in first.stdout
    for name in ("verdicts.json", "figure4.png", "figure4.pdf", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # Too short to resolve the lines: a verdict fails, and the exit status says so.
    short = run("c", "--figure", "4", "--set", "duration=2", "--set", "w_m=[25]", "--no-progress")
    assert short.returncode == 1 and "fail " in short.stdout
    wrong = run("d", "--figure", "4", "--set", "w_m")
    assert wrong.returncode == 2
    assert wrong.stderr.strip() == "ctrnn: --set: expected KEY=VALUE, got 'w_m'"
    assert not (tmp_path / "d").exists()
