"""A notebook as a live page, for a projector: labs that work, code folded away, no network."""

import os
import socket
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

INSTALL = 'python -m pip install -e ".[show]"'

# Voilà's own page asks a server elsewhere for icons that it has already; a browser doesn't follow a
# link of an unknown kind.
PAGE = """{% extends 'voila/templates/lab/index.html.j2' %}
{% block notebook_css %}
{{ super() | replace('rel="stylesheet" href="https://', 'rel="elsewhere" href="https://') }}
<style>
  details.code > summary { color: #666; cursor: pointer; font-size: 80%; text-align: right }
</style>
{% endblock %}
{% block input_group %}
<details class="code"><summary>code</summary>{{ super() }}</details>
{% endblock %}
"""
OPTIONS = [
    "--template=projector",
    "--strip_sources=False",  # folded, not left out
    "--show_tracebacks=True",
    "--VoilaConfiguration.extension_denylist=jupyterlab-jupytext",  # needs JupyterLab itself
    "--Voila.log_level=ERROR",
]


def show(notebook: Path, browser: bool = True) -> int:
    """Serve a notebook as a page until Ctrl-C, and open it in the browser.

    Parameters
    ----------
    notebook : Path
        It is run anew for each visitor, in a kernel of the Python that runs this.
    browser : bool
        False only prints the address.

    Returns
    -------
    int
        Exit status: 1 when Voilà, which makes the page, is not installed.
    """
    if find_spec("voila") is None:
        print(f"Live pages need Voilà, which is not installed:\n\n    {INSTALL}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder, "voila", "templates", "projector")
        template.mkdir(parents=True)
        (template / "conf.json").write_text('{"base_template": "lab"}', encoding="utf-8")
        (template / "index.html.j2").write_text(PAGE, encoding="utf-8")
        more = os.environ.get("JUPYTER_PATH")
        port = _free_port()
        command = [sys.executable, "-m", "voila", str(notebook), f"--port={port}", *OPTIONS]
        command += [] if browser else ["--no-browser"]
        print(f"{notebook.stem}: http://localhost:{port}/ in a moment. Ctrl-C ends it.", flush=True)
        env = os.environ | {"JUPYTER_PATH": os.pathsep.join(filter(None, (folder, more)))}
        with subprocess.Popen(command, env=env) as server:
            try:
                return server.wait()
            except KeyboardInterrupt:  # the server has had it too, and ends
                return server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
