"""How long the doctor takes for many people whose pictures are not there, and for pictures.

python bench/doctor.py [--people 150000] [--pictures 200]
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from pose_nb.doctor import examine
from pose_nb.skeletons import COCO
from pose_nb.synth import make_dataset


def make_labels(path: Path, people: int) -> None:
    """A COCO file of invented people without segmentation, 2.6 to a picture as in COCO."""
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 300, (people, 2)), rng.uniform(40, 160, (people, 2))
    points = corner[:, None] + rng.uniform(0.05, 0.95, (people, 17, 2)) * size[:, None]
    flags = rng.choice([0, 1, 2], (people, 17), p=[0.4, 0.1, 0.5])
    xyv = np.concatenate([(points * (flags > 0)[..., None]).round(), flags[..., None]], 2)
    images = int(people / 2.6) + 1
    annotations = [
        {"id": i + 1, "image_id": int(i / 2.6) + 1, "category_id": 1, "iscrowd": 0, "area": a,
         "bbox": box, "keypoints": keypoints, "num_keypoints": count}
        for i, (a, box, keypoints, count) in enumerate(zip(
            (0.5 * size.prod(1)).tolist(), np.concatenate([corner, size], 1).round(2).tolist(),
            xyv.astype(int).reshape(people, 51).tolist(), (flags > 0).sum(1).tolist()))
    ]  # fmt: skip
    files = [
        {"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480}
        for i in range(1, images + 1)
    ]
    category = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints), "skeleton": []}
    content = {"images": files, "annotations": annotations, "categories": [category]}
    path.write_text(json.dumps(content))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=150_000)
    parser.add_argument("--pictures", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.json"
        make_labels(file, options.people)
        start = time.perf_counter()
        json.loads(file.read_text())
        parsing = time.perf_counter() - start
        start, cpu = time.perf_counter(), time.process_time()
        examine(file)
        labels, labels_cpu = time.perf_counter() - start, time.process_time() - cpu
        pictures = Path(folder) / "people"
        make_dataset(pictures, train=options.pictures, val=0, progress=False)
        times = {}
        for name, how in {"header_and_hash": {}, "decoded": {"decode": True}}.items():
            start = time.perf_counter()
            examine(pictures, **how)
            times[name] = round((time.perf_counter() - start) * 1000 / options.pictures, 2)
    print(
        json.dumps(
            {
                "people": options.people,
                "json_alone_s": round(parsing, 2),
                "labels_s": round(labels, 2),
                "labels_cpu_s": round(labels_cpu, 2),
                "ms_per_picture_320x256": times,
                "load": os.getloadavg()[0],
                "cores": os.cpu_count(),
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
