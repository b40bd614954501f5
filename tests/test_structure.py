"""Guards of the project's shape: imports, their direction, notebooks and modules in step, notebook structure and size."""

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pose_nb

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pose_nb"
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in str(p))
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(pose_nb.__path__, "pose_nb.")
    if not m.name.endswith("_modidx")
)

# exported code imports only from its own layer or from the layers before it
LAYERS = [
    ["files", "geometry", "skeletons"],
    ["codecs"],
    ["data"],
    ["backbones", "heads", "losses"],
    ["model", "flip"],
    ["metrics", "benchmarks", "evaluation", "training"],
    ["checkpoint", "fetch", "starts", "weights", "zoo"],
    ["prediction"],
    ["demo", "cli"],
]
LEAVES = [
    "viz",
    "synth",
    "synth_data",
]  # only the last layer, and leaves themselves, may import these
MAY_USE_LEAVES = ["demo", "cli", *LEAVES]


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
    return {n for n in found if n in MODULES}


def sources(notebook, kind="code"):
    return [
        "".join(c["source"])
        for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == kind
    ]


def module_of(notebook):
    for source in sources(notebook):
        if match := re.search(r"^#\|\s*default_exp\s+(\S+)", source, re.M):
            return (
                match[1]
                if any(re.search(r"^#\|\s*exporti?\b", s, re.M) for s in sources(notebook))
                else None
            )


@pytest.mark.parametrize("name", MODULES)
def test_imports(name):
    importlib.import_module(name)


@pytest.mark.parametrize("name", MODULES)
def test_direction(name):
    path = PACKAGE.joinpath(*name.split(".")[1:])
    path = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    if path.name == "__init__.py":
        return
    part = name.split(".")[1]
    for other in imported(path):
        target = other.split(".")[1] if "." in other else None
        if target is None:
            continue
        if target in LEAVES:
            assert part in MAY_USE_LEAVES, f"{name} imports {other}; only {MAY_USE_LEAVES} may"
        elif part in LEAVES:
            continue
        else:
            assert layer(other) <= layer(name), f"{name} imports {other}, which stands to its right"


def test_every_module_has_a_layer():
    parts = {m.split(".")[1] for m in MODULES if "." in m}
    known = {n for names in LAYERS for n in names} | set(LEAVES)
    assert parts <= known, f"give these a layer: {sorted(parts - known)}"


def test_no_cycles():
    graph = {
        m: imported(PACKAGE.joinpath(*m.split(".")[1:]).with_suffix(".py"))
        for m in MODULES
        if PACKAGE.joinpath(*m.split(".")[1:]).with_suffix(".py").exists()
    }
    done, path = set(), []

    def visit(module):
        assert module not in path, "import cycle: " + " -> ".join(
            [*path[path.index(module) :], module]
        )
        if module in done or module not in graph:
            return
        path.append(module)
        for other in graph[module] - {module}:
            visit(other)
        path.pop()
        done.add(module)

    for module in graph:
        visit(module)


def test_no_stale_modules():
    """Every exported file has its notebook, and every notebook with exports its file."""
    wanted = {"pose_nb." + m for m in map(module_of, NOTEBOOKS) if m}
    files = {m for m in MODULES if not PACKAGE.joinpath(*m.split(".")[1:], "__init__.py").exists()}
    assert files - {"pose_nb"} == wanted


def test_imports_without_notebook_tools():
    """A plain installation has none of these; nothing in the package may need them."""
    code = f"""
import sys
for name in ("nbdev", "fastcore", "execnb", "IPython", "ipywidgets", "jupyterlab", "nbformat", "jupytext", "scipy", "faster_coco_eval"):
    sys.modules[name] = None
import importlib
for name in {MODULES!r}: importlib.import_module(name)
print("fine")
"""
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "fine\n"
    )


def test_help_is_quick_and_free_of_torch():
    code = """
import sys, time
start = time.process_time()
import pose_nb.cli
try: pose_nb.cli.main(["--help"])
except SystemExit as stop: assert not stop.code
heavy = {"torch", "cv2", "numpy", "matplotlib"} & set(sys.modules)
print("heavy:", sorted(heavy)); print("seconds:", time.process_time() - start)
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "heavy: []" in out, out
    assert float(out.rsplit("seconds:", 1)[1]) < 1, out


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_structure(notebook):
    data = json.loads(notebook.read_text(encoding="utf-8"))
    cells = data["cells"]
    title = "".join(cells[0]["source"])
    assert cells[0]["cell_type"] == "markdown" and re.match(r"# .+\n+> .+", title), (
        "starts with '# Title' and '> one sentence'"
    )
    assert notebook.stat().st_size < 400 * 1024, "over 400 KiB: make the figures smaller"
    assert len(cells) <= 90, "over 90 cells: split it"
    ids = [c.get("id") for c in cells]
    assert all(ids) and len(set(ids)) == len(ids), (
        "every cell has an id of its own (they keep exports stable)"
    )
    longest = max(sources(notebook), key=lambda s: s.count("\n"), default="")
    limit = (
        130 if notebook.stem == "02_skeletons" else 95
    )  # the Skeleton class is one cell; all others keep to a page
    assert longest.count("\n") < limit, (
        f"a cell of {longest.count(chr(10)) + 1} lines begins {longest[:60]!r}"
    )
    errors = [o for c in cells for o in c.get("outputs", []) if o.get("output_type") == "error"]
    assert not errors, "holds an error output"
    if module_of(notebook):
        texts = "\n".join(sources(notebook, "markdown"))
        for heading in ("Summary", "Exercises"):
            assert re.search(rf"^##+ .*{heading}", texts, re.M), f"no section '{heading}'"
        assert "You will learn" in texts
        code = [s for s in sources(notebook) if not re.search(r"^#\|", s)]
        assert any("assert" in s for s in sources(notebook)), "shows no checked example"
        ran = [c for c in cells if c["cell_type"] == "code" and c.get("outputs")]
        assert ran, "no outputs kept: most readers see only those"
        assert code


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_imports(notebook):
    """Exported cells never import with a star; imports stand in cells of their own."""
    for source in sources(notebook):
        assert not re.search(r"^\s*from .* import \*", source, re.M), source
        exported = re.search(r"^#\|\s*exporti?\b", source, re.M)
        if not exported:
            continue
        body = [n for n in ast.parse(source).body]
        kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in body}
        assert len(kinds) <= 1, f"imports and other code in one exported cell: {source[:80]!r}"


def test_exported_modules_are_small():
    for path in PACKAGE.rglob("*.py"):
        if path.name in ("_modidx.py", "zoo.py"):
            continue
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= 420, (
            f"{path.relative_to(ROOT)} has {lines} lines; a reader holds about 300 in mind"
        )


FORBIDDEN = ["/work/", "../shared", "subagent", "helper-"]


def test_the_project_speaks_of_itself_alone():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    files = (
        listed.stdout.split()
        if listed.returncode == 0
        else [str(p.relative_to(ROOT)) for p in ROOT.rglob("*.py")]
    )
    for name in files:
        path = ROOT / name
        if (
            name == "tests/test_structure.py"
            or not path.exists()
            or path.suffix not in (".py", ".ipynb", ".md", ".ini", ".toml", ".json")
        ):
            continue
        text = path.read_text(encoding="utf-8")
        for word in FORBIDDEN:
            assert word not in text, f"{name} mentions {word!r}"


def test_no_large_files():
    for path in ROOT.rglob("*"):
        if ".git" in path.parts or not path.is_file() or "egg-info" in str(path):
            continue
        if path.suffix in (".ipynb", ".py", ".md", ".json", ".png", ".jpg"):
            assert path.stat().st_size < 1_000_000, path
