"""The project's shape: what imports what, notebooks and modules in step, short lines and cells."""

import ast
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pose_nb

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pose_nb"
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(pose_nb.__path__, "pose_nb.")
    if not m.name.endswith("_modidx")
)

# exported code imports only from its own layer or from the layers before it
LAYERS = [
    ["files", "geometry", "skeleton", "skeletons", "environment"],
    ["codecs"],
    ["data"],
    ["networks", "backbones", "losses", "flip"],
    ["metrics"],
    ["weights"],
    ["tables"],
    ["sources"],
    ["doctor"],
    ["inference"],
    [
        "evaluation",
        "table_lines",
        "gathering",
        "detector",
        "prediction",
        "export",
        "tracking",
        "video",
    ],
    ["runs", "training", "launching", "reproduction", "own"],
    ["measuring"],
    [
        "demo_page",
        "demo",
        "pictures",
        "verbs",
        "cli",
    ],
]
LEAVES = [
    "viz",
    "page",
    "synth",
    "lessons",
    "checks",
    "canvas",
    "labs",
    "widgets",
    "labs_site",
]
MAY_USE_LEAVES = ["sources", "doctor", "runs", "demo_page", "demo", "pictures"]
MAY_USE_LEAVES += ["verbs", "cli", *LEAVES]

MAY_DRAW = ["pose_nb.data.poses"]  # poses draw themselves

CHAPTER_CELLS, CHAPTER_LINES, CHAPTER_WIDTH = 30, 12, 80
LONGEST_LINE, LONGEST_EXPORT, USUAL_EXPORT, LONGEST_LESSON = 100, 60, 25, 40
ROW_LINE = 130  # a row of the zoo is one line


def tracked(*patterns):
    """The project's own files: what git tracks, plus what it does not ignore."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


NOTEBOOKS = sorted(
    p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)
PARTS = [p for p in NOTEBOOKS if p.parent.name == "parts"]


def path_of(module):
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def layer(module):
    part = module.split(".")[1]
    return next((i for i, names in enumerate(LAYERS) if part in names), None)


def imported(path):
    """Names of the pose_nb modules that a file imports, wherever the import stands."""
    found = set()
    package = ["pose_nb", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join(base + ([node.module] if node.module else []))
            found |= {name} | {f"{name}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return {n for n in found if n in MODULES and path_of(n).name != "__init__.py"}


def cells(notebook, kind="code"):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == kind]


def is_export(source):
    return re.match(r"#\|\s*exporti?\b", source) is not None


def module_of(notebook):
    """The module that a notebook exports to, or None."""
    if not any(map(is_export, cells(notebook))):
        return None
    found = (re.search(r"^#\|\s*default_exp\s+(\S+)", s, re.M) for s in cells(notebook))
    return next((match[1] for match in found if match), None)


# ---------------------------------------------------------------- imports


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_before_it(module):
    importlib.import_module(module)
    path, part = path_of(module), module.split(".")[1]
    if path.name == "__init__.py":
        return
    for other in imported(path):
        target = other.split(".")[1]
        if target in LEAVES:
            assert part in MAY_USE_LEAVES or module in MAY_DRAW, (
                f"{module} imports the leaf {other}"
            )
        elif part not in LEAVES:
            assert layer(other) <= layer(module), f"{module} imports {other}, to its right"


def test_every_module_has_a_layer():
    parts = {m.split(".")[1] for m in MODULES}
    known = {n for names in LAYERS for n in names} | set(LEAVES)
    assert parts <= known, f"give these a layer: {sorted(parts - known)}"


def test_the_reading_order_is_the_import_order():
    """Exported code imports only from notebooks with lower numbers, apart from the leaves, which
    stand in the appendix: only the demo and the command line run them."""
    number = {f"pose_nb.{m}": nb.name[:3] for nb in PARTS if (m := module_of(nb))}
    for module, own in number.items():
        part = module.split(".")[1]
        for other in imported(path_of(module)) - {module}:
            appendix = part in MAY_USE_LEAVES and other.split(".")[1] in LEAVES
            assert appendix or number[other] < own, (
                f"{own} {module} imports {number[other]} {other}"
            )


def test_numbers_are_used_once():
    numbers = [nb.name[:3] for nb in PARTS]
    assert all(n.isdigit() for n in numbers) and len(set(numbers)) == len(numbers)


def test_no_import_cycles():
    graph = {m: imported(path_of(m)) for m in MODULES}
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for other in graph[module] - {module}:
            visit(other)
        path.pop()
        done.add(module)

    for module in graph:
        visit(module)


def test_every_module_has_its_notebook():
    wanted = {"pose_nb." + m for m in map(module_of, NOTEBOOKS) if m}
    files = {m for m in MODULES if path_of(m).name != "__init__.py"}
    assert files == wanted


NOTEBOOK_TOOLS = """nbdev fastcore execnb IPython ipywidgets anywidget jupyterlab nbformat jupytext
scipy faster_coco_eval pandas onnx onnxruntime transformers""".split()


def test_the_package_imports_without_notebook_tools():
    code = f"""
import sys, importlib
for name in {NOTEBOOK_TOOLS!r}: sys.modules[name] = None
import pose_nb.training, pose_nb.evaluation
print([name for name in ("timm", "torchvision") if name in sys.modules])  # seconds of their own
for name in {MODULES!r}: importlib.import_module(name)
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\nfine\n", done.stderr[-2000:]


# ---------------------------------------------------------------- speed of the first answer


def cpu_seconds(*words):
    """CPU seconds that one command of the command line takes, in a process of its own."""
    before = os.times()
    command = [sys.executable, "-m", "pose_nb.cli", *words]
    subprocess.run(
        command, capture_output=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    after = os.times()
    return sum(getattr(after, n) - getattr(before, n) for n in ("children_user", "children_system"))


SHORT = [
    ["--help"],
    ["list", "aic/*"],
    ["list"],
    ["info", "coco/vitpose-h"],
    ["info", "wflw/hrnetv2-w18"],
]


@pytest.mark.parametrize("words", SHORT, ids=" ".join)
def test_help_list_and_info_answer_within_a_second(words):
    """Without torch, whose import takes longer; of a network of 600 million parameters too.

    A card that is older than the code costs that time: python -m pose_nb.tables.cards
    """
    assert min(cpu_seconds(*words) for _ in range(2)) < 1


# ---------------------------------------------------------------- notebooks


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_one_story(notebook):
    data = json.loads(notebook.read_text(encoding="utf-8"))
    title = "".join(data["cells"][0]["source"])
    assert re.match(r"# .+\n+> .+", title), "starts with '# Title' and '> one sentence'"
    assert notebook.stat().st_size < 400 * 1024, "over 400 KiB: make the figures smaller"
    assert len(data["cells"]) <= 90, "over 90 cells: split it"
    ids = [c.get("id") for c in data["cells"]]
    assert all(ids) and len(set(ids)) == len(ids), "every cell has an id of its own"
    outputs = [o for c in data["cells"] for o in c.get("outputs", [])]
    assert not [o for o in outputs if o.get("output_type") == "error"], "holds an error output"
    assert outputs, f"no outputs kept; run it: jupyter execute --inplace {notebook.name}"
    assert "widgets" not in data["metadata"], "holds the state of widgets, up to megabytes"
    if module_of(notebook):
        texts = "\n".join(cells(notebook, "markdown"))
        assert "You will learn" in texts
        for heading in ("Summary", "Exercises"):
            assert re.search(rf"^##+ .*{heading}", texts, re.M), f"no section '{heading}'"
        assert any("assert" in s for s in cells(notebook)), "shows no checked example"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_breathe(notebook):
    for source in cells(notebook):
        lines = source.splitlines()
        limit = LONGEST_EXPORT if is_export(source) else LONGEST_LESSON
        data_table = "# fmt: off" in source
        assert data_table or len(lines) <= limit, f"{len(lines)} lines begin {lines[:2]}"
        widest = max(map(len, lines), default=0)
        row = re.search(r"^    Row\(", source, re.M)
        assert widest <= (ROW_LINE if row else LONGEST_LINE), f"a line of {widest} in {lines[:2]}"


CHAPTERS = [p for p in NOTEBOOKS if p.parent.name == "course"]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_fits_beside_two_menus(chapter):
    """Few and short cells, narrow lines; a guess, an error bar or a table, and a way on."""
    content = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    assert len(content) <= CHAPTER_CELLS
    for source in cells(chapter):
        lines = source.splitlines()
        assert len(lines) <= CHAPTER_LINES, f"{len(lines)} lines begin {lines[:2]}"
        assert max(map(len, lines), default=0) <= CHAPTER_WIDTH, lines
        assert not is_export(source) and not re.search(r"^(class|@)", source, re.M)
    assert any(re.search(r"^\s*predict\(", source, re.M) for source in cells(chapter))
    number = int(chapter.name[:2])
    for next_one in [p for p in CHAPTERS if int(p.name[:2]) == number + 1]:
        assert next_one.name in links(chapter)
    assert f"solutions/{chapter.name}" in links(chapter)


def test_most_exported_cells_are_short():
    lengths = sorted(len(s.splitlines()) for nb in NOTEBOOKS for s in cells(nb) if is_export(s))
    assert lengths[int(0.9 * len(lengths))] <= USUAL_EXPORT


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_exported_imports_stand_alone(notebook):
    """Exported cells never import with a star; imports stand in cells of their own."""
    for source in cells(notebook):
        assert not re.search(r"^\s*from .* import \*", source, re.M), source
        if is_export(source):
            kinds = {is_import(node) for node in ast.parse(source).body}
            assert len(kinds) <= 1, f"imports and other code in one cell: {source[:80]!r}"


def is_import(node):
    """An import, or a block of imports that only type checkers read."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return all(map(is_import, node.body))
    return isinstance(node, (ast.Import, ast.ImportFrom))


def links(notebook):
    text = "\n".join(cells(notebook, "markdown"))
    return re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_lead_somewhere(notebook):
    for link in links(notebook):
        if not re.match(r"[a-z]+:", link):
            assert (notebook.parent / link).exists(), f"{link} does not exist"


@pytest.mark.parametrize("notebook", PARTS, ids=lambda p: p.stem)
def test_the_way_on_is_linked(notebook):
    """The last cell links to what this notebook needs, and to the next one in number order."""
    last = cells(notebook, "markdown")[-1]
    for following in PARTS[PARTS.index(notebook) + 1 :][:1]:
        link = f"**Next** [{following.stem}]({following.name})"
        assert link in last, f"the last cell of {notebook.name} needs {link}"
    link = "[00_tour](../00_tour.ipynb)"
    assert link in last, f"the last cell of {notebook.name} needs **Map** {link}"


def test_what_is_imported_is_linked():
    """The last cell links, under Needs, to the notebook of each module that is imported."""
    homes = {f"pose_nb.{m}": nb for nb in PARTS if (m := module_of(nb))}
    for module, notebook in homes.items():
        last = cells(notebook, "markdown")[-1]
        for other in imported(path_of(module)) - {module}:
            assert homes[other].name in last, f"{notebook.name} needs {homes[other].stem}"


# ---------------------------------------------------------------- files


def test_exported_modules_are_small():
    for path in tracked("pose_nb/*.py"):
        lines = path.read_text(encoding="utf-8").count("\n")
        limit = 10_000 if path.name == "_modidx.py" else 420
        assert lines <= limit, f"{path.relative_to(ROOT)} has {lines} lines"


def test_exported_lines_are_short():
    """As in the notebooks; the exporter wraps the list of names alone, at a width of its own."""
    for module in MODULES:
        text = path_of(module).read_text(encoding="utf-8")
        text = re.sub(r"^__all__ = \[.*?\]$", "", text, flags=re.M | re.S)
        for number, line in enumerate(text.splitlines(), 1):
            limit = ROW_LINE if line.startswith("    Row(") else LONGEST_LINE
            assert len(line) <= limit, f"{module}, line {number} has {len(line)} characters"


def test_public_functions_have_types():
    """Every parameter and result of what a module exports, and every field of its dataclasses."""
    bare = []
    for module in MODULES:
        if path_of(module).name == "__init__.py":
            continue
        for node in ast.parse(path_of(module).read_text(encoding="utf-8")).body:
            bare += [f"{module}.{name}" for name in untyped(node)]
    assert not bare, f"{len(bare)} without types, such as {bare[:10]}"


def untyped(node):
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        yield from (f"{node.name}({name})" for name in names)
        if node.returns is None:
            yield f"{node.name} (its result)"
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        for member in node.body:
            if isinstance(member, ast.FunctionDef):
                yield from (f"{node.name}.{name}" for name in untyped(member))


def test_no_large_files():
    for path in tracked("*.ipynb", "*.py", "*.md", "*.json", "*.png", "*.jpg"):
        assert path.stat().st_size < 1_000_000, path
