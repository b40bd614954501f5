"""Synthetic people: the data that comes with the package.

`render` draws one image, `make_dataset` writes a data set in COCO's format.
"""

from .body import SYNTH_KEYPOINTS, keypoints_for, select
from .data import make_dataset
from .drawing import Person, render

__all__ = ["SYNTH_KEYPOINTS", "Person", "keypoints_for", "make_dataset", "render", "select"]
