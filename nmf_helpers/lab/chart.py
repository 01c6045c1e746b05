"""The figure that all pictures of the course are: with alt text, legible in any theme and style.

Line style and marker repeat what colour says; the colours are after Okabe and Ito's, which
colour-blind readers tell apart, each at least 3:1 on white. Nothing here touches pyplot, so a
worker thread may draw.
"""

import base64
import html
import io
from functools import partial
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from PIL import Image

INK, FAINT = "#222222", "#808080"
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = COLOURS = (
    "#0072B2", "#D55E00", "#007F5C", "#A3558B", "#9A6700", "#3F87B5",
)  # fmt: skip
HALO = [withStroke(linewidth=3, foreground="white")]  # keeps words legible across lines

# A dark theme swaps light for dark and keeps the hues: JupyterLab and nbconvert, Sphinx, VS Code.
DARK = (
    '<style>[data-jp-theme-light="false"] .nmf-picture, html[data-theme="dark"] .nmf-picture, '
    ".vscode-dark .nmf-picture {filter: invert(0.93) hue-rotate(180deg)}</style>"
)

# Whatever a reader's matplotlibrc or style sheet says.
as_written = partial(matplotlib.style.context, ["default", {"text.parse_math": False}])


class Chart(Figure):
    """A matplotlib figure that carries its alt text.

    In a notebook its plain-text form *is* the alt text: the finding can be read without the
    picture, and a test that compares text output compares the finding.

    Attributes
    ----------
    alt : str
        What the picture shows, in words and numbers.
    """

    def __init__(
        self, width: float = 6.6, height: float = 4.0, layout: Any = "constrained"
    ) -> None:
        with as_written():
            super().__init__(figsize=(width, height), dpi=120, facecolor="white", layout=layout)
        FigureCanvasAgg(self)
        self.alt = ""

    def subplots(self, *args: Any, **kwargs: Any) -> Any:
        """Add axes, as `Figure.subplots` does, in matplotlib's own style."""
        with as_written():
            return super().subplots(*args, **kwargs)

    def draw_as_written(self) -> None:
        """Draw with every text as it stands: a dollar sign is a dollar sign, with LaTeX or not."""
        for text in self.findobj(Text):
            text.set(usetex=False, parse_math=False, fontfamily="DejaVu Sans")
        with as_written():
            self.canvas.draw()

    def png(self) -> bytes:
        """Return the picture as the bytes of a PNG file."""
        self.draw_as_written()
        return self.encode()

    def encode(self) -> bytes:
        """Return what the canvas holds as PNG, in a third of matplotlib's time."""
        canvas = self.canvas
        size = canvas.get_width_height(physical=True)
        image = Image.frombuffer("RGBA", size, canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
        file = io.BytesIO()
        image.convert("RGB").save(file, "png", compress_level=1)
        return file.getvalue()

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        # Front ends leave the alt text of an image/png out: the HTML has it. PDF needs the other.
        width, height = (int(100 * inches) for inches in self.get_size_inches())
        png = self.png()
        data = {"image/png": base64.b64encode(png).decode(), "text/plain": self.alt}
        data["text/html"] = DARK + still(png, self.alt, width)
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}


def still(png: bytes, alt: str, width: int) -> str:
    """Return an HTML image with alt text, `width` CSS pixels wide where there is room."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    size = f"width: {width}px; max-width: 100%; height: auto"
    return f'<img class="nmf-picture" alt="{html.escape(alt)}" style="{size}" src="{source}">'


def style(ax: Axes, **settings: Any) -> Axes:
    """Give axes colours that stay legible whatever style sheet the reader has switched on."""
    ax.set(facecolor="white", axisbelow=True, **settings)
    ax.grid(color="#E2E2E2", linewidth=0.8)
    ax.tick_params(colors=INK, labelsize=11)
    for text in (ax.xaxis.label, ax.yaxis.label, ax.title):
        text.set(color=INK, fontsize=12)
    for side, spine in ax.spines.items():
        spine.set(color=FAINT, visible=side in ("left", "bottom"))
    return ax


def shorten(text: Any, width: int) -> str:
    """Return one line of at most `width` printable characters of any text."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def count(n: int, noun: str) -> str:
    """Return "1 film" or "2,000 films"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
