"""Build the website of everything (course, parts, results, data sets, API) from stored outputs.

    pip install -e ".[site]" && python site/build.py OUT

Nothing is run: the pages show what the notebooks keep. Every link inside the site is followed, and
a dead one is an error.
"""

import argparse
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
TITLES = {
    "course": "Course",
    "results": "Results",
    "parts": "Parts",
    "data": "Data sets",
    "api": "Reference",
}


def stage(source: Path) -> None:
    """Lay out a folder as Sphinx reads it: notebooks, pages of data sets and of modules."""
    shutil.copytree(
        ROOT / "nbs",
        source,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns(".ipynb_checkpoints", "*.safetensors", "*.pth"),
    )
    for notebook in source.rglob("*.ipynb"):
        text = re.sub(r"(\.ipynb#)([^)\s\"]+)\)", _as_slug, notebook.read_text(encoding="utf-8"))
        notebook.write_text(_as_pages(text), encoding="utf-8")
    for page in sorted((ROOT / "data_recipes").glob("*/README.md")):
        _copy_page(page, source / "data" / f"{page.parent.name}.md")
    for name in ("README.md", "CONTRIBUTING.md"):
        _copy_page(ROOT / name, source / name.lower())
    _write_api(source / "api")
    for folder, title in TITLES.items():
        pages = sorted(p for p in (source / folder).glob("*") if p.suffix in (".ipynb", ".md"))
        if pages:
            names = "\n".join(p.stem for p in pages)
            text = f"# {title}\n\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n"
            (source / folder / "index.md").write_text(text, encoding="utf-8")
    _write_front(source)


def _as_slug(match: re.Match) -> str:
    """JupyterLab's name of a heading (A-Gaussian-window) as the site has it (a-gaussian-window)."""
    return f"{match[1]}{re.sub(r'[^a-z0-9_-]', '', unquote(match[2]).lower())})"


def _as_pages(text: str) -> str:
    """Links inside HTML outputs, which Sphinx leaves alone: to pages, and to the site's records."""
    text = re.sub(r'(href=\\"\.\./results/\w+)\.ipynb', r"\1.html", text)
    return text.replace('href=\\"../../records/', 'href=\\"../records/')


def _copy_page(page: Path, target: Path) -> None:
    """A Markdown page whose links to notebooks lead to their pages of the site."""
    target.parent.mkdir(parents=True, exist_ok=True)
    up = "../" if target.parent.name == "data" else ""

    def moved(match: re.Match) -> str:
        text, link = match.groups()
        path = (page.parent / link.split("#")[0]).resolve()
        if re.match(r"[a-z]+:|#", link) or not path.is_relative_to(ROOT):
            return match[0]
        inside = path.relative_to(ROOT)
        if inside.parts and inside.parts[0] == "nbs" and path.suffix == ".ipynb":
            return f"[{text}]({up}{inside.relative_to('nbs')})"
        if inside.parts and inside.parts[0] == "data_recipes" and len(inside.parts) > 1:
            return f"[{text}]({up}data/{inside.parts[1]}.md)"
        if inside.name in ("README.md", "CONTRIBUTING.md") and len(inside.parts) == 1:
            return f"[{text}]({up}{inside.name.lower()})"
        return f"`{inside}` ({text})" if str(inside) != text.strip("`/") else f"`{inside}`"

    content = re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", moved, page.read_text(encoding="utf-8"))
    target.write_text(content, encoding="utf-8")


def _write_api(folder: Path) -> None:
    """One page for each module, with a link to the notebook that defines and explains it."""
    import pose_nb

    folder.mkdir(parents=True, exist_ok=True)
    lessons = {}
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        found = re.search(r"#\|\s*default_exp\s+([\w.]+)", notebook.read_text(encoding="utf-8"))
        if found:
            lessons[f"pose_nb.{found[1]}"] = notebook.relative_to(ROOT / "nbs")
    for info in pkgutil.walk_packages(pose_nb.__path__, "pose_nb."):
        if info.ispkg or info.name.endswith("_modidx"):
            continue
        module = import_module(info.name)
        lesson = lessons.get(info.name)
        where = f"Defined and explained in [{lesson.stem}](../{lesson}).\n\n" if lesson else ""
        members = [n for n in getattr(module, "__all__", []) if _is_documented(module, n)]
        lines = [f"# {info.name}\n", inspect.getdoc(module) or "", f"\n{where}"]
        lines += ["```{eval-rst}", f".. currentmodule:: {info.name}", ""]
        for name in members:
            kind = "autoclass" if inspect.isclass(getattr(module, name)) else "autofunction"
            lines += [f".. {kind}:: {name}", *(["   :members:"] * (kind == "autoclass")), ""]
        (folder / f"{info.name}.md").write_text("\n".join([*lines, "```\n"]), encoding="utf-8")


def _is_documented(module: object, name: str) -> bool:
    value = getattr(module, name)
    return inspect.isclass(value) or inspect.isfunction(value)


def _write_front(source: Path) -> None:
    """The first page: what this is, and the ways in."""
    front = (source / "readme.md").read_text(encoding="utf-8")
    toctree = ["00_tour", "your_pictures"]
    toctree += [f"{f}/index" for f in TITLES if (source / f / "index.md").exists()]
    names = "\n".join([*toctree, "contributing"])
    text = f"{front}\n\n```{{toctree}}\n:hidden:\n:maxdepth: 2\n\n{names}\n```\n"
    (source / "index.md").write_text(text, encoding="utf-8")
    (source / "readme.md").unlink()


class _Links(HTMLParser):
    """The addresses that a page links to or shows, and the places in it that can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if given.get("id"):
            self.anchors.add(given["id"] or "")
        for name in ("href", "src"):
            if value := given.get(name):
                self.links.append(value)


def dead_links(site: Path) -> list[str]:
    """Links between pages of the site that lead nowhere, as 'page: link'."""
    pages = {}
    for page in site.rglob("*.html"):
        if "_static" in page.parts:  # the theme's own pieces
            continue
        parser = _Links()
        parser.feed(page.read_text(encoding="utf-8"))
        pages[page.resolve()] = parser
    dead = []
    for page, parser in pages.items():
        for link in parser.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith(("#", "data:")):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                dead.append(f"{page.relative_to(site.resolve())}: {link}")
            elif parts.fragment and target in pages:
                if unquote(parts.fragment) not in pages[target].anchors:
                    dead.append(f"{page.relative_to(site.resolve())}: {link}")
    return dead


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the site")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        stage(source)
        shutil.copy(Path(__file__).with_name("conf.py"), source / "conf.py")
        words = [sys.executable, "-m", "sphinx", "-q", "-j", "2", "-b", "html"]
        subprocess.run([*words, str(source), str(out)], check=True)
    shutil.copytree(ROOT / "records", out / "records", dirs_exist_ok=True)
    dead = dead_links(out)
    pages = sum("_static" not in page.parts for page in out.rglob("*.html"))
    print(f"{out}: {pages} pages, {len(dead)} dead links")
    for line in dead[:40]:
        print(f"  {line}")
    return bool(dead)


if __name__ == "__main__":
    sys.exit(main())
