"""Synthetic people: the data that comes with the package.

`render` draws one image of people and `render_face` a portrait, `make_dataset` writes a data set
in COCO's format and `make_form` one in the form of any of the twelve sets.
"""

from .body import SYNTH_KEYPOINTS, keypoints_for, select
from .data import make_dataset
from .drawing import Person, render
from .face import render_face
from .forms import make_form

__all__ = [
    "SYNTH_KEYPOINTS",
    "Person",
    "keypoints_for",
    "make_dataset",
    "make_form",
    "render",
    "render_face",
    "select",
]
