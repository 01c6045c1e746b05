"""The course's pages, built as CI builds them and read in a real browser."""

import functools
import http.server
import json
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

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
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(chromium, address):
    page = chromium.new_page()
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on(
        "console",
        lambda message: page.complaints.append(message.text) if message.type == "error" else None,
    )
    yield page
    page.close()


def pages(site):
    return sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))


class Links(HTMLParser):
    """Where a page leads to, and the places in it that have a name."""

    def __init__(self, path):
        super().__init__()
        self.links, self.names = [], {""}
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.names |= {found.get("id"), found.get("name")}
        self.links += filter(None, (found.get("href"), found.get("src")))


def broken_links(folder):
    files = {path.resolve(): Links(path) for path in folder.rglob("*.html")}
    for path, page in files.items():
        for link in page.links:
            if urlsplit(link).scheme:
                continue
            place, name = urldefrag(unquote(link))
            target = (path.parent / place.partition("?")[0]).resolve() if place else path
            there = target in files and name in files[target].names
            if not (there or (target.is_file() and target not in files)):
                yield f"{path.relative_to(folder.resolve())}: {link}"


def test_no_link_is_broken(site):
    assert not [*broken_links(site)]


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<p id="x"><a href="#x"><a href="b.html#y"><img src="c.png">')
    (tmp_path / "b.html").write_text('<a href="a.html#x"><a href="a.html#z">')
    assert sorted(broken_links(tmp_path)) == [
        "a.html: b.html#y", "a.html: c.png", "b.html: a.html#z",
    ]  # fmt: skip


def test_every_notebook_and_every_module_of_the_core_has_its_page(site):
    assert {f"notebooks/{path.stem}.html" for path in NOTEBOOKS} <= {*pages(site)}
    modules = {path.stem for path in (ROOT / "nmf_helpers").glob("[a-z]*.py")}
    assert {f"api/{module}.html" for module in modules} <= {*pages(site)}


def test_nothing_is_asked_of_anybody_else_and_no_page_is_wider_than_a_phone(page, site, address):
    page.set_viewport_size(PHONE)
    for name in pages(site):
        page.goto(f"{address}/{name}")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], f"{name} is {width} pixels wide"
    assert not [url for url in page.asked if not url.startswith((address, "data:"))]
    assert page.complaints == []


def test_formulas_are_drawn(page, site, address):
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
        for alt in page.locator("article img").evaluate_all("all => all.map(i => i.alt)"):
            assert len(alt) > 30 and not alt.endswith(".png"), alt
        stills = page.locator(".cell_output .nmf-still", has_text="run this cell to move it")
        assert stills.count() == len(labs), f"{path.name}: a lab without a trace"
        for lab in stills.all():
            assert lab.locator("img:visible, svg:visible, li:visible").count(), path.name


def test_search_finds_a_word(page, address):
    page.goto(f"{address}/search.html?q=Hogwild")
    results = page.locator("#search-results li a").first
    results.wait_for()
    assert page.locator("#search-results li a", has_text="7 · Hogwild").count()


def test_pages_are_dark_where_the_system_is(page, address):
    page.emulate_media(color_scheme="dark")
    page.goto(f"{address}/index.html")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 60
