"""The page for pictures of the reader: a folder in its first cell, without a connection."""

import json
from pathlib import Path

import matplotlib
from data_images import picture

from pose_nb.viz import save_image

PAGE = Path(__file__).parents[1] / "nbs" / "your_pictures.ipynb"


def test_a_folder_of_ones_own(tmp_path, monkeypatch):
    for number in (1, 2):
        save_image(tmp_path / f"{number}.png", picture(number, 60, 80))
    monkeypatch.chdir(PAGE.parent)
    matplotlib.use("Agg")
    cells = json.loads(PAGE.read_text("utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    video = next(i for i, source in enumerate(sources) if source.startswith("frames = "))
    names: dict = {}
    for source in sources[:video]:
        exec(source.replace("PHOTO = None", f"PHOTO = {str(tmp_path)!r}"), names)
    assert len(names["poses"]) == 2 and (names["folder"] / "photo.jpg").stat().st_size
