"""The widgets that the labs are made of, and what is left of a lab where none can be drawn."""

import html
import math
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets
from IPython.display import publish_display_data

from nmf_helpers.checks import check_number, nearest
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

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        sentence = "<p>A picture of the lab: run this cell to move it.</p>"
        page = f'{PAGE}<div class="nmf-still nmf-text">{sentence}{self.still()[0]}</div>'
        return super()._repr_mimebundle_(**kwargs) | {"text/html": page}

    def _ipython_display_(self) -> None:
        # Two outputs: of one bundle, JupyterLab looks at the widget alone, even if it is gone.
        bundle = self._repr_mimebundle_()
        picture = {"text/html": bundle.pop("text/html"), "text/plain": self.still()[1]}
        publish_display_data(bundle)
        publish_display_data(picture)


class Picture(widgets.Image):
    """A PNG whose tooltip is its alt text."""

    description = traitlets.Unicode("").tag(sync=True)  # the front end reads it before the tooltip

    def __init__(self) -> None:
        super().__init__(format="png")
        self.add_class("nmf-picture")


class LogSlider(widgets.HBox):
    """A slider over ten round values a decade, beside a box for the exact value, 0 included."""

    value, min, max = traitlets.Float(), 0.0, 1e9

    def __init__(self, low: float, start: float, high: float) -> None:
        first, last = (round(10 * math.log10(end)) for end in (low, high))
        self.steps = [float(f"{10 ** (i / 10):.2g}") for i in range(first, last + 1)]
        told = {"continuous_update": False, "readout": False}
        self.slider = widgets.SelectionSlider(options=self.steps, **told)
        self.box = widgets.BoundedFloatText(min=self.min, max=self.max).add_class("nmf-exact")
        super().__init__([self.slider, self.box], value=start)
        self.slider.observe(self._slid, "value")
        self.box.observe(lambda change: self.set_trait("value", change.new), "value")

    def _step(self) -> float:
        return min(self.steps, key=lambda step: abs(math.log(step / max(self.value, 1e-99))))

    def _slid(self, change: Any) -> None:
        if change.new != self._step():  # else it only follows the exact value
            self.value = change.new

    @traitlets.observe("value")
    def _valued(self, change: Any) -> None:
        self.box.value, self.slider.value = change.new, self._step()


def control(name: str, spec: Any) -> widgets.Widget:
    """Return a labelled widget for `spec`: a widget, a bool, a list, or (low, start, high).

    Whole numbers make a plain slider, others too; from two decades on it is logarithmic.
    """
    made = spec if isinstance(spec, widgets.Widget) else _widget(name, spec)
    if isinstance(made, LogSlider):
        made.slider.description, made.box.description = name, f"exact {name}"
    made.description = getattr(made, "description", "") or name
    return made


def training_controls(
    lr: Any, weight_decay: Any, n_epochs: Any, seed: Any, others: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the controls of every training loop that are not None, and the others."""
    if isinstance(lr, float | int):
        lr = (lr / 100, float(lr), lr * 100)
    if isinstance(weight_decay, float | int):
        weight_decay = LogSlider(1e-7, float(weight_decay), 1.0)  # 0 is welcome
    if isinstance(n_epochs, int):
        n_epochs = (1, n_epochs, 5 * n_epochs)
    if isinstance(seed, int):
        seed = widgets.BoundedIntText(seed, min=0, max=2**31 - 1)
    specs = {"lr": lr, "weight_decay": weight_decay, "n_epochs": n_epochs, "seed": seed}
    return {n: control(n, spec) for n, spec in (specs | dict(others)).items() if spec is not None}


def _widget(name: str, spec: Any) -> widgets.Widget:
    if isinstance(spec, bool):
        return widgets.Checkbox(spec, indent=False)
    if isinstance(spec, list) and spec:
        return widgets.Dropdown(options=spec, value=spec[0])
    if not isinstance(spec, tuple) or len(spec) != 3:
        wanted = "a widget, True or False, a list, or (low, start, high)"
        raise TypeError(f"{name}: expected {wanted}; got {spec!r}")
    low, start, high = spec
    if not (low <= start <= high and low < high):
        raise ValueError(f"{name}: expected low <= start <= high, got {spec}")
    whole = all(isinstance(x, int) for x in spec)
    if low > 0 and high / low >= 100 and not whole:
        return LogSlider(low, float(start), high)
    # Told on release only: of a value for every pixel, the last would arrive after a quick press.
    options = {"value": start, "min": low, "max": high, "continuous_update": False}
    if whole:
        return widgets.IntSlider(**options)
    return widgets.FloatSlider(step=float(f"{(high - low) / 100:.1g}"), **options)


def put(name: str, widget: widgets.Widget, value: Any) -> None:
    """Set a control to exactly `value`, or raise a ValueError that says what it takes."""
    if hasattr(widget, "max"):
        whole = isinstance(widget.value, int)
        check_number(name, value, at_least=widget.min, at_most=widget.max, whole=whole)
    elif hasattr(widget, "options"):
        nearest(name, str(value), (str(v) for _, v in widget._options_full))
    try:
        widget.value = value
    except traitlets.TraitError as error:
        raise ValueError(f"{name} can't be {value!r}: {error}") from error
    if widget.value != value:
        raise ValueError(f"{name} can't be {value!r}: the control makes {widget.value!r} of it")


def spread(widget: widgets.Widget) -> list[Any]:
    """Return up to four telling values of a control, for a sweep."""
    if isinstance(widget, widgets.Checkbox):
        return [False, True]
    if isinstance(widget, LogSlider):
        middle = widget.value or math.sqrt(widget.steps[0] * widget.steps[-1])
        first = middle / 10 if widget.value else 0.0
        return [float(f"{v:.2g}") for v in (first, middle / 3, middle, middle * 3)]
    if hasattr(widget, "options"):
        return [value for _, value in widget._options_full[:4]]
    if isinstance(widget, widgets.BoundedIntText):
        return [widget.value + i for i in range(4)]
    if isinstance(widget, widgets.IntSlider):
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
