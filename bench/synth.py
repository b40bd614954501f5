"""How fast synthetic images are drawn and written.

python bench/synth.py [--images 200] [--workers 2]
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import cv2

from pose_nb.synth import make_dataset, render


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    render(0)
    start = time.process_time()
    count = min(options.images, 60)
    for index in range(count):
        cv2.imencode(".jpg", render([0, index])[0][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    cpu = (time.process_time() - start) / count
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        make_dataset(Path(folder) / "people", train=options.images, val=0, workers=options.workers)
        wall = time.perf_counter() - start
    print(
        json.dumps(
            {
                "images": options.images,
                "workers": options.workers,
                "cpu_ms_per_image": round(cpu * 1000, 1),
                "images_per_s": round(options.images / wall, 1),
                "load": os.getloadavg()[0],
                "cores": os.cpu_count(),
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
