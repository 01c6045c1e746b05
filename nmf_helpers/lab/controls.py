"""The widgets that the labs are made of, and how a lab looks where no widget can be drawn."""

import html
import math
from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets
from IPython.display import publish_display_data

from nmf_helpers.checks import check_number, nearest
from nmf_helpers.lab.chart import DARK, still

# The desk puts controls beside the picture, or above it where that gets too narrow. JupyterLab
# marks what has lost its kernel as disconnected; a lab that cannot be drawn leaves its picture.
STYLE = """<style>
.nmf-lab, .nmf-lab .widget-box {overflow: visible; min-width: 0}
.nmf-lab {margin: 0; width: 100%; box-sizing: border-box; padding-right: 4px}
.nmf-lab :focus-visible {outline: 2px solid var(--jp-brand-color1, #0072B2); outline-offset: 1px}
.nmf-lab .widget-inline-hbox, .nmf-lab select, .nmf-lab .widget-slider {width: auto !important}
.nmf-lab .widget-inline-hbox {margin: 1px 0; min-width: 0; max-width: 25em}
.nmf-lab .widget-label {width: 7.2em !important; text-align: left}
.nmf-lab .widget-readout {min-width: 4em; overflow: visible}
.nmf-lab .slider-container {min-width: 4em}
.nmf-desk {display: flex; flex-flow: row wrap; gap: 2px 14px; align-items: flex-start}
.nmf-controls {flex: 1 1 15.5em; display: grid !important; gap: 0 14px; align-items: center;
  grid-template-columns: repeat(auto-fill, minmax(14.5em, 1fr))}
.nmf-view {flex: 3 1 24em}
.nmf-view .nmf-picture {width: 100%; max-width: 800px; height: auto; max-height: 84vh;
  object-fit: contain; object-position: left}
.nmf-text {line-height: 1.35; overflow-wrap: anywhere}
.nmf-text caption {text-align: left; font-weight: bold}
.nmf-text td, .nmf-text th {padding: 1px 14px 1px 0; text-align: left}
.nmf-text li {margin-bottom: 3px}
.nmf-columns {display: flex; flex-wrap: wrap; gap: 0 40px}
.nmf-columns > div {flex: 1 1 18em}
.nmf-stars button {padding: 0 2px; min-width: 2.4em}
.nmf-lab .jupyter-widgets-disconnected::before {display: none}
.nmf-lab.jupyter-widgets-disconnected::before {display: block; padding: 4px; font: inherit;
  font-weight: bold; content: "The kernel was restarted: run this cell again."; color: inherit;
  position: static; width: auto; height: auto}
.jp-OutputArea:has(.nmf-lab) .nmf-still,
.jp-OutputArea:has([data-mime-type$="widget-view+json"]:not(.jupyter-widgets)) .nmf-still,
.jp-OutputArea:has(.nmf-still) .jupyter-widgets[data-mime-type$="widget-view+json"] {display: none}
</style>"""

# ipywidgets gives the handles of its sliders no name, and as value their place on the scale.
SCRIPT = """<script>
window.nmfSliders ??= new MutationObserver(() => {
  for (const row of document.querySelectorAll('.nmf-lab .widget-slider')) {
    const [handle, name, value] = ['.noUi-handle', '.widget-label', '.widget-readout']
      .map((part) => row.querySelector(part));
    for (const [key, text] of [['aria-label', name], ['aria-valuetext', value]])
      if (handle && text && handle.getAttribute(key) !== text.textContent)
        handle.setAttribute(key, text.textContent);
  }
});
nmfSliders.observe(document.body,
  {subtree: true, childList: true, attributeFilter: ['aria-valuetext']});
</script>"""


class Lab(widgets.VBox):
    """A box of widgets that leaves a picture and a sentence where no widget can be drawn."""

    def __init__(self, name: str, children: Iterable[widgets.Widget]) -> None:
        super().__init__(list(children))
        self.add_class("nmf-lab").add_class(f"nmf-{name}-lab")

    def still(self) -> tuple[str, str]:
        """Return what the lab shows now, as HTML and as text."""
        return still(self.picture.value, self.picture.tooltip, 660), self.picture.tooltip

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        picture, _ = self.still()
        sentence = "<p>A picture of the lab. Run this cell to move it.</p>"
        around = STYLE + DARK + SCRIPT
        page = f'{around}<div class="nmf-still nmf-text">{picture}{sentence}</div>'
        return super()._repr_mimebundle_(**kwargs) | {"text/html": page}

    def _ipython_display_(self) -> None:
        # Two outputs: of one bundle, JupyterLab looks at the widget alone, even if it is gone.
        bundle = self._repr_mimebundle_()
        text = {"text/html": bundle.pop("text/html"), "text/plain": self.still()[1]}
        publish_display_data(bundle)
        publish_display_data(text)


class Picture(widgets.Image):
    """A PNG whose tooltip is its alt text."""

    description = traitlets.Unicode("").tag(sync=True)  # the front end reads it before the tooltip

    def __init__(self) -> None:
        super().__init__(format="png")
        self.add_class("nmf-picture")


class LogSlider(widgets.SelectionSlider):
    """A slider over ten round values a decade; another value set from code joins them."""

    def __init__(self, low: float, value: float, high: float, zero: bool = False) -> None:
        steps = np.arange(round(10 * math.log10(low)), round(10 * math.log10(high)) + 1)
        self.values = {0.0} if zero else set()
        self.values |= {float(f"{10 ** (step / 10):.2g}") for step in steps}
        super().__init__(options=self._options_with(value), value=value, continuous_update=False)

    def _options_with(self, value: float) -> list[tuple[str, float]]:
        self.values.add(float(value))
        return [(f"{v:.6g}", v) for v in sorted(self.values)]

    def admit(self, value: float) -> None:
        """Make `value` one of the slider's."""
        if value not in self.values:
            now = self.value
            self.options = self._options_with(value)
            self.value = now


def control(name: str, spec: Any) -> widgets.Widget:
    """Return a labelled widget for `spec`: a widget, a bool, a list, or (low, start, high).

    Whole numbers make a plain slider, others too; from two decades on it is logarithmic.
    """
    made = spec if isinstance(spec, widgets.Widget) else _widget(name, spec)
    made.description = made.description or name
    return made


def _widget(name: str, spec: Any) -> widgets.Widget:
    if isinstance(spec, bool):
        return widgets.Checkbox(spec, indent=False)
    if isinstance(spec, list) and spec:
        return widgets.Dropdown(options=spec, value=spec[0])
    if not isinstance(spec, tuple) or len(spec) != 3:
        raise TypeError(
            f"{name}: expected a widget, True or False, a list, or (low, start, high); got {spec!r}"
        )
    low, start, high = spec
    if not (low <= start <= high and low < high):
        raise ValueError(f"{name}: expected low <= start <= high, got {spec}")
    whole = all(isinstance(x, int) for x in spec)
    if low > 0 and high / low >= 100 and not whole:
        return LogSlider(low, start, high)
    # Told on release only: of a value for every pixel, the last would arrive after a quick press.
    options = {"value": start, "min": low, "max": high, "continuous_update": False}
    if whole:
        return widgets.IntSlider(**options)
    return widgets.FloatSlider(step=float(f"{(high - low) / 100:.1g}"), **options)


def put(name: str, widget: widgets.Widget, value: Any) -> None:
    """Set a control to exactly `value`, or raise a ValueError that says what it takes."""
    if isinstance(widget, LogSlider):
        check_number(name, value, at_least=0)
        widget.admit(value)
    elif hasattr(widget, "max"):
        whole = isinstance(widget.value, int)
        check_number(name, value, at_least=widget.min, at_most=widget.max, whole=whole)
    elif hasattr(widget, "options") and value not in (known := choices(widget)):
        nearest(name, value, map(str, known))
    try:
        widget.value = value
    except traitlets.TraitError as error:
        raise ValueError(f"{name} can't be {value!r}: {error}") from error
    if widget.value != value:
        raise ValueError(f"{name} can't be {value!r}: the control makes {widget.value!r} of it")


def choices(widget: widgets.Widget) -> list[Any]:
    """Return the values among which a menu lets one choose."""
    return [value for _, value in widget._options_full]


def spread(widget: widgets.Widget) -> list[Any]:
    """Return up to four telling values of a control, for a sweep."""
    if isinstance(widget, widgets.Checkbox):
        return [False, True]
    if isinstance(widget, LogSlider):
        middle = widget.value or max(sorted(widget.values)[len(widget.values) // 2], 0)
        first = middle / 10 if widget.value else 0.0
        return [float(f"{v:.2g}") for v in (first, middle / 3, middle, middle * 3)]
    if isinstance(widget, widgets.Dropdown):
        return choices(widget)[:4]
    if isinstance(widget, widgets.BoundedIntText):
        return [widget.value + i for i in range(4)]
    if isinstance(widget, widgets.IntSlider):
        return sorted({round(v) for v in np.geomspace(max(widget.min, 1), widget.max, 4).tolist()})
    return [round(v, 6) for v in np.linspace(widget.min, widget.max, 4).tolist()]


def button(text: str, icon: str, tip: str, action: Callable[[], Any], style: str = "") -> Any:
    """Return a button that calls `action` without arguments."""
    made = widgets.Button(
        description=text, icon=icon, tooltip=tip, button_style=style, layout={"width": "auto"}
    )
    made.on_click(lambda _: action())
    return made


def box(name: str, *children: widgets.Widget) -> widgets.Box:
    """Return widgets in a box that `STYLE` lays out."""
    return widgets.Box(children).add_class(f"nmf-{name}")


def literal(text: Any) -> str:
    """Return HTML that shows any text as it is: no tags, no formulas, in its own direction."""
    return f'<bdi class="tex2jax_ignore mathjax_ignore">{html.escape(str(text))}</bdi>'


def spoken(message: str, alert: bool = False) -> str:
    """Return HTML that a screen reader reads out when it appears."""
    role = "alert" if alert else "status"
    return f'<div class="nmf-text" role="{role}"><b>{literal(message)}</b></div>'
