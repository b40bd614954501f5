"""Looks at labels and pictures before training does, and says what is wrong and what to do."""

from .labels import Finding
from .report import Examination, examine

__all__ = ["Examination", "Finding", "examine"]
