"""What it costs to start on a large annotation file and to load samples, and where the time goes.

    python bench/loader.py [--people N] [--pictures N] [--epochs N] [--note TEXT] [--out FILE]

150,000 people, 240 pictures and 4 epochs unless told otherwise, all of it synthetic: people with
COCO's fields and outlines of 23 points, JPEG files of 640 x 480 with a smooth pattern and noise.
Start: seconds of a fresh process from the file to records, the first time and the next ones. A
sample: median milliseconds of each part in one process. Loading: samples a second with no, one and
two workers (192 x 256, body augmentation), and each worker's private memory after every epoch. The
record of this project is bench/records/loader.json.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import cv2
import numpy as np

from pose_nb.data.augment import BODY, mirror_image
from pose_nb.data.crop import warp
from pose_nb.data.inputs import read_image
from pose_nb.data.loader import PoseDataset, make_loader
from pose_nb.data.records import from_boxes
from pose_nb.environment import code_version, hardware
from pose_nb.files import write_json
from pose_nb.geometry import crop_matrix
from pose_nb.skeletons import COCO

START = """
import sys, time
from pathlib import Path
from pose_nb.data.cache import read_records
from pose_nb.data.readers import load_coco
from pose_nb.skeletons import COCO
began = time.process_time(), time.perf_counter()
records = read_records(load_coco, Path(sys.argv[1]), "pictures", COCO)
print(time.process_time() - began[0], time.perf_counter() - began[1], len(records),
      len({id(name) for name in records.image_files}))
"""


def write_annotations(path, people, pictures):
    """People with boxes, 17 keypoints and outlines, as COCO's file has them."""
    rng = np.random.default_rng(0)
    owners = np.sort(np.concatenate([np.arange(pictures), rng.integers(0, pictures, people)]))
    images = [
        dict(id=i, file_name=f"{i:012d}.jpg", width=640, height=480, license=1)
        for i in range(pictures)
    ]
    with open(path, "w") as file:
        file.write(f'{{"images": {json.dumps(images)}, "annotations": [')
        for i in range(people):
            visible = rng.integers(0, 3, (17, 1))
            points = np.concatenate([rng.integers(1, 400, (17, 2)) * (visible > 0), visible], 1)
            person = dict(id=i, image_id=int(owners[i]), category_id=1, iscrowd=0)
            person |= dict(bbox=rng.uniform(40, 300, 4).round(2).tolist(), area=9000.5)
            person |= dict(
                keypoints=points.ravel().tolist(), num_keypoints=int((visible > 0).sum())
            )
            person |= dict(segmentation=[rng.uniform(0, 480, 46).round(2).tolist()])
            file.write((", " if i else "") + json.dumps(person))
        file.write("]}")


def starts(folder, people):
    """CPU and wall seconds of the first start and of two more, each in a process of its own."""
    path = folder / "people.json"
    write_annotations(path, people, max(1, int(people * 0.386)))
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", START, str(path)], capture_output=True, text=True, check=True
        )
        runs.append([float(x) for x in done.stdout.split()])
    cpu, wall = ([round(run[i], 3) for run in runs] for i in (0, 1))
    return {
        "people": int(runs[0][2]),
        "MiB": round(path.stat().st_size / 2**20, 1),
        "distinct path strings": int(runs[0][3]),
        "first start, CPU s": cpu[0],
        "next starts, CPU s": cpu[1:],
        "first start, s": wall[0],
        "next starts, s": wall[1:],
    }


def make_people(folder, pictures):
    """Records of two people in each of some JPEG files."""
    rng, files, boxes = np.random.default_rng(0), [], []
    for i in range(pictures):
        coarse = rng.integers(0, 256, (15, 20, 3)).astype(np.float32)
        image = cv2.resize(coarse, (640, 480)) + rng.normal(0, 6, (480, 640, 3))
        file = str(folder / f"{i}.jpg")
        cv2.imwrite(file, image.clip(0, 255).astype(np.uint8))
        for _ in range(2):
            x, y, w, h = rng.uniform(0, 300), rng.uniform(0, 100), *rng.uniform(80, 330, 2)
            files.append(file)
            boxes.append([x, y, x + w, y + h])
    boxes, N = np.float32(boxes), len(boxes)
    share = rng.uniform(0, 1, (N, 17, 2))
    points = boxes[:, None, :2] + share * (boxes[:, None, 2:] - boxes[:, None, :2])
    ids = np.arange(N)
    return from_boxes(COCO, files, ids // 2, ids, boxes, points, np.ones((N, 17)), np.ones(N))


def milliseconds(function, count=200):
    """Median time of function(i)."""
    times = []
    for i in range(count):
        start = time.perf_counter()
        function(i)
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 3)


def parts(records):
    """Milliseconds of the parts of a sample, and what two shortcuts would give."""
    files, size = records.image_files[::2], (192, 256)
    data = [np.fromfile(file, np.uint8) for file in files]
    picture, n = read_image(files[0]), len(files)
    matrix = crop_matrix([320, 240], np.float32([270, 360]), 20, size)
    crop, wide = warp(picture, matrix, size), crop_matrix([320, 240], [480, 640], 20, size)
    plain, train = (PoseDataset(records, size, augment=a) for a in (None, BODY))
    half = np.float64([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])  # from the half picture to the whole
    reduced = cv2.imdecode(data[0], cv2.IMREAD_REDUCED_COLOR_2)[..., ::-1]
    quick = warp(np.ascontiguousarray(reduced), wide @ half, size).astype(int)
    mirror = np.float64([[-1, 0, picture.shape[1] - 1], [0, 1, 0], [0, 0, 1]])
    flipped = warp(mirror_image(picture), matrix, size)
    return {
        "test sample": milliseconds(lambda i: plain[2 * (i % n)]),
        "training sample": milliseconds(lambda i: train[2 * (i % n)]),
        "reading and decoding": milliseconds(lambda i: read_image(files[i % n])),
        "decoding to BGR": milliseconds(lambda i: cv2.imdecode(data[i % n], cv2.IMREAD_COLOR)),
        "exchange of channels, picture": milliseconds(
            lambda i: cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        ),
        "exchange of channels, crop": milliseconds(lambda i: cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)),
        "mirroring the picture": milliseconds(lambda i: mirror_image(picture)),
        "warp": milliseconds(lambda i: warp(picture, matrix, size)),
        "decoding at half the scale": milliseconds(
            lambda i: cv2.imdecode(data[i % n], cv2.IMREAD_REDUCED_COLOR_2)
        ),
        "half scale: mean difference of the crop, levels": round(
            float(np.abs(quick - warp(picture, wide, size)).mean()), 2
        ),
        "flip through the matrix: share of other bytes": round(
            float((flipped != warp(picture, matrix @ mirror, size)).mean()), 4
        ),
    }


def private_mib(pid):
    """Memory of a process that no other one shares, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kib = (int(line.split()[1]) for line in lines if line.startswith("Private"))
    return round(sum(kib) / 1024, 1)


def loading(records, workers, epochs):
    """Samples a second, and each worker's private memory after each epoch."""
    dataset = PoseDataset(records, (192, 256), augment=BODY)
    loader = make_loader(dataset, 16, workers, shuffle=True)
    rates, memory = [], []
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        start, seen = time.perf_counter(), 0
        for number, batch in enumerate(loader):
            if number == 0 and epoch == 0:  # without the start of the workers
                start = time.perf_counter()
                continue
            seen += len(batch["index"])
        rates.append(round(seen / (time.perf_counter() - start), 1))
        alive = getattr(loader._iterator, "_workers", [])
        memory.append([private_mib(worker.pid) for worker in alive])
    return {"samples per second": rates} | ({"MiB per worker": memory} if workers else {})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=150000)
    parser.add_argument("--pictures", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        records = make_people(Path(name), asked.pictures)
        record = {
            "command": shlex.join(["python", "bench/loader.py", *sys.argv[1:]]),
            "commit": code_version(),
            "date": date.today().isoformat(),
            "hardware": hardware("cpu"),
            "data": "synthetic annotation file; synthetic JPEG files of 640 x 480",
            "note": asked.note,
            "start": starts(Path(name), asked.people),
            "milliseconds": parts(records),
            "loading": {str(w): loading(records, w, asked.epochs) for w in (0, 1, 2)},
        }
    print(json.dumps(record, indent=1))
    if asked.out:
        write_json(asked.out, record)


if __name__ == "__main__":
    main()
