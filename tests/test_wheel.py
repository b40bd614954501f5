"""What the README promises works from a wheel, outside the repository."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import raw_folders

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that no build folder is left in the project."""
    work = tmp_path_factory.mktemp("wheel")
    wanted = ["pose_nb", "data_recipes", "*.toml", "*.ini", "*.md", "setup.py"]
    command = ["git", "ls-files", "-co", "--exclude-standard", "--", *wanted]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (work / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (work / "source" / name).write_bytes((ROOT / name).read_bytes())
    build = "from setuptools import build_meta as b; print(b.build_wheel('..'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=work / "source", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return next(work.glob("*.whl"))


SCRIPT = """
import sys
sys.path.insert(0, {site!r})
import pose_nb.cli
assert pose_nb.__file__.startswith({site!r})
for words in {lines!r}:
    try:
        pose_nb.cli.main(words)
    except SystemExit as end:
        print("\\n== status", end.code)
"""


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that gives what command lines of the unpacked wheel print, and their exit status;
    they run one after the other in one process, in a folder of its own."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    zipfile.ZipFile(wheel).extractall(site)

    def run(*lines):
        code = SCRIPT.format(site=str(site), lines=list(lines))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "POSE_NB_CACHE": str(elsewhere)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found = re.findall(r"(.*?)\n== status (\d+)\n", done.stdout, re.S)
        return [(text, int(status)) for text, status in found]

    run.folder = elsewhere
    return run


def test_the_wheel_is_small_and_typed(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < 1_000_000
    files = {"answers.txt", "canvas.js", "canvas.css", "labs_page.html", "labs_page.js"}
    assert {f"pose_nb/{name}" for name in files} <= set(names), "lessons need these"
    assert {"pose_nb/tables/cards.txt", "pose_nb/tables/facts.csv"} <= set(names)
    assert "pose_nb/py.typed" in names and not [n for n in names if n.startswith(("tests", "nbs"))]


def test_verbs_work_from_the_wheel(installed, tmp_path):
    """Outside the repository: cards, tables, pages; a set converted and checked, where 1 says that
    it is not the whole set."""
    raw_folders.aic(tmp_path / "raw")
    raw, out = str(tmp_path / "raw"), str(tmp_path / "aic")
    wanted = [
        (["list", "aic/*"], "aic/hrnet-w32", 0),
        (["info", "coco/resnet-50"], "published", 0),
        (["table", "mpii"], "PCKh@0.5", 0),
        (["data", "list"], "wflw", 0),
        (["data", "recipe", "cofw"], "# COFW", 0),
        (["data", "synth", "people", "--train", "2", "--val", "2"], "synthetic people", 0),
        (["data", "prepare", "aic", "--raw", raw, "--out", out], "complete set has 210,000", 1),
        (["data", "verify", "aic", out], "2 differences", 1),
    ]
    found = installed(*(words for words, _, _ in wanted))
    assert len(found) == len(wanted)
    for (words, answer, status), (text, ended) in zip(wanted, found):
        assert answer in text and ended == status, f"{words}: {ended}\n{text}"


def test_the_demo_works_from_the_wheel(installed):
    [(text, status)] = installed(["demo", "--quick"])
    assert status == 0, text
    assert (installed.folder / "demo" / "index.html").stat().st_size > 1000
