"""The built website in headless Chromium, at a phone's and a laptop's width.

python site/build.py OUT && POSE_NB_SITE=OUT pytest -n0 tests/test_site.py
"""

import os
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SITE = Path(os.environ.get("POSE_NB_SITE", ""))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = [
    pytest.mark.skipif(not os.environ.get("POSE_NB_SITE"), reason="POSE_NB_SITE names no site"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]
WIDTHS = {"phone": 390, "laptop": 1280}
PAGES = [
    "index",
    "00_tour",
    "course/index",
    "course/05_decode",
    "course/solutions/08_oks_and_ap",
    "labs",
    "results/01_coco",
    "results/09_300w",
    "parts/index",
    "parts/125_codecs.dark",
    "data/coco",
    "api/pose_nb.data.device_crops",
]
PICTURES = """async () => {
    const images = [...document.images];
    for (const image of images) image.loading = "eager";
    await Promise.all(images.map(image => image.decode().catch(() => null)));
    return images.filter(image => !image.naturalWidth).map(image => image.src.slice(0, 200));
}"""
# what sticks out at the right and is in no box that scrolls
WIDE = """() => {
    const root = document.documentElement, width = root.clientWidth;
    if (root.scrollWidth <= width + 1) return [];
    const out = [...document.body.querySelectorAll("*")].filter(one => {
        if (one.getBoundingClientRect().right <= width + 1) return false;
        for (let box = one.parentElement; box; box = box.parentElement)
            if (getComputedStyle(box).overflowX != "visible") return false;
        return true;
    });
    return [`${root.scrollWidth} px`, ...out.map(one => one.outerHTML.slice(0, 120))];
}"""
# words of the article whose colour is too near to the ground behind them (WCAG: at least 4.5)
PALE = """() => {
    const numbers = color => color.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = one => {
        for (; one; one = one.parentElement) {
            const color = numbers(getComputedStyle(one).backgroundColor);
            if (color.length == 3 || color[3] > 0.5) return color;
        }
        return [255, 255, 255];
    };
    const found = new Map();
    for (const one of document.querySelectorAll("article.bd-article *")) {
        const words = [...one.childNodes].filter(n => n.nodeType == 3 && n.data.trim());
        if (!words.length || !one.getClientRects().length || one.closest("svg, math")) continue;
        if (one.matches(".headerlink, button *, button, option")) continue;
        const [a, b] = [numbers(getComputedStyle(one).color), ground(one)].map(light);
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) found.set(`${one.tagName}.${one.className}`,
                                   `${ratio.toFixed(1)}: ${words[0].data.trim().slice(0, 40)}`);
    }
    return [...found].map(([name, what]) => `${name} ${what}`);
}"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(params=WIDTHS)
def page(browser, address, request):
    """An empty page that collects what goes wrong in it."""
    size = dict(width=WIDTHS[request.param], height=900)
    one = browser.new_page(viewport=size, base_url=address, color_scheme="light")
    one.set_default_timeout(20_000)
    one.wrong = []
    one.on("pageerror", lambda error: one.wrong.append(str(error)))
    one.on("console", lambda m: one.wrong.append(m.text) if m.type == "error" else None)
    one.on("requestfailed", lambda asked: one.wrong.append(f"{asked.url}: {asked.failure}"))
    one.on("response", lambda r: one.wrong.append(r.url) if r.status >= 400 else None)
    one.on("request", lambda r: one.wrong.append(r.url) if not _local(r.url, address) else None)
    yield one
    one.close()


def _local(url, address):
    """Nothing comes from elsewhere: the site can be read without a connection."""
    return url.startswith((address, "data:", "blob:"))


def test_tables_are_tables():
    """Also those that a cell printed as Markdown: no paragraph is a row of cells."""
    rows = re.compile(r"<p>[^<]*\|[^<]*\|[^<]*\n\|.{0,60}")
    pages = [page for page in SITE.rglob("*.html") if "_static" not in page.parts]
    found = {page.name: rows.findall(page.read_text(encoding="utf-8"))[:1] for page in pages}
    assert len(pages) > 100 and not {name: row for name, row in found.items() if row}


def test_the_reference_tells_of_modules_fields_and_options():
    """Each module's sentence, the comments of a class's fields, the help of a verb's options."""
    index, rows, cli = (
        (SITE / "api" / f"{name}.html").read_text(encoding="utf-8")
        for name in ("index", "pose_nb.tables.rows", "pose_nb.cli")
    )
    assert "Boxes, crop matrices and points" in index
    assert "imports the backbone when it is called" in rows
    assert "shell pattern, such as" in cli and "object at 0x" not in cli


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_readable(page, name):
    page.goto(f"/{name}.html")
    assert page.evaluate(PICTURES) == []
    assert page.evaluate(WIDE) == []
    assert page.evaluate(PALE) == []
    _shot(page, name)
    page.locator(".theme-switch-button:visible").first.click()
    page.locator(".theme-change-button[data-mode=dark]:visible").first.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate(PALE) == []
    _shot(page, f"{name}-dark")
    assert page.wrong == []


def _shot(page, name):
    if folder := os.environ.get("POSE_NB_SCREENSHOTS"):
        width = page.viewport_size["width"]
        page.screenshot(path=str(Path(folder) / f"{name.replace('/', '-')}-{width}.png"))


def test_no_cell_of_the_course_scrolls_on_a_laptop(browser, address):
    """Eighty characters fit beside both menus."""
    page = browser.new_page(viewport=dict(width=WIDTHS["laptop"], height=900))
    for chapter in sorted((SITE / "course").glob("[01]*.html")):
        page.goto(f"{address}/course/{chapter.name}")
        wide = "pre => pre.filter(p => p.scrollWidth > p.clientWidth + 1).map(p => p.innerText)"
        assert page.locator("article pre").evaluate_all(wide) == [], chapter.name
    page.close()


def test_search_finds_what_is_explained(page):
    page.goto("/search.html?q=flip+test")
    page.wait_for_selector("#search-results li a")
    page.wait_for_load_state("networkidle")  # each page found is fetched for its lines
    found = page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    assert any("520_flip.html" in link for link in found), found[:20]
    page.goto(found[0])
    assert page.locator("article h1").count() == 1 and page.wrong == []


def test_search_knows_the_names_of_other_programs():
    """What users of HRNet and MMPose type is told in some lesson."""
    words = (SITE / "searchindex.js").read_text("utf-8")
    stems = ("acc_pos", "pixel_std", "shift_heatmap", "target_weight", "use_gt_bbox")
    assert [name for name in stems if not re.search(rf'\b{name}"?:', words)] == []


def test_a_row_of_a_table_can_be_sorted_and_a_lab_dragged(page):
    page.goto("/labs.html")
    lab = page.frame_locator("iframe.labs")
    said = lab.locator("#oks output")
    before = said.inner_text()
    lab.locator("#oks canvas").focus()
    page.keyboard.press("Shift+ArrowRight")
    assert said.inner_text() != before
    page.goto("/results/01_coco.html")
    table = page.locator("article table:has(th[onclick])")
    first = table.locator("tbody tr").first
    top = first.inner_text()
    table.locator("th").first.click()
    table.locator("th").first.click()
    assert first.inner_text() != top and page.wrong == []


def test_the_way_through_all_pages():
    """From the front page `next` leads through everything once, the course first."""
    way, page = [], SITE / "index.html"
    while True:
        way.append(page.relative_to(SITE).as_posix())
        text = page.read_text(encoding="utf-8")
        found = re.search(r'class="right-next"\s+href="([^"]+)"', text)
        if not found:
            break
        last, page = page, (page.parent / found[1]).resolve().relative_to(SITE.resolve())
        page = SITE / page
        back = re.search(r'class="left-prev"\s+href="([^"]+)"', page.read_text(encoding="utf-8"))
        assert (page.parent / back[1]).resolve() == last.resolve(), f"{page} leads elsewhere back"
    assert len(set(way)) == len(way)
    sections = list(dict.fromkeys(name.split("/")[0] for name in way if "/" in name))
    assert sections == ["course", "results", "parts", "data", "api"]
    chapters = [name for name in way if re.fullmatch(r"course/\d.*", name)]
    assert chapters == sorted(chapters) and len(chapters) == 10
    pages = [page.relative_to(SITE) for page in SITE.rglob("*.html")]
    built = {page.as_posix() for page in pages if "_static" not in page.parts}
    assert built - set(way) == {"search.html", "genindex.html", "labs/index.html"}
