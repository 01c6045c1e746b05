"""The widgets that the labs are made of."""

import html
import math
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets

# JupyterLab marks a dark theme on the body; pictures then swap light for dark and keep their hues.
STYLE = """<style>
[data-jp-theme-light="false"] .nmf-picture {filter: invert(0.9) hue-rotate(180deg)}
.nmf-text {line-height: 1.35}
.nmf-text caption {text-align: left; font-weight: bold}
.nmf-text td, .nmf-text th {padding: 1px 14px 1px 0; text-align: left}
.nmf-text li {margin-bottom: 3px}
.nmf-columns {display: flex; flex-wrap: wrap; gap: 0 40px}
.nmf-columns > div {flex: 1 1 22em}
.nmf-quiet-label label {position: absolute; clip-path: inset(50%)}
.nmf-stars button {padding: 0 2px; min-width: 2.4em}
</style>"""


STEP = 0.1  # of a logarithmic slider, in decades


class Picture(widgets.Image):
    """A PNG whose tooltip is its alt text."""

    description = traitlets.Unicode("").tag(sync=True)  # the front end reads it before the tooltip

    def __init__(self):
        super().__init__(format="png", layout={"width": "900px", "max_width": "100%"})
        self.add_class("nmf-picture")


class LogSlider(widgets.HBox):
    """A logarithmic slider beside a box for the exact value, 0 included."""

    value = traitlets.Float()

    def __init__(self, low: float, value: float, high: float, description: str):
        self.low, self.high = low, high
        self.slider = widgets.FloatLogSlider(
            self._on_scale(value), min=math.log10(low), max=math.log10(high), step=STEP,
            readout=False, description=description,
        )  # fmt: skip
        self.box = widgets.BoundedFloatText(
            value, min=0, max=1e9, description=f"exact {description}"
        )
        self.box.add_class("nmf-quiet-label")  # for screen readers
        self.box.layout.width = "6.5em"
        super().__init__([self.slider, self.box])
        self.value = value
        self.slider.observe(self._slid, "value")
        self.box.observe(lambda change: self.set_trait("value", change.new), "value")

    def _on_scale(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def _slid(self, change) -> None:
        # The front end answers an exact value with the nearest step: that is not a move.
        if abs(math.log10(change.new / self._on_scale(self.value))) > STEP / 2 + 1e-9:
            self.value = float(f"{change.new:.2g}")

    @traitlets.observe("value")
    def _valued(self, change) -> None:
        self.box.value, self.slider.value = change.new, self._on_scale(change.new)


def control(name: str, spec: Any) -> widgets.Widget:
    """A labelled widget for `spec`: a widget, a bool, a list of choices, or (low, start, high).

    Whole numbers make a plain slider, others too; from two decades on it is logarithmic.
    """
    widget = spec if isinstance(spec, widgets.Widget) else _widget(name, spec)
    inner = widget.slider if isinstance(widget, LogSlider) else widget
    inner.description = inner.description or name
    inner.style.description_width = "7em"
    inner.layout.width = "19em" if isinstance(widget, LogSlider) else "25.8em"
    return widget


def _widget(name: str, spec: Any) -> widgets.Widget:
    if isinstance(spec, bool):
        return widgets.Checkbox(spec)
    if isinstance(spec, list) and spec:
        return widgets.Dropdown(options=spec, value=spec[0])
    if not isinstance(spec, tuple) or len(spec) != 3:
        raise TypeError(
            f"{name}: expected a widget, True or False, a list, or (low, start, high); got {spec!r}"
        )
    low, start, high = spec
    if not low <= start <= high:
        raise ValueError(f"{name}: expected low <= start <= high, got {spec}")
    if low > 0 and high / low >= 100 and not all(isinstance(x, int) for x in spec):
        return LogSlider(low, start, high, name)
    # Told on release only: of a value for every pixel, the last would arrive after a quick press.
    options = {"min": low, "max": high, "continuous_update": False}
    if all(isinstance(x, int) for x in spec):
        return widgets.IntSlider(start, **options)
    return widgets.FloatSlider(start, step=float(f"{(high - low) / 100:.1g}"), **options)


def spread(widget: widgets.Widget) -> list:
    """Up to four telling values of a control, for a sweep."""
    if isinstance(widget, widgets.Checkbox):
        return [False, True]
    if isinstance(widget, widgets.Dropdown):
        return [value for _, value in widget._options_full[:4]]
    if isinstance(widget, widgets.BoundedIntText):
        return [widget.value + i for i in range(4)]
    if isinstance(widget, widgets.IntSlider):
        return sorted({round(v) for v in np.geomspace(max(widget.min, 1), widget.max, 4).tolist()})
    if isinstance(widget, LogSlider):
        middle = widget.value or math.sqrt(widget.low * widget.high)
        first = middle / 10 if widget.value else 0.0
        return [float(f"{v:.2g}") for v in (first, middle / 3, middle, middle * 3)]
    return [round(v, 6) for v in np.linspace(widget.min, widget.max, 4).tolist()]


def button(text: str, icon: str, tip: str, action: Callable[[], Any], style="") -> widgets.Button:
    """A button that calls `action` without arguments."""
    layout = {"width": "auto", "align_self": "flex-start"}
    made = widgets.Button(
        description=text, icon=icon, tooltip=tip, button_style=style, layout=layout
    )
    made.on_click(lambda _: action())
    return made


def wrapped(*children: widgets.Widget) -> widgets.Box:
    """Widgets side by side, in as many lines as the page needs."""
    return widgets.Box(children, layout={"flex_flow": "row wrap", "grid_gap": "2px 12px"})


def spoken(message: str, alert: bool = False) -> str:
    """HTML that a screen reader reads out when it appears."""
    role = "alert" if alert else "status"
    return f'<div class="nmf-text" role="{role}"><b>{html.escape(message)}</b></div>'
