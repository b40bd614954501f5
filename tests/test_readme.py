"""The README's commands, options and links exist; settings.ini is the requirements' one home."""

import ast
import importlib
import re
import shlex
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import typer.main

from pose_nb import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "pose_nb"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
IMPORT_NAMES = {
    "pillow": "PIL",
    "opencv-python-headless": "cv2",
}  # where a requirement's name is not the module's
OPTIONAL = {"pandas"}  # used where somebody has it, with a sentence where not
WITH_WIDGETS = {"IPython", "traitlets"}  # they come with ipywidgets


def settings(key=None):
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return (
        [line for line in config["DEFAULT"][key].splitlines() if line.strip()]
        if key
        else config["DEFAULT"]
    )


# ---------------------------------------------------------------- commands


def test_two_marked_commands():
    marked = re.findall(r"<!--\s*([\w -]+?)\s*-->\s*\n```sh\n(.+?)\n```", README)
    assert (
        [name for name, _ in marked]
        == ["demo", "tests"]
        == re.findall(r"<!--\s*(.*?)\s*-->", README)
    )
    commands = dict(marked)
    assert all("\n" not in command and "#" not in command for command in commands.values()), (
        "one line each"
    )
    assert "pose-nb demo" in commands["demo"] and "pip install" in commands["demo"]
    assert (
        "nbdev-test" in commands["tests"]
        and "pytest" in commands["tests"]
        and "[dev]" in commands["tests"]
    )


def command_lines(text):
    """Every `pose-nb …` in code of a Markdown text, as a list of words."""
    code = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)).replace("\\\n", " ")
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    for line in [*code.splitlines(), *spans]:
        for part in re.split(r"&&|\|\||;|\s\|\s", line):
            part = (
                part.replace("-m pose_nb.cli", "&pose-nb").rsplit("&", 1)[-1]
                if "-m pose_nb.cli" in part
                else part
            )
            words = shlex.split(part, comments=True)
            if words and words[0] == "pose-nb":
                yield words[1:]


LINES = list(command_lines(README))


def test_lines_are_found():
    assert len(LINES) >= 6 and ["demo"] in LINES
    assert list(command_lines("`accelerate launch -m pose_nb.cli train ROW --data X`")) == [
        ["train", "ROW", "--data", "X"]
    ]


def unknown(words):
    """What of a command line the program does not have: a text, or None."""
    command = typer.main.get_command(cli.app)
    words = [w for w in words if w not in ("…", "...")]
    while hasattr(command, "commands") and words:
        if words[0] == "--help":
            return None
        if words[0] not in command.commands:
            return f"no verb {words[0]!r}"
        command = command.commands[words.pop(0)]
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    return next(
        (
            f"{command.name} has no option {w.split('=')[0]}"
            for w in words
            if w.startswith("--") and w.split("=")[0] not in options
        ),
        None,
    )


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_verbs_and_options_exist(words):
    assert unknown(words) is None


def test_the_comparison_can_fail():
    assert (
        unknown(["trian", "x"]) == "no verb 'trian'"
        and unknown(["train", "x", "--bacth-size", "3"]) == "train has no option --bacth-size"
    )
    assert (
        unknown(["weights", "imprt", "x"]) == "no verb 'imprt'"
        and unknown(["evaluate", "x", "--no-flip"]) is None
    )


def test_rows_exist():
    from pose_nb.tables.facts import list_models

    named = {
        word.strip("'\"")
        for words in LINES
        for word in words
        if re.fullmatch(r"['\"]?[a-z0-9_-]+/[a-z0-9-]+['\"]?", word)
    } & {
        word
        for words in LINES
        if words[0] in ("info", "train", "evaluate", "predict")
        for word in words[1:2]
    }
    named |= set(re.findall(r'(?:create_model|get_row)\("([^"]+)"', README))
    assert named and named <= set(list_models())


@pytest.mark.parametrize(
    "code",
    [code for language, code in BLOCKS if language == "python"],
    ids=lambda code: code.splitlines()[-1][:30],
)
def test_python_names_exist(code):
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "pose_nb"
        ):
            assert hasattr(importlib.import_module("pose_nb"), node.attr), f"pose_nb.{node.attr}"
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert hasattr(importlib.import_module(node.module), alias.name)


def test_links():
    targets = [
        t.split("#")[0]
        for t in re.findall(r"\[[^]]*\]\(([^)\s]+)\)", README)
        if not re.match(r"[a-z]+:", t)
    ]
    assert targets and not [t for t in targets if t and not (ROOT / t).exists()]


def test_folders_named_in_tables_exist():
    named = re.findall(r"^\| `([\w/]+)` \|", README, re.M)
    assert named and not [n for n in named if not (ROOT / n).exists()]


# ---------------------------------------------------------------- requirements


def bare(requirement):
    return re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0]


def test_setup_reads_settings():
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert "settings.ini" in text and 'lines("requirements")' in text
    others = [
        ROOT / name
        for name in ("requirements.txt", "environment.yml", "setup.cfg", "Pipfile")
        if (ROOT / name).exists()
    ]
    assert not others, "settings.ini is the one home of the requirements"
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not re.search(r"^\[project\]|^dependencies", pyproject, re.M)
    assert not [r for r in map(bare, settings("requirements")) if r in text]


def test_entry_point():
    (line,) = settings("console_scripts")
    name, module, function = re.fullmatch(r"([\w-]+) = ([\w.]+):(\w+)", line).groups()
    assert name == "pose-nb" and callable(getattr(importlib.import_module(module), function))


def imported():
    """Top-level modules from outside the standard library that the package imports, with a file
    that does."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and top != "pose_nb":
                    found[top] = path.name
    return found


def test_every_import_is_a_requirement():
    declared = {
        IMPORT_NAMES.get(bare(r), bare(r).replace("-", "_"))
        for kind in ("requirements", "cofw_requirements", "notebooks_requirements")
        for r in settings(kind)
    }
    known = declared | OPTIONAL | WITH_WIDGETS
    found = imported()
    assert {"torch", "cv2", "typer"} <= found.keys()
    assert not {name: file for name, file in found.items() if name not in known}


def test_every_requirement_is_imported():
    declared = {
        IMPORT_NAMES.get(bare(r), bare(r).replace("-", "_"))
        for kind in ("requirements", "cofw_requirements")
        for r in settings(kind)
    }
    assert declared <= imported().keys()


def test_python_version():
    least = settings()["min_python"]
    assert f"Python ≥ {least}" in README and sys.version_info >= tuple(map(int, least.split(".")))
