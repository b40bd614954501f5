"""Poses for others: drawn, as JSON, CSV, COCO results and a table; chosen rows keep all columns."""

import csv
import json

import numpy as np
import pytest
from data_images import picture

from pose_nb.data.poses import Poses
from pose_nb.files import InputError
from pose_nb.skeletons import COCO

RNG = np.random.default_rng(0)
POINTS, SCORES = RNG.uniform(5, 55, (3, 17, 2)).astype("f4"), RNG.random((3, 17)).astype("f4")
BOXES = np.float32([[1, 2, 50, 60], [3, 4, 40, 50], [5, 6, 30, 40]])
PICTURES = picture(1, 60, 80), picture(2, 60, 80)


@pytest.fixture
def poses():
    index, scores, ids = np.array([0, 1, 1]), np.float32([0.9, 0.8, 0.7]), np.array([4, 4, 2])
    named = ("a.jpg", "b.jpg")
    return Poses(POINTS, SCORES, BOXES, np.ones(3), index, COCO, named, PICTURES, scores, ids)


def test_coco_reads_the_results(poses):
    from pycocotools.coco import COCO as Dataset

    truth = Dataset()
    truth.dataset = {"images": [{"id": 139}, {"id": 285}], "categories": [{"id": 1}]}
    truth.dataset["annotations"] = []
    truth.createIndex()
    results = truth.loadRes(json.loads(json.dumps(poses.to_coco([139, 285]))))
    read = [results.anns[i] for i in sorted(results.anns)]
    assert [entry["image_id"] for entry in read] == [139, 285, 285]
    assert np.allclose(np.reshape(read[1]["keypoints"], (17, 3))[:, :2], POINTS[1])
    assert np.isclose(read[2]["score"], SCORES[2].mean() * 0.7)


def test_json_and_csv_and_table(poses, tmp_path):
    content = json.loads(poses.to_json())
    assert [len(image["people"]) for image in content["images"]] == [1, 2]
    assert content["images"][1]["people"][1]["id"] == 2
    poses.save(tmp_path / "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert [row["image"] for row in rows] == ["a.jpg", "b.jpg", "b.jpg"]
    assert np.isclose(float(rows[2]["right_ankle_y"]), POINTS[2, 16, 1])
    pandas = pytest.importorskip("pandas", reason="a table is a pandas.DataFrame")
    table = poses.to_dataframe()
    assert isinstance(table, pandas.DataFrame) and table["id"].tolist() == [4, 4, 2]
    assert np.allclose(table["nose_score"], SCORES[:, 0])


def test_without_pandas(poses, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        poses.to_dataframe()


def test_drawing_and_rich_display(poses, tmp_path):
    assert (poses.draw() != PICTURES[0]).any() and (poses.draw(number=1) != PICTURES[1]).any()
    assert (poses.draw(PICTURES[1]) != poses.draw()).any()
    assert poses._repr_jpeg_()[:2] == b"\xff\xd8" and len(repr(poses)) < 90
    for number in range(2):
        alone = poses.of_image(number)
        assert (alone.draw() == poses.draw(number=number)).all() and "1 image" in repr(alone)
        assert alone.save(tmp_path / f"{number}.png").exists()
    nobody = poses.subset([0]).of_image(1)
    assert (nobody.draw() == PICTURES[1]).all(), "nobody is seen there, and it is that picture"
    with pytest.raises(InputError, match="of_image"):
        poses.save(tmp_path / "x.png")
    poses.images = ()
    assert poses._repr_jpeg_() is None, "files that are gone are not shown"
    with pytest.raises(InputError, match="give the picture"):
        poses.draw(number=2)


def test_chosen_rows_keep_all_columns(poses):
    some = poses.subset([2, 0])
    assert some.track_ids.tolist() == [2, 4] and np.allclose(some.box_scores, [0.7, 0.9])
    assert len(poses.subset([]).to_coco()) == 0 and len(poses.of_image(9)) == 0
    with pytest.raises(InputError, match="box_scores"):
        Poses(POINTS, SCORES, BOXES, np.ones(3), np.zeros(3, int), COCO, box_scores=np.ones(2))


def test_odd_values_and_shapes(poses):
    poses.keypoints = poses.keypoints.copy()
    poses.keypoints[0, 0] = np.nan
    text = poses.to_json()
    assert "NaN" not in text
    assert json.loads(text)["images"][0]["people"][0]["keypoints"][0][:2] == [None, None]
    with pytest.raises(InputError, match="1 for 2 images"):
        poses.to_coco([139])
    poses.images = (np.zeros((4000, 3, 3), np.uint8), PICTURES[1])
    assert poses._repr_jpeg_()[:2] == b"\xff\xd8", "shrunk to a side of no pixel"
