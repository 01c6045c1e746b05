"""A notebook as a live page, for a projector: labs that work, code folded away, no network."""

import os
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

INSTALL = 'Live pages need Voilà. To get it: python -m pip install -e ".[show]"'

# Voilà's own page asks a server elsewhere for icons that it has already; a browser doesn't follow a
# link of an unknown kind.
PAGE = """{% extends 'voila/templates/lab/index.html.j2' %}
{% block notebook_css %}
{{ super() | replace('rel="stylesheet" href="https://', 'rel="elsewhere" href="https://') }}
<style>.code summary { color: #666; cursor: pointer; font-size: 80%; text-align: right }</style>
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
    """Serve a notebook as a page until Ctrl-C, run anew for each visitor; return the exit status.

    Without Voilà, which makes the page, it prints how to get it. Without `browser`, no window
    opens: the address is printed.
    """
    if find_spec("voila") is None:
        print(INSTALL, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        template = Path(folder, "voila", "templates", "projector")
        template.mkdir(parents=True)
        (template / "conf.json").write_text('{"base_template": "lab"}', encoding="utf-8")
        (template / "index.html.j2").write_text(PAGE, encoding="utf-8")
        probe.bind(("127.0.0.1", 0))  # a port that nobody uses
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-m", "voila", str(notebook), f"--port={port}", *OPTIONS]
        command += [] if browser else ["--no-browser"]
        path = os.pathsep.join(filter(None, (folder, os.environ.get("JUPYTER_PATH"))))
        print(f"{notebook.stem}: http://localhost:{port}/ in a moment. Ctrl-C ends it.", flush=True)
        with subprocess.Popen(command, env=os.environ | {"JUPYTER_PATH": path}) as server:
            with suppress(KeyboardInterrupt):  # the server has had it too, and ends
                server.wait()
            return server.wait()
