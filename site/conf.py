"""How Sphinx builds the site; `site/build.py` lays out the pages and calls it."""

project = "pose_nb"
author = "the pose_nb authors"
copyright = author
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
html_theme = "sphinx_book_theme"
html_title = "pose_nb"
html_context = {"default_mode": "auto"}  # light or dark as the reader's system
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": False,
}
nb_execution_mode = "off"  # the stored outputs are shown
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_default_options = {"undoc-members": False}
suppress_warnings = ["myst.header", "misc.highlighting_failure", "docutils", "ref", "app"]
exclude_patterns = ["_build"]
