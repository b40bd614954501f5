"""Fixtures that several test files share: folders of outside material, which most machines lack."""

import os
import shutil
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


def pytest_collection_modifyitems(items):
    """Long tests come first, so that at the end all processes share what is short."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def outside(variable, what):
    """The folder that an environment variable names; a test that needs it is skipped without it."""
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"set {variable}=<folder of {what}> to run")
    folder = Path(folder)
    assert folder.is_dir(), f"{variable}={folder}: no such folder"
    return folder


@pytest.fixture(scope="session")
def reference():
    """Figures recorded from MMPose 1.3.2: golden/, state_dicts/, components/, models/."""
    return outside("POSE_NB_REFERENCE", "recorded figures")


@pytest.fixture(scope="session")
def samples():
    """Small real data sets in their authors' formats, one folder each."""
    return outside("POSE_NB_SAMPLES", "real data samples")


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    """A data set of eight synthetic people to learn from, and five to test on."""
    from pose_nb.synth import make_dataset

    folder = tmp_path_factory.mktemp("synthetic") / "people"
    return make_dataset(folder, train=8, val=5, seed=3, workers=0, progress=False)


@pytest.fixture(scope="session")
def whole(people, tmp_path_factory):
    """The folder of a run of four epochs that nothing disturbed; tests only look at it."""
    from small_run import ARGUMENTS, tiny_row

    from pose_nb.training import train

    out = tmp_path_factory.mktemp("run") / "whole"
    train(tiny_row(), people, out, **ARGUMENTS)
    return out


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; tests that ask for it are skipped where none is installed."""
    names = ("chromium", "chromium-browser", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        one = p.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield one
        one.close()
