"""How Sphinx builds the site; `site/build.py` lays out the pages and calls it."""

import inspect
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
nb_render_markdown_format = "myst"  # tables and formulas in outputs, as in the text
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
    """Docstrings are plain text in which single backticks mark code; comments tell of fields."""
    words = _comments(obj) if what == "class" else _helps.get(name, {})
    lines += ["", *(f":param {name}: {told}" for name, told in words.items())]
    text = re.sub(r"`+([^`\n]+)`+|[*|]|(?<=\w)_(?!\w)", _code, "\n".join(lines))
    lines[:] = text.split("\n")


def _comments(cls):
    """What the comments beside or above a class's fields say: name -> words."""
    found, above = {}, []
    for line in inspect.getsource(cls).splitlines():
        if comment := re.fullmatch(r"    # (.+)", line):
            above.append(comment[1])
            continue
        if field := re.fullmatch(r"    (\w+): (?!ClassVar)[^#]+?(?:# (.+))?", line):
            found[field[1]] = " ".join([*above, field[2] or ""]).strip()
        above = []
    return found if any(found.values()) else {}


_helps = {}  # of the verbs: name -> parameter -> what the command line says


def _without_options(app, verb, bound_method):
    """The parameters of a verb by their types alone; `_plain` adds the words of `--help`."""
    hints = getattr(verb, "__annotations__", {})
    options = {name: hint for name, hint in hints.items() if hasattr(hint, "__metadata__")}
    if options:
        helps = {name: getattr(hint.__metadata__[0], "help", "") for name, hint in options.items()}
        _helps[f"{verb.__module__}.{verb.__qualname__}"] = {n: h or "" for n, h in helps.items()}
        types = {name: hint.__origin__ for name, hint in options.items()}
        verb.__annotations__ = hints | types


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
    app.connect("autodoc-before-process-signature", _without_options)
    app.connect("autodoc-process-docstring", _plain)
    app.connect("autodoc-skip-member", _without_aliases)
    inline, block = (_mathml(display) for display in ("inline", "block"))
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
