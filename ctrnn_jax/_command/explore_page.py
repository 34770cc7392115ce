"""The page of `ctrnn explore`: controls to the left, pictures to the right, by bokeh."""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from bokeh.document import Document
from bokeh.events import Tap
from bokeh.layouts import column
from bokeh.models import (
    Button,
    ColorBar,
    ColumnDataSource,
    Div,
    LinearColorMapper,
    LogScale,
    PreText,
    Range1d,
    Select,
    Slider,
    Spinner,
    TextInput,
    Toggle,
)
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from ..plot._style import CMAP, LINE, POWER_RANGE
from .explore_network import ACTIVATIONS, FORMS, MOST_NEURONS, SOLVERS, WEIGHTS, Controls, changed
from .explore_pictures import Pictures, Row, pictures, sound

_WIDTH, _HEIGHT, _CONTROLS = 385, 340, 240  # pixels
_PICTURES = ("portrait", "series", "spectrum", "spectrogram", "drift", "frequencies")
_COLLECTED = 5  # ms in which what is moved is taken together
_COLORS = (plt.get_cmap(CMAP)(x, bytes=True)[:3] for x in (0.0, 0.6))
# Each a layout of its own: where one changes, bokeh measures that alone, not the whole page.
_TEMPLATE = f"""
{{% from macros import embed %}}
{{% block preamble %}}<style>
  main {{ display: flex; flex-wrap: wrap; gap: 8px; padding: 2px 0; }}
  .shown {{ flex: 1 1 {_WIDTH}px; min-width: 0; }}
  .pictures {{ display: grid; grid-template-columns: repeat(auto-fill, {_WIDTH}px); gap: 6px 0; }}
  .pictures > span {{ display: block; height: {_HEIGHT}px; }}
</style>{{% endblock %}}
{{% block contents %}}<main>
  <div>{{{{ embed(roots.controls) }}}}</div>
  <div class="shown">
    {{{{ embed(roots.note) }}}}
    <div class="pictures">
      {{% for name in {_PICTURES} %}}<span>{{{{ embed(roots[name]) }}}}</span>{{% endfor %}}
    </div>
    {{{{ embed(roots.code) }}}}
  </div>
</main>{{% endblock %}}
"""
_PAIR = tuple(zip(_COLORS, ("solid", "dashed"), strict=True))  # of the two neurons shown
_DECADES = 12  # of the axis of the drift
_FAILURES = (TypeError, ValueError, OSError, RuntimeError, MemoryError)  # JAX's for memory, too


class Page:
    """One page that is open: what is set, and the pictures of it."""

    def __init__(self, document: Document, controls: Controls):
        self.document, self.controls = document, controls
        self.due = self.setting = False
        self.count = 0
        self.sources = {
            name: ColumnDataSource({column: [] for column in columns}, name=name)
            for name, columns in _SOURCES.items()
        }
        self.note = Div(name="note", styles={"font-size": "110%"}, height=24)
        self.table = Div(name="frequencies", width=_WIDTH, height=_HEIGHT)
        self.code = PreText(name="code", visible=False, width=3 * _WIDTH)
        self.audio = Div(name="audio", width=_CONTROLS)
        self.mapper = LinearColorMapper(palette=Viridis256)
        self.time = LinearColorMapper(palette=Viridis256)
        self.figures = _figures(self.sources, self.mapper, self.time)
        self.figures["portrait"].on_event(Tap, lambda e: self.change("point", (e.x, e.y)))
        self.widgets = self._widgets()
        document.title = "ctrnn explore"
        document.template = _TEMPLATE  # pyright: ignore[reportAttributeAccessIssue] - text is taken
        for root in (self._controls(), self.note, *self.figures.values(), self.table, self.code):
            document.add_root(root)
        self.plan("compiling the programs: a few seconds, once")

    def _controls(self) -> Any:
        play = Button(label="play the first neuron", name="play", button_type="primary")
        play.on_click(self.play)
        show = Toggle(label="show the code", name="show_code", button_type="default")
        show.on_change("active", lambda attr, old, new: setattr(self.code, "visible", new))
        for widget in (*self.widgets.values(), play, show):
            widget.width = _CONTROLS
        return column(Div(text="<b>ctrnn explore</b>"), *self.widgets.values(), play, self.audio,
                      show, name="controls")  # fmt: skip

    def _widgets(self) -> dict[str, Any]:
        c = self.controls

        def choice(title: str, options: Any, value: str) -> Select:
            return Select(title=title, options=list(options), value=value)

        def slider(title: str, low: float, high: float, step: float, value: float) -> Slider:
            digits = "0.000" if step < 0.01 else "0.00"
            return Slider(title=title, start=low, end=high, step=step, value=value, format=digits)

        def whole(title: str, low: int, high: int, value: int) -> Spinner:
            return Spinner(title=title, low=low, high=high, step=1, value=value)

        last = c.neurons - 1
        widgets: dict[str, Any] = {
            "weights": choice("weights", WEIGHTS, c.weights),
            "file": TextInput(title="file: saved network or matrix", value=c.file,
                              placeholder="network.ctrnn or A.npy"),
            "neurons": whole("neurons", 2, MOST_NEURONS, c.neurons),
            "frequency": slider("frequency (Hz), lowest of blocks", 0.1, 10, 0.01, c.frequency),
            "ratio": slider("highest / lowest of blocks", 1, 4, 0.001, c.ratio),
            "seed": whole("seed of random weights", 0, 2**31 - 1, c.seed),
            "activation": choice("activation", ACTIVATIONS, c.activation),
            "form": choice("form", FORMS, c.form),
            "solver": choice("solver", SOLVERS, c.solver),
            "dt": slider("step (s)", 0.001, 0.1, 0.001, c.dt),
            "amplitude": slider("amplitude (a.u.)", 0.01, 5, 0.01, c.amplitude),
            "first": whole("neurons shown: first", 0, last, c.shown[0]),
            "second": whole("and second", 0, last, c.shown[1]),
        }  # fmt: skip
        for name, widget in widgets.items():
            widget.name = name
            widget.on_change("value", lambda attr, old, new, name=name: self.moved(name, new))
        return widgets

    def moved(self, name: str, value: Any) -> None:
        """A control was moved, by whom is in front of the page."""
        if self.setting or value is None:
            return
        if name in ("first", "second"):
            first, second = self.controls.shown
            name, value = "shown", (value, second) if name == "first" else (first, value)
        self.change(name, value)

    def change(self, name: str, value: Any) -> None:
        try:
            self.controls = changed(self.controls, name, value)
        except _FAILURES as error:
            self.tell(str(error), failed=True)
            return
        self._set_widgets()
        self.plan("computing: what is new takes seconds to compile")

    def _set_widgets(self) -> None:
        c = self.controls
        values = {"weights": c.weights, "neurons": c.neurons, "activation": c.activation,
                  "form": c.form, "amplitude": c.amplitude, "first": c.shown[0],
                  "second": c.shown[1]}  # fmt: skip
        self.setting = True
        try:
            for name in ("first", "second"):
                self.widgets[name].high = c.neurons - 1
            for name, value in values.items():
                if self.widgets[name].value != value:
                    self.widgets[name].value = value
        finally:
            self.setting = False

    def plan(self, told: str) -> None:
        """Draw soon: the note is seen before, and what is moved meanwhile is drawn with it."""
        if not self.due:
            self.due = True
            self.tell(told)
            self.document.add_timeout_callback(self.draw, _COLLECTED)

    def draw(self) -> None:
        self.due = False
        start = time.perf_counter()
        self.document.hold("combine")  # one message, and each picture is painted once
        try:
            self._draw(start)
        finally:
            self.document.unhold()

    def _draw(self, start: float) -> None:
        try:
            found = pictures(self.controls)
            _show(found, self.controls, self.sources, self.figures, self.mapper, self.time)
        except _FAILURES as error:
            self.tell(str(error), failed=True)
            return
        self.table.text = _table(found.rows)
        self.code.text = found.code
        self.count += 1
        told = f"picture {self.count}, computed in {time.perf_counter() - start:.3f} s"
        self.tell(f"{told}; {found.told}" if found.told else told)

    def play(self) -> None:
        def made() -> None:
            try:
                wav, told = sound(self.controls)
            except _FAILURES as error:
                self.tell(str(error), failed=True)
                return
            data = base64.b64encode(wav).decode()
            source = f'<audio controls autoplay style="width:{_CONTROLS}px" src="data:audio/wav;'
            self.audio.text = f'{source}base64,{data}"></audio><br>{html.escape(told)}'
            self.tell(told)

        self.tell("computing the sound")
        self.document.add_timeout_callback(made, _COLLECTED)

    def tell(self, text: str, *, failed: bool = False) -> None:
        color = "#b00020" if failed else "#333333"
        line = html.escape(" ".join(text.split()))
        self.note.text = f'<span style="color:{color}">{"not drawn: " * failed}{line}</span>'


_SOURCES = {
    "path": ("x0", "y0", "x1", "y1", "t"),
    "start": ("x", "y"),
    "series": ("t", "x0", "x1"),
    "drift": ("t", "drift"),
    "spectrum": ("f", "power0", "power1"),
    "lines": ("f", "low", "high"),
    "spectrogram": ("image", "x", "y", "dw", "dh"),
}


def _figures(sources: dict[str, Any], mapper: Any, time: Any) -> dict[str, Any]:
    def axes(title: str, x: str, y: str, **options: Any) -> Any:
        made = figure(title=title, x_axis_label=x, y_axis_label=y, width=_WIDTH, height=_HEIGHT,
                      toolbar_location="above", tools="pan,wheel_zoom,box_zoom,reset",
                      **options)  # fmt: skip
        made.toolbar.logo = None
        return made

    portrait = axes("portrait: a click sets the start", "", "", match_aspect=True)
    portrait.segment("x0", "y0", "x1", "y1", color={"field": "t", "transform": time},
                     line_width=1.5, source=sources["path"])  # fmt: skip
    style = {"size": 9, "fill_color": "black", "line_color": "white"}
    portrait.scatter("x", "y", **style, source=sources["start"])
    beside: dict[str, Any] = {"width": 8, "padding": 4, "title_standoff": 4}
    portrait.add_layout(ColorBar(color_mapper=time, title="time (s)", **beside), "right")

    series = axes("time series", "time (s)", "state (a.u.)", x_range=Range1d())
    for k, (color, dash) in enumerate(_PAIR):
        series.line("t", f"x{k}", color=color, line_dash=dash, line_width=1.5,
                    legend_label=f"x{k}", source=sources["series"])  # fmt: skip

    spectrum = axes("spectrum", "frequency (Hz)", "power (a.u.²/Hz)", y_axis_type="log",
                    x_range=Range1d(), y_range=Range1d())  # fmt: skip
    for k, (color, dash) in enumerate(_PAIR):
        spectrum.line("f", f"power{k}", color=color, line_dash=dash, line_width=1.5,
                      legend_label=f"x{k}", source=sources["spectrum"])  # fmt: skip
    spectrum.segment("f", "low", "f", "high", color="#c44e00", line_dash="dotted", line_width=2,
                     legend_label="exact", source=sources["lines"])  # fmt: skip

    spectrogram = axes("spectrogram", "time (s)", "frequency (Hz)", x_range=Range1d(),
                       y_range=Range1d())  # fmt: skip
    spectrogram.image("image", "x", "y", "dw", "dh", color_mapper=mapper,
                      source=sources["spectrogram"])  # fmt: skip
    bar = ColorBar(color_mapper=mapper, title="dB re 1 a.u.²/Hz", **beside)
    spectrogram.add_layout(bar, "right")

    drift = axes("energy drift", "time (s)", "|relative energy drift|", y_axis_type="log",
                 x_range=Range1d(), y_range=Range1d())  # fmt: skip
    drift.line("t", "drift", color=LINE, source=sources["drift"])
    for made in (series, spectrum):
        made.add_layout(made.legend[0], "above")
        made.legend[0].update(orientation="horizontal", border_line_color=None, padding=0, margin=0)
    assert isinstance(drift.y_scale, LogScale)
    found = {"portrait": portrait, "series": series, "spectrum": spectrum,
             "spectrogram": spectrogram, "drift": drift}  # fmt: skip
    for name, made in found.items():
        made.name = name
    return found


def _show(
    found: Pictures, c: Controls, sources: dict[str, Any], figures: dict[str, Any], mapper: Any,
    time: Any,
) -> None:  # fmt: skip
    ts, pair = found.ts, found.xs[:, list(c.shown)]
    x, y = pair.T
    names = [f"x{k}" for k in c.shown]
    new: dict[str, dict[str, Any]] = {
        "path": {"x0": x[:-1], "y0": y[:-1], "x1": x[1:], "y1": y[1:], "t": ts[:-1]},
        "start": {"x": x[:1], "y": y[:1]},
        "series": {"t": ts, "x0": x, "x1": y},
    }
    portrait, series = figures["portrait"], figures["series"]
    portrait.xaxis.axis_label, portrait.yaxis.axis_label = (f"{name} (a.u.)" for name in names)
    time.update(low=float(ts[0]), high=float(ts[-1]))
    for legend in (series.legend[0], figures["spectrum"].legend[0]):
        for item, name in zip(legend.items, names, strict=False):  # the first two
            item.label = {"value": name}
    _range(series.x_range, ts[0], min(ts[-1], ts[0] + 10 / max(found.limit, 1e-9) * 2))

    figures["spectrum"].legend[0].items[2].visible = any(r.exact is not None for r in found.rows)
    top = max(float(found.power.max()), 1e-300)
    low = max(float(found.power[:, found.f <= found.limit].min()) / 2, top / POWER_RANGE)
    first, second = np.maximum(found.power, low)
    new["spectrum"] = {"f": found.f, "power0": first, "power1": second}
    known = np.array([r.exact for r in found.rows if r.exact is not None])
    new["lines"] = {"f": known, "low": np.full(known.shape, low), "high": known * 0 + 2 * top}
    _range(figures["spectrum"].x_range, 0, found.limit)
    _range(figures["spectrum"].y_range, low, 2 * top)

    step, hop = found.bands[0], found.windows[1] - found.windows[0]
    left, width = found.windows[0] - hop / 2, hop * len(found.windows)
    shown = found.bands <= max(found.limit, 8 * step)
    image = found.decibels[shown]
    new["spectrogram"] = {"image": [image], "x": [left], "y": [step / 2], "dw": [width],
                          "dh": [step * len(image)]}  # fmt: skip
    figures["spectrogram"].title.text = f"spectrogram of {names[0]}"
    mapper.update(low=float(image.min()), high=max(float(image.max()), float(image.min()) + 1))
    _range(figures["spectrogram"].x_range, left, left + width)
    _range(figures["spectrogram"].y_range, step / 2, step * (len(image) + 0.5))

    title, values = "energy drift: no energy to compare with", np.full(len(ts), np.nan)
    if found.drift is not None:
        unit = float(np.finfo(found.drift.dtype).eps)
        values = np.maximum(found.drift, unit)
        highest = float(values.max())
        title = f"energy drift: at most {found.drift.max():.2g}"
        bottom = max(float(values[1:].min()), highest / 10**_DECADES, unit)
        _range(figures["drift"].y_range, bottom / 2, 2 * highest)
    new["drift"] = {"t": ts[1:], "drift": values[1:]}
    figures["drift"].title.text = title
    _range(figures["drift"].x_range, ts[0], ts[-1])
    for name, data in new.items():
        sources[name].data = data


def _range(shown: Any, low: float, high: float) -> None:
    shown.update(start=float(low), end=float(high), reset_start=float(low), reset_end=float(high))


def _table(rows: list[Row]) -> str:
    """Frequencies side by side."""

    def cells(values: Any, tag: str) -> str:
        style = 'style="padding:2px 9px;text-align:right"'
        return "<tr>" + "".join(f"<{tag} {style}>{value}</{tag}>" for value in values) + "</tr>"

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.6g}"

    head = cells(("Hz", "small<br>oscillations", "exact<br>here", "measured"), "th")
    lines = [cells((html.escape(name), *map(number, rest)), "td") for name, *rest in rows]
    return f"<b>frequencies</b><table>{head}{''.join(lines)}</table>"


def make_page(controls: Controls) -> Callable[[Document], None]:
    """What bokeh calls for each page that is opened."""

    def made(document: Document) -> None:
        Page(document, controls)

    return made
