"""Sets of people from made-up folders in their owners' form, and from the real samples."""

import json
import shutil

import numpy as np
import pytest
import raw_folders
from scipy.io import loadmat, savemat

from pose_nb.files import InputError
from pose_nb.sources.prepare import prepare
from pose_nb.tables.sets import SETS

HEADS = np.array([[40.0, 20.0], [60.0, 50.0]])


def prepared(name, raw, out, splits=None):
    """The verdict of two runs, of which the second has nothing to do."""
    said: list[str] = []
    first = prepare(name, raw, out, splits=splits, say=said.append)
    assert any("contact_sheet" in line for line in said)
    again: list[str] = []
    second = prepare(name, raw, out, splits=splits, say=again.append)
    assert not any(" 0 files put in place" not in s for s in again if "put in place" in s)
    assert not any("written" in line for line in again)
    assert first.differences == second.differences
    return second


def unexpected(verdict):
    """Differences that are not merely those of a small set."""
    return [d for d in verdict.differences if "the complete set has" not in d]


def at(count, start=20.0):
    """Where the made-up people have their keypoints."""
    return np.stack([start + 2 * np.arange(count), start + 10 + 2 * np.arange(count)], 1)


@pytest.mark.parametrize("name, count", [("coco", 17), ("crowdpose", 14), ("humanart", 17)])
def test_files_that_only_need_their_place(tmp_path, name, count):
    getattr(raw_folders, name)(tmp_path / "raw")
    out = tmp_path / SETS[name].folder
    assert not unexpected(prepared(name, tmp_path / "raw", out))
    for split in ("train", "val"):
        records = SETS[name].load(tmp_path, split)
        assert (
            np.array_equal(records.keypoints[0], at(count))
            and (out / "contact_sheet.png").is_file()
        )
    if name == "crowdpose":
        assert len(SETS[name].load(out, "train")) == 2  # the owners' train and val


def test_wholebody_faces_beside_coco(tmp_path):
    """Each unpacks although the other's files are there."""
    raw_folders.coco_wholebody_face(tmp_path / "faces")
    raw_folders.coco(tmp_path / "people")
    out = tmp_path / "coco"
    prepared("coco_wholebody_face", tmp_path / "faces", out)
    (out / "val2017" / "stray.jpg").touch()
    assert not unexpected(prepared("coco", tmp_path / "people", out))
    face = SETS["coco_wholebody_face"].load(out, "val")
    assert face.boxes[0].tolist() == [25, 35, 70, 80] and face.keypoints[0, 2].tolist() == [31, 41]


def test_humanart_lies_in_a_folder_of_its_name(tmp_path):
    raw_folders.humanart(tmp_path / "raw")
    prepare("humanart", tmp_path / "raw", tmp_path / "data")
    assert len(SETS["humanart"].load(tmp_path / "data")) == 1


def test_aic_from_zips_in_zips(tmp_path):
    raw_folders.aic(tmp_path / "raw")
    assert not unexpected(prepared("aic", tmp_path / "raw", tmp_path / "aic"))
    records = SETS["aic"].load(tmp_path, "val")
    assert records.visible[0].tolist() == [1] * 5 + [0] + [1] * 8
    expected = at(14)
    expected[5] = 0
    assert np.array_equal(records.keypoints[0], expected)
    assert records.boxes[0].tolist() == [10, 20, 90, 120]
    kept = json.loads((tmp_path / "aic/annotations/aic_val.json").read_text())["annotations"][0]
    assert kept["keypoints"][9:12] == [26, 36, 1] and kept["num_keypoints"] == 13


def test_posetrack18_without_sizes(tmp_path):
    raw_folders.posetrack18(tmp_path / "raw")
    out = tmp_path / "posetrack18"
    assert not unexpected(prepared("posetrack18", tmp_path / "raw", out))
    records = SETS["posetrack18"].load(out)
    assert len(records) == 2 and records.extra["image_sizes"].tolist() == [[200, 150]] * 2
    assert np.array_equal(records.keypoints[0], at(17)) and records.visible[0].sum() == 15
    content = json.loads((out / "annotations/posetrack18_val.json").read_text())
    assert len(content["images"]) == 4  # frames that nobody labelled stay


def test_mpii(tmp_path):
    raw_folders.mpii(tmp_path / "raw")
    out = tmp_path / "mpii"
    assert not unexpected(prepared("mpii", tmp_path / "raw", out))
    val, train = SETS["mpii"].load(out), SETS["mpii"].load(out, "train")
    assert len(val) == 1 and len(train) == 3 and len(SETS["mpii"].load(out, "trainval")) == 4
    assert np.array_equal(val.keypoints[0], at(16, 21.0))  # counted from 1 where it is measured
    assert np.array_equal(train.keypoints[0], at(16))  # from 0 in training
    assert train.visible[2].tolist() == [0] * 8 + [1] * 8
    head = 0.6 * np.linalg.norm(HEADS[1] - HEADS[0])
    assert np.allclose(val.extra["head_sizes"], head)
    gt = loadmat(out / "annotations" / "mpii_gt_val.mat")
    assert np.array_equal(gt["headboxes_src"][..., 0], HEADS) and not gt["jnt_missing"].any()


def test_mpii_says_which_file_it_needs(tmp_path):
    raw_folders.mpii(tmp_path / "raw")
    (tmp_path / "raw" / "mpii_human_pose_v1_u12_1.mat").unlink()
    with pytest.raises(InputError, match=r"mpii_human_pose_v1_u12_1\.mat is not there"):
        prepare("mpii", tmp_path / "raw", tmp_path / "mpii")


def test_mpii_without_the_validation_list(tmp_path):
    """All training people in one file, and no split, which the verdict says."""
    raw_folders.mpii(tmp_path / "raw")
    (tmp_path / "raw" / "detections.mat").unlink()
    verdict = prepare("mpii", tmp_path / "raw", tmp_path / "mpii")
    assert [d.split(":")[0] for d in verdict.differences] == ["train", "val"]
    assert len(SETS["mpii"].load(tmp_path, "trainval")) == 5


def test_mpii_of_two_releases_is_refused(tmp_path):
    raw_folders.mpii(tmp_path / "raw")
    marks = dict(RELEASE_img_index=np.array([[99]]), RELEASE_person_index=np.array([[1]]))
    savemat(tmp_path / "raw" / "detections.mat", marks)
    with pytest.raises(InputError, match="picture 99"):
        prepare("mpii", tmp_path / "raw", tmp_path / "mpii")


def test_jhmdb_three_splits(tmp_path):
    raw_folders.jhmdb(tmp_path / "raw")
    out = tmp_path / "jhmdb"
    assert not unexpected(prepared("jhmdb", tmp_path / "raw", out))
    joints = loadmat(tmp_path / "raw/joint_positions/golf/two/joint_positions.mat")["pos_img"]
    for split, clip in (("val", "two"), ("train2", "two"), ("val2", "one"), ("val3", "two")):
        records = SETS["jhmdb"].load(out, split)
        assert len(records) == 3 and f"/{clip}/" in records.image_files[0]
        assert records.boxes[2].tolist() == [40, 30, 110, 120]  # from the mask, counted from 0
    records = SETS["jhmdb"].load(out, "val")
    assert np.allclose(records.keypoints, joints.transpose(2, 1, 0) - 1, atol=1e-4)


def test_jhmdb_says_what_is_missing(tmp_path):
    raw_folders.jhmdb(tmp_path / "raw")
    (tmp_path / "raw" / "sub_splits.zip").rename(tmp_path / "kept.zip")
    with pytest.raises(InputError, match="sub_splits.zip"):
        prepare("jhmdb", tmp_path / "raw", tmp_path / "jhmdb")
    shutil.rmtree(tmp_path / "raw" / "puppet_mask" / "golf")
    (tmp_path / "kept.zip").rename(tmp_path / "raw" / "sub_splits.zip")
    with pytest.raises(InputError, match="puppet_mask/golf/two"):
        prepare("jhmdb", tmp_path / "raw", tmp_path / "another")


# ---------------------------------------------------------------- real samples


def test_a_folder_of_coco(samples, tmp_path):
    verdict = prepared("coco", samples / "coco_mini", tmp_path / "coco")
    assert not unexpected(verdict)
    assert len(SETS["coco"].load(tmp_path, "val")) == 68


def test_real_mpii_people(samples, tmp_path):
    """The five people of MMPose's sample, out of the authors' structs; heads as published."""
    marks = loadmat(samples / "mpii_pckh" / "detections.mat")
    listed = json.loads((samples / "samples/mpii/test_mpii.json").read_text())
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    rows = np.zeros((1, 5), [("image", object), ("annorect", object)])
    for i, person in enumerate(listed):
        shutil.copy(samples / "samples" / "mpii" / person["image"], raw / "images")
        rows[0, i] = (dict(name=person["image"]), marks["annolist"][0, i]["annorect"])
    release = dict(annolist=rows, img_train=np.ones((1, 5), np.uint8))
    savemat(raw / "mpii_human_pose_v1_u12_1.mat", dict(RELEASE=release))
    index = dict(RELEASE_img_index=np.arange(1, 6)[None], RELEASE_person_index=np.ones((1, 5)))
    savemat(raw / "detections.mat", index)
    published = loadmat(samples / "mpii_pckh" / "detections_our_format.mat")
    names = ("headboxes_src", "pos_gt_src", "jnt_missing")
    savemat(raw / "gt_valid.mat", {name: published[name][..., :5] for name in names})
    assert not unexpected_but_train(prepare("mpii", raw, tmp_path / "mpii"))
    made = json.loads((tmp_path / "mpii/annotations/mpii_val.json").read_text())
    assert made == listed
    heads = loadmat(tmp_path / "mpii/annotations/mpii_gt_val.mat")["headboxes_src"]
    assert np.allclose(heads, published["headboxes_src"][..., :5], atol=1e-3)


def unexpected_but_train(verdict):
    return [d for d in unexpected(verdict) if not d.startswith("train: ")]


def test_real_aic_people(samples, tmp_path):
    """MMPose's sample, turned into the owners' form and back."""
    sample = samples / "samples" / "aic"
    content = json.loads((sample / "test_aic.json").read_text())
    images = tmp_path / "raw" / "keypoint_validation_images_20170911"
    images.mkdir(parents=True)
    rows = []
    for image in content["images"]:
        shutil.copy(sample / image["file_name"], images)
        people = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        boxes, points = {}, {}
        for n, person in enumerate(people, 1):
            x, y, w, h = person["bbox"]
            flags = np.array(person["keypoints"]).reshape(14, 3)
            flags[:, 2] = 3 - flags[:, 2]
            boxes[f"human{n}"], points[f"human{n}"] = [x, y, x + w, y + h], flags.ravel().tolist()
        row = dict(image_id=image["file_name"][:-4], human_annotations=boxes)
        rows.append(row | dict(keypoint_annotations=points))
    notes = tmp_path / "raw" / "keypoint_validation_annotations_20170911.json"
    notes.write_text(json.dumps(rows))
    verdict = prepare("aic", tmp_path / "raw", tmp_path / "aic", splits=["val"])
    assert not unexpected(verdict)
    made = json.loads((tmp_path / "aic/annotations/aic_val.json").read_text())
    size = {i["file_name"]: (i["width"], i["height"]) for i in content["images"]}
    assert {i["file_name"]: (i["width"], i["height"]) for i in made["images"]} == size
    for ours, theirs in zip(made["annotations"], content["annotations"], strict=True):
        assert ours["keypoints"] == theirs["keypoints"] and ours["bbox"] == theirs["bbox"]
        assert ours["num_keypoints"] == theirs["num_keypoints"]


def test_real_posetrack18_files(samples, tmp_path):
    """The owners' files per video give MMPose's joined file."""
    sample = samples / "samples" / "posetrack18"
    out = tmp_path / "posetrack18"
    shutil.copytree(sample / "images", out / "images")
    shutil.copytree(sample / "annotations" / "val", out / "annotations" / "val")
    assert not unexpected(prepare("posetrack18", None, out, splits=["val"]))
    joined = json.loads((sample / "annotations/test_posetrack18_val.json").read_text())
    made = json.loads((out / "annotations/posetrack18_val.json").read_text())
    theirs = {i["file_name"]: (i["width"], i["height"]) for i in joined["images"]}
    ours = {i["file_name"]: (i["width"], i["height"]) for i in made["images"]}
    assert theirs.items() <= ours.items()
    points = {a["id"]: a["keypoints"] for a in made["annotations"]}
    assert all(points[a["id"]] == a["keypoints"] for a in joined["annotations"])


def test_real_jhmdb_frames(samples, tmp_path):
    """MMPose's three frames, turned into the authors' files and back: boxes and joints."""
    sample = samples / "samples" / "jhmdb"
    content = json.loads((sample / "test_jhmdb_sub1.json").read_text())
    raw, lines = tmp_path / "raw", []
    for image, person in zip(content["images"], content["annotations"]):
        clip = image["file_name"].split("/")[0]
        for part in ("joint_positions", "puppet_mask", "Rename_Images"):
            (raw / part / "catch" / clip).mkdir(parents=True)
        joints = np.array(person["keypoints"]).reshape(15, 3)[:, :2]
        file = raw / "joint_positions" / "catch" / clip / "joint_positions.mat"
        savemat(file, dict(pos_img=joints.T[..., None]))
        x, y, w, h = map(int, person["bbox"])
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        mask[y - 1 : y - 1 + h, x - 1 : x - 1 + w] = 1
        savemat(raw / "puppet_mask" / "catch" / clip / "puppet_mask.mat", dict(part_mask=mask))
        shutil.copy(
            sample / image["file_name"], raw / "Rename_Images" / "catch" / clip / "00001.png"
        )
        lines.append(f"{clip}.avi 2")
    (raw / "sub_splits").mkdir()
    (raw / "sub_splits" / "catch_test_split_1.txt").write_text("\n".join(lines))
    verdict = prepare("jhmdb", raw, tmp_path / "jhmdb", splits=["val"])
    assert not unexpected(verdict)
    made = json.loads((tmp_path / "jhmdb/annotations/Sub1_test.json").read_text())
    ours = sorted((a["bbox"], a["keypoints"]) for a in made["annotations"])
    assert ours == sorted((a["bbox"], a["keypoints"]) for a in content["annotations"])


@pytest.mark.parametrize("name", ["crowdpose", "humanart"])
def test_real_samples_in_their_place(samples, tmp_path, name):
    sample, out = samples / "samples" / name, tmp_path / SETS[name].folder
    if name == "crowdpose":
        raw = tmp_path / "raw"
        shutil.copytree(sample, raw / "images", ignore=shutil.ignore_patterns("*.json"))
        notes = json.loads((sample / "test_crowdpose.json").read_text())
        raw_folders.write_json(raw / "crowdpose_test.json", notes)
    else:
        raw = tmp_path / "raw"
        shutil.copytree(sample / "HumanArt" / "images", raw / "images")
        shutil.copy(sample / "test_humanart.json", raw / "validation_humanart.json")
    assert not unexpected(prepare(name, raw, out, splits=["val"]))
