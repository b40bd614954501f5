"""How Sphinx builds the site; `site/build.py` lays out the pages and calls it."""

import re

import latex2mathml.converter
from docutils.nodes import SkipNode

project = "pose_nb"
author = "the pose_nb authors"
copyright = author
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "sphinx_book_theme"
html_title = "pose_nb"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}  # light or dark as the reader's system
html_theme_options = {
    "show_navbar_depth": 1,
    "collapse_navbar": True,  # the sidebar opens where the reader is
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_math_renderer = "mathml"
nb_execution_mode = "off"  # the stored outputs are shown
myst_enable_extensions = ["attrs_inline", "dollarmath", "html_image"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_inherit_docstrings = False
suppress_warnings = ["myst.header", "misc.highlighting_failure"]


def _code(match):
    """Code between single backticks; elsewhere nothing that reStructuredText would read."""
    if match[1]:
        return f"``{match[1]}``"
    return "\\" + match[0]


def _plain(app, what, name, obj, options, lines):
    """Docstrings are plain text in which single backticks mark code."""
    text = re.sub(r"`+([^`\n]+)`+|[*|]|(?<=\w)_(?!\w)", _code, "\n".join(lines))
    lines[:] = text.split("\n")


def _without_aliases(app, what, name, obj, skip, options):
    """Fields of a named tuple are told with its parameters; "Alias for field number 3" is noise."""
    return True if (obj.__doc__ or "").startswith("Alias for field number") else None


def _mathml(display):
    def visit(self, node):
        formula = latex2mathml.converter.convert(node.astext(), display=display)
        self.body.append(f'<div class="math">{formula}</div>' if display == "block" else formula)
        raise SkipNode

    return visit


def setup(app):
    app.connect("autodoc-process-docstring", _plain)
    app.connect("autodoc-skip-member", _without_aliases)
    inline, block = (_mathml(display) for display in ("inline", "block"))
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
