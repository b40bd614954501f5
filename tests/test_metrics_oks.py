"""OKS, matching and AP: against figures recorded from MMPose 1.3.2, pycocotools and faster-coco-eval."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pose_nb.files import InputError
from pose_nb.metrics.oks import (
    coco_ap,
    coco_official,
    coco_tables,
    crowdpose_ap,
    oks,
    oks_nms,
    pose_similarity,
    results_from_predictions,
    soft_oks_nms,
)
from pose_nb.skeletons import AIC, ALL, COCO, CROWDPOSE

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics_oks.json").read_text())
KEYS = {
    "AP": "AP",
    "AP .5": "AP50",
    "AP .75": "AP75",
    "AP (M)": "APM",
    "AP (L)": "APL",
    "AR": "AR",
    "AR .5": "AR50",
    "AR .75": "AR75",
    "AR (M)": "ARM",
    "AR (L)": "ARL",
    "AP(E)": "APE",
    "AP(M)": "APM",
    "AP(H)": "APH",
}


def reference(name):
    folder = os.environ.get("POSE_NB_REFERENCE")
    if not folder:
        pytest.skip("set POSE_NB_REFERENCE=<folder of the recorded figures> to run")
    return json.loads((Path(folder) / "components" / "golden" / name).read_text())


def arrays(detections, aspect=192 / 256):
    """What a predictor would hand over, in float32."""
    field = lambda name: np.array([d[name] for d in detections], np.float32)
    xywh = field("bbox_xywh")
    w, h = 1.25 * xywh[:, 2], 1.25 * xywh[:, 3]
    w, h = np.where(w > aspect * h, w, aspect * h), np.where(w > aspect * h, w / aspect, h)
    boxes = np.c_[xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]
    return dict(
        keypoints=field("keypoints"),
        scores=field("keypoint_scores"),
        boxes=boxes,
        box_scores=field("bbox_score"),
        areas=w * h,
        image_ids=[d["img_id"] for d in detections],
        ids=[d["id"] for d in detections],
    )


def check_case(case):
    skeleton = next(s for s in ALL if s.name == case["dataset"])
    for expected in case["results"]:
        options, given = expected["options"], arrays(case["detections"])
        mode = options.get("score_mode")
        own = (
            given["box_scores"]
            if mode == "bbox"
            else given["scores"].mean(1)
            if mode == "keypoint"
            else None
        )
        nms = None if options.get("nms_mode") == "none" else options.get("nms_thr", 0.9)
        results = results_from_predictions(
            **given,
            sigmas=skeleton.sigmas,
            nms=nms,
            score_thr=options.get("keypoint_score_thr", 0.2),
            soft=options.get("nms_mode") == "soft_oks_nms",
            instance_scores=own,
        )
        assert len(results) == expected["n_after_nms"], options
        if expected["kept"]:
            kept = np.array([[r["image_id"], r["score"], r["keypoints"][0]] for r in results])
            assert np.allclose(kept, expected["kept"], rtol=1e-6, atol=1e-6)
        if options.get("iou_type") == "keypoints_crowd":
            figures = crowdpose_ap(case["gt"], results, skeleton.sigmas, drop_unscored=True)
        else:
            figures = coco_ap(
                case["gt"],
                results,
                skeleton.sigmas,
                options.get("use_area", True),
                drop_unscored=True,
            )
        assert figures == pytest.approx(
            {KEYS[k]: v for k, v in expected["metrics"].items()}, abs=1e-6
        ), options


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: c["tag"])
def test_recorded_figures(case):
    check_case(case)


def test_all_recorded_figures():
    for case in reference("metrics_coco.json")["cases"]:
        check_case(case)


def check_nms(case):
    xyv = np.array(case["keypoints_xy_score"])
    poses, scores, areas = xyv[..., :2], case["scores"], case["areas"]
    assert np.abs(pose_similarity(poses, areas, COCO.sigmas) - case["oks_matrix"]).max() < 1e-6
    for threshold, kept in case["oks_nms"].items():
        assert oks_nms(poses, scores, areas, COCO.sigmas, float(threshold)).tolist() == kept
    for threshold, kept in case["soft_oks_nms"].items():
        assert soft_oks_nms(poses, scores, areas, COCO.sigmas, float(threshold)).tolist() == kept
    assert (
        soft_oks_nms(poses, scores, areas, COCO.sigmas, 0.9, most=4).tolist()
        == case["soft_oks_nms_maxdets4"]
    )


def test_nms():
    check_nms(GOLDEN["oks_nms"])


def test_nms_reference():
    check_nms(reference("metrics_points.json")["oks_nms"])


def random_case(
    seed, K, images=6, people=4, detections=26, categories=1, boxes=True, int_grid=False
):
    rng = np.random.default_rng(seed)
    gt = {
        "images": [
            {"id": int(i), "crowdIndex": float(rng.choice([0.1, 0.2, 0.5, 0.8, 0.9]))}
            for i in rng.permutation(images * 3)[:images]
        ],
        "categories": [{"id": c + 1} for c in range(categories)],
        "annotations": [],
    }
    results = []
    ids = rng.permutation(10_000)[: images * people] + 1
    for image in gt["images"]:
        group = []
        for _ in range(rng.integers(0, people + 1)):
            w, h = rng.choice([32.0, 96.0, 33.0, 150.0, 10.0], 2)
            points = rng.uniform(0, 1, (K, 2)) * [w, h] + rng.uniform(0, 200, 2)
            if group and rng.random() < 0.3:
                points = group[-1].copy()
            if int_grid:
                points = points.round()
            v = rng.choice([0, 1, 2], K) * (rng.random() > 0.2)
            group.append(points)
            gt["annotations"].append(
                {
                    "id": int(ids[len(gt["annotations"])]),
                    "image_id": image["id"],
                    "category_id": int(rng.integers(categories)) + 1,
                    "area": float(rng.choice([w * h, 32**2, 96**2, 0.0])),
                    "bbox": [*points.min(0).tolist(), w, h],
                    "iscrowd": int(rng.random() < 0.2),
                    "num_keypoints": int((v == 2).sum()),
                    "keypoints": np.c_[points, v].ravel().tolist(),
                }
            )
        for _ in range(rng.integers(0, detections + 1)):
            base = group[rng.integers(len(group))] if group else rng.uniform(0, 300, (K, 2))
            points = base + rng.normal(0, rng.choice([0, 0.5, 3, 10, 60]), (K, 2))
            result = {
                "image_id": image["id"],
                "category_id": int(rng.integers(categories)) + 1,
                "score": float(rng.choice([0, 0.5, 0.5, 0.9, rng.random()])),
                "keypoints": np.c_[points.round() if int_grid else points, rng.random(K)]
                .ravel()
                .tolist(),
            }
            results.append(
                result
                | (
                    {"bbox": [0.0, 0.0, *rng.choice([32.0, 96.0, 50.0], 2).tolist()]}
                    if boxes
                    else {}
                )
            )
    return gt, results


@pytest.mark.parametrize("seed", range(24))
def test_equals_pycocotools_to_the_last_bit(seed):
    K = (1, 2, 3, 8, 9, 14, 17, 21, 68, 98, 133)[seed % 11]
    gt, results = random_case(
        seed, K, categories=1 + seed % 2, boxes=seed % 3 > 0, int_grid=seed % 5 == 0
    )
    sigmas = np.random.default_rng(seed).uniform(0.02, 0.2, K)
    for use_area in (True, False):
        assert coco_ap(gt, results, sigmas, use_area) == coco_official(
            gt, results, sigmas, use_area
        )


def test_the_comparison_can_fail():
    gt, results = random_case(1, 17)
    assert coco_ap(gt, results, COCO.sigmas) != coco_official(
        gt, results, np.array(COCO.sigmas) * 1.2
    )
    assert coco_ap(gt, results[::-1], COCO.sigmas) == coco_official(gt, results[::-1], COCO.sigmas)


@pytest.mark.parametrize("seed", range(6))
def test_crowdpose_equals_faster_coco_eval(seed, tmp_path):
    pytest.importorskip("faster_coco_eval")
    from faster_coco_eval import COCO as Faster, COCOeval_faster

    gt, results = random_case(seed + 50, 14, images=12)
    file = tmp_path / "gt.json"
    people = [a | {"area": a["bbox"][2] * a["bbox"][3] * 0.53} for a in gt["annotations"]]
    file.write_text(json.dumps(gt | {"annotations": people}))
    truth = Faster(str(file))
    evaluation = COCOeval_faster(
        truth,
        truth.loadRes([dict(r) for r in results]),
        "keypoints_crowd",
        print_function=lambda *a: None,
        kpt_oks_sigmas=np.array(CROWDPOSE.sigmas),
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = crowdpose_ap(gt, results, CROWDPOSE.sigmas)
    assert list(ours.values()) == pytest.approx(evaluation.all_stats.tolist(), abs=1e-9)


def test_annotation_id_zero_is_pycocotools_miss():
    gt, results = random_case(3, 5)
    gt["annotations"][0]["id"] = 0
    with pytest.warns(UserWarning, match="id 0"):
        ours = coco_ap(gt, results, [0.05] * 5)
    assert ours == coco_official(gt, results, [0.05] * 5)


def test_nothing_there():
    gt, results = random_case(7, 17)
    nobody = gt | {"annotations": []}
    for g, r in ((gt, []), (nobody, results), (nobody, [])):
        assert coco_ap(g, r, COCO.sigmas) == coco_official(g, r, COCO.sigmas)
    assert (
        results_from_predictions(
            np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros((0, 4)), [], [], [], [], COCO.sigmas
        )
        == []
    )


def test_tables_name_the_person():
    gt, results = random_case(11, 17)
    tables = coco_tables(gt, results, COCO.sigmas)
    ids, hits = tables["matched"], tables["hit"]
    assert set(ids[hits]) <= {a["id"] for a in gt["annotations"]} and hits.any()
    images = {a["id"]: a["image_id"] for a in gt["annotations"]}
    a, t, d = np.nonzero(hits)
    assert all(
        images[i] == results[tables["index"][k]]["image_id"] for i, k in zip(ids[a, t, d], d)
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"keypoints": [1.0, 2, 3]}, "51 are needed"),
        ({"image_id": -5}, "not in the ground truth"),
        ({"keypoints": [float("nan")] * 51}, "not finite"),
    ],
)
def test_wrong_results(change, message):
    gt, results = random_case(2, 17)
    with pytest.raises(InputError, match=message):
        coco_ap(gt, [results[0] | change], COCO.sigmas)


def test_oks_shapes_for_many_counts():
    for K in (1, 133):
        one = oks(
            np.zeros((4, K, 2)),
            np.zeros((4, K, 2)),
            np.ones((4, K)),
            np.ones(4),
            np.ones((4, 4)),
            np.full(K, 0.05),
        )
        assert one.tolist() == [1] * 4
    assert AIC.sigmas is not None
