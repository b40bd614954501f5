"""OKS, matching and AP: pycocotools' figures to the last bit, whatever the files hold."""

import json

import numpy as np
import pytest

from pose_nb.files import InputError
from pose_nb.metrics.oks import coco_ap, coco_official, coco_tables, crowdpose_ap, oks
from pose_nb.skeletons import COCO, CROWDPOSE


def random_person(rng, group, K, int_grid):
    """An annotation without ids: sometimes a twin of the last one, sometimes unlabelled."""
    w, h = rng.choice([32.0, 96.0, 33.0, 150.0, 10.0], 2)
    points = rng.uniform(0, 1, (K, 2)) * [w, h] + rng.uniform(0, 200, 2)
    if group and rng.random() < 0.3:
        points = group[-1].copy()
    points = points.round() if int_grid else points
    v = rng.choice([0, 1, 2], K) * (rng.random() > 0.2)
    group.append(points)
    return {
        "area": float(rng.choice([w * h, 32**2, 96**2, 0.0])),
        "bbox": [*points.min(0).tolist(), w, h],
        "iscrowd": int(rng.random() < 0.2),
        "num_keypoints": int((v == 2).sum()),
        "keypoints": np.c_[points, v].ravel().tolist(),
    }


def random_result(rng, group, K, boxes, int_grid):
    """A result without ids, near somebody of the group or anywhere; its score is often tied."""
    base = group[rng.integers(len(group))] if group else rng.uniform(0, 300, (K, 2))
    points = base + rng.normal(0, rng.choice([0, 0.5, 3, 10, 60]), (K, 2))
    points = points.round() if int_grid else points
    result = {"score": float(rng.choice([0, 0.5, 0.5, 0.9, rng.random()]))}
    if boxes:
        result["bbox"] = [0.0, 0.0, *rng.choice([32.0, 96.0, 50.0], 2).tolist()]
    return result | {"keypoints": np.c_[points, rng.random(K)].ravel().tolist()}


def random_case(seed, K, images=6, categories=1, boxes=True, int_grid=False):
    """A ground truth and results full of ties, crowds, gaps, and areas on the bounds."""
    rng = np.random.default_rng(seed)
    ids, annotations, results = rng.permutation(10_000)[: images * 4] + 1, [], []
    names = [int(i) for i in rng.permutation(images * 3)[:images]]
    for image in names:
        group = []
        cell = lambda image=image: {
            "image_id": image,
            "category_id": int(rng.integers(categories)) + 1,
        }
        for _ in range(rng.integers(0, 5)):
            own = {"id": int(ids[len(annotations)])} | cell()
            annotations.append(own | random_person(rng, group, K, int_grid))
        for _ in range(rng.integers(0, 27)):
            results.append(cell() | random_result(rng, group, K, boxes, int_grid))
    crowded = [float(rng.choice([0.1, 0.2, 0.5, 0.8, 0.9])) for _ in names]
    gt = {"images": [{"id": i, "crowdIndex": c} for i, c in zip(names, crowded)]}
    gt["categories"] = [{"id": c + 1} for c in range(categories)]
    return gt | {"annotations": annotations}, results


@pytest.mark.parametrize("seed", range(24))
def test_equals_pycocotools_to_the_last_bit(seed):
    K = (1, 2, 3, 8, 9, 14, 17, 21, 68, 98, 133)[seed % 11]
    options = dict(categories=1 + seed % 2, boxes=seed % 3 > 0, int_grid=seed % 5 == 0)
    gt, results = random_case(seed, K, **options)
    sigmas = np.random.default_rng(seed).uniform(0.02, 0.2, K)
    for use_area in (True, False):
        ours, official = (f(gt, results, sigmas, use_area) for f in (coco_ap, coco_official))
        assert ours == official


def test_the_comparison_can_fail():
    gt, results = random_case(1, 17)
    assert coco_ap(gt, results, COCO.sigmas) != coco_official(
        gt, results, np.array(COCO.sigmas) * 2
    )
    backwards = results[::-1]  # another order among equal scores, the same for both
    assert coco_ap(gt, backwards, COCO.sigmas) == coco_official(gt, backwards, COCO.sigmas)


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


def test_annotation_id_zero_is_a_miss_as_in_pycocotools():
    gt, results = random_case(3, 5)
    gt["annotations"][0]["id"] = 0
    with pytest.warns(UserWarning, match="id 0"):
        ours = coco_ap(gt, results, [0.05] * 5)
    assert ours == coco_official(gt, results, [0.05] * 5)


def test_nobody_and_nothing_equal_pycocotools():
    gt, results = random_case(7, 17)
    nobody = gt | {"annotations": []}
    for g, r in ((gt, []), (nobody, results), (nobody, [])):
        assert coco_ap(g, r, COCO.sigmas) == coco_official(g, r, COCO.sigmas)


def test_the_arrays_name_each_detection_and_its_person():
    gt, results = random_case(11, 17)
    arrays = coco_tables(gt, results, COCO.sigmas)
    ids, hits = arrays["matched"], arrays["hit"]
    images = {a["id"]: a["image_id"] for a in gt["annotations"]}
    assert hits.any() and set(ids[hits]) <= set(images)
    a, t, d = np.nonzero(hits)
    for person, detection in zip(ids[a, t, d], d):
        assert images[person] == results[arrays["index"][detection]]["image_id"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"keypoints": [1.0, 2, 3]}, "51 are needed"),
        ({"image_id": -5}, "not in the ground truth"),
        ({"keypoints": [float("nan")] * 51}, "not finite"),
        ({"score": float("inf")}, "not finite"),
    ],
)
def test_wrong_results_are_named(change, message):
    gt, results = random_case(2, 17)
    with pytest.raises(InputError, match=message):
        coco_ap(gt, [results[0] | change], COCO.sigmas)


@pytest.mark.parametrize("K", [1, 133])
def test_a_perfect_pose_scores_one_for_any_count(K):
    points, ones = np.zeros((4, K, 2)), np.ones((4, K))
    perfect = oks(points, points, ones, np.ones(4), np.ones((4, 4)), np.full(K, 0.05))
    assert perfect.tolist() == [1] * 4
