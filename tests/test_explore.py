"""`ctrnn explore`: its numbers without a browser, and the page in one."""

import dataclasses
import io
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import X64
from scipy.integrate import solve_ivp
from scipy.io import wavfile

import ctrnn_jax as ct
from ctrnn_jax._command.explore_network import (
    MOST_NEURONS,
    SOLVERS,
    STEPS,
    WEIGHTS,
    Controls,
    changed,
    network,
)
from ctrnn_jax._command.explore_pictures import pictures, sound

pytestmark = pytest.mark.one_dtype

QUICK = Controls(neurons=2, x0=(0.5, 0.0), shown=(0, 1))


def moved(controls, **changes):
    for name, value in changes.items():
        controls = changed(controls, name, value)
    return controls


@pytest.mark.by_default(0)
def test_the_pictures_show_the_solution_and_its_frequencies():
    controls = moved(Controls(), point=(0.4, -0.3), dt=0.02)
    found = pictures(controls)
    w = 2 * np.pi * np.array([1.0, 1.618])

    def field(t, x):
        return np.tanh([w[0] * x[1], -w[0] * x[0], w[1] * x[3], -w[1] * x[2]])

    ts = 0.02 * np.arange(STEPS + 1)
    exact = solve_ivp(field, (0, ts[-1]), [0.4, 0, -0.3, 0], "DOP853", ts, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.ts, ts, rtol=1e-6)
    np.testing.assert_allclose(found.xs, exact.y.T, atol=2e-6 if X64 else 2e-3)
    assert found.drift.max() < (1e-7 if X64 else 1e-4) and found.told == ""
    assert [row.name for row in found.rows] == ["x0, x1", "x2, x3"]
    for row, small in zip(found.rows, (1.0, 1.618), strict=True):
        np.testing.assert_allclose(row.small, small, rtol=1e-6)
        np.testing.assert_allclose(row.measured, row.exact, rtol=1e-5)
    # The spectra peak there, and so does the spectrogram of the first.
    for power, row in zip(found.power, found.rows, strict=True):
        assert abs(found.f[power.argmax()] - row.exact) <= found.f[0]
    strongest = found.bands[found.decibels.argmax(axis=0)]
    assert (abs(strongest - found.rows[0].exact) <= found.bands[0]).all()
    assert found.rows[0].exact < found.limit < 20


def saved_network(folder):
    weights = ct.DenseSkew.init(jax.random.key(3), 5)
    rnn = ct.CTRNN(weights, ct.Arctan(), bias=jnp.full(5, 0.1))
    ct.save(folder / "network.ctrnn", rnn)
    return rnn


def saved_matrix(folder, name="A.npy"):
    A = np.array([[0, 3.0, 1.0], [-3.0, 0, 0.5], [-1.0, -0.5, 0]])
    np.savetxt(folder / name, A, delimiter=",") if name[-1] == "v" else np.save(folder / name, A)
    return A


CODE = {
    "blocks": {},
    "current": {"form": "current", "solver": "poisson_splitting:4", "amplitude": 2.0},
    "dense": {"weights": "dense", "neurons": 5, "seed": 4, "solver": "projected:tsit5"},
    "no energy": {"weights": "unconstrained", "solver": "euler", "activation": "relu"},
    "stopped": {"weights": "unconstrained", "activation": "exp", "amplitude": 2.0},
    "rest": {"point": (0.0, 0.0)},
    "network": {"file": "network.ctrnn", "solver": "rk4"},
    "oscillator": {"file": "oscillator.ctrnn"},
    "matrix": {"file": "A.npy", "shown": (2, 0)},
    "table": {"file": "A.csv", "activation": "sin"},
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rnn = saved_network(tmp_path)
    ct.save("oscillator.ctrnn", ct.Oscillator(rnn, jnp.ones(5), jnp.ones((1, 5))))
    saved_matrix(tmp_path)
    saved_matrix(tmp_path, "A.csv")


@pytest.mark.parametrize("changes", CODE.values(), ids=CODE)
@pytest.mark.sampled(2)
@pytest.mark.by_default(1)
def test_the_code_gives_the_same_numbers(changes, files, monkeypatch):
    found = pictures(moved(Controls(), **changes))
    made, names = {}, ("phase_portrait", "time_series", "spectrum", "spectrogram", "energy_drift")
    for name in names:
        monkeypatch.setattr(ct.plot, name, lambda *a, name=name, **k: made.update({name: k}))
    exec(found.code, made)
    plt.close("all")
    shown, saves = list(made["phase_portrait"]["neurons"]), len(found.ts)
    assert (saves <= STEPS) == ("stopped" in found.told)
    np.testing.assert_array_equal(made["run"].ts[:saves], found.ts)
    np.testing.assert_array_equal(made["run"].xs[:saves], found.xs)
    assert ("drift" in made) == ("energy_drift" in made) == (found.drift is not None)
    if found.drift is not None:
        np.testing.assert_array_equal(np.abs(made["drift"])[:saves], found.drift)
    assert ("spectrum" in made) == found.power.any()
    if found.power.any():
        np.testing.assert_array_equal(made["power"][shown, 1:], found.power)
    known = [row.exact for row in found.rows if row.exact is not None]
    np.testing.assert_array_equal(np.ravel(made.get("exact", []))[:8], known)
    told = [row.measured for row in found.rows if row.name.startswith("neuron")]
    for value, k in zip(told, shown, strict=False):
        np.testing.assert_equal(float(made["measured"][k]), np.nan if value is None else value)


@pytest.mark.parametrize("changes", CODE.values(), ids=CODE)
@pytest.mark.sampled(5)
@pytest.mark.by_default(0)
def test_the_code_draws_its_pictures(changes, files):
    exec(pictures(moved(Controls(), **changes)).code, {})
    (figure,) = map(plt.figure, plt.get_fignums())
    assert sum(ax.has_data() for ax in figure.axes) >= 2
    plt.close("all")


def test_moving_sliders_compiles_nothing(caplog):
    controls = moved(Controls(), frequency=1.1)
    pictures(controls)
    moves = {"dt": 0.013, "frequency": 2.5, "ratio": 1.3, "amplitude": 0.9, "point": (0.1, -2.0),
             "shown": (3, 1)}  # fmt: skip

    def compiled():
        return [r.getMessage() for r in caplog.records if "ompiling" in r.getMessage()]

    with jax.log_compiles():
        for name, value in moves.items():
            controls = changed(controls, name, value)
            pictures(controls)
        assert compiled() == []
        jax.jit(lambda x: x + 1)(jnp.ones(3))
        assert compiled()


@pytest.mark.parametrize("weights", [name for name in WEIGHTS if name not in ("file", "block")])
@pytest.mark.sampled(3)
def test_the_frequency_is_the_highest_of_random_weights(weights):
    rnn = network(moved(Controls(), neurons=100, weights=weights, frequency=3.0))
    highest = np.abs(np.linalg.eigvals(np.asarray(rnn.weights.as_matrix(), float))).max()
    assert 0.6 < highest / (2 * np.pi * 3.0) < 1.6


def test_what_hangs_on_a_control_moves_with_it(tmp_path):
    controls = moved(Controls(), point=(-0.5, 0.25), amplitude=1.0)
    assert controls.x0 == (-1.0, 0, 0.5, 0)
    wider = moved(controls, shown=(3, 1), neurons=6)
    assert wider.shown == (0, 2) and wider.x0 == (1.0, 0, 1.0, 0, 1.0, 0)
    # What the slider shows comes back to the bit, or it would be set against who moves it.
    assert all(moved(controls, amplitude=0.01 * k).amplitude == 0.01 * k for k in range(1, 500))
    assert moved(controls, point=(0, 0), amplitude=0.3).amplitude == 0.3  # out of rest
    assert moved(controls, neurons=2).shown == (0, 1)
    saved_network(tmp_path)
    read = moved(controls, file=str(tmp_path / "network.ctrnn"))
    assert (read.weights, read.neurons, read.activation) == ("file", 5, "arctan")
    np.testing.assert_array_equal(network(read).bias, jnp.full(5, 0.1))
    # Another network under the same name is read anew.
    ct.save(tmp_path / "network.ctrnn", ct.CTRNN(ct.BlockSkew(jnp.ones(4)), form="current"))
    again = moved(read, file=read.file)
    assert (again.neurons, again.form) == (8, "current")


BAD = {
    "odd": ({"neurons": 5}, "neurons: expected an even number for block weights, got 5"),
    "one": ({"neurons": 1}, "neurons: expected an integer >= 2, got 1"),
    "many": ({"neurons": 999}, f"neurons: expected at most {MOST_NEURONS}, got 999"),
    "linear": ({"solver": "exact_linear"}, "solver: expected activation Linear() for <any>"),
    "shown": ({"shown": (0, 4)}, "shown: expected two neurons from 0 to 3, got (0, 4)"),
    "amplitude": ({"amplitude": 0.0}, "amplitude: expected a finite number > 0, got 0.0"),
    "none": ({"weights": "file"}, "file: expected a saved network or a matrix, got none"),
    "nowhere": ({"file": "none.npy"}, "file: expected an existing file, got none.npy"),
    "folder": ({"file": "."}, "file: expected an existing file, got ."),
    "row": ({"file": "row.npy"}, "file: expected a square matrix, got shape (1, 3)"),
    "text": ({"file": "text.npy"}, "file: expected <any>"),
    "nan": ({"file": "nan.npy"}, "file: expected <any>"),
    "run": ({"file": "run.ctrnn"}, "file: expected <any>, got Trajectory"),
    "size": ({"file": "A.npy", "neurons": 4}, "neurons: expected the size of the <any>, got 4"),
}


@pytest.mark.parametrize(("changes", "line"), BAD.values(), ids=BAD)
def test_what_means_nothing_is_one_line(changes, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved_matrix(tmp_path)
    np.save("row.npy", np.ones((1, 3)))
    np.save("nan.npy", np.full((3, 3), np.nan))
    (tmp_path / "text.npy").write_text("no array")
    ct.save("run.ctrnn", ct.simulate(network(QUICK), jnp.ones(2), dt=0.1, num_steps=2))
    with pytest.raises((ValueError, TypeError)) as error:
        pictures(moved(Controls(), **changes))
    assert re.match(re.escape(line).replace("<any>", ".+"), str(error.value)), error.value


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.sampled(6)
def test_every_solver_draws(solver):
    found = pictures(moved(QUICK, activation="linear", solver=solver))
    assert np.isfinite(found.xs).all() and found.told == ""
    row = found.rows[0]
    assert abs(row.measured - row.exact) < 2e-2 * row.exact


def test_a_state_at_rest_is_drawn():
    found = pictures(moved(QUICK, point=(0.0, 0.0)))
    assert not found.xs.any() and found.rows[0].measured is None and np.isfinite(found.limit)
    assert found.told == "" and not found.power.any() and np.isfinite(found.decibels).all()


@pytest.mark.parametrize("frequency", [0.2, 5.0])
def test_the_sound_is_an_a(frequency):
    wav, told = sound(moved(QUICK, frequency=frequency))
    rate, y = wavfile.read(io.BytesIO(wav))
    spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y))))
    assert rate == 44100 and 2 <= len(y) / rate < 2.01
    assert abs(spectrum.argmax() * rate / len(y) - 220) < 1
    assert "220 Hz" in told
    with pytest.raises(ValueError, match="sound: expected a neuron x0 that oscillates"):
        sound(moved(QUICK, point=(0.0, 0.0)))


def test_the_controls_are_plain():
    """So that two that are equal are the same picture."""
    assert Controls() == dataclasses.replace(Controls()) and hash(Controls())


def test_the_command_refuses_in_one_line(ctrnn, tmp_path):
    bokeh = pytest.importorskip("bokeh")
    assert bokeh
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, told, error = ctrnn("explore", "--no-browser", "--port", port)
    assert (status, told) == (2, "")
    assert re.fullmatch(rf"ctrnn: --port: expected a free port, got {port}: .+\n", error)
    status, _, error = ctrnn("explore", "--no-browser", "--port", -1)
    assert (status, error) == (2, "ctrnn: --port: expected a port from 0 to 65535, got -1\n")
    status, _, error = ctrnn("explore", "--no-browser", "--weights", tmp_path / "none.npy")
    assert status == 2 and error.startswith("ctrnn: --weights: expected an existing file, got ")


# --------------------------------------------------------------------------------- in a browser


@pytest.fixture
def browser():
    """Debian's chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    places = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, places)), None)
    if found is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def address(tmp_path):
    """Of a server in a process of its own, which an interrupt ends."""
    pytest.importorskip("bokeh")
    saved_matrix(tmp_path)
    command = [sys.executable, "-m", "ctrnn_jax", "explore", "--no-browser", "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as server:
        try:
            yield server.stdout.readline().split()[0]
        finally:
            server.send_signal(signal.SIGINT)
            _, error = server.communicate(timeout=30)
    assert (server.returncode, error) == (130, "\nctrnn: interrupted\n")


@pytest.fixture
def page(browser, address):
    """The page, which must complain of nothing and ask nobody else for anything."""
    page, complaints = browser.new_page(viewport={"width": 1440, "height": 900}), []
    page.set_default_timeout(90_000)
    own = (address, address.replace("http", "ws"), "data:")
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: r.url.startswith(own) or complaints.append(r.url))
    page.goto(address)
    yield page
    page.close()
    assert complaints == []


MODEL = "Bokeh.documents[0].get_model_by_name"


def column(page, source, name):
    """Of a data source, as the browser has it."""
    get = (
        f"const d = {MODEL}('{source}').data; return Array.from(d.get ? d.get('{name}') : d.{name})"
    )
    return np.array(page.evaluate(f"() => {{ {get} }}"))


@pytest.mark.slow
def test_the_page_in_a_browser(page):
    note = page.get_by_text

    def shown(k):
        note(f"picture {k}, computed").wait_for()
        page.wait_for_timeout(300)  # painted, too
        return page.locator(".bk-Figure").first.screenshot(), column(page, "path", "x0")

    portrait, path = shown(1)
    expected = pictures(Controls()).xs
    np.testing.assert_allclose(path, expected[:-1, 0], atol=1e-9 if X64 else 2e-3)

    page.locator(".noUi-handle").nth(3).press("ArrowRight")  # the amplitude
    portrait, path, before = *shown(2), portrait
    assert portrait != before and path[0] == pytest.approx(0.21)

    box = page.locator(".bk-Figure").first.bounding_box()
    page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.7 * box["height"])
    portrait, path, before = *shown(3), portrait
    start = [column(page, "start", name)[0] for name in "xy"]
    assert portrait != before and path[0] == start[0] and -0.3 < min(start) < max(start) < 0
    page.get_by_role("button", name="show the code").click()
    code = page.locator("pre").inner_text()
    x0 = [float(x) for x in re.search(r"x0 = jnp.array\(\[(.+)\]\)", code)[1].split(",")]
    assert x0 == [start[0], 0, start[1], 0]

    # What means nothing is told; the picture stays.
    page.get_by_label("neurons", exact=True).fill("5")
    page.get_by_label("neurons", exact=True).press("Enter")
    note("not drawn: neurons: expected an even number for block weights, got 5").wait_for()
    np.testing.assert_array_equal(column(page, "path", "x0"), path)
    page.get_by_label("file").fill("A.npy")
    page.get_by_label("file").press("Enter")
    shown(4)
    assert page.get_by_label("neurons", exact=True).input_value() == "3"
    assert page.get_by_label("weights", exact=True).input_value() == "file"

    page.get_by_role("button", name="play").click()
    audio = page.locator("audio")
    audio.wait_for()
    page.wait_for_timeout(500)  # it is decoded
    assert audio.evaluate("a => a.duration") == pytest.approx(2, abs=0.01)
    assert not audio.evaluate("a => a.paused")


@pytest.mark.slow
def test_a_move_lays_out_what_changed_alone(page):
    """What reaction takes beside computing; `benchmarks/explorer.py` has its time."""
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    from explorer import REACTION

    page.get_by_text("picture 1, computed").wait_for()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def layouts():
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "LayoutCount")

    page.evaluate(REACTION, ["dt", 0.02])
    before = layouts()
    for k in range(8):
        page.evaluate(REACTION, ["dt", 0.03 + 0.001 * k])
    assert (layouts() - before) / 8 < 20  # 8 to 10; 45 where all of the page was one layout
