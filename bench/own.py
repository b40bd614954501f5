"""What a small network learns of real pictures with keypoints of their own, in minutes on a CPU.

python bench/own.py FOLDER [--pictures 600] [--epochs 15] [--finetune demo_weights.safetensors]

FOLDER: `joints.mat`, `images/`, `train.txt`, `val.txt` (Leeds Sports Pose Extended, 14 joints),
or `crops/` with `helen_train/`, `afw/` and `helen_test/` of .jpg and .pts (68 landmarks, from 1).
"""

import argparse
import csv
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pose_nb import own
from pose_nb.codecs.udp import UDP
from pose_nb.demo import demo_row
from pose_nb.environment import environment

LSP = """right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow
right_shoulder left_shoulder left_elbow left_wrist neck head_top""".split()


def lsp_points(folder: Path, part: str) -> dict[str, np.ndarray]:
    """Picture -> (14, 3) x, y counted from 0, visible."""
    from scipy.io import loadmat

    joints = loadmat(folder / "joints.mat")["joints"]
    names = [line.split()[0] for line in (folder / f"{part}.txt").read_text().splitlines() if line]
    points = {}
    for name in names:
        number = int("".join(filter(str.isdigit, Path(name).stem)))
        xyv = joints[:, :, number - 1] - [1, 1, 0]
        points[f"images/{Path(name).stem}.jpg"] = xyv
    return points


def face_points(folder: Path, part: str) -> dict[str, np.ndarray]:
    """Picture -> (68, 3) x, y counted from 0, visible."""
    parts = ("helen_train", "afw") if part == "train" else ("helen_test",)
    points = {}
    for file in sorted(f for name in parts for f in (folder / "crops" / name).glob("*.pts")):
        text = file.read_text().split("{")[1].split("}")[0]
        xy = np.array(text.split(), float).reshape(-1, 2) - 1
        picture = file.with_suffix(".jpg").relative_to(folder).as_posix()
        points[picture] = np.concatenate([xy, np.ones((len(xy), 1))], 1)
    return points


def write_csv(path: Path, points: dict[str, np.ndarray], names: list[str]) -> None:
    """The labels as the smallest file that is understood; what is not visible stays empty."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(f"{name}_{axis}" for name in names for axis in "xy")])
        for picture, xyv in points.items():
            cells = [(x, y) if v > 0 else ("", "") for x, y, v in xyv.round(2).tolist()]
            writer.writerow([picture, *(cell for pair in cells for cell in pair)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=600, help="to learn from, at most")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", type=Path, help="folder of the run; default: a temporary one")
    parser.add_argument("--finetune", type=Path, help="weights of the demo's network")
    options = parser.parse_args()
    body = (options.folder / "joints.mat").exists()
    read, names = (lsp_points, LSP) if body else (face_points, [f"p{i:02d}" for i in range(68)])
    row = demo_row()
    if not body:
        row = replace(row, codec=UDP((96, 96), (24, 24), sigma=1.5))
    with tempfile.TemporaryDirectory() as home:
        labels, began = Path(home) / "labels", time.perf_counter()
        labels.mkdir()
        for part in ("train", "val"):
            found = read(options.folder, part)
            if part == "train":
                chosen = np.random.default_rng(0).permutation(sorted(found))[: options.pictures]
                found = {name: found[name] for name in sorted(chosen)}
            write_csv(labels / f"{part}.csv", found, names)
        out = options.out or Path(home) / "run"
        how = dict(epochs=options.epochs, batch_size=32, lr=6e-3, device="cpu", anyway=True)
        how |= dict(images=options.folder, start="random", eval_every=5, weights=options.finetune)
        _, figures = own.train_own(labels, out, row, **how)
        facts = json.loads((out / "test" / "figures.json").read_text())
    record = {
        "data": options.folder.name,
        "pictures": options.pictures,
        "held out": facts["images"],
        "epochs": options.epochs,
        "start": options.finetune.name if options.finetune else "random",
        "figures": {name: round(value, 4) for name, value in figures.items()},
        "median error, % of the box": facts["keypoints"],
        "seconds": round(time.perf_counter() - began),
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "environment": environment("cpu"),
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
