"""What a room full of laptops does: real kernels, real signals, and promises about the whole.

Faults of one part alone are tested beside it (test_fetch, test_hogwild, test_pipeline, test_lab).
"""

import os
import re
import shutil
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import jupytext
import numpy as np
import psutil
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from made_up import slow_run
from planted import TEST, TRAIN, build, same_run

from nmf_helpers.lab import TrainingLab
from nmf_helpers.pipeline import Pipeline

METHODS = torch.multiprocessing.get_all_start_methods()
ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.md"))
PATIENCE = 60  # seconds until a test gives up


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


class Kernel:
    """A notebook kernel and the front end that talks to it."""

    def __init__(self, folder):
        self.manager, self.client = start_new_kernel(kernel_name="python3", cwd=str(folder))

    def connect(self):
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code, timeout=60, meanwhile=lambda text: None):
        """Run a cell; return its printed text and results, or the error's traceback."""
        said = []

        def hear(message):
            content = message["content"]
            said.append(content.get("text", "") + "\n".join(content.get("traceback", [])))
            said.append(content.get("data", {}).get("text/plain", ""))
            meanwhile(said[-2])

        code = textwrap.dedent(code)
        self.client.execute_interactive(code, output_hook=hear, timeout=timeout)
        return "".join(said)

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def notebook():
    with closing(Kernel(ROOT)) as running:
        yield running


def alive(processes):
    """Which of them still run; a zombie does not."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


# --- Kernels ----------------------------------------------------------------------------------


def test_a_lab_goes_on_when_its_tab_is_closed(notebook):
    notebook.run(f"""
        import sys
        sys.path.insert(0, {str(ROOT / "tests")!r})
        from made_up import slow_run
        from nmf_helpers.lab import TrainingLab
        lab = TrainingLab(slow_run, n_epochs=100)
        display(lab)
        lab.train_button.click()
    """)
    notebook.client.stop_channels()  # the tab is gone, and the kernel talks to nobody
    time.sleep(0.2)
    notebook.connect()  # and is opened again
    said = notebook.run("lab.wait(60); print(lab.runs[0].state, len(lab.runs[0].history))")
    assert "finished 100" in said


def test_hogwild_in_a_kernel_survives_interrupt_and_leaves_nothing_on_a_restart(notebook):
    forever = f"""
        import sys
        sys.path.insert(0, {str(ROOT / "tests")!r})
        import nmf_helpers.hogwild
        from workers import hogwild, model
        nmf_helpers.hogwild.METHOD = "spawn"
        for record in hogwild(model(), n_epochs=10**6):
            print("epoch", record["epoch"], flush=True)
    """

    def workers():
        kernel = psutil.Process(notebook.manager.provisioner.pid)
        found = kernel.children(recursive=True)
        return [p for p in found if "spawn_main" in " ".join(p.cmdline())]

    def interrupt(text):
        if "epoch" in text and not pressed:
            pressed.extend(workers())
            notebook.manager.interrupt_kernel()

    pressed = []
    assert "KeyboardInterrupt" in notebook.run(forever, meanwhile=interrupt)
    assert len(pressed) == 2
    until(lambda: not alive(pressed))
    notebook.client.execute(textwrap.dedent(forever))  # once more, in the same kernel
    until(lambda: len(workers()) == 2)
    orphans = workers()
    notebook.client.stop_channels()
    notebook.manager.restart_kernel(now=True)
    notebook.connect()
    until(lambda: not alive(orphans))


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_twice_in_a_row_from_any_folder(source, tmp_path):
    """Whole notebooks take minutes, so all of them run only where NMF_TEST_ALL is set."""
    if not (source.name[:2] == "01" or os.environ.get("NMF_TEST_ALL")):
        pytest.skip("set NMF_TEST_ALL=1 to run all notebooks twice")
    course, elsewhere = tmp_path / "Kurs für Ähm №1", tmp_path / "arbeitet hier ✓"
    shutil.copytree(ROOT / "notebooks", course)
    elsewhere.mkdir()
    cells = [c.source for c in jupytext.read(course / source.name).cells if c.cell_type == "code"]
    with closing(Kernel(elsewhere)) as notebook:
        first, second = ([notebook.run(cell, timeout=300) for cell in cells] for _ in range(2))
    assert "Traceback (most recent call last)" not in "".join(first)
    for number, (before, after) in enumerate(zip(first, second, strict=True), start=1):
        assert after == before, f"code cell {number}"
    assert os.listdir(elsewhere) == []


@pytest.mark.skipif("fork" not in METHODS, reason="forks, so that nothing has to be imported again")
def test_a_process_killed_while_saving_leaves_the_old_file_and_the_next_save_works(
    tmp_path, monkeypatch
):
    def half(path):  # written, but not yet in the old file's place
        written.set()
        time.sleep(PATIENCE)

    path, fitted = tmp_path / "run.pt", build()
    fitted.save(path)
    before, context = path.read_bytes(), torch.multiprocessing.get_context("fork")
    written = context.Event()
    with monkeypatch.context() as patched:
        patched.setattr("nmf_helpers.saving.read", half)
        saving = context.Process(target=fitted.save, args=(path,))
        saving.start()
        assert written.wait(PATIENCE)
        saving.kill()
        saving.join()
    assert path.read_bytes() == before
    fitted = Pipeline.load(path, TRAIN, {"holdout": TEST}).fit()
    fitted.save(path)
    assert list(tmp_path.iterdir()) == [path]
    same_run(Pipeline.load(path), fitted)


# --- Labs -------------------------------------------------------------------------------------


def test_a_storm_of_sliders_while_it_trains_changes_the_next_run_only():
    lab = TrainingLab(slow_run, n_epochs=60).start(lr=0.01)
    until(lambda: lab.runs)

    def storm(seed):
        for power in np.random.default_rng(seed).uniform(-3, 0, size=100):
            lab.controls["lr"].value = 10**power

    with ThreadPoolExecutor() as threads:
        list(threads.map(storm, range(3)))
    lab.controls["lr"].value = 0.1
    lab.wait(PATIENCE)
    assert [run.settings["lr"] for run in lab.runs] == [0.01]
    assert len(lab.runs[0].history) == 60
    lab.train_button.click()
    assert lab.wait(PATIENCE).runs[-1].settings["lr"] == pytest.approx(0.1)


# --- Security ---------------------------------------------------------------------------------


def test_nothing_opens_jupyterlab_to_others():
    opening = re.compile(
        r"""(token|password)(\s*=\s*(""|'')|=\s|=$)|0\.0\.0\.0|--ip=(?!127\.0\.0\.1)|allow_origin"""
        r"""|allow_remote_access|disable_check_xsrf|allow_unauthenticated""",
        re.M,
    )
    for bad in ('c.IdentityProvider.token = ""', "--ip=* --port=1", "lab --token= --port=1"):
        assert opening.search(bad)
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        hidden = any(p in ("build", "dist") or (p[0] == "." and p != ".ci") for p in parts)
        if path.is_file() and not hidden and path.name != Path(__file__).name:
            found = opening.search(path.read_text("utf-8", errors="replace"))
            assert not found, f"{path.relative_to(ROOT)}: {found[0]!r}"
            assert not re.match(r"jupyter_.*config\.(py|json)", path.name)


def test_only_fetch_goes_to_the_network_and_by_https():
    names = "urllib.request|http.client|requests|httpx|aiohttp|pooch|ftplib"
    client = re.compile(rf"^\s*(from|import) ({names})", re.M)
    for path in (ROOT / "nmf_helpers").rglob("*.py"):
        text = path.read_text("utf-8")
        assert bool(client.search(text)) == (path.name == "fetch.py"), path.name
        for url in re.findall(r"http://[^\s\"']+", text):
            # The name of a format is no place, and this machine is not the network.
            assert url.startswith(("http://www.w3.org/", "http://localhost:")), url
