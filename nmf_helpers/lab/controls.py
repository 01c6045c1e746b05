"""The widgets that the labs are made of, and what is left of a lab where none can be drawn."""

import html
import math
from collections.abc import Callable, Mapping
from importlib.resources import files
from numbers import Real
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets
from IPython.display import publish_display_data

from nmf_helpers.lab.curves import DARK, still

PAGE = DARK + files(__package__).joinpath("page.html").read_text("utf-8")  # how labs look
PLAIN = "tex2jax_ignore mathjax_ignore"  # classes: no formulas here


class Lab(widgets.VBox):
    """A box of widgets that leaves a picture and a sentence where no widget can be drawn."""

    def __init__(self, name: str, *children: widgets.Widget) -> None:
        super().__init__(children)
        self.add_class("nmf-lab").add_class(f"nmf-{name}-lab")

    def still(self) -> tuple[str, str]:
        """Return what the lab shows now, as HTML and as text."""
        return still(self.picture.value, self.picture.tooltip), self.picture.tooltip

    def _ipython_display_(self) -> None:
        # Two outputs: of one bundle, JupyterLab looks at the widget alone, even if it is gone.
        publish_display_data(self._repr_mimebundle_())
        (shown, said), sentence = self.still(), "A picture of the lab: run this cell to move it."
        page = f'{PAGE}<div class="nmf-still nmf-text"><p>{sentence}</p>{shown}</div>'
        publish_display_data({"text/html": page, "text/plain": said})


class Picture(widgets.Image):
    """A PNG whose tooltip is its alt text."""

    description = traitlets.Unicode("").tag(sync=True)  # the front end reads it before the tooltip


def control(name: str, spec: Any) -> widgets.Widget:
    """Return a labelled widget for `spec`: a widget, a bool, a list, or (low, start, high).

    Whole numbers make a plain slider, others too; from two decades on it is logarithmic.
    """
    if isinstance(spec, widgets.Widget):
        made = spec
    elif isinstance(spec, bool):
        made = widgets.Checkbox(spec, indent=False)
    elif isinstance(spec, list) and spec:
        made = widgets.Dropdown(options=spec, value=spec[0])
    elif isinstance(spec, tuple) and len(spec) == 3:
        if not (spec[0] <= spec[1] <= spec[2] and spec[0] < spec[2]):
            raise ValueError(f"{name}: expected low <= start <= high, got {spec}")
        made = _slider(*spec)
    else:
        wanted = "a widget, True or False, a list, or (low, start, high)"
        raise TypeError(f"{name}: expected {wanted}; got {spec!r}")
    made.description = name
    return made


def _slider(low: float, start: float, high: float) -> widgets.Widget:
    # Told on release only: of a value for every pixel, the last would arrive after a quick press.
    options: dict[str, Any] = {"value": start, "min": low, "max": high, "continuous_update": False}
    if all(isinstance(x, int) for x in (low, start, high)):
        return widgets.IntSlider(**options)
    if low > 0 and high / low >= 100:
        options |= {"min": math.log10(low), "max": math.log10(high), "readout_format": ".3"}
        return widgets.FloatLogSlider(**options)
    return widgets.FloatSlider(step=float(f"{(high - low) / 100:.1g}"), **options)


USUAL: dict[str, Callable[[Any], Any]] = {  # what a number becomes, for every training loop
    "lr": lambda lr: (lr / 100, float(lr), lr * 100),
    "weight_decay": lambda weight_decay: (1e-7, float(weight_decay), 1.0),
    "n_epochs": lambda n_epochs: (1, n_epochs, 5 * n_epochs),
    "seed": lambda seed: widgets.BoundedIntText(seed, max=9999),
}


def controls(specs: Mapping[str, Any]) -> dict[str, widgets.Widget]:
    """Return the controls that are not None, by name."""
    grown = {n: USUAL[n](v) if n in USUAL and isinstance(v, Real) else v for n, v in specs.items()}
    return {name: control(name, spec) for name, spec in grown.items() if spec is not None}


def spread(widget: widgets.Widget) -> list[Any]:
    """Return up to four telling values of a control, for a sweep."""
    value, choices = widget.value, getattr(widget, "options", [])
    if isinstance(widget, widgets.FloatLogSlider):
        return [float(f"{v:.2g}") for v in (value / 10, value / 3, value, value * 3)]
    if choices or isinstance(value, bool):
        return [*choices[:4]] or [False, True]
    if isinstance(value, int):
        return sorted({round(v) for v in np.geomspace(max(widget.min, 1), widget.max, 4).tolist()})
    return [round(v, 6) for v in np.linspace(widget.min, widget.max, 4).tolist()]


def button(text: str, tip: str, action: Callable[[], Any], icon: str = "") -> widgets.Button:
    """Return a button that calls `action` without arguments."""
    made = widgets.Button(description=text, icon=icon, tooltip=tip)
    made.on_click(lambda _: action())
    return made


def box(name: str, *children: widgets.Widget) -> widgets.Box:
    """Return widgets in a box that `page.html` lays out."""
    return widgets.Box(children).add_class(f"nmf-{name}")


def literal(text: Any) -> str:
    """Return HTML that shows any text as it is: no tags, no formulas, in its own direction."""
    return f'<bdi class="{PLAIN}">{html.escape(str(text))}</bdi>'


def spoken(message: str, alert: bool = False) -> str:
    """Return HTML that a screen reader reads out when it appears."""
    role = "alert" if alert else "status"
    return f'<div class="nmf-text" role="{role}"><b>{literal(message)}</b></div>'
