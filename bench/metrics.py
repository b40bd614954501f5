"""Time of our OKS matching against pycocotools, on random people of the size of COCO val2017.

    python bench/metrics.py                  # 5,000 images, about 11,000 people, 20 detections an image
    python bench/metrics.py --images 500     # a quick look

Both see the same people and detections in one run and must give the same ten figures; prints seconds and their ratio.
"""

import argparse
import time

import numpy as np

from pose_nb.metrics.oks import coco_ap, coco_official, oks_nms, rescore
from pose_nb.skeletons import COCO


def random_set(images, per_image=2.2, detections=20, seed=0):
    """People and detections (half of them near a person) as a COCO ground truth dict and a list of
    results."""
    rng = np.random.default_rng(seed)
    gt, results = (
        {
            "images": [{"id": i + 1} for i in range(images)],
            "categories": [{"id": 1, "name": "person"}],
            "annotations": [],
        },
        [],
    )
    for image in range(1, images + 1):
        people = []
        for _ in range(rng.poisson(per_image)):
            w, h = rng.uniform(20, 300, 2)
            points, v = (
                rng.uniform(0, 1, (17, 2)) * [w, h] + rng.uniform(0, 300, 2),
                rng.choice([0, 1, 2], 17),
            )
            people.append((points, (w * h) ** 0.5))
            gt["annotations"].append(
                {
                    "id": len(gt["annotations"]) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "iscrowd": int(rng.random() < 0.01),
                    "area": float(w * h) * 0.6,
                    "bbox": [*points.min(0).tolist(), w, h],
                    "num_keypoints": int((v > 0).sum()),
                    "keypoints": np.c_[points, v].ravel().round(2).tolist(),
                }
            )
        for d in range(detections):
            near = people and d % 2
            points, size = (
                people[rng.integers(len(people))] if near else (rng.uniform(0, 500, (17, 2)), 50)
            )
            points = points + rng.normal(0, rng.uniform(0.01, 0.1) * size, (17, 2))
            w, h = np.ptp(points, axis=0)
            results.append(
                {
                    "image_id": image,
                    "category_id": 1,
                    "score": float(rng.random()),
                    "bbox": [*points.min(0).tolist(), w, h],
                    "keypoints": np.c_[points, rng.random(17)].ravel().round(2).tolist(),
                }
            )
    return gt, results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=20, help="per image")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    gt, results = random_set(args.images, detections=args.detections, seed=args.seed)
    print(
        f"{args.images} images, {len(gt['annotations'])} people, {len(results)} detections of 17 keypoints"
    )
    coco_ap(*random_set(5), COCO.sigmas)  # warm up
    seconds, figures = [], []
    for evaluate in (coco_ap, coco_official):
        start = time.perf_counter()
        figures.append(evaluate(gt, results, COCO.sigmas))
        seconds.append(time.perf_counter() - start)
    if figures[0] != figures[1]:
        raise SystemExit(f"the figures differ: {figures}")
    print(
        f"AP {figures[0]['AP']:.4f} from both; matching and AP: ours {seconds[0]:.2f} s, pycocotools {seconds[1]:.2f} s, "
        f"ratio {seconds[1] / seconds[0]:.1f}"
    )

    rng = np.random.default_rng(args.seed)
    poses, scores = rng.uniform(0, 300, (50, 17, 2)), rescore(rng.random((50, 17)), rng.random(50))
    start = time.perf_counter()
    for _ in range(100):
        oks_nms(poses, scores, np.full(50, 1e4), COCO.sigmas)
    print(f"OKS-NMS of 50 poses in an image: {10 * (time.perf_counter() - start):.2f} ms")


if __name__ == "__main__":
    main()
