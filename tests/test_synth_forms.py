"""Synthetic sets in every form: the readers find what was drawn, the metrics give it full marks."""

import hashlib
import json
import warnings
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
from scipy.io import loadmat

from pose_nb import synth
from pose_nb.data.readers import load_coco, load_faces
from pose_nb.data.records import Records
from pose_nb.evaluation import evaluate
from pose_nb.files import InputError
from pose_nb.metrics.pck import head_sizes
from pose_nb.synth import body_forms, face_forms, forms
from pose_nb.synth.body import keypoints_for, select
from pose_nb.synth.face import render_face
from pose_nb.synth.portrait import ATTRIBUTES
from pose_nb.synth.shots import head_box
from pose_nb.tables.sets import SETS
from pose_nb.tables.zoo import ROWS

TRAIN, VAL = 4, 4
FACES = ("300w", "aflw", "cofw", "wflw")
DETECTED = [name for name, data in SETS.items() if data.detections]
LABELLED = [(name, split) for name, data in SETS.items() for split in data.annotations]
pytestmark = pytest.mark.filterwarnings("ignore:.*look like x1, y1, x2, y2")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """One small set of every form."""
    base = tmp_path_factory.mktemp("forms")
    make = partial(synth.make_form, train=TRAIN, val=VAL, workers=0, progress=False)
    return {name: make(base / name, name) for name in forms.NAMES}


@pytest.fixture(scope="module")
def rows():
    """A row of each set, with heatmaps that are not rounded to whole cells."""
    found = {}
    for row in ROWS:
        if hasattr(row.codec, "unbiased"):
            row = replace(row, codec=replace(row.codec, unbiased=True))
        if row.codec.udp or getattr(row.codec, "unbiased", False):
            found.setdefault(row.benchmark.data.name, row)
    return found


def drawn(name, split, first=VAL):
    """What is drawn for the first tasks of a split, again and without any file: pictures and
    people by image id."""
    tasks = [task for task in forms.FORMS[name].tasks(TRAIN, VAL, 0) if task.split == split]
    found = {}
    for task in tasks[:first]:
        found |= dict(zip(task.ids, task.draw(task.seed, **task.options), strict=True))
    return found


def content(root, path):
    return json.loads((root / path).read_text())


# ---------------------------------------------------------------- every set and split


def test_every_set_has_a_form(rows):
    assert set(forms.NAMES) == set(SETS) == set(rows)


@pytest.mark.parametrize("name, split", LABELLED)
def test_the_truth_gets_full_marks(name, split, roots, rows):
    """Encoded, decoded and measured as the table does it: reader, truth, metric, all splits."""
    row, root = rows[name], roots[name]
    records = row.benchmark.load(root, split)
    assert len(records) and len(set(records.image_ids)) >= 1
    assert records.keypoints.shape[1:] == (len(SETS[name].skeleton), 2)
    row.benchmark.truth(root, split)
    if name == "mpii" and split != "val":
        with pytest.raises(InputError, match="head sizes"):
            evaluate(None, root, row=row, split=split, oracle=True, progress=False)
        return
    figures = evaluate(None, root, row=row, split=split, oracle=True, progress=False)
    unit = 100 if row.benchmark.measure.percent else 1
    figure = figures[row.benchmark.figure] / unit
    if row.benchmark.measure.lower_is_better:
        assert 0 <= figure < 0.003
    else:
        assert 0.98 < figure <= 1


@pytest.mark.parametrize("name", [name for name in SETS if name != "coco"])
def test_the_figure_falls_for_wrong_poses(name, roots, rows):
    """Left and right swapped: no metric forgives that."""
    row, root = rows[name], roots[name]
    benchmark = row.benchmark
    records, truth = benchmark.load(root), benchmark.truth(root)
    flipped = records.keypoints[:, list(records.skeleton.flip_indices)]

    class Found:
        keypoints = flipped - (name == "mpii")
        scores = np.ones(flipped.shape[:2], np.float32)
        areas = records.scales.prod(1)

    figures, _ = benchmark.measure(records, Found, truth, row.nms)
    unit = 100 if benchmark.measure.percent else 1
    figure = figures[benchmark.figure] / unit
    assert figure > 0.05 if benchmark.measure.lower_is_better else figure < 0.85


@pytest.mark.parametrize("name", [name for name in forms.FORMS if name not in FACES])
def test_readers_find_what_was_drawn(name, roots):
    """Pixels counted from 0, people in their order, points to a rounding: for every convention."""
    records, skeleton = SETS[name].load(roots[name]), SETS[name].skeleton
    shift = 1 if name == "mpii" else 0  # its val joints stay as they are written, from 1
    matrix = keypoints_for(skeleton)
    for image_id, (image, people) in drawn(name, "val").items():
        mine = np.flatnonzero(records.image_ids == image_id)
        expected = [select(person.keypoints, matrix) for person in people]
        for i in mine:
            known = records.visible[i] > 0
            errors = [
                np.abs(points[known, :2] + shift - records.keypoints[i, known]).max()
                for points in expected
            ]
            assert min(errors) < (0.51 if name == "aic" else 1e-3)
        assert len(mine) <= len(people) and image.shape[2] == 3


@pytest.mark.parametrize("name", FACES)
def test_faces_are_found_where_they_are_drawn(name, roots):
    records, skeleton = SETS[name].load(roots[name]), SETS[name].skeleton
    split = "common" if name == "300w" else "val"
    for image_id, (_, people) in drawn(name, split, first=2).items():
        (i,) = np.flatnonzero(records.image_ids == image_id)
        points = select(people[0].keypoints, keypoints_for(skeleton))
        known = records.visible[i] > 0
        assert known.mean() > 0.8
        np.testing.assert_allclose(records.keypoints[i, known], points[known, :2], atol=1e-3)
        x1, y1, x2, y2 = records.boxes[i]
        low, high = points[known, :2].min(0), points[known, :2].max(0)
        inside = (low > (x1 - 1.5, y1 - 1.5)).all() and (high < (x2 + 1.5, y2 + 1.5)).all()
        assert inside and np.ptp(points[known, 1]) > 80, "large enough for 98 landmarks"


@pytest.mark.parametrize("name", DETECTED)
def test_boxes_of_a_detector(name, roots):
    data = SETS[name]
    found = data.load(roots[name], boxes="det")
    file = data.root(roots[name]) / data.detections
    rows = json.loads(file.read_text())
    usable = [row for row in rows if row["score"] >= (data.min_score or 0)]
    assert len(found) == len(usable) > 0
    assert set(found.image_ids) <= set(np.unique([row["image_id"] for row in rows]))
    assert not found.visible.any() and found.box_scores.max() < 1


# ---------------------------------------------------------------- one set's own ways


def test_mpii(roots):
    root = roots["mpii"]
    rows = content(root, "annotations/mpii_val.json")
    trainval = content(root, "annotations/mpii_trainval.json")
    assert trainval[-len(rows) :] == rows and len(trainval) > len(rows)
    mat = loadmat(root / "annotations/mpii_gt_val.mat")
    assert mat["headboxes_src"].shape == (2, 2, len(rows))
    assert b"SYNTHETIC" in (root / "annotations/mpii_gt_val.mat").read_bytes()[:116]
    people = [person for _, (_, found) in drawn("mpii", "val").items() for person in found]
    sizes = head_sizes(np.array([head_box(person) for person in people]))
    records = SETS["mpii"].load(root)
    np.testing.assert_allclose(records.extra["head_sizes"], sizes, atol=0.02)
    boxes = np.array([person.box for person in people])
    np.testing.assert_allclose(records.centers, (boxes[:, :2] + boxes[:, 2:] - 1) / 2, atol=1e-2)
    np.testing.assert_allclose(
        records.scales[:, 0], (boxes[:, 2:] - boxes[:, :2]).max(1), atol=1e-2
    )
    train = SETS["mpii"].load(root, "train")
    joints = np.array(content(root, "annotations/mpii_train.json")[0]["joints"])
    known = train.visible[0] > 0
    np.testing.assert_allclose(train.keypoints[0, known], joints[known] - 1, atol=1e-3)


def test_crowdpose_has_easy_and_hard_images(roots):
    splits = [SETS["crowdpose"].load(roots["crowdpose"], split) for split in ("train", "val")]
    index = np.concatenate([records.extra["crowd_index"] for records in splits])
    assert (index >= 0).all() and (index <= 1).all() and len(set(index)) > 2


def test_jhmdb_splits_share_clips(roots):
    clips = {}
    for split in ("val", "val2", "val3"):
        records = SETS["jhmdb"].load(roots["jhmdb"], split)
        other = SETS["jhmdb"].load(roots["jhmdb"], split.replace("val", "train"))
        assert not set(records.image_ids) & set(other.image_ids)
        clips[split] = {number // 10000 for number in records.image_ids.tolist()}
        assert len(records) + len(other) == TRAIN + VAL
    assert not clips["val"] & clips["val2"] and not clips["val2"] & clips["val3"]
    entry = content(roots["jhmdb"], "annotations/Sub1_test.json")["annotations"][0]
    records = SETS["jhmdb"].load(roots["jhmdb"])
    naive = load_coco(
        roots["jhmdb"] / "annotations/Sub1_test.json", roots["jhmdb"], SETS["jhmdb"].skeleton
    )
    assert np.allclose(naive.keypoints[0, 0] - records.keypoints[0, 0], 1)
    x1, y1 = records.boxes[0, :2]
    assert (x1 + 1, y1 + 1) == tuple(entry["bbox"][:2])


def test_posetrack_tracks_and_videos(roots):
    root = roots["posetrack18"]
    for split in ("train", "val"):
        joined = content(root, f"annotations/posetrack18_{split}.json")
        videos = [json.loads(f.read_text()) for f in sorted(root.glob(f"annotations/{split}/*"))]
        assert [a for v in videos for a in v["annotations"]] == joined["annotations"]
        for video in videos:
            by_frame = {}
            for item in video["annotations"]:
                by_frame.setdefault(item["image_id"], []).append(item["track_id"])
                assert item["bbox_head"][3] > 4 and item["keypoints"][9:15] == [0] * 6
            assert all(len(set(tracks)) == len(tracks) for tracks in by_frame.values())
            assert len(video["images"]) == video["images"][0]["nframes"] == 4


def test_people_keep_their_track():
    """The same number is the same person: it moves less than people are apart."""
    clip = synth.clip.render_clip([8, 1], frames=5, size=(384, 240), people=(3, 3))
    hips = [{p.number: p.keypoints[11, :2] for p in people} for _, people in clip]
    for before, after in zip(hips, hips[1:]):
        for number in before.keys() & after.keys():
            moved = {n: np.linalg.norm(after[number] - place) for n, place in before.items()}
            assert min(moved, key=moved.get) == number
    assert len(hips[0]) == 3


def test_humanart_warns_of_its_corners(roots):
    with pytest.warns(UserWarning, match="x1, y1, x2, y2"):
        warnings.simplefilter("always")
        SETS["humanart"].load(roots["humanart"], boxes="det")
    files = SETS["humanart"].load(roots["humanart"], "train").image_files
    assert any("coco/train2017" in file for file in files)
    entry = content(roots["humanart"], "HumanArt/annotations/validation_humanart.json")
    person = entry["annotations"][0]
    assert len(person["keypoints_21"]) == 63 and person["keypoints"] == person["keypoints_21"][:51]


def test_300w_is_common_and_challenge(roots):
    load = partial(SETS["300w"].load, roots["300w"])
    common, challenge, full = load("common"), load("challenge"), load("val")
    assert full.image_files == common.image_files + challenge.image_files
    assert len(full) == len(load("test")) == VAL and "ibug" in challenge.image_files[0]


def test_center_and_scale_of_faces(roots):
    """Whole pixels around the landmarks in 300W and WFLW, an own box in AFLW, none in COFW."""
    for name in ("300w", "wflw"):
        file = SETS[name].annotation_file(roots[name])
        for face in json.loads(file.read_text())["annotations"]:
            points = np.array(face["keypoints"]).reshape(-1, 3)
            points = points[points[:, 2] > 0, :2]
            low, high = np.floor(points.min(0)), np.ceil(points.max(0))
            assert face["center"] == ((low + high) / 2).tolist()
            assert face["scale"] * 200 == pytest.approx((high - low).max())
    records = SETS["aflw"].load(roots["aflw"])
    np.testing.assert_allclose(records.extra["box_size"], records.scales.max(1), rtol=1e-5)
    face = content(roots["cofw"], "annotations/cofw_test.json")["annotations"][0]
    assert "center" not in face and set(face["keypoints"][2::3]) == {1, 2}


def test_frontal_faces_look_at_us(roots):
    """The tip of the nose is between the eyes in the frontal part, and beside it elsewhere."""
    frontal = set(SETS["aflw"].load(roots["aflw"], "frontal").image_ids.tolist())
    records = SETS["aflw"].load(roots["aflw"])
    left, right, nose = (records.keypoints[:, i] for i in (7, 10, 13))
    middle = (left + right) / 2
    aside = np.abs(nose - middle)[:, 0] / np.linalg.norm(left - right, axis=1)
    is_frontal = np.isin(records.image_ids, list(frontal))
    assert 0 < len(frontal) < VAL
    assert aside[is_frontal].max() < 0.45 and aside[~is_frontal].max() > aside[is_frontal].max()


def test_wflw_subsets_are_parts_of_the_test_set(roots):
    file = SETS["wflw"].annotation_file(roots["wflw"])
    faces = {face["id"]: face for face in json.loads(file.read_text())["annotations"]}
    fields = {"largepose": "pose", "makeup": "make-up"}
    for name in ATTRIBUTES:
        ids = SETS["wflw"].load(roots["wflw"], name).ids
        assert len(ids) and all(faces[i][fields.get(name, name)] == 1 for i in ids)
        flagged = [i for i, face in faces.items() if face[fields.get(name, name)]]
        assert flagged == ids.tolist()


@pytest.fixture(scope="module")
def plain_face():
    return render_face([12, 3])


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_shows(name, plain_face):
    """Each difficulty changes what it names, measured on the same person."""
    plain, before = plain_face
    image, person = render_face([12, 3], attributes=[name])
    first = synth.SYNTH_KEYPOINTS.index("face_0")
    points, old = person.keypoints[first:], before.keypoints[first:]
    smooth = [cv2.blur(i, (3, 3)).astype(int) for i in (plain, image)]  # less of the noise
    sharp = [np.percentile(np.abs(np.diff(i, axis=1)), 99.5) for i in smooth]
    assert {
        "largepose": lambda: np.ptp(points[36:48, 0]) < 0.85 * np.ptp(old[36:48, 0]),
        "expression": lambda: np.abs(points[:, :2] - old[:, :2]).max() > 3,
        "illumination": lambda: image[120:200, 80:180].mean() < 0.8 * plain[120:200, 80:180].mean(),
        "makeup": lambda: (
            not np.array_equal(points[48:60], 0)
            and image[tuple(points[57, 1::-1].astype(int))][0] > 100
        ),
        "occlusion": lambda: (points[:, 2] == 1).sum() > (old[:, 2] == 1).sum() + 4,
        "blur": lambda: sharp[1] < 0.8 * sharp[0],
    }[name]()


def test_unknown_attribute():
    with pytest.raises(InputError, match="sleepy"):
        render_face(0, attributes=["sleepy"])


def test_wholebody_faces(roots):
    records = SETS["coco_wholebody_face"].load(roots["coco_wholebody_face"])
    sides = records.scales.max(1)
    assert sides.max() > 60 and sides.min() < 40, "close-ups and whole people"


def test_wrong_conventions_move_the_points(roots):
    """A square face set read by its boxes, and JHMDB's file read from 0, are not the same."""
    data = SETS["300w"]
    file, images = data.annotation_file(roots["300w"]), data.image_dir(roots["300w"])
    right, wrong = (read(file, images, data.skeleton) for read in (load_faces, load_coco))
    assert isinstance(right, Records) and np.abs(right.boxes - wrong.boxes).max() > 5


# ---------------------------------------------------------------- the function


def prints(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.*"))
    }


@pytest.mark.parametrize("name", ["crowdpose", "jhmdb", "cofw"])
def test_same_seed_same_files(name, tmp_path):
    make = partial(synth.make_form, form=name, train=1, val=2, progress=False)
    processes = 2 if name == "jhmdb" else 0
    first, again = make(tmp_path / "a", workers=0), make(tmp_path / "b", workers=processes)
    other = make(tmp_path / "c", workers=0, seed=1)
    assert prints(first) == prints(again)
    same = {file for file, value in prints(other).items() if prints(first).get(file) == value}
    assert not any(file.endswith((".jpg", ".png", ".mat")) for file in same)


def test_coco_is_what_it_was(tmp_path):
    how = dict(train=2, val=2, workers=0, progress=False)
    one = synth.make_form(tmp_path / "a", "coco", **how)
    two = synth.make_dataset(tmp_path / "b", **how)
    assert prints(one) == prints(two)


def test_all_say_that_they_are_synthetic(roots):
    for name, root in roots.items():
        marker = content(root, "synthpose.json")
        assert marker["synthetic"] is True
        for split in SETS[name].annotations:
            file = SETS[name].annotation_file(root, split)
            found = json.loads(file.read_text())
            if isinstance(found, dict):
                assert "SYNTHETIC" in found["info"]["description"]
                assert found["info"].get("synthetic", name == "coco")


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(form="lsp"), "lsp"),
        (dict(form="mpii", val=1), "val=1"),
        (dict(form="mpii", train=0), "train=0"),
        (dict(form="mpii", seed=-1), "seed=-1"),
        (dict(form="mpii", train=2.5), "train=2.5"),
    ],
)
def test_wrong_arguments_are_named(wrong, said, tmp_path):
    with pytest.raises(InputError, match=said):
        synth.make_form(tmp_path / "x", progress=False, **wrong)
    assert not (tmp_path / "x").exists()


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(body_forms, "write_compact", fail)
    with pytest.raises(OSError, match="disk full"):
        synth.make_form(tmp_path / "x", "aic", train=1, val=2, workers=0, progress=False)
    assert not list(tmp_path.iterdir())


def test_difficulties_are_as_frequent_as_they_should_be():
    found = face_forms.difficulties(4000, [3])
    for name, share in face_forms._SHARES.items():
        assert np.mean([name in face for face in found]) == pytest.approx(share, abs=0.03)


def test_the_command(tmp_path, capsys, monkeypatch):
    from pose_nb.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        main(["data", "synth", "clips", "--form", "jhmdb", "--train", "1", "--val", "2"])
    assert done.value.code == 0 and "synthetic people, as jhmdb" in capsys.readouterr().out
    assert len(SETS["jhmdb"].load("clips")) == 2
    with pytest.raises(SystemExit) as done:
        main(["data", "synth", "more", "--form", "lsp"])
    assert done.value.code == 2 and "there are coco, mpii" in capsys.readouterr().err
