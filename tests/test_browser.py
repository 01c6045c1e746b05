"""The labs in a real JupyterLab, in a real browser, as a student or an instructor uses them.

A server on a copy of the notebooks, Debian's Chromium through Playwright, and nothing left behind:
not a server, not a kernel, not a browser. Screenshots go to `artifacts/`, which git ignores.
"""

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "artifacts"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    sync_playwright = None

missing = [
    what
    for what, there in (
        ("Chromium (apt-get install chromium)", CHROMIUM),
        ("Playwright (pip install -e '.[browser]')", sync_playwright),
    )
    if not there
]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(missing), reason=f"no browser test without {' and '.join(missing)}"),
]

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
TOKEN = "a-token-for-this-test"
SECOND = 1000  # milliseconds, Playwright's unit
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}

SCRATCH = [
    """
import time
import numpy as np, pandas as pd
from nmf_helpers.explore import FactorLab, FoldInWeights, RecommendLab
from nmf_helpers.lab import TrainingLab

def make(lr, weight_decay, n_epochs, seed, n_factors, bias):
    def records():
        for epoch in range(1, n_epochs + 1):
            time.sleep(0.02)
            yield {"epoch": epoch, "train_loss": 1 / epoch, "valid_loss": 1 / epoch + lr}
    return None, records()
""",
    """
lab = TrainingLab(make, n_epochs=40, controls={"n_factors": (1, 20, 64), "bias": True},
                  baseline=("bias table", 0.3), ylabel="RMSE (stars)")
lab
""",
    """
movies = pd.DataFrame({"title": [f"Film {i:02d}" for i in range(40)], "year": 2000,
                       "genres": ["Horror", "Children"] * 20})
random = np.random.default_rng(0)
RecommendLab(FoldInWeights(random.random((40, 40), dtype=np.float32)), movies, np.arange(40))
""",
    """
FactorLab(movies, np.arange(40), random.normal(size=(40, 4)), random.normal(size=(40, 4)))
""",
]


def notebook(*cells):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c.strip()) for c in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return made


def with_a_training_lab():
    """The course's notebooks that have a lab, by name."""
    names = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    return [n for n in names if "TrainingLab(" in (ROOT / "notebooks" / n).read_text("utf-8")]


def names_in(statement):
    """The names that a statement uses, those it makes, and those it only changes."""
    used, made, changed = set(), set(), set()
    for node in ast.walk(statement):
        store = isinstance(getattr(node, "ctx", None), ast.Store)
        if isinstance(node, ast.Name):
            (made if store else used).add(node.id)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif store and isinstance(node, ast.Subscript | ast.Attribute):  # x[0] = ..., x.y = ...
            changed |= {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):  # what is made inside stays inside
        return used - made, {statement.name}, set()
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return set(), {(a.asname or a.name).split(".")[0] for a in statement.names}, set()
    if not isinstance(statement, ast.Assign | ast.AnnAssign):  # a loop may make nothing
        return used, set(), made | changed
    return used, made, changed


def the_lab_and_what_it_needs(path):
    """The notebook's labs, and of the rest only the statements that make the names they use."""
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    kept, needed = [], set()
    for source in reversed(cells):
        statements = ast.parse(source).body
        is_lab = re.search(r"\bTrainingLab\(", source)
        for statement in reversed(statements):
            used, made, changed = names_in(statement)
            code = ast.unparse(statement)
            if is_lab or (made | changed) & needed or "set_num_threads" in code:
                kept.insert(0, code)
                needed = (needed - made) | used
    return notebook("\n".join(kept))


class Server:
    """JupyterLab on a folder, with settings of its own."""

    def __init__(self, folder: Path, private: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        news = private / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        news.parent.mkdir(parents=True)
        news.write_text(json.dumps(NO_NEWS))
        places = {"SETTINGS": "settings", "WORKSPACES": "workspaces"}
        env = os.environ | {f"JUPYTERLAB_{k}_DIR": str(private / v) for k, v in places.items()}
        env |= {f"JUPYTER_{k}_DIR": str(private / k.lower()) for k in ("CONFIG", "RUNTIME")}
        env["OMP_NUM_THREADS"] = "1"  # threads that wait for one another on a busy machine
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH"))))
        self.log = private / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1",
                    f"--port={self.port}", "--ServerApp.port_retries=0", "--allow-root",
                    f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}",
                ],
                env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.url = f"http://127.0.0.1:{self.port}"

    def wait(self):
        for _ in range(300):
            try:
                return self.ask("api/status")
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.1)
        raise AssertionError(f"JupyterLab did not answer:\n{self.log.read_text()}")

    def ask(self, path, method="GET"):
        request = urllib.request.Request(f"{self.url}/{path}?token={TOKEN}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or "null")

    def end_sessions(self):
        for session in self.ask("api/sessions"):
            self.ask(f"api/sessions/{session['id']}", "DELETE")

    def end(self):
        family = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        self.process.terminate()
        _, alive = psutil.wait_procs(
            [psutil.Process(p.pid) for p in family if psutil.pid_exists(p.pid)], 10
        )
        for process in alive:
            process.kill()
        self.process.wait(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder, private = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("jupyter")
    nbformat.write(notebook(*SCRATCH), folder / "scratch.ipynb")
    for name in with_a_training_lab():
        nbformat.write(the_lab_and_what_it_needs(ROOT / "notebooks" / name), folder / name)
    ARTIFACTS.mkdir(exist_ok=True)
    server = Server(folder, private)
    try:
        server.wait()
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        expect.set_options(timeout=20 * SECOND)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, server):
    page = chromium.new_page(viewport={"width": 1280, "height": 1100})
    page.set_default_timeout(20 * SECOND)
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on(
        "console",
        lambda message: page.complaints.append(message.text) if message.type == "error" else None,
    )
    yield page
    page.close()
    server.end_sessions()


def run_all(page, server, name):
    """Open a notebook, run all cells from the menu, and wait until that is done."""
    page.goto(f"{server.url}/lab/tree/{name}?reset&token={TOKEN}")
    page.locator("#jupyterlab-splash").wait_for(state="detached")
    status = page.locator("#jp-main-statusbar")
    expect(status).to_contain_text("| Idle", timeout=60 * SECOND)
    page.keyboard.press("Control+b")  # room for the notebook
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator(".nmf-training-lab").first.wait_for(timeout=120 * SECOND)
    expect(status).to_contain_text("| Idle", timeout=60 * SECOND)


def press(lab, name):
    lab.locator("button.jupyter-button", has_text=re.compile(f"{name}$")).click()


def slider(lab, name):
    """The handle of a slider and the text that shows its value."""
    row = lab.locator(".widget-hslider", has=lab.page.get_by_text(name, exact=True))
    return row.locator(".noUi-handle"), row


def no_complaints(page):
    errors = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    assert errors.count() == 0, errors.all_inner_texts()
    assert page.complaints == []


@contextmanager
def dark(page):
    """JupyterLab's dark theme for a while; the server would remember it."""
    for theme, is_light in (("Dark", "false"), ("Light", "true")):
        page.get_by_role("menuitem", name="Settings", exact=True).click()
        for label in ("Theme", f"JupyterLab {theme}"):
            page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{label}$")).click()
        expect(page.locator("body")).to_have_attribute("data-jp-theme-light", is_light)
        page.locator("#jupyterlab-splash").wait_for(state="detached")
        if theme == "Dark":
            yield


def exercise(page, lab, name):
    """Move a slider by keyboard and one by mouse, train, watch, stop; keep three pictures."""
    lab.scroll_into_view_if_needed()
    picture = lab.locator("img.nmf-picture")
    handle, _ = slider(lab, "lr")
    exact = lab.get_by_label("exact lr")
    before = exact.input_value()
    handle.focus()
    page.keyboard.press("ArrowRight")
    expect(exact).not_to_have_value(before)
    handle, row = slider(lab, "n_epochs")
    before = row.inner_text()
    box = handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"], steps=5)
    page.mouse.up()
    expect(row).not_to_have_text(before)
    seen = {picture.get_attribute("src")}
    press(lab, "Train")
    planned = row.locator(".widget-readout").inner_text()  # pressed at once, yet with this value
    expect(lab).to_contain_text(re.compile(rf"epoch [1-9]\d* of {planned}\b"))
    deadline = time.monotonic() + 30
    while len(seen) < 3 and time.monotonic() < deadline:
        seen.add(picture.get_attribute("src"))
        page.wait_for_timeout(20)
    assert len(seen) >= 3, "the picture does not move"
    page.screenshot(path=ARTIFACTS / f"{name}-training.png")
    press(lab, "Stop")
    expect(lab).to_contain_text(re.compile("Stopped after|Finished after"))
    said = re.compile(r"^(Validation|Test) .* over epoch")  # by a screen reader, of the picture
    expect(lab.get_by_role("img", name=said)).to_be_visible()
    expect(lab.locator("table tr")).to_have_count(2)
    page.screenshot(path=ARTIFACTS / f"{name}-light.png")
    with dark(page):
        page.screenshot(path=ARTIFACTS / f"{name}-dark.png")


def test_a_lab_is_used_by_mouse_and_keyboard(page, server):
    run_all(page, server, "scratch.ipynb")
    exercise(page, page.locator(".nmf-training-lab"), "scratch")
    no_complaints(page)


def test_everything_in_a_lab_works_by_keyboard(page, server):
    run_all(page, server, "scratch.ipynb")
    lab = page.locator(".nmf-training-lab")
    exact = lab.get_by_label("exact lr")
    exact.fill("0.0321")
    exact.press("Tab")
    train = lab.locator("button.jupyter-button", has_text="Train")
    train.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # twice: still a single run
    expect(lab).to_contain_text("lr 0.0321")
    expect(lab).to_contain_text(re.compile(r"epoch [1-9]\d* of"))  # there is something to stop
    page.keyboard.press("Tab")  # from Train to Stop
    expect(lab.locator("button.jupyter-button", has_text="Stop")).to_be_focused()
    page.keyboard.press("Space")
    expect(lab.get_by_role("status")).to_contain_text(re.compile("Stopped after|Finished after"))
    expect(lab.locator("table tr")).to_have_count(2)
    no_complaints(page)


def test_a_sweep_leaves_ghosts_in_light_and_dark(page, server):
    run_all(page, server, "scratch.ipynb")
    lab = page.locator(".nmf-training-lab")
    lab.scroll_into_view_if_needed()
    press(lab, "Sweep")
    expect(lab).to_contain_text("Run 2 of 4")
    page.screenshot(path=ARTIFACTS / "training.png")
    expect(lab).to_contain_text("Best of all")
    expect(lab.locator("table tr")).to_have_count(5)
    page.screenshot(path=ARTIFACTS / "swept.png")
    picture = lab.locator("img.nmf-picture")
    with dark(page):
        assert "invert" in picture.evaluate("image => getComputedStyle(image).filter")
        page.screenshot(path=ARTIFACTS / "swept-dark.png")
    press(lab, "Clear")
    expect(lab.locator("table")).to_have_count(0)
    no_complaints(page)


def test_rating_a_film_changes_the_list(page, server):
    run_all(page, server, "scratch.ipynb")
    lab = page.locator(".nmf-recommend-lab")
    lab.scroll_into_view_if_needed()
    lists = lab.locator(".nmf-columns")
    before = lists.inner_text()
    lab.get_by_label("Find a film:").fill("film 07")
    stars = lab.get_by_title("rate Film 07 (2000): 5★")
    stars.first.click()
    expect(lists).to_contain_text("because you liked Film 07")
    assert lists.inner_text() != before
    page.screenshot(path=ARTIFACTS / "recommend.png")
    no_complaints(page)


def test_the_factor_map_follows_its_controls(page, server):
    run_all(page, server, "scratch.ipynb")
    lab = page.locator(".nmf-factor-lab")
    lab.scroll_into_view_if_needed()
    picture = lab.locator("img.nmf-picture")
    before = picture.get_attribute("title")
    lab.get_by_role("button", name="before training").click()
    expect(picture).not_to_have_attribute("title", before)
    lab.get_by_label("genre 1").select_option("none")
    expect(picture).to_have_attribute("title", re.compile("^Map of 40 films: Children"))
    page.screenshot(path=ARTIFACTS / "factors.png")
    no_complaints(page)


@pytest.mark.parametrize("name", with_a_training_lab())
def test_the_lab_of_every_notebook_trains_and_stops(page, server, name):
    run_all(page, server, name)
    exercise(page, page.locator(".nmf-training-lab"), Path(name).stem)
    no_complaints(page)
