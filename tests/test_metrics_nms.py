"""Rescoring, OKS-NMS and the result list, and the figures after them, as recorded from MMPose."""

import json
from pathlib import Path

import numpy as np
import pytest

from metric_keys import renamed
from pose_nb.metrics import nms
from pose_nb.metrics.nms import (
    oks_nms,
    pose_similarity,
    rescore,
    results_from_predictions,
    soft_oks_nms,
)
from pose_nb.metrics.oks import coco_ap, crowdpose_ap
from pose_nb.skeletons import ALL, COCO

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics_oks.json").read_text())
RARE = {"score_mode", "keypoint_score_thr"}  # options of the recording that no row of a table uses


def predictions(detections, aspect=192 / 256):
    """What a predictor would hand over, in float32."""
    field = lambda name: np.array([d[name] for d in detections], np.float32)
    xywh = field("bbox_xywh")
    w, h = 1.25 * xywh[:, 2], 1.25 * xywh[:, 3]
    w, h = np.where(w > aspect * h, w, aspect * h), np.where(w > aspect * h, w / aspect, h)
    return dict(
        keypoints=field("keypoints"),
        scores=field("keypoint_scores"),
        boxes=np.c_[xywh[:, :2], xywh[:, :2] + xywh[:, 2:]],
        box_scores=field("bbox_score"),
        areas=w * h,
        image_ids=np.array([d["img_id"] for d in detections]),
        ids=np.array([d["id"] for d in detections]),
    )


def by_hand(given, options, sigmas):
    """The result list from its steps, for options that `results_from_predictions` does not have."""
    scores, totals = given["scores"], given["box_scores"].astype(float)
    if options.get("score_mode") == "keypoint":
        totals = scores.mean(1).astype(float)
    elif options.get("score_mode") != "bbox":
        totals = rescore(scores, totals, options.get("keypoint_score_thr", 0.2))
    keep = soft_oks_nms if options.get("nms_mode") == "soft_oks_nms" else oks_nms
    groups = nms._rows_by_image(given["image_ids"], given["ids"])
    poses, areas = given["keypoints"], given["areas"]
    rows = np.concatenate([g[keep(poses[g], totals[g], areas[g], sigmas)] for g in groups])
    return nms._coco_rows(rows, poses, scores, given["boxes"], totals, given["image_ids"], 1)


def check_case(case):
    skeleton = next(s for s in ALL if s.name == case["dataset"])
    given = predictions(case["detections"])
    for expected in case["results"]:
        options = expected["options"]
        if RARE & set(options) or options.get("nms_mode") == "soft_oks_nms":
            results = by_hand(given, options, skeleton.sigmas)
        else:
            threshold = None if options.get("nms_mode") == "none" else options.get("nms_thr", 0.9)
            results = results_from_predictions(**given, sigmas=skeleton.sigmas, nms=threshold)
        assert len(results) == expected["n_after_nms"], options
        if expected["kept"]:
            kept = [[r["image_id"], r["score"], r["keypoints"][0]] for r in results]
            assert np.allclose(kept, expected["kept"], rtol=1e-6, atol=1e-6)
        scored = [r for r in results if max(r["keypoints"][2::3]) > 0]  # as MMPose's evaluator does
        if options.get("iou_type") == "keypoints_crowd":
            figures = crowdpose_ap(case["gt"], scored, skeleton.sigmas)
        else:
            use_area = options.get("use_area", True)
            figures = coco_ap(case["gt"], scored, skeleton.sigmas, use_area)
        recorded = renamed(expected["metrics"])
        assert figures == pytest.approx(recorded, abs=1e-6), options


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: c["tag"])
def test_figures_are_as_recorded(case):
    check_case(case)


def test_the_whole_recording(reference):
    file = reference / "components" / "golden" / "metrics_coco.json"
    for case in json.loads(file.read_text())["cases"]:
        check_case(case)


def test_the_order_of_suppression_is_as_recorded():
    case = GOLDEN["oks_nms"]
    poses = np.array(case["keypoints_xy_score"])[..., :2]
    scores, areas, sigmas = case["scores"], case["areas"], COCO.sigmas
    assert np.abs(pose_similarity(poses, areas, sigmas) - case["oks_matrix"]).max() < 1e-6
    for name, suppress in (("oks_nms", oks_nms), ("soft_oks_nms", soft_oks_nms)):
        for threshold, kept in case[name].items():
            assert suppress(poses, scores, areas, sigmas, float(threshold)).tolist() == kept
    few = soft_oks_nms(poses, scores, areas, sigmas, 0.9, most=4)
    assert few.tolist() == case["soft_oks_nms_maxdets4"]


@pytest.mark.parametrize("twins", [2, 5, 40])
def test_the_first_of_equal_scores_wins(twins):
    poses = np.repeat(np.random.default_rng(0).uniform(0, 99, (1, 17, 2)), twins, 0)
    kept = oks_nms(poses, np.full(twins, 0.5), np.full(twins, 1e4), COCO.sigmas)
    assert kept.tolist() == [0]


def test_nobody_gives_an_empty_list():
    nobody = [np.zeros((0, *shape)) for shape in ((17, 2), (17,), (4,), (), (), (), ())]
    assert results_from_predictions(*nobody, COCO.sigmas) == []
