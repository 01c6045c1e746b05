"""How Sphinx builds the course's pages; see .ci/site."""

import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from pygments.lexers.special import TextLexer

from nmf_helpers import __version__

sys.path.append(str(Path(__file__).parent))  # for anchors.py

project = "Neural Matrix Factorization on MovieLens"
author = f"The authors of {project}"
version = release = __version__
copyright = f"The authors of {project}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = [".doctrees", "nmf_helpers/datasets"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_heading_slug_func = "anchors.like_jupyterlab"
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # labs have become pictures

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it in words
default_role = "literal"
nitpick_ignore_regex = [("py:.*", r"(?!nmf_helpers).*")]

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_favicon = "_static/icon.svg"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_theme_options = {
    "navbar_persistent": [],  # one search field, in the side bar
    "show_toc_level": 2,
    "use_fullscreen_button": False,
}
html_math_renderer = "mathml"


def mathml(writer, node, display):
    """Write a formula as MathML, which browsers draw without a script or a font of ours."""
    writer.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app):
    app.add_lexer("mermaid", TextLexer)  # the map, as it is written
    app.add_html_math_renderer(
        "mathml",
        (lambda writer, node: mathml(writer, node, "inline"), None),
        (lambda writer, node: mathml(writer, node, "block"), None),
    )
