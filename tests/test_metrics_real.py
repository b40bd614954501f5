"""Every set's own metric on real annotations, against figures recorded from MMPose 1.3.2.

Needs data that is not in the project.
"""

import json

import numpy as np
import pytest

from metric_keys import renamed
from pose_nb.metrics.nme import EYES_68, EYES_COFW, EYES_WFLW, box_size, eye_distance, nme
from pose_nb.metrics.nms import results_from_predictions
from pose_nb.metrics.oks import coco_ap, coco_official, crowdpose_ap
from pose_nb.metrics.pck import head_sizes, jhmdb_pck, mpii_pckh
from pose_nb.metrics.posetrack import posetrack_ap
from pose_nb.skeletons import ALL

SETS = {
    "coco": ("coco/test_coco.json", "coco/test_coco_det_AP_H_56.json"),
    "crowdpose": ("crowdpose/test_crowdpose.json", "crowdpose/test_crowdpose_det_AP_40.json"),
    "aic": ("aic/test_aic.json", None),
    "humanart": ("humanart/test_humanart.json", "humanart/test_humanart_det_AP_H_56.json"),
    "posetrack18": (
        "posetrack18/annotations/test_posetrack18_val.json",
        "posetrack18/annotations/test_posetrack18_human_detections.json",
    ),
}


@pytest.fixture(scope="module")
def cases(reference):
    golden = reference / "components" / "golden" / "metrics_real.json"
    return {case["tag"]: case for case in json.loads(golden.read_text())["cases"]}


@pytest.fixture(scope="module")
def folder(samples):
    return samples / "samples"


def clipped(xywh, image):
    x, y, w, h = xywh
    return [
        np.clip(x, 0, image["width"] - 1),
        np.clip(y, 0, image["height"] - 1),
        np.clip(x + w, 0, image["width"] - 1),
        np.clip(y + h, 0, image["height"] - 1),
    ]


def boxes_of(gt, detections, case):
    """Boxes (xyxy), scores and image ids in the order of the recorded predictions."""
    if detections is None:
        images, people = (
            {im["id"]: im for im in gt["images"]},
            {a["id"]: a for a in gt["annotations"]},
        )
        rows = [
            (clipped(people[i]["bbox"], images[people[i]["image_id"]]), 1.0, people[i]["image_id"])
            for i in case["order_of_ids"]
        ]
    else:
        rows = [
            (
                [
                    d["bbox"][0],
                    d["bbox"][1],
                    d["bbox"][0] + d["bbox"][2],
                    d["bbox"][1] + d["bbox"][3],
                ],
                d["score"],
                d["image_id"],
            )
            for d in (detections[i] for i in case["order_of_ids"])
        ]
    return [np.array(column) for column in zip(*rows)]


@pytest.mark.parametrize(
    "tag",
    [
        "coco_gt",
        "coco_det",
        "crowdpose_gt",
        "crowdpose_det",
        "aic_gt",
        "humanart_gt",
        "humanart_det",
        "posetrack18_gt",
        "posetrack18_det",
    ],
)
def test_a_set_of_people_is_as_recorded(tag, cases, folder):
    case, (name, mode) = cases[tag], tag.split("_")
    skeleton = next(s for s in ALL if s.name == name)
    truth, found = SETS[name]
    gt = json.loads((folder / truth).read_text())
    detections = json.loads((folder / found).read_text()) if mode == "det" else None
    boxes, scores, images = boxes_of(gt, detections, case)
    boxes = boxes.astype(np.float32)
    w, h = (1.25 * (boxes[:, 2:] - boxes[:, :2])).T
    area = np.where(w > 0.75 * h, w * w / 0.75, 0.75 * h * h)
    results = results_from_predictions(
        np.array(case["pred_keypoints"], np.float32),
        np.array(case["pred_scores"], np.float32),
        boxes,
        scores.astype(np.float32),
        area,
        images,
        np.arange(len(images)),
        skeleton.sigmas,
    )
    assert len(results) == case.get("n_after_nms", len(results))
    if name == "posetrack18":
        videos = [
            json.loads(f.read_text())
            for f in sorted((folder / "posetrack18" / "annotations" / "val").glob("*.json"))
        ]
        assert posetrack_ap(videos, results) == pytest.approx(case["result"], abs=1e-6)
        return
    expected = renamed(case["result"])
    if name == "crowdpose":
        assert crowdpose_ap(gt, results, skeleton.sigmas) == pytest.approx(expected, abs=1e-6)
    else:
        use_area = case["metric"].get("use_area", True)
        assert coco_ap(gt, results, skeleton.sigmas, use_area) == pytest.approx(expected, abs=1e-6)
        assert coco_ap(gt, results, skeleton.sigmas, use_area) == coco_official(
            gt, results, skeleton.sigmas, use_area
        )


def test_mpii_is_as_recorded(cases, folder):
    case, rows = cases["mpii"], json.loads((folder / "mpii" / "test_mpii.json").read_text())
    low, high = np.array(case["synthetic_headboxes_src"])
    truth, visible = [r["joints"] for r in rows], [r["joints_vis"] for r in rows]
    figures = mpii_pckh(case["pred_keypoints"], truth, visible, head_sizes(np.c_[low.T, high.T]))
    expected = case["result"]
    assert figures["PCKh@0.5"] == pytest.approx(expected["PCK"], abs=1e-6)
    assert figures["PCKh@0.1"] == pytest.approx(expected["PCK@0.1"], abs=1e-6)
    for row in ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"):
        assert figures[row] == pytest.approx(expected[f"{row} PCK"], abs=1e-6)


def test_jhmdb_is_as_recorded(cases, folder):
    case, gt = cases["jhmdb"], json.loads((folder / "jhmdb" / "test_jhmdb_sub1.json").read_text())
    images, people = {im["id"]: im for im in gt["images"]}, {a["id"]: a for a in gt["annotations"]}
    people = [people[i] for i in case["order_of_ids"]]
    xyv = np.array([a["keypoints"] for a in people]).reshape(-1, 15, 3)
    boxes = [
        clipped([a["bbox"][0] - 1, a["bbox"][1] - 1, *a["bbox"][2:]], images[a["image_id"]])
        for a in people
    ]
    assert jhmdb_pck(
        case["pred_keypoints"], xyv[..., :2] - 1, xyv[..., 2] > 0, boxes
    ) == pytest.approx(case["result"], abs=1e-6)


@pytest.mark.parametrize("name", ["300w", "aflw", "coco_wholebody_face", "cofw", "wflw"])
def test_a_set_of_faces_is_as_recorded(name, cases, folder):
    case = cases[name]
    file = (
        "coco_wholebody_face/test_coco_wholebody.json"
        if name == "coco_wholebody_face"
        else f"{name}/test_{name}.json"
    )
    gt = json.loads((folder / file).read_text())
    people = {a["id"]: a for a in gt["annotations"]}
    people = [people[i] for i in case["order_of_ids"]]
    field = "face_kpts" if name == "coco_wholebody_face" else "keypoints"
    xyv = np.array([a[field] for a in people]).reshape(len(people), -1, 3)
    if name == "aflw":
        size = np.array([200 * a["scale"] for a in people])
        assert np.allclose(size, [a["box_size"] for a in people])
        assert np.allclose(size, box_size(np.c_[np.zeros((len(size), 2)), size, size]))
    else:
        size = eye_distance(xyv[..., :2], {"cofw": EYES_COFW, "wflw": EYES_WFLW}.get(name, EYES_68))
    assert nme(case["pred_keypoints"], xyv[..., :2], xyv[..., 2], size) == pytest.approx(
        case["result"]["NME"], abs=1e-6
    )
