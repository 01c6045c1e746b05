"""The course's pages, built as CI builds them and read in a real browser."""

import functools
import http.server
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PHONE = {"width": 390, "height": 844}

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the pages; building them said nothing, not even a warning."""
    pytest.importorskip("myst_nb", reason="no site without its tools (pip install -e '.[site]')")
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, ".ci/site", str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(chromium):
    with chromium.new_page() as page:
        yield page


LINKS = "[...document.querySelectorAll('[href], [src]')].map(e => e.href || e.src)"
NAMES = "[...document.querySelectorAll('[id], [name]')].flatMap(e => [e.id, e.name])"


def broken_links(pages, address, site):
    """Links of pages, given as {address: (links, names)}, to files and names that aren't there."""
    for where, (links, _) in pages.items():
        for link in (link for link in links if str(link).startswith(address)):
            target, name = urldefrag(link)
            target = target.partition("?")[0]
            _, names = pages.get(target, ((), ()))
            file = site / unquote(target.removeprefix(f"{address}/"))
            if not (file.is_file() and (not name or unquote(name) in names)):
                yield f"{where}: {link}"


def test_pages_lead_nowhere_wrong_ask_nobody_else_and_fit_a_phone(page, site, address):
    asked, complaints, pages = [], [], {}
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.set_viewport_size(PHONE)
    for name in sorted(str(path.relative_to(site)) for path in site.rglob("*.html")):
        page.goto(f"{address}/{name}")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], f"{name} is {width} pixels wide"
        pages[f"{address}/{name}"] = page.evaluate(LINKS), page.evaluate(NAMES)
    assert not [url for url in asked if not url.startswith((address, "data:"))]
    assert complaints == []
    assert not [*broken_links(pages, address, site)]
    some = next(iter(pages))  # and a broken one is found
    bad = {some: ([f"{some}#there", f"{some}#nowhere", f"{address}/nothing.png"], ["there"])}
    assert len([*broken_links(bad, address, site)]) == 2
    modules = {path.stem for path in (ROOT / "nmf_helpers").glob("[a-z]*.py")}
    assert {f"{address}/api/{module}.html" for module in modules} <= {*pages}
    assert {f"{address}/notebooks/{path.stem}.html" for path in NOTEBOOKS} <= {*pages}


def test_formulas_are_drawn(page, address):
    for path in NOTEBOOKS:
        written = "$$" in path.read_text("utf-8")
        page.goto(f"{address}/notebooks/{path.stem}.html")
        formulas = page.locator('math[display="block"]')
        assert bool(formulas.count()) == written, path.name
        for box in (formula.bounding_box() for formula in formulas.all()):
            assert box["height"] > 15 and box["width"] > 50
        assert "$" not in re.sub(r"\$\d", "", page.locator("article p").all_inner_texts().__str__())


def test_pictures_describe_themselves_and_labs_leave_one(page, address):
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        labs = [c for c in cells if "jupyter.widget-view" in str(c.get("outputs"))]
        page.goto(f"{address}/notebooks/{path.stem}.html")
        alts = page.locator("article img").evaluate_all("all => all.map(i => i.alt)")
        assert all(len(alt) > 30 for alt in alts), alts
        stills = page.locator(".cell_output .nmf-still", has_text="run this cell to move it")
        assert stills.count() == len(labs), f"{path.name}: a lab without a trace"
        for lab in stills.all():
            assert lab.locator("img:visible, svg:visible, li:visible").count(), path.name


def test_search_finds_a_word(page, address):
    page.goto(f"{address}/search.html?q=Hogwild")
    page.locator("#search-results li a", has_text="7 · Hogwild").first.wait_for()


def test_pages_are_dark_where_the_system_is(page, address):
    page.emulate_media(color_scheme="dark")
    page.goto(f"{address}/index.html")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 60
