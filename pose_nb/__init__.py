"""Top-down heatmap pose estimation, taught in notebooks; each name is imported when it is used."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("pose_nb")
except PackageNotFoundError:
    __version__ = "0+source"

_HOME = {
    "list_models": "tables.facts",
    "get_row": "tables.zoo",
    "create_model": "tables.zoo",
    "predict": "prediction",
    "track": "video",
    "evaluate": "evaluation",
    "train": "training",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'pose_nb' has no attribute {name!r}")
    value = getattr(import_module(f"pose_nb.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
