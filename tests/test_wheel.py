"""What the README promises works from a wheel, outside the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import raw_folders

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


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs the command line of the unpacked wheel, in a folder of its own."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    zipfile.ZipFile(wheel).extractall(site)

    def run(*words):
        code = (
            f"import sys; sys.path.insert(0, {str(site)!r}); import pose_nb, pose_nb.cli; "
            f"assert pose_nb.__file__.startswith({str(site)!r}); pose_nb.cli.main({list(words)!r})"
        )
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "POSE_NB_CACHE": str(elsewhere)}
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
        )

    run.folder = elsewhere
    return run


def test_the_wheel_is_small_and_typed(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < 1_000_000
    files = {"answers.txt", "canvas.js", "canvas.css", "labs_page.html", "labs_page.js"}
    assert {f"pose_nb/{name}" for name in files} <= set(names), "lessons need these"
    assert "pose_nb/py.typed" in names and not [n for n in names if n.startswith(("tests", "nbs"))]


@pytest.mark.parametrize(
    "words, answer",
    [
        (["list", "aic/*"], "aic/hrnet-w32"),
        (["info", "coco/resnet-50"], "published"),
        (["table", "mpii"], "PCKh@0.5"),
        (["data", "list"], "wflw"),
        (["data", "recipe", "cofw"], "# COFW"),
        (["data", "synth", "people", "--train", "2", "--val", "2"], "synthetic people"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_verb_works_from_the_wheel(installed, words, answer):
    done = installed(*words)
    assert done.returncode == 0 and answer in done.stdout, done.stderr[-2000:]


def test_a_set_is_prepared_from_the_wheel(installed, tmp_path):
    """Outside the repository: pages, conversion and check; 1 says that it is not the whole set."""
    raw_folders.aic(tmp_path / "raw")
    out = str(tmp_path / "aic")
    done = installed("data", "prepare", "aic", "--raw", str(tmp_path / "raw"), "--out", out)
    assert done.returncode == 1 and "the complete set has 210,000" in done.stdout, done.stderr
    done = installed("data", "verify", "aic", out)
    assert done.returncode == 1 and "2 differences" in done.stdout, done.stderr


def test_the_demo_works_from_the_wheel(installed):
    done = installed("demo", "--quick")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (installed.folder / "demo" / "index.html").stat().st_size > 1000
