"""Synthetic people: equal seeds, exact flags, and a data set that the COCO tools accept."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO as CocoFile

from pose_nb import skeletons, synth
from pose_nb.files import InputError
from pose_nb.synth import body, data, drawing
from pose_nb.synth.figure import (
    FINE,
    Figure,
    View,
    body_solids,
    canvas_keypoints,
    head_solids,
    place_solid,
    project,
    sample_outfit,
)
from pose_nb.synth.solid import Canvas, draw_solid, sample_face

FINGERPRINT = """
import hashlib, json
from pose_nb import synth
from pose_nb.skeletons import COCO
from pose_nb.synth.data import annotate
for seed in ([0, 1], [5, 2]):
    image, people = synth.render(seed, oddities=True)
    text = json.dumps([annotate(p, 1, k, COCO) for k, p in enumerate(people)])
    print(hashlib.sha256(image.tobytes()).hexdigest(), hashlib.sha256(text.encode()).hexdigest())
"""


def test_same_seed_in_two_processes():
    """A second process, with numpy's and OpenCV's processor-specific code off, draws the same
    bytes."""
    slow = dict(os.environ, OPENCV_CPU_DISABLE="AVX2,AVX512F,FMA3,AVX,SSE4_2", PYTHONHASHSEED="7")
    run = lambda env: subprocess.run(
        [sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True, env=env
    ).stdout.split()
    first, second = run(None), run(slow)
    assert first == second and len(set(first)) == 4


def test_seeds_and_streams_differ():
    prints = {
        hashlib.sha256(synth.render([seed, index], size=(160, 128))[0].tobytes()).hexdigest()
        for seed in range(3)
        for index in range(4)
    }
    assert len(prints) == 12


@pytest.mark.parametrize("size", [(320, 256), (128, 192), (640, 480)])
def test_sizes(size):
    image, people = synth.render(3, size=size)
    assert image.shape == (size[1], size[0], 3) and image.dtype == np.uint8
    for p in people:
        assert p.mask.shape == (size[1], size[0])
        x1, y1, x2, y2 = p.box
        assert 0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1] and p.area == p.mask.sum()


def test_boxes_fit_masks_and_points_fit_people():
    beside = visible = wrong = points = 0
    for index in range(20):
        for p in synth.render([21, index])[1]:
            ys, xs = np.nonzero(p.mask)
            assert p.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            x, y, v = p.keypoints.T
            inside = (x > -0.5) & (x < 319.5) & (y > -0.5) & (y < 255.5)
            wrong, points = wrong + (inside != (v > 0)).sum(), points + len(v)
            seen = np.flatnonzero(v[5:17] == 2) + 5  # shoulders to ankles
            visible += len(seen)
            beside += (~p.mask[(y[seen] + 0.5).astype(int), (x[seen] + 0.5).astype(int)]).sum()
    assert wrong <= 0.001 * points, "flag 0 is for points outside, and for them alone"
    assert visible > 300 and beside <= 0.005 * visible


@pytest.mark.parametrize(
    "index, count, box, nose, mean",
    [
        (0, 3, (130, 76, 198, 209), (171, 93), 113.4),
        (1, 2, (109, 17, 200, 222), (151, 37), 94.7),
        (2, 3, (122, 10, 204, 207), (173, 30), 91.2),
        (3, 2, (116, 42, 215, 256), (170, 61), 83.3),
    ],
)
def test_a_seed_gives_the_people_it_always_gave(index, count, box, nose, mean):
    """Records of experiments name seeds; whoever changes what a seed draws raises `VERSION`."""
    assert data.VERSION == 2
    image, people = synth.render([0, index])
    assert len(people) == count and abs(image.mean() - mean) < 0.5
    np.testing.assert_allclose(people[0].box, box, atol=1)
    np.testing.assert_allclose(people[0].keypoints[0, :2], nose, atol=1)


def test_flags_of_a_made_up_occlusion():
    """Two people as bare rods: the nearer one covers the left part of the farther one, which covers
    itself with its own raised hand."""
    view = View(f=100, eye=0.0, horizon=50, cx=50)
    near, far = (Figure({}, {}, {}, {"height": 1.7}, {}, {}, view, 0.0, d) for d in (1.5, 3.0))
    canvas = Canvas.on(np.zeros((100 * FINE, 100 * FINE, 3), np.uint8))
    paint = lambda solid, offset, normal, u: np.full((len(u), 3), 99.0)
    rods = [
        (1, near, ((-0.3, -0.5, 0), (-0.3, 0.5, 0)), 0.06),
        (2, far, ((-1, 0, 0), (1, 0, 0)), 0.04),
        (2, far, ((0.5, -0.1, 0.4), (0.5, 0.1, 0.4)), 0.05),
    ]
    for number, (who, figure, ends, radius) in enumerate(rods, 1):
        rod = place_solid(figure, "rod", ends, (radius, radius), paint)
        depth = figure.distance, 1 / figure.scale
        draw_solid(canvas, rod, who, number, (0, 0, -1.0), *depth)
    places = {
        "left_wrist": (-0.6, 0, 0),
        "right_wrist": (0, 0, 0),
        "left_elbow": (0.5 * 3 / 2.6, 0, 0),
        "right_elbow": (0.8, 0, 0),
        "nose": (0, 9, 0),
    }
    elsewhere = (0, 0.5, 0)
    xyz = np.array([project(far, places.get(name, elsewhere)) for name in synth.SYNTH_KEYPOINTS])
    got = dict(zip(synth.SYNTH_KEYPOINTS, drawing.flags(far, xyz, canvas, 2)))
    assert [int(got[name]) for name in places] == [1, 2, 1, 2, 0]


def stand(seed, yaw, style=None):
    """Somebody who stands upright, turned by `yaw` degrees, with this hair."""
    rng = np.random.default_rng(seed)
    pose = body.sample_pose(rng, "stand") | dict.fromkeys([*body.TRUNK, *body.HEAD], 0.0)
    for side in body.SIDES:
        for name in ("shoulder_flex", "elbow"):
            pose[f"{side}_{name}"] = 0.0
        for name in ("shoulder_abd", "hip_abd"):
            pose[f"{side}_{name}"] = 20.0
        for name in ("humerus", "hip_flex", "hip_turn", "knee"):
            pose[f"{side}_{name}"] = 0.0
    pose["yaw"] = float(yaw)
    shape, outfit, face = body.sample_shape(rng), sample_outfit(rng), sample_face(rng)
    if style:
        outfit["hair_style"] = style
    view = View(400, 1.4, 128, 80)
    return Figure(*body.solve(pose, shape), pose, shape, outfit, face, view, 0.0, 3.5)


@pytest.mark.parametrize("style", ["short", "long", "bun", "cap", "bald"])
@pytest.mark.parametrize(
    "yaw, expected", [(0, "222??"), (180, "111??"), (-90, "2?12?"), (90, "21??2")]
)
def test_back_of_the_head_shows_no_face(style, yaw, expected):
    """From the front nose and eyes are visible, from behind covered, and from the left side only
    the left ear and eye are seen."""
    for seed in range(4):
        figure = stand(seed, yaw, style)
        canvas = Canvas.on(np.zeros((160 * FINE, 160 * FINE, 3), np.uint8))
        for number, solid in enumerate(head_solids(figure) + body_solids(figure)[:5], 1):
            depth = figure.distance, 1 / figure.scale
            draw_solid(canvas, solid, 1, number, (0, 0, -1.0), *depth)
        found = drawing.flags(figure, canvas_keypoints(figure), canvas, 1)
        got = dict(zip(synth.SYNTH_KEYPOINTS, found))
        names = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
        for name, wanted in zip(names, expected):
            assert wanted in ("?", str(int(got[name]))), (seed, name, wanted, got[name])


def test_left_is_left():
    """Who faces us has every left joint on the right of the picture, and the nose nearer to us than
    the ears."""
    for seed in range(20):
        at = dict(zip(synth.SYNTH_KEYPOINTS, canvas_keypoints(stand(seed, 0))))
        for joint in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
            assert at[f"left_{joint}"][0] > at[f"right_{joint}"][0] + 1, joint
        assert at["nose"][2] < min(at["left_ear"][2], at["right_ear"][2])
        assert at["face_45"][0] > at["face_36"][0]


def test_poses_keep_their_limits_and_bones_their_length():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        pose, shape = body.sample_pose(rng), body.sample_shape(rng)
        for name, value in pose.items():
            limits = body.LIMITS.get(name.removeprefix("left_").removeprefix("right_"))
            if limits:
                assert limits[0] <= value <= limits[1], (seed, name)
        joints, _ = body.solve(pose, shape)
        for side in body.SIDES:
            for a, b, bone in (
                ("shoulder", "elbow", "upper_arm"),
                ("elbow", "wrist", "forearm"),
                ("hip", "knee", "thigh"),
                ("knee", "ankle", "shin"),
            ):
                assert np.isclose(
                    np.linalg.norm(joints[f"{side}_{a}"] - joints[f"{side}_{b}"]), shape[bone]
                )


def test_superset_serves_every_skeleton():
    for skeleton in skeletons.ALL:
        matrix = synth.keypoints_for(skeleton)
        assert matrix.shape == (len(skeleton), len(synth.SYNTH_KEYPOINTS))
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
        assert len({tuple(row) for row in matrix}) == len(skeleton), (
            "no two keypoints are the same point"
        )
    with pytest.raises(InputError, match="tail"):
        synth.keypoints_for(["tail"])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return synth.make_dataset(
        tmp_path_factory.mktemp("synth") / "people",
        train=150,
        val=40,
        size=(160, 128),
        workers=0,
        progress=False,
    )


def load(root, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return CocoFile(str(root / f"annotations/person_keypoints_{split}2017.json"))


def test_dataset_loads_with_the_coco_tools(dataset):
    for split, count in (("train", 150), ("val", 40)):
        coco = load(dataset, split)
        assert len(coco.imgs) == count == len(list((dataset / f"{split}2017").glob("*.jpg")))
        for image in coco.imgs.values():
            assert (dataset / f"{split}2017" / image["file_name"]).is_file() and image[
                "file_name"
            ] == f"{image['id']:012d}.jpg"
        assert coco.cats[1]["keypoints"] == list(skeletons.COCO.keypoints)
        assert min(min(link) for link in coco.cats[1]["skeleton"]) == 1
        assert "SYNTHETIC" in coco.dataset["info"]["description"]
        for a in coco.anns.values():
            points = np.array(a["keypoints"]).reshape(17, 3)
            assert (
                a["num_keypoints"] == (points[:, 2] > 0).sum()
                and (points[points[:, 2] == 0] == 0).all()
            )
            assert (
                set(points[:, 2]) <= {0, 1, 2}
                and a["area"] > 0
                and (points[:, 0] < 160).all()
                and (points[:, 1] < 128).all()
            )
            if not a["iscrowd"]:
                assert 0.9 < coco.annToMask(a).sum() / a["area"] < 1.35


def test_dataset_has_the_oddities_of_real_ones(dataset):
    coco = load(dataset, "train")
    assert any(a["num_keypoints"] == 0 and not a["iscrowd"] for a in coco.anns.values()), (
        "someone too small to label"
    )
    assert any(a["iscrowd"] for a in coco.anns.values()), "a crowd"
    assert any(not coco.imgToAnns[i] for i in coco.imgs), "an image without people"
    assert any(len(coco.imgToAnns[i]) >= 3 for i in coco.imgs)
    crowd = next(a for a in coco.anns.values() if a["iscrowd"])
    assert (
        coco_mask.decode(coco_mask.frPyObjects(crowd["segmentation"], 128, 160)).sum()
        == crowd["area"]
    )


def overlap(a, b):
    w, h = (min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    return max(w, 0) * max(h, 0) / (a[2] * a[3] + b[2] * b[3] - max(w, 0) * max(h, 0))


def test_detector_misses_and_invents(dataset):
    coco = load(dataset, "val")
    rows = json.loads((dataset / data.DETECTIONS).read_text())
    assert all(
        set(r) == {"image_id", "category_id", "bbox", "score"}
        and r["category_id"] == 1
        and 0 < r["score"] < 1
        for r in rows
    )
    people = [a for a in coco.anns.values() if a["num_keypoints"]]
    best = [
        max(
            (overlap(a["bbox"], r["bbox"]) for r in rows if r["image_id"] == a["image_id"]),
            default=0,
        )
        for a in people
    ]
    assert 0.01 < np.mean(np.array(best) < 0.5) < 0.25, "some people are missed, not many"
    wrong = [
        r
        for r in rows
        if all(overlap(a["bbox"], r["bbox"]) < 0.3 for a in coco.imgToAnns[r["image_id"]])
    ]
    assert wrong and np.mean([r["score"] for r in wrong]) < np.mean([r["score"] for r in rows])
    assert not any(b == 1 for b in best), "boxes are never exact"


def test_dataset_is_reused_replaced_or_refused(dataset, tmp_path):
    root = synth.make_dataset(tmp_path / "a", train=3, val=1, size=(96, 96), progress=False)
    marker = root / "train2017" / "000000000001.jpg"
    old = marker.stat().st_mtime_ns
    synth.make_dataset(root, train=3, val=1, size=(96, 96), progress=False)
    assert marker.stat().st_mtime_ns == old
    synth.make_dataset(root, train=2, val=1, size=(96, 96), progress=False)
    assert len(list((root / "train2017").glob("*.jpg"))) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file.txt").write_text("mine")
    with pytest.raises(InputError, match="no synthetic data set"):
        synth.make_dataset(tmp_path / "mine", train=1, val=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "mine"], (
        "no temporary folder is left"
    )


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(data.cv2, "imwrite", fail)
    with pytest.raises(OSError, match="disk full"):
        synth.make_dataset(tmp_path / "a", train=2, val=1, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [{"train": -1}, {"train": 1.5}, {"size": (10, 10)}, {"people": (3, 1)}, {"seed": -2}]
)
def test_wrong_parameters_are_named(tmp_path, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        synth.make_dataset(tmp_path / "a", progress=False, **wrong)


def test_other_skeletons(tmp_path):
    root = synth.make_dataset(
        tmp_path / "faces",
        train=30,
        val=0,
        skeleton=skeletons.FACE_300W,
        closeup=True,
        size=(128, 128),
        progress=False,
    )
    faces = load(root, "train").anns.values()
    assert len(faces) == 30 and all(a["num_keypoints"] == 68 for a in faces)
    for a in faces:
        points = np.array(a["keypoints"]).reshape(68, 3)
        x, y, w, h = a["bbox"]
        known = points[:, 2] > 0
        assert (
            (points[known, 0] >= x - 0.01).all()
            and (points[known, 0] <= x + w + 0.01).all()
            and h > 20
        )
