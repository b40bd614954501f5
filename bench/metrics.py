"""Time of our OKS matching against pycocotools, on random people of the size of COCO val2017.

    python bench/metrics.py                # 5,000 images, about 11,000 people, 20 detections each
    python bench/metrics.py --images 500   # a quick look

Both see the same people and detections in one run and must give the same ten figures; prints
seconds and their ratio.
"""

import argparse
import time

import numpy as np

from pose_nb.metrics.nms import oks_nms, rescore
from pose_nb.metrics.oks import coco_ap, coco_official
from pose_nb.skeletons import COCO


def random_person(rng):
    """One person: keypoints (17, 2), visibility (17,), box size (2,)."""
    size = rng.uniform(20, 300, 2)
    points = rng.uniform(0, 1, (17, 2)) * size + rng.uniform(0, 300, 2)
    return points, rng.choice([0, 1, 2], 17), size


def random_detection(rng, people):
    """Keypoints (17, 2): near one of the people, or anywhere if there are none."""
    if people:
        points, _, size = people[rng.integers(len(people))]
        spread = rng.uniform(0.01, 0.1) * np.prod(size) ** 0.5
    else:
        points, spread = rng.uniform(0, 500, (17, 2)), rng.uniform(0.01, 0.1) * 50
    return points + rng.normal(0, spread, (17, 2))


def random_set(images, per_image=2.2, detections=20, seed=0):
    """People and detections (half of them near a person): COCO's ground truth and results."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, images + 1):
        people = [random_person(rng) for _ in range(rng.poisson(per_image))]
        for points, v, (w, h) in people:
            one = dict(id=len(annotations) + 1, image_id=image, category_id=1)
            one |= dict(area=float(w * h) * 0.6, iscrowd=int(rng.random() < 0.01))
            one |= dict(bbox=[*points.min(0).tolist(), w, h], num_keypoints=int((v > 0).sum()))
            annotations.append(one | {"keypoints": np.c_[points, v].ravel().round(2).tolist()})
        for d in range(detections):
            points = random_detection(rng, people if d % 2 else [])
            one = dict(image_id=image, category_id=1, score=float(rng.random()))
            one["bbox"] = [*points.min(0).tolist(), *np.ptp(points, axis=0)]
            one["keypoints"] = np.c_[points, rng.random(17)].ravel().round(2).tolist()
            results.append(one)
    gt = {"images": [{"id": i + 1} for i in range(images)], "annotations": annotations}
    return gt | {"categories": [{"id": 1, "name": "person"}]}, results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=20, help="per image")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    gt, results = random_set(args.images, detections=args.detections, seed=args.seed)
    people = len(gt["annotations"])
    print(f"{args.images} images, {people} people, {len(results)} detections of 17 keypoints")
    coco_ap(*random_set(5), COCO.sigmas)  # warm up
    seconds, figures = [], []
    for evaluate in (coco_ap, coco_official):
        start = time.perf_counter()
        figures.append(evaluate(gt, results, COCO.sigmas))
        seconds.append(time.perf_counter() - start)
    if figures[0] != figures[1]:
        raise SystemExit(f"the figures differ: {figures}")
    print(
        f"AP {figures[0]['AP']:.4f} from both; matching and AP: ours {seconds[0]:.2f} s,", end=" "
    )
    print(f"pycocotools {seconds[1]:.2f} s, ratio {seconds[1] / seconds[0]:.1f}")

    rng = np.random.default_rng(args.seed)
    poses, scores = rng.uniform(0, 300, (50, 17, 2)), rescore(rng.random((50, 17)), rng.random(50))
    start = time.perf_counter()
    for _ in range(100):
        oks_nms(poses, scores, np.full(50, 1e4), COCO.sigmas)
    print(f"OKS-NMS of 50 poses in an image: {10 * (time.perf_counter() - start):.2f} ms")


if __name__ == "__main__":
    main()
