"""Make from the notebooks what a class needs: a folder to hand out, and slides to project.

Each cell's slideshow metadata says whether a slide begins there, or that it is skipped; JupyterLab
shows and changes it. It is filled in by rule (`slide_types`) when a notebook is rebuilt. A deck is
one HTML file with pictures, formulas and keys inside: unlike nbconvert's, which loads reveal.js, it
needs no network. Code of up to `SHORT` lines is shown, of longer cells only what they print.
"""

import html
import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SHORT = 14  # lines of code that an audience reads
HEIGHT = 26  # lines on a slide, about
LEFT_OUT = {"instructor", "solution"}  # tags of cells that students don't get
NOTEBOOKS = "0*.ipynb"


def find_notebooks(folder: str | Path | None = None) -> list[Path]:
    """Return the course's notebooks, those beside the package unless a folder is given."""
    folder = Path(folder) if folder else Path(__file__).parent.parent / "notebooks"
    found = sorted(folder.glob(NOTEBOOKS))
    if not found:
        raise FileNotFoundError(
            f"there are no notebooks in {folder}: they lie in the folder of the course, beside the "
            "package, when it was installed with pip install -e ."
        )
    return found


def handout(target: str | Path = "handout", source: str | Path | None = None) -> list[Path]:
    """Copy the notebooks without outputs, solutions and instructor's cells.

    Raises
    ------
    FileExistsError
        If `target` holds notebooks already: somebody may have worked in them.
    FileNotFoundError
        If there is nothing to copy.
    """
    import nbformat

    target = Path(target)
    if old := sorted(target.glob("*.ipynb")):
        raise FileExistsError(f"{old[0]} is there already: name another folder, or remove it")
    notebooks = find_notebooks(source)
    target.mkdir(parents=True, exist_ok=True)
    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = [
            c for c in notebook.cells if not LEFT_OUT & set(c.metadata.get("tags", ()))
        ]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, target / path.name)
    return [target / path.name for path in notebooks]


def slides(target: str | Path = "slides", source: str | Path | None = None) -> list[Path]:
    """Write one HTML deck per notebook, from its present outputs."""
    import nbformat

    target = Path(target)
    notebooks = find_notebooks(source)
    target.mkdir(parents=True, exist_ok=True)
    decks = []
    for path in notebooks:
        sections = [
            f"<section>{''.join(map(_cell_html, cells))}</section>"
            for cells in split_slides(nbformat.read(path, as_version=4).cells)
        ]
        decks.append(target / f"{path.stem}.html")
        deck = PAGE.replace("TITLE", path.stem).replace("SECTIONS", "\n".join(sections))
        decks[-1].write_text(deck, encoding="utf-8")
    return decks


def split_slides(cells: list) -> Iterator[list]:
    """Yield the cells of one slide after the other."""
    slide: list = []
    for cell, kind in zip(cells, slide_types(cells), strict=True):
        kind = cell.metadata.get("slideshow", {}).get("slide_type") or kind
        if kind in ("skip", "notes") or LEFT_OUT & set(cell.metadata.get("tags", ())):
            continue
        if slide and kind in ("slide", "subslide"):
            yield slide
            slide = []
        slide.append(cell)
    if slide:
        yield slide


def slide_types(cells: list) -> list[str]:
    """Return each cell's slide type by rule: "slide", "subslide", "skip" or "-" (goes on).

    A heading begins a slide, a prediction ends one (the answer is below it), and what doesn't fit
    goes on below. Exercises are left to the notebook, and so is code that is long and silent.
    """
    types = []
    heading, asked, height = "", False, 0.0
    for cell in cells:
        found = re.search(r"^#+ (.+)", cell.source) if cell.cell_type == "markdown" else None
        heading = found[1] if found else heading
        if heading == "Exercises" or not _cell_html(cell):
            types.append("skip")
            continue
        height += _height(cell)
        kind = "slide" if found else "subslide" if asked or height > HEIGHT else "-"
        height = height if kind == "-" else _height(cell)
        asked = cell.cell_type == "markdown" and "> **Predict" in cell.source
        types.append(kind)
    return types


def _height(cell) -> float:
    """Guess how many lines of a slide a cell takes."""
    page = _cell_html(cell)
    rows = page.count("<tr") + 20 * page.count("<img") + 2 * len(re.findall("<h2|<pre|<p>", page))
    code = "".join(re.findall(r"<pre.*?</pre>", page, re.S))
    return rows + code.count("\n") + (len(cell.source) / 100 if cell.cell_type == "markdown" else 0)


def _cell_html(cell) -> str:
    if cell.cell_type == "markdown":
        from nbconvert.filters import markdown2html

        return _formulas(markdown2html(cell.source))
    if cell.cell_type != "code":
        return ""
    printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    shown = f"<pre class='out'>{html.escape(printed)}</pre>" if printed else ""
    shown += "".join(_output_html(o.data) for o in cell.outputs if "data" in o)
    return (_code_html(cell.source) if len(cell.source.splitlines()) <= SHORT else "") + shown


def _code_html(code: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return highlight(code, PythonLexer(), HtmlFormatter(noclasses=True, nobackground=True))


def _output_html(data) -> str:
    if "application/vnd.jupyter.widget-view+json" in data:
        return "<p><em>Live in the notebook.</em></p>"
    text = html.escape(data.get("text/plain", ""), quote=True)
    if "image/png" in data:  # its plain text is its alt text
        return f'<img alt="{text}" src="data:image/png;base64,{data["image/png"].strip()}">'
    return data.get("text/html") or f"<pre class='out'>{text}</pre>"


def _formulas(page: str) -> str:
    """Replace $…$ by pictures, except inside code."""
    parts = re.split(r"(<code.*?</code>|<pre.*?</pre>)", page, flags=re.S)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"\$\$(.+?)\$\$", lambda m: _formula(m[1], "block"), parts[i], flags=re.S)
        parts[i] = re.sub(r"\$([^$\n]+)\$", lambda m: _formula(m[1], "inline"), parts[i])
    return "".join(parts)


@cache
def _formula(latex: str, kind: str) -> str:
    """Draw a formula as SVG: matplotlib reads the part of LaTeX that the notebooks use."""
    from matplotlib.mathtext import math_to_image

    latex = html.unescape(latex).strip()
    drawn = re.sub(r"\\big(?=[()\[\]|])", "", latex).replace("\n", " ")
    file = io.BytesIO()
    depth = math_to_image(f"${drawn}$", file, format="svg") / 10
    svg = re.search(r"<svg.*</svg>", file.getvalue().decode(), re.S)[0]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    # Sizes in em: 10 points is mathtext's own size, so a formula grows with the words around it.
    svg = re.sub(r'="([\d.]+)pt"', lambda size: f'="{float(size[1]) / 10:.2f}em"', svg)
    svg = svg.replace("<svg ", f'<svg style="vertical-align:{-depth:.2f}em" ', 1)
    label = html.escape(latex, quote=True)
    return f'<span class="{kind}" role="img" aria-label="{label}">{svg}</span>'


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>TITLE</title><style>
body { margin: 0; font: 2.6vmin/1.45 system-ui, sans-serif; color: #222; background: white }
section { display: none; box-sizing: border-box; height: 100vh; padding: 5vmin 8vmin;
  overflow: auto }
section.now { display: block }
h1 { font-size: 2em; margin-top: 20vmin } h2 { font-size: 1.6em; margin-top: 0 }
blockquote { border-left: .4em solid #0072B2; margin: 1em 0; padding: .2em 1em; background: #EEF4F9;
  font-size: 1.25em }
pre { font-size: .85em; line-height: 1.35; background: #F6F6F6; padding: .6em 1em; overflow: auto }
pre.out { background: white; border-left: .2em solid #999 }
img { display: block; margin: 1em auto; max-width: 100%; max-height: 75vh }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: right }
thead, tr:first-child { border-bottom: 1px solid #999 } a.anchor-link { display: none }
.block { display: block; text-align: center; margin: 1em; font-size: 1.3em }
#page { position: fixed; right: 1em; bottom: .6em; color: #666; font-size: .7em }
@media print { section { display: block; height: auto; break-after: page } #page { display: none } }
</style></head><body>
SECTIONS
<div id="page" title="arrow keys, space, Home, End"></div>
<script>
const all = document.querySelectorAll("section"), page = document.getElementById("page");
const steps = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1,
  Home: -1e6, End: 1e6 };
let now = 0;
function show(i) {
  now = Math.min(Math.max(i, 0), all.length - 1);
  all.forEach((section, j) => section.classList.toggle("now", j === now));
  page.textContent = `${now + 1} / ${all.length}`;
  history.replaceState(null, "", `#${now + 1}`);
}
addEventListener("keydown", (event) => {
  if (event.key in steps) { event.preventDefault(); show(now + steps[event.key]); }
});
addEventListener("hashchange", () => show(parseInt(location.hash.slice(1)) - 1 || 0));
show(parseInt(location.hash.slice(1)) - 1 || 0);
</script></body></html>
"""
