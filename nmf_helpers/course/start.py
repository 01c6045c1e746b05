"""A folder for a student's work: clean copies of the notebooks, opened in JupyterLab.

What is in the folder is never overwritten. The copies lie outside of ``notebooks/``, where jupytext
pairs every notebook with a text for those who write the course; no copy is paired with anything.
"""

import hashlib
import json
import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

FILE = ".nmf-helpers.json"  # what a folder remembers; JupyterLab doesn't list names with a dot
TEACHERS = {"instructor", "solution"}  # tags of cells that students don't get
CHECKOUT = Path(__file__).parents[2]
INSTALLED = Path(__file__).with_name("notebooks")  # there if the course came as a wheel
OPTIONS = [  # nothing is asked of the network, and no notebook is paired
    "--LabApp.extension_manager=readonly",
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--ServerApp.jpserver_extensions=jupytext=False",
    "--ServerApp.jpserver_extensions=jupyterlab_jupytext=False",
    "--Application.log_level=ERROR",
    "--allow-root",  # in a container one often is
]
QUIET = {"fetchNews": "false", "checkForUpdates": False}


def find_notebooks() -> dict[str, Path]:
    """Return the course's notebooks by number, and its other pages by name."""
    found = sorted((INSTALLED if INSTALLED.is_dir() else CHECKOUT / "notebooks").glob("*.ipynb"))
    if not found:
        raise FileNotFoundError("the notebooks are missing: install the course again, with pip")
    return {re.sub(r"^0(\d)-.*", r"\1", path.stem): path for path in found}


def clean_copy(path: Path) -> Any:
    """Return a notebook without outputs, widgets, solutions, and anything of its maker's machine.

    A ValueError names a notebook that is broken, and the cell.
    """
    import nbformat
    from nbconvert import preprocessors as steps

    try:
        notebook = nbformat.read(path, as_version=4)
        steps.TagRemovePreprocessor(remove_cell_tags=TEACHERS).preprocess(notebook, {})
        steps.ClearOutputPreprocessor().preprocess(notebook, {})
        for cell in notebook.cells:
            for key in set(cell.metadata) - {"tags"}:
                del cell.metadata[key]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        where = [*error.absolute_path, "", ""]
        cell = f", cell {where[1] + 1}" if where[0] == "cells" else ""
        raise ValueError(f"{path.name}{cell} is broken: {error.message}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is no notebook: {error}") from error
    return notebook


def read(folder: Path) -> dict[str, Any]:
    """Return what a folder remembers: "editions" of its notebooks, and the exercises "passed"."""
    remembered: dict[str, Any] = {"editions": {}, "passed": []}
    with suppress(OSError, ValueError):  # none, or none that can be read: as in a new folder
        remembered |= json.loads((folder / FILE).read_text("utf-8"))
    return remembered


def write(folder: Path, remembered: dict[str, Any]) -> None:
    """Replace what a folder remembers, in one move: two notebooks may do so at a time."""
    new = folder / f"{FILE}.{os.getpid()}"
    new.write_text(json.dumps(remembered, indent=1), "utf-8")
    new.replace(folder / FILE)


def copy_notebooks(folder: Path, again: Path | None = None) -> list[str]:
    """Copy the notebooks that are missing, and return sentences on what there is to know.

    The notebook `again` is copied once more; the copy that is there is kept beside it.
    """
    import nbformat

    clean = {n: (p, nbformat.writes(clean_copy(p))) for n, p in find_notebooks().items()}
    if folder.resolve().is_relative_to(find_notebooks()["1"].parent):
        raise ValueError(f"{folder} is the course's own, not for copies: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    remembered, said = read(folder), []
    for number, (path, text) in clean.items():
        copy, edition = folder / path.name, hashlib.sha256(text.encode()).hexdigest()
        if path == again and copy.exists():
            kept = copy.rename(folder / f"{path.stem} {datetime.now():%Y-%m-%d %H.%M.%S.%f}.ipynb")
            said.append(f"Your {path.name} is kept as {kept.name}.")
        if not copy.exists():
            copy.write_text(text, "utf-8")
            remembered["editions"][path.name] = [edition, copy.stat().st_mtime]
        elif remembered["editions"].get(path.name, [edition])[0] != edition:
            said.append(
                f"The course has a newer edition of {path.name} than your copy. To get it (yours "
                f"stays beside it): python -m nmf_helpers start {number} --reset"
            )
    write(folder, remembered)
    return said


def last_worked_on(folder: Path) -> Path:
    """Return the notebook, not page, that was saved last, or the first if none has been."""
    made = {name: made for name, (_, made) in read(folder)["editions"].items()}
    times = {p: p.stat().st_mtime for p in folder.glob("0*.ipynb") if p.name in made}
    worked_on = [p for p in times if times[p] > made[p.name]]
    return max(worked_on, key=times.__getitem__, default=min(times))


def students_folder() -> Path:
    """Return where copies belong unless a folder is named: in a checkout, or where we are."""
    if (Path.cwd() / FILE).exists():
        return Path.cwd()
    return (Path.cwd() if INSTALLED.is_dir() else CHECKOUT) / "my-notebooks"


def open_lab(copy: Path, browser: bool = True) -> None:
    """Open a notebook in JupyterLab, with kernels of the Python that runs this, until Ctrl-C."""
    from ipykernel.kernelspec import write_kernel_spec
    from jupyterlab.labapp import LabApp

    with TemporaryDirectory() as own:
        extension = "--ext=nmf_helpers.course.start"  # for load_ipython_extension, below
        write_kernel_spec(Path(own, "kernels", "python3"), extra_arguments=[extension])
        settings = Path(own, "labconfig", "default_setting_overrides.json")
        settings.parent.mkdir()
        settings.write_text(json.dumps({"@jupyterlab/apputils-extension:notification": QUIET}))
        for name in ("JUPYTER_PATH", "JUPYTER_CONFIG_PATH"):
            os.environ[name] = os.pathsep.join(filter(None, (own, os.environ.get(name))))
        options = [f"--ServerApp.root_dir={copy.parent}", f"--ServerApp.open_browser={browser}"]
        page = f"--LabApp.default_url=/lab/tree/{quote(copy.name)}"
        server = LabApp.initialize_server(argv=[*OPTIONS, *options, page])
        said = f"JupyterLab: {server.local_url}\nCtrl-C ends it."
        server.io_loop.add_callback(print, said, flush=True)  # as soon as it listens
        server.start()


def load_ipython_extension(shell: Any) -> None:
    """Say beside each NameError what is most often behind it (IPython calls this)."""

    def explain(shell: Any, kind: type, error: Exception, tb: Any, tb_offset: Any = None) -> None:
        error.add_note("Has a cell above not run, or was the kernel restarted? Run > Run All Above")
        shell.showtraceback((kind, error, tb), tb_offset=tb_offset)

    shell.set_custom_exc((NameError,), explain)
