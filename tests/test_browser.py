"""The course in a real JupyterLab, in a real browser, as a student or an instructor uses it.

Servers on copies of the notebooks, Debian's Chromium through Playwright, and nothing left behind:
not a server, not a kernel, not a browser. Screenshots go to `artifacts/`, which git ignores.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import psutil
import pytest
from labs import code_for_the_lab

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "artifacts"
TOKEN = "a-token-for-this-test"
SECOND = 1000  # milliseconds, Playwright's unit
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
PROJECTOR = {"width": 853, "height": 480}  # 1280 × 720 at 150 %
NARROW = {"width": 640, "height": 800}

pytestmark = pytest.mark.browser

SCRATCH = [
    """
import time
import numpy as np, pandas as pd
from nmf_helpers.als import ImplicitALS
from nmf_helpers.lab import FactorLab, RecommendLab, TrainingLab

def make(lr, weight_decay, n_epochs, seed, n_factors, bias):
    def records():
        for epoch in range(1, n_epochs + 1):
            time.sleep(0.02)
            yield {"epoch": epoch, "train_loss": 1 / epoch, "validation_loss": 1 / epoch + lr}
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
likes = (random.random((30, 40)) < 0.3).astype(float)
RecommendLab(ImplicitALS(n_factors=4).fit(likes), movies, np.arange(40))
""",
    """
FactorLab(movies, np.arange(40), random.normal(size=(40, 4)), random.normal(size=(40, 4)))
""",
]


def notebook(*cells):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c.strip()) for c in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return made


LABS = sorted((ROOT / "notebooks").glob("0[2-7]*.ipynb"))


class Server:
    """A page server in a process of its own: plain JupyterLab, or a command of the course's."""

    def __init__(self, private, *command, root=None):
        news = private / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        news.parent.mkdir(parents=True, exist_ok=True)
        news.write_text(json.dumps(NO_NEWS))
        places = {"SETTINGS": "settings", "WORKSPACES": "workspaces"}
        env = os.environ | {f"JUPYTERLAB_{k}_DIR": str(private / v) for k, v in places.items()}
        env |= {f"JUPYTER_{k}_DIR": str(private / k.lower()) for k in ("CONFIG", "RUNTIME")}
        env |= {"OMP_NUM_THREADS": "1", "JUPYTER_TOKEN": TOKEN, "BROWSER": "true"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH"))))
        if root:
            command = ("jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={root}")
        self.log = private / f"server-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        address = self.until(lambda: re.search(r"http://[\w.]+:\d+", self.log.read_text("utf-8")))
        self.url = address[0].replace("localhost", "127.0.0.1")

    def until(self, ask):
        for _ in range(600):
            with suppress(OSError):
                if answer := ask():
                    return answer
            assert self.process.poll() is None, self.log.read_text("utf-8")
            time.sleep(0.1)
        raise AssertionError(f"no answer:\n{self.log.read_text('utf-8')}")

    def wait(self, path="api/status"):
        self.until(lambda: self.ask(path))
        return self

    def ask(self, path, method="GET"):
        request = urllib.request.Request(f"{self.url}/{path}?token={TOKEN}", method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def end_sessions(self):
        for session in json.loads(self.ask("api/sessions")):
            self.ask(f"api/sessions/{session['id']}", "DELETE")

    def end(self):
        server = psutil.Process(self.process.pid)
        family = [server, *server.children(recursive=True)]
        self.process.terminate()
        for process in psutil.wait_procs(family, 10)[1]:
            process.kill()
        self.process.wait(10)


@contextmanager
def running(*arguments, **options):
    server = Server(*arguments, **options)
    try:
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def server(tmp_path_factory, chromium):
    folder, private = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("jupyter")
    nbformat.write(notebook(*SCRATCH), folder / "scratch.ipynb")
    for path in LABS:
        nbformat.write(notebook(f"%%capture\n{code_for_the_lab(path)}", "lab"), folder / path.name)
    ARTIFACTS.mkdir(exist_ok=True)
    with running(private, root=folder) as server:
        yield server.wait()


@pytest.fixture
def tab(chromium):
    """A tab that notes every complaint, and every request to somebody else."""
    tab = chromium.new_page(viewport={"width": 1280, "height": 1100})
    tab.set_default_timeout(20 * SECOND)
    tab.complaints = []
    tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.on("console", lambda m: tab.complaints.append(m.text) if m.type == "error" else None)
    ours = re.compile(r"(data:|blob:|(http|ws)://(127\.0\.0\.1|localhost)[:/])")
    tab.on("request", lambda r: None if ours.match(r.url) else tab.complaints.append(r.url))
    yield tab
    tab.close()


@pytest.fixture
def page(tab, server, request):
    yield tab
    tab.screenshot(path=ARTIFACTS / f"{request.node.name}.png")
    tab.goto("about:blank")
    server.end_sessions()


def expect(found):
    from playwright.sync_api import expect

    expect.set_options(timeout=20 * SECOND)
    return expect(found)


def open_notebook(page, server, path):
    page.goto(f"{server.url}/lab/tree/{path}?reset&token={TOKEN}")
    page.locator("#jupyterlab-splash").wait_for(state="detached")


def choose(page, menu, entry):
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{entry}…?$")).click()


def press(lab, name):
    lab.locator("button.jupyter-button", has_text=re.compile(f"{name}$")).click()


def slider(lab, name):
    """The handle of a slider and the row it is in."""
    row = lab.locator(".widget-hslider", has=lab.page.get_by_text(name, exact=True))
    return row.locator(".noUi-handle"), row


@pytest.fixture
def run_all(page, server):
    """Open a notebook, run all cells from the menu, return a lab of it; nothing complains."""

    def begin(name="scratch", lab="training"):
        open_notebook(page, server, f"{name}.ipynb")
        status = page.locator("#jp-main-statusbar")
        expect(status).to_contain_text("| Idle", timeout=60 * SECOND)
        page.keyboard.press("Control+b")  # room for the notebook
        choose(page, "Run", "Run All Cells")
        page.locator(f".nmf-{lab}-lab").wait_for(timeout=120 * SECOND)
        expect(status).to_contain_text("| Idle", timeout=60 * SECOND)
        page.locator(f".nmf-{lab}-lab").scroll_into_view_if_needed()
        return page.locator(f".nmf-{lab}-lab")

    yield begin
    errors = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]')  # and warnings
    assert errors.count() == 0, errors.all_inner_texts()
    assert page.complaints == []


def no_barrier(page):
    """Nothing that axe finds serious or worse."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, context=".nmf-lab").response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in serious]


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


def seen_together(page, *parts):
    """Whether all of these are on the screen at once, whole."""
    top = page.locator(".jp-WindowedPanel-outer").first.bounding_box()["y"] - 1
    bottom = page.locator("#jp-bottom-panel").bounding_box()["y"] + 1
    boxes = [part.bounding_box() for part in parts]
    return all(
        top <= box["y"] and box["y"] + box["height"] <= bottom
        and box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"] + 1
        for box in boxes
    )  # fmt: skip


def fits(page, lab, name):
    """A projector shows controls and the whole curve together; a narrow window stacks them."""
    usual, picture = page.viewport_size, lab.locator("img.nmf-picture")
    rows = [slider(lab, control)[1] for control in ("lr", "weight_decay", "n_epochs")]
    needed = [lab.locator("button", has_text=re.compile("Train$")), picture]
    needed += [row for row in rows if row.count()]
    for size in (PROJECTOR, NARROW):
        page.set_viewport_size(size)
        page.wait_for_timeout(500)  # a window being resized lays itself out more than once
        lab.evaluate("lab => lab.scrollIntoView()")
        page.wait_for_timeout(200)
        page.screenshot(path=ARTIFACTS / f"{name}-{size['width']}.png")
        assert seen_together(page, *needed), size
        scroller = page.locator(".jp-WindowedPanel-outer").first
        assert scroller.evaluate("box => box.scrollWidth <= box.clientWidth + 1")
    assert picture.bounding_box()["height"] >= 300
    page.set_viewport_size(usual)


@pytest.mark.parametrize("name", ["scratch", *(path.stem for path in LABS)])
def test_a_lab_is_used_by_mouse_and_keyboard_trains_and_stops(page, run_all, name):
    """Move a slider by keyboard and one by mouse, train, watch, stop."""
    lab = run_all(name)
    picture = lab.locator("img.nmf-picture")
    handle, row = slider(lab, "lr")
    before = row.inner_text()
    handle.focus()
    page.keyboard.press("ArrowRight")
    expect(row).not_to_have_text(before)
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
    press(lab, "Stop")
    expect(lab).to_contain_text(re.compile("Stopped after|Finished after"))
    said = re.compile(r"^(Validation|Test) .* over epoch")  # by a screen reader, of the picture
    expect(lab.get_by_role("img", name=said)).to_be_visible()
    expect(lab.locator("table tr")).to_have_count(2)
    no_barrier(page)
    fits(page, lab, name)
    with dark(page):
        page.screenshot(path=ARTIFACTS / f"{name}-dark.png")
        no_barrier(page)


def test_everything_in_a_lab_works_by_keyboard(page, run_all):
    lab = run_all()
    for name, value in {"weight_decay": "0.00000126", "lr": "0.0321"}.items():
        exact = slider(lab, name)[1].locator(".widget-readout")
        exact.fill(value)
        exact.press("Enter")  # and the longest is seen to its end
        assert exact.evaluate("box => box.scrollWidth <= box.clientWidth"), value
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


def test_a_sweep_leaves_ghosts_and_clear_forgets_them(run_all):
    lab = run_all()
    press(lab, "Sweep")
    expect(lab).to_contain_text("Run 2 of 4")
    expect(lab).to_contain_text("Best of all")
    expect(lab.locator("table tr")).to_have_count(5)
    press(lab, "Clear")
    expect(lab.locator("table tr")).to_have_count(0)


def test_a_film_is_found_and_rated_with_three_keys_and_a_misspelled_one_is_told(page, run_all):
    lab = run_all(lab="recommend")
    lists, query = lab.locator(".nmf-columns").last, lab.get_by_label("Find a film")
    first = lists.locator("li").first
    before = first.inner_text()
    query.fill("flim 07")
    expect(lab).to_contain_text("did you mean Film 07")
    expect(lab.get_by_title("rate Film 07 (2000): 5★").first).to_be_visible()
    query.fill("film 07")
    query.press("Enter")
    query.press("5")
    expect(lab).to_contain_text("After 1 rating:")
    expect(first).not_to_have_text(before)  # the list comes a message later
    no_barrier(page)


def test_the_factor_map_follows_its_controls(page, run_all):
    lab = run_all(lab="factor")
    picture = lab.locator("img.nmf-picture")
    before = picture.get_attribute("title")
    lab.get_by_label("when").select_option("before training")
    expect(picture).not_to_have_attribute("title", before)
    lab.get_by_label("marked").first.select_option("none")
    expect(picture).to_have_attribute("title", re.compile("^Map of 40 films: Children"))
    no_barrier(page)


def test_a_lab_that_lost_its_kernel_says_so_and_a_saved_one_leaves_a_picture(page, server, run_all):
    lab = run_all()
    choose(page, "Kernel", "Restart Kernel")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    lab.scroll_into_view_if_needed()
    page.wait_for_function(
        "lab => getComputedStyle(lab, '::before').content.includes('run this cell again')",
        arg=lab.element_handle(),
    )
    save(page)
    page.goto("about:blank")
    server.end_sessions()
    open_notebook(page, server, "scratch.ipynb")
    still = page.locator(".nmf-still", has_text="run this cell to move it").first
    expect(still).to_be_visible()
    expect(still.locator("img, svg").first).to_be_visible()
    expect(page.get_by_text("model not found").and_(page.locator(":visible"))).to_have_count(0)
    page.complaints.clear()  # only the console says it


# -- a student's two days --------------------------------------------------------------------------


def save(page):
    # Not before the kernel has said its name: JupyterLab notes it, which leaves the page unsaved.
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=60 * SECOND)
    page.keyboard.press("Control+s")
    expect(page.locator(".lm-TabBar-tab.jp-mod-dirty")).to_have_count(0)


def test_work_is_there_on_the_second_day_however_jupyter_is_started(tab, tmp_path):
    home, name = tmp_path / "home", "01-encoding.ipynb"
    mine, written = home / "course" / "my-notebooks", ""
    shutil.copytree(ROOT / "notebooks", home / "course" / "notebooks")
    shutil.copy(ROOT / "jupytext.toml", home / "course")
    start = ("nmf_helpers", "start", "--no-browser", "--folder", str(mine))
    ways = [(start, None), (start, None), ((), mine.parent), ((), home)]
    for day, (command, root) in enumerate(ways, start=1):
        with running(tmp_path / "jupyter", *command, root=root) as server:
            open_notebook(tab, server.wait(), (mine / name).relative_to(root or mine).as_posix())
            cell = tab.locator(".jp-CodeCell .cm-content").first
            expect(cell).to_contain_text(written, timeout=60 * SECOND)
            assert tab.locator(".jp-OutputArea-output").count() == 0, "an answer stands there"
            cell.click()
            tab.keyboard.press("Control+End")
            tab.keyboard.type(f"\n# day {day}")
            save(tab)
            if day == 1:
                tab.locator(".jp-MarkdownCell a", has_text="→").first.click()  # to the next one
                tabs = tab.locator("#jp-main-dock-panel .lm-TabBar")
                expect(tabs).to_contain_text("02-dot-product-mf")
        written += f"# day {day}"
        saved = "".join(cell.source for cell in nbformat.read(mine / name, 4).cells)
        assert written in saved.replace("\n", "")
    assert not list(mine.glob("*.md"))


def test_a_live_page_fits_a_projector_and_asks_nobody_else(tab, tmp_path):
    pytest.importorskip("voila", reason="no live page without Voilà (pip install -e '.[show]')")
    with running(tmp_path, "nmf_helpers", "show", "2", "--no-browser") as server:
        tab.set_viewport_size({"width": 1280, "height": 720})
        tab.goto(server.wait("voila/static/voila.js").url, timeout=120 * SECOND)
        lab = tab.locator(".nmf-training-lab")
        lab.locator("img.nmf-picture").wait_for(timeout=120 * SECOND)
        lab.evaluate("lab => lab.scrollIntoView()")
        picture, train = lab.locator("img.nmf-picture"), lab.locator("button", has_text="Train")
        bottom = picture.bounding_box()["y"] + picture.bounding_box()["height"]
        assert train.bounding_box()["y"] >= 0 and bottom <= 720
        press(lab, "Train")
        expect(lab).to_contain_text(re.compile("Finished after"))
        folded = tab.locator("details.code")
        assert folded.count() > 10 and not folded.first.locator("pre").is_visible()
        assert tab.complaints == []
