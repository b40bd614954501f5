"""Fixtures that several test files share: folders of outside material, which most machines lack."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


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
