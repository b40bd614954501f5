"""Pages of results: what is shown cannot act, nothing is fetched, every colour has a dark twin."""

import re

import pytest
from pose_nb import page

HOSTILE = '<script>alert(1)</script>" onload="x & y'


@pytest.mark.parametrize(
    "piece",
    [
        page.paragraph(HOSTILE),
        page.cards([(HOSTILE, HOSTILE)]),
        page.pictures([(HOSTILE, HOSTILE)]),
        page.legend([(HOSTILE, HOSTILE)]),
        page.bars({HOSTILE: (1.0, 2.0)}, HOSTILE),
        page.table([HOSTILE], {HOSTILE: [HOSTILE]}),
        page.facts({HOSTILE: HOSTILE}),
        page.section(HOSTILE),
    ],
)
def test_text_cannot_become_code(piece):
    assert "<script" not in piece and 'onload="x' not in piece and "&lt;script&gt;" in piece


def test_a_page_is_complete_and_fetches_nothing(tmp_path):
    curves = page.curves({"AP": [0.1, 0.5]}, "epoch", "AP")
    path = page.write_html(tmp_path / "index.html", "a & b", page.section("one", curves))
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert "<title>a &amp; b</title>" in text and 'name="viewport"' in text
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text) and "@import" not in text
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]


def test_the_dark_has_a_colour_for_every_variable():
    light, dark = (set(re.findall(r"(--\w+):", part)) for part in page.STYLE.split("@media")[:2])
    assert ".drawing text { fill: currentColor }" in page.STYLE, "SVG text is black by default"
    assert light == dark - {"--value", "--reach"} and set(page._VARIABLES) <= {n[2:] for n in light}
    assert set(re.findall(r"var\((--\w+)\)", page.STYLE)) - {"--value", "--reach"} <= light


def test_bars_of_nothing_and_of_zero():
    assert page.bars({}) == '<dl class="bars"></dl>'
    assert "--value:0.00%;--reach:0.00%" in page.bars({"still": (0.0, 0.0)})
