"""The conversion scripts on made-up files, and the check of a data set."""

import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pose_nb.tables.sets import SETS
from pose_nb.files import InputError, write_json

RECIPES = Path(__file__).parent.parent / "data_recipes"


def script(name):
    spec = importlib.util.spec_from_file_location(
        "recipe_" + name.replace("/", "_"), RECIPES / f"{name}.py"
    )
    sys.path.insert(0, str(RECIPES))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(RECIPES))
    return module


def picture(path, size=(200, 150)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 90, 90)).save(path)


def coco(root, people=2):
    person = dict(
        image_id=1,
        category_id=1,
        bbox=[5, 5, 50, 60],
        iscrowd=0,
        num_keypoints=17,
        area=900,
        keypoints=[20, 30, 2] * 17,
    )
    for split in ("train", "val"):
        write_json(
            root / "annotations" / f"person_keypoints_{split}2017.json",
            dict(
                images=[dict(id=1, file_name="1.jpg", width=200, height=150)],
                annotations=[person | {"id": i} for i in range(people)],
                categories=[],
            ),
        )
        picture(root / f"{split}2017" / "1.jpg")


def test_check_reports_differences(tmp_path, capsys):
    check = script("check")
    assert (
        check.main(["coco", str(tmp_path)]) == 1
        and "no annotation file of coco" in capsys.readouterr().out
    )
    coco(tmp_path / "coco")
    assert check.main(["coco", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert (
        "2 instances, the complete set has 6,352: DIFFERENT" in out
        and "1 images are there" in out
        and "is not there (the published" in out
    )
    (tmp_path / "coco" / "val2017" / "1.jpg").unlink()
    assert (
        check.main(["coco", str(tmp_path)]) == 1
        and "1 of 1 image files cannot be used" in capsys.readouterr().out
    )
    assert (
        check.main(["cocoa", str(tmp_path)]) == 1
        and "no data set 'cocoa'" in capsys.readouterr().err
    )


def test_check_says_who_needs_a_detectors_boxes(tmp_path, capsys):
    check = script("check")
    for name, who in (("coco", "the"), ("humanart", "one table's"), ("posetrack18", "no")):
        check.main([name, str(tmp_path)])
        assert f"({who} published figures use them)" in capsys.readouterr().out


def test_coco_unpacks(tmp_path, capsys):
    coco(tmp_path / "source")
    (tmp_path / "zips").mkdir()
    for archive, folder in script("coco/prepare").ARCHIVES.items():
        with zipfile.ZipFile(tmp_path / "zips" / archive, "w") as z:
            for file in sorted((tmp_path / "source" / folder).rglob("*.*")):
                z.write(file, file.relative_to(tmp_path / "source"))
    assert (
        script("coco/prepare").main([str(tmp_path / "coco"), "--archives", str(tmp_path / "zips")])
        == 1
    )  # two people are not the complete set
    assert (
        "2 instances" in capsys.readouterr().out
        and (tmp_path / "coco" / "val2017" / "1.jpg").is_file()
    )


def test_wflw(tmp_path, capsys):
    rng = np.random.default_rng(0)
    points = rng.uniform(20, 120, (98, 2)).round(3)
    line = " ".join(f"{x}" for x in points.ravel())
    lists = tmp_path / "WFLW_annotations"
    for folder, name, text in (
        (
            "list_98pt_rect_attr_train_test",
            "rect_attr_train",
            line + " 1 2 3 4 0 1 0 0 1 0 a/b.jpg",
        ),
        ("list_98pt_test", "test_blur", line + " a/b.jpg"),
    ):
        (lists / folder).mkdir(parents=True, exist_ok=True)
        (lists / folder / f"list_98pt_{name}.txt").write_text(text + "\n")
    picture(tmp_path / "images" / "a" / "b.jpg")
    assert (
        script("wflw/prepare").main([str(tmp_path)]) == 1
    )  # converted, but one face is not the complete set
    records = SETS["wflw"].load(tmp_path, "train")
    assert np.allclose(records.keypoints[0], points, atol=1e-3) and records.visible.min() == 1
    low, high = np.floor(points.min(0)), np.ceil(points.max(0))
    assert np.allclose(records.centers[0], (low + high) / 2) and np.allclose(
        records.scales[0], (high - low).max()
    )
    assert len(SETS["wflw"].load(tmp_path, "blur")) == 1
    assert (
        json.loads((tmp_path / "annotations" / "face_landmarks_wflw_train.json").read_text())[
            "annotations"
        ][0]["occlusion"]
        == 1
    )
    (lists / "list_98pt_test" / "list_98pt_test_blur.txt").write_text("1 2 3\n")
    with pytest.raises(InputError, match="3 fields"):
        script("wflw/prepare").read_list(lists / "list_98pt_test" / "list_98pt_test_blur.txt")


def test_published_files(samples):
    content = json.loads((samples / "samples" / "wflw" / "test_wflw.json").read_text())
    for a in content["annotations"]:
        points = np.array(a["keypoints"]).reshape(-1, 3)[:, :2]
        center, scale = script("wflw/prepare").center_scale(points)
        assert center == a["center"] and abs(scale - a["scale"]) < 1e-9
    for face in sorted((samples / "helen_afw_68pt" / "originals").rglob("*.pts")):
        assert script("300w/prepare").read_pts(face).shape == (68, 2)


def test_300w(tmp_path):
    points = np.random.default_rng(0).uniform(20, 120, (68, 2)).round(3)
    text = "version: 1\nn_points: 68\n{\n" + "\n".join(f"{x} {y}" for x, y in points) + "\n}\n"
    for folder in ("afw", "ibug", "helen/testset"):
        picture(tmp_path / "images" / folder / "1.jpg")
        (tmp_path / "images" / folder / "1.pts").write_text(text)
    prepare = script("300w/prepare")
    assert prepare.main([str(tmp_path)]) == 1
    assert (
        np.allclose(SETS["300w"].load(tmp_path, "train").keypoints[0], points, atol=1e-3)
        and len(SETS["300w"].load(tmp_path, "val")) == 2
    )
    assert (
        len(SETS["300w"].load(tmp_path, "common"))
        == len(SETS["300w"].load(tmp_path, "challenge"))
        == 1
    )
    prepare.main([str(tmp_path), "--zero-based"])
    assert np.allclose(SETS["300w"].load(tmp_path, "train").keypoints[0], points - 1, atol=1e-3)
    for wrong in ("hello", "{1 2 3}", "{1 2}", "{a b}"):
        (tmp_path / "x.pts").write_text(wrong)
        with pytest.raises(InputError):
            prepare.read_pts(tmp_path / "x.pts")


def test_posetrack18(tmp_path):
    for i in range(2):
        person = dict(
            id=i,
            image_id=10 + i,
            bbox=[-5, 5, 50, 60],
            keypoints=[20, 30, 1] * 17,
            num_keypoints=15,
            iscrowd=False,
        )
        image = dict(id=10 + i, file_name=f"images/val/{i}/0.jpg", width=200, height=150)
        write_json(
            tmp_path / "annotations" / "val" / f"{i}.json",
            dict(images=[image], annotations=[person], categories=[]),
        )
        picture(tmp_path / "images" / "val" / str(i) / "0.jpg")
    assert script("posetrack18/prepare").main([str(tmp_path)]) == 0
    assert SETS["posetrack18"].load(tmp_path).ids.tolist() == [0, 1]


def test_aic(tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    raw = [
        dict(
            image_id="a",
            human_annotations=dict(human1=[10, 20, 60, 120]),
            keypoint_annotations=dict(human1=[30, 40, 1, 31, 41, 2, 0, 0, 3] + [50, 60, 1] * 11),
        )
    ]
    write_json(tmp_path / "raw.json", raw)
    out = tmp_path / "aic" / "annotations" / "aic_val.json"
    assert (
        script("aic/prepare").main([str(tmp_path / "raw.json"), str(tmp_path / "images"), str(out)])
        == 0
    )
    records = SETS["aic"].load(tmp_path, boxes="gt")
    assert (
        records.visible[0, :4].tolist() == [1, 1, 0, 1]
        and records.boxes[0].tolist() == [10, 20, 60, 120]
        and records.extra["num_keypoints"][0] == 13
    )
    assert json.loads(out.read_text())["annotations"][0]["keypoints"][:9] == [
        30,
        40,
        2,
        31,
        41,
        1,
        0,
        0,
        0,
    ]
    write_json(tmp_path / "raw.json", [dict(image_id="a")])
    assert (
        script("aic/prepare").main([str(tmp_path / "raw.json"), str(tmp_path / "images"), str(out)])
        == 1
    )


def test_every_set_has_a_recipe():
    for name in SETS:
        text = (RECIPES / name / "README.md").read_text()
        assert all(
            f"\n{part}" in text
            for part in ("- **Licence**", "- **Where**", "## Layout", "## Counts", "## Command")
        ), name
