"""How quickly a training lab answers: press to first point, press to stopped, frames a second.

Usage: ``python benchmarks/lab_latency.py`` measures in this process, from the press of a button to
the change of the picture's bytes. ``--browser`` measures what a student sees, in JupyterLab and
Chromium (with the test suite's server): from the click to the change of the image on the page.
Biased matrix factorization on MovieLens latest-small, one full-batch step an epoch.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SETUP = """
import torch
from nmf_helpers.data import encode_ratings, load_ratings, split_ratings
from nmf_helpers.interactions import full_batch
from nmf_helpers.lab import TrainingLab
from nmf_helpers.models import BiasedMF
from nmf_helpers.training import mean_loss, train

torch.set_num_threads(1)
known, hidden = split_ratings(load_ratings("latest-small"))
hidden = encode_ratings(hidden, known)
known = encode_ratings(known)
size = known.attrs["n_users"], known.attrs["n_items"]
known, hidden = full_batch(known), full_batch(hidden)

def make(lr, weight_decay, n_epochs, seed, n_factors):
    torch.manual_seed(seed)
    model = BiasedMF(*size, n_factors, global_mean=3.5)
    evaluate = lambda model: {"validation_loss": mean_loss(model, [hidden])}
    settings = {"lr": lr, "weight_decay": weight_decay, "n_epochs": n_epochs}
    return model, train(model, [known], evaluate=evaluate, **settings)

lab = TrainingLab(make, n_epochs=(1, 1000, 1000), controls={"n_factors": (1, 20, 100)})
"""


def report(where, first, stopped, rates, changed=()):
    print(f"{where}, median of {len(first)} runs [slowest]")
    times = {"first change": changed, "first point": first, "stopped": stopped}
    for name, values in times.items():
        if values:
            print(f"  press to {name:13s}{statistics.median(values):6.0f} ms [{max(values):.0f}]")
    print(f"  {'frames a second':22s}{statistics.median(rates):6.1f}    [{min(rates):.1f}]")


def headless(n_runs, seconds):
    space = {}
    exec(SETUP, space)
    lab = space["lab"]
    time.sleep(3)  # the time that a reader takes to look at it
    first, stopped, rates = [], [], []
    for _ in range(n_runs):
        frames = []

        def note(_, frames=frames):
            if lab.runs and lab.runs[-1].history and lab.runs[-1].state == "training":
                frames.append(time.perf_counter())

        lab.picture.observe(note, "value")
        pressed = time.perf_counter()
        lab.train_button.click()
        time.sleep(seconds)
        rates.append((len(frames) - 1) / (frames[-1] - frames[0]))
        first.append(1000 * (frames[0] - pressed))
        pressed = time.perf_counter()
        lab.stop_button.click()
        lab.wait(10)
        stopped.append(1000 * (time.perf_counter() - pressed))
        lab.picture.unobserve(note, "value")
        lab.clear_button.click()
    report("In one process", first, stopped, rates)


WATCH = """() => {
    const lab = document.querySelector('.nmf-training-lab'), seen = window.seen = [];
    new MutationObserver(() => {
        if (/epoch [1-9]/.test(lab.innerText)) seen.push(performance.now());
    }).observe(lab.querySelector('img.nmf-picture'), {attributes: true, attributeFilter: ['src']});
    new MutationObserver(() => {
        window.changed ??= performance.now();
        if (/Stopped after/.test(lab.innerText)) window.stopped ??= performance.now();
    }).observe(lab, {subtree: true, childList: true, characterData: true});
}"""
CLICK = """name => {
    const all = [...document.querySelectorAll('.nmf-training-lab button.jupyter-button')];
    window.seen.length = 0;
    window.stopped = window.changed = undefined;
    window.pressed = performance.now();
    all.find(button => button.innerText.trim().endsWith(name)).click();
}"""


def in_browser(n_runs, seconds):
    import shutil

    import nbformat
    from playwright.sync_api import sync_playwright
    from test_browser import SECOND, notebook, run_all, running

    changed, first, stopped, rates = [], [], [], []
    chromium = shutil.which("chromium") or shutil.which("chrome")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as private:
        nbformat.write(notebook(SETUP, "lab"), Path(folder) / "lab.ipynb")
        with running(Path(private), root=folder) as server, sync_playwright() as playwright:
            server.wait()
            browser = playwright.chromium.launch(executable_path=chromium, args=flags)
            page = browser.new_page(viewport={"width": 1280, "height": 1100})
            page.set_default_timeout(60 * SECOND)
            run_all(page, server, "lab.ipynb")
            page.wait_for_timeout(3 * SECOND)
            page.evaluate(WATCH)
            for _ in range(n_runs):
                page.evaluate(CLICK, "Train")
                page.wait_for_timeout(seconds * SECOND)
                change, seen, pressed = page.evaluate("[window.changed, window.seen, pressed]")
                changed.append(change - pressed)
                first.append(seen[0] - pressed)
                rates.append(1000 * (len(seen) - 1) / (seen[-1] - seen[0]))
                page.evaluate(CLICK, "Stop")
                page.wait_for_function("window.stopped")
                stopped.append(page.evaluate("window.stopped - window.pressed"))
                page.evaluate(CLICK, "Clear")
                page.wait_for_timeout(SECOND)
            browser.close()
    report("In JupyterLab and Chromium", first, stopped, rates, changed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--browser", action="store_true", help="measure in a real browser")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="training time of each run")
    options = parser.parse_args()
    (in_browser if options.browser else headless)(options.runs, options.seconds)
