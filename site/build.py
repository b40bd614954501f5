"""Build the website of everything (course, results, parts, data sets, API) from stored outputs.

    pip install -e ".[site]" && python site/build.py OUT

Nothing is run: the pages show what the notebooks keep. A warning of Sphinx, a link inside the site
that leads nowhere and a page that no link leads to are errors.
"""

import argparse
import inspect
import json
import pkgutil
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from html import unescape
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

from sphinx.cmd.build import main as sphinx_build

import pose_nb
from pose_nb.labs_site import write_labs

ROOT = Path(__file__).resolve().parent.parent
FRONT = ["00_tour", "course/index", "labs", "your_pictures", "results/index", "parts/index"]
FRONT += ["data/index", "api/index", "contributing"]
LABS = """# Laboratories

Three things to drag, computed on this page: nothing is installed, nothing is sent.
[The page alone](labs/index.html){.external} is wider. The same laboratories with a live kernel are
in [974_widgets](parts/974_widgets.ipynb); how the page is made is in
[979_labs_site](parts/979_labs_site.ipynb).

<iframe class="labs" src="labs/index.html" title="Codec, flip test and OKS"></iframe>
"""

COURSE = """Ten chapters for whoever knows PyTorch, in their order, one picture through all of them.
Where a chapter has something to drag, these pages show pictures; some of it can be dragged under
[laboratories](../labs.md). To run all of it, in a clone of the repository:

```sh
pip install -e ".[notebooks]" && jupyter lab nbs/course/01_guess_first.ipynb
```
"""


def stage(source: Path) -> None:
    """Lay out a folder as Sphinx reads it: notebooks, pages of data sets and of modules."""
    ignored = shutil.ignore_patterns(".ipynb_checkpoints", "*.safetensors", "*.pth")
    shutil.copytree(ROOT / "nbs", source, dirs_exist_ok=True, ignore=ignored)
    for folder in ("records", "bench/records"):
        shutil.copytree(ROOT / folder, source / folder)
    for notebook in source.rglob("*.ipynb"):
        text = _in_one_piece(notebook.read_text(encoding="utf-8"))
        notebook.write_text(_as_pages(text), encoding="utf-8")
    for page in sorted((ROOT / "data_recipes").glob("*/README.md")):
        _copy_page(page, source / "data" / f"{page.parent.name}.md")
    for name in ("README.md", "CONTRIBUTING.md"):
        _copy_page(ROOT / name, source / name.lower())
    (source / "readme.md").rename(source / "index.md")
    (source / "labs.md").write_text(LABS, encoding="utf-8")
    _write_order(source)
    _write_api(source / "api")


def _in_one_piece(notebook: str) -> str:
    """A notebook in which what a cell printed is one output, into however many it was cut."""
    content = json.loads(notebook)
    for cell in content["cells"]:
        whole: list[dict] = []
        for output in cell.get("outputs", []):
            if whole and output.get("name", "") == whole[-1].get("name"):
                whole[-1]["text"] += output["text"]
            else:
                whole.append(output)
        if whole:
            cell["outputs"] = whole
    return json.dumps(content, ensure_ascii=False)


# -- links as the site has them ---------------------------------------------------------------


def _as_pages(notebook: str) -> str:
    """A notebook's links to headings, to pages outside nbs/, and to pages from HTML outputs."""
    text = re.sub(r"(\]\([^)\s\"]*#)([^)\s\"]+)\)", _as_slug, notebook)
    text = re.sub(r"(\]\((?:\.\./)*)\.\./data_recipes/(\w+)/README\.md", r"\1data/\2.md", text)
    text = re.sub(r"(\]\((?:\.\./)*)\.\./((?:bench/)?records/)", r"\1\2", text)
    text = re.sub(r'(href=\\"\.\./results/\w+)\.ipynb', r"\1.html", text)
    return text.replace('href=\\"../../records/', 'href=\\"../records/')


def _as_slug(match: re.Match) -> str:
    """JupyterLab's name of a heading (A-Gaussian-window) as the site has it (a-gaussian-window)."""
    if "://" in match[1]:
        return match[0]
    return f"{match[1]}{re.sub(r'[^a-z0-9_-]', '', unquote(match[2]).lower())})"


def _copy_page(page: Path, target: Path) -> None:
    """A Markdown page whose links to notebooks and folders lead to their pages of the site."""
    target.parent.mkdir(parents=True, exist_ok=True)
    up = "../" if target.parent.name == "data" else ""
    folders = {"data_recipes": "data/index.md", "README.md": "index.md"}
    folders |= {f"nbs/{name}": f"{name}/index.md" for name in ("course", "results", "parts")}
    folders |= {"CONTRIBUTING.md": "contributing.md"}

    def moved(match: re.Match) -> str:
        text, link = match.groups()
        path = (page.parent / link.split("#")[0]).resolve()
        if re.match(r"[a-z]+:|#", link) or not path.is_relative_to(ROOT):
            return match[0]
        inside = path.relative_to(ROOT)
        if str(inside) in folders:
            return f"[{text}]({up}{folders[str(inside)]})"
        if inside.parts[0] == "nbs" and path.suffix == ".ipynb":
            return f"[{text}]({up}{inside.relative_to('nbs')})"
        if inside.parts[0] == "data_recipes":
            return f"[{text}]({up}data/{inside.parts[1]}.md)"
        if inside.suffix == ".json":
            return f"[{text}]({up}{inside})"
        return f"`{inside}` ({text})" if str(inside) != text.strip("`/") else f"`{inside}`"

    content = re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", moved, page.read_text(encoding="utf-8"))
    target.write_text(content, encoding="utf-8")


# -- in which order the pages are read --------------------------------------------------------


def _write_order(source: Path) -> None:
    """The front page's and each section's list of pages; parts are grouped as on the tour's map."""
    tour = (source / "00_tour.ipynb").read_text(encoding="utf-8")
    _toctree(source / "index.md", FRONT, hidden=True)
    for folder in ("course", "parts"):
        _index(source / folder / "solutions", "Solutions", _pages(source / folder / "solutions"))
    _index(source / "course", "Course", [*_pages(source / "course"), "solutions/index"], COURSE)
    short = dict(re.findall(r"\[([^\]]+)\]\(results/(\w+)\.ipynb\)", tour)[::-1])
    names = {page: title[:1].upper() + title[1:] for title, page in short.items()}
    names["solutions"] = "Solutions"
    results = [f"{names[page]} <{page}>" for page in _pages(source / "results")]
    _index(source / "results", "Results", results)
    groups = re.findall(r"\| \*\*([^|*]+)\*\* \| (\[\d{3} [^|]+) \|", tour)
    slugs = [re.sub(r"\W+", "-", title.lower()).strip("-") for title, _ in groups]
    for slug, (title, cell) in zip(slugs, groups):
        pages = re.findall(r"\[([^\]]+)\]\(parts/([\w.]+)\.ipynb\)", cell)
        listed = [f"{name} <{page}>" for name, page in pages]
        (source / "parts" / f"{slug}.md").write_text(f"# {title}\n", encoding="utf-8")
        _toctree(source / "parts" / f"{slug}.md", listed)
    _index(source / "parts", "Parts", [*slugs, "solutions/index"])
    sets = _pages(source / "data")
    _copy_page(ROOT / "data_recipes" / "README.md", source / "data" / "index.md")
    _toctree(source / "data" / "index.md", sets, hidden=True)


def _pages(folder: Path) -> list[str]:
    pages = sorted(p for p in folder.glob("*") if p.suffix in (".ipynb", ".md"))
    return [page.name.removesuffix(page.suffix) for page in pages]


def _index(folder: Path, title: str, pages: Iterable[str], text: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.md").write_text(f"# {title}\n\n{text}", encoding="utf-8")
    _toctree(folder / "index.md", pages)


def _toctree(page: Path, pages: Iterable[str], hidden: bool = False) -> None:
    """Append a list of pages to a page."""
    options = ":maxdepth: 1\n" + ":hidden:\n" * hidden
    listed = "\n".join(pages)
    with page.open("a", encoding="utf-8") as file:
        file.write(f"\n\n```{{toctree}}\n{options}\n{listed}\n```\n")


# -- the reference ----------------------------------------------------------------------------


def _write_api(folder: Path) -> None:
    """One page for each module, with a link to the notebook that defines and explains it."""
    folder.mkdir(parents=True)
    lessons = {}
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        found = re.search(r"#\|\s*default_exp\s+([\w.]+)", notebook.read_text(encoding="utf-8"))
        if found:
            lessons[f"pose_nb.{found[1]}"] = notebook.relative_to(ROOT / "nbs")
    modules = [m.name for m in pkgutil.walk_packages(pose_nb.__path__, "pose_nb.") if not m.ispkg]
    modules = [name for name in modules if not name.endswith("_modidx")]
    groups: dict[str, list[str]] = {}
    for name in sorted(modules, key=lambda name: str(lessons.get(name, "~"))):
        lesson = lessons.get(name)
        where = f"Defined and explained in [{lesson.stem}](../{lesson}).\n\n" if lesson else ""
        text = _module_page(import_module(name), where)
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
        parts = name.split(".")[1:]
        groups.setdefault(parts[0], []).append(f"{'.'.join(parts)} <{name}>")
    pages, told = [], []
    for name, members in groups.items():
        package = f"pose_nb.{name}" not in modules
        pages.append(f"{name} <{name}>" if package else members[0])
        told.append(f"\n**[{name}/]({name}.md)**\n" if package else "")
        told += map(_sentence, members)
        if package:
            text = "\n".join([f"# pose_nb.{name}\n", *map(_sentence, members)])
            (folder / f"{name}.md").write_text(text, encoding="utf-8")
            _toctree(folder / f"{name}.md", members, hidden=True)
    (folder / "index.md").write_text("# Reference\n" + "\n".join(told), encoding="utf-8")
    _toctree(folder / "index.md", pages, hidden=True)


def _sentence(entry: str) -> str:
    """A line for an entry 'name <module>' of a list of pages: its link, and what it is."""
    name, module = re.findall(r"[\w.]+", entry)
    words = (inspect.getdoc(import_module(module)) or "").splitlines()[0]
    return f"- [{name}]({module}.md): {words}"


def _module_page(module: ModuleType, where: str) -> str:
    lines = [f"# {module.__name__}\n", inspect.getdoc(module) or "", f"\n{where}"]
    lines += ["```{eval-rst}", f".. currentmodule:: {module.__name__}", ""]
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if inspect.isclass(value):
            lines += [f".. autoclass:: {name}", "   :members:", ""]
        elif inspect.isfunction(value):
            lines += [f".. autofunction:: {name}", ""]
    return "\n".join([*lines, "```\n"])


# -- what was built ---------------------------------------------------------------------------


def broken(site: Path) -> tuple[int, list[str]]:
    """How many links inside the site there are, and what is wrong, as 'page: link'."""
    anchors: dict[Path, set[str]] = {}
    links: dict[Path, set[str]] = {}
    for page in site.resolve().rglob("*.html"):
        if "_static" in page.parts:  # the theme's own pieces
            continue
        tags = " ".join(re.findall(r"<[a-z][^<>]*>", page.read_text(encoding="utf-8")))
        anchors[page] = set(re.findall(r'\sid="([^"]*)"', tags))
        links[page] = {unescape(x) for x in re.findall(r'\s(?:href|src)="([^"]*)"', tags)}
    found, count, reached = [], 0, set()
    for page, addresses in links.items():
        for link in addresses:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            count += 1
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            wanted = unquote(parts.fragment)
            if not target.exists() or (wanted and wanted not in anchors.get(target, {wanted})):
                found.append(f"{page.relative_to(site.resolve())}: {link}")
            elif target != page:
                reached.add(target)
    ways_in = {site.resolve() / name for name in ("index.html", "genindex.html", "search.html")}
    unseen = sorted(links.keys() - reached - ways_in)
    found += [f"{page.relative_to(site.resolve())}: no page leads here" for page in unseen]
    return count, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the site; an older site is replaced")
    out = parser.parse_args().out
    if out.exists() and any(out.iterdir()) and not (out / "searchindex.js").exists():
        parser.error(f"{out} holds something that is not a site")
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        stage(source)
        shutil.copy(Path(__file__).with_name("conf.py"), source)
        (source / "_static").mkdir()
        for name in ("site.css", "favicon.svg"):
            shutil.copy(Path(__file__).with_name(name), source / "_static")
        options = ["-q", "-W", "--keep-going", "-j", "2", "-b", "html", "-d", f"{folder}/read"]
        failed = sphinx_build([*options, str(source), str(out)])
    if failed:
        return failed
    write_labs(out / "labs")
    shutil.copytree(ROOT / "records", out / "records", dirs_exist_ok=True)
    links, wrong = broken(out)
    pages = sum("_static" not in page.parts for page in out.rglob("*.html"))
    print(f"{out}: {pages} pages, {links} links, {len(wrong)} of them wrong")
    print("\n".join(f"  {line}" for line in wrong[:40]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
