"""What the course shows without making its reader wait: the error bar, and trainings of a minute.

python bench/course.py [PART …]

Parts: bar (the error bar of the network in nbs/demo_weights.safetensors), heads and losses
(trainings of chapters 2 and 6), film (the demo's training, heatmap by heatmap). All by default;
each replaces its part of bench/records/course.json, the film also nbs/course/film.npz.
"""

import argparse
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import torch

from pose_nb.demo import demo_row, demo_settings, draw_data, teach
from pose_nb.demo_page import learning_log
from pose_nb.environment import environment
from pose_nb.files import read_json, temporary_folder, write_json
from pose_nb.lessons import course as lessons
from pose_nb.losses import adaptive_wing, keypoint_mse, ohkm

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "bench" / "records" / "course.json"
UPDATES, BATCH = 300, 16  # about a minute on one core
LOSSES = {"squared error": keypoint_mse, "hardest 8": ohkm, "adaptive wing": adaptive_wing}


@cache
def home() -> Path:
    """The demo's pictures, to learn from and held out."""
    return draw_data(temporary_folder() / "data", demo_settings(quick=False, seed=0))


@cache
def crops() -> tuple[lessons.Crops, lessons.Crops]:
    """The people to learn from, and the held-out ones."""
    row = demo_row()
    parts = (row.benchmark.load(home(), part) for part in ("train", "val"))
    learn_from, held_out = (lessons.crops_of(records, row) for records in parts)
    return learn_from, held_out


def trained(way: lessons.Way, people: int) -> dict:
    """One training on the first so many people, and what it found."""
    learn_from, held_out = crops()
    some = lessons.Crops(*[part[:people] for part in learn_from])
    began = time.perf_counter()
    network, log = lessons.learn(way, some, UPDATES, held_out, batch=BATCH)
    seconds = time.perf_counter() - began
    found = lessons.find(way, network, held_out)
    ap = lessons.crop_ap(found, held_out, lessons.held_out_people(), demo_row())
    figures = {"people": len(some.images), "error": log[-1][2], "AP": ap}
    print(figures, f"{seconds:.0f} s", flush=True)
    known = {"learnt by heart": lessons.crop_error(lessons.find(way, network, some), some)}
    return figures | known | {"log": log, "seconds": round(seconds)}


def bar() -> list:
    _, model = lessons.learnt_network(ROOT / "nbs" / "demo_weights.safetensors")
    return [list(stage) for stage in lessons.measure_stages(model)]


def heads() -> dict:
    ways = lessons.ways(demo_row().codec)
    return {name: [trained(way, n) for n in (100, 500, 10_000)] for name, way in ways.items()}


def losses() -> dict:
    codec = demo_row().codec
    return {
        name: trained(lessons.heatmap_way(codec, loss), 10_000) for name, loss in LOSSES.items()
    }


def film() -> dict:
    """The demo's training; its heatmaps of one held-out person before and after each epoch."""
    settings, folder = demo_settings(quick=False, seed=0), temporary_folder()
    _, diary = teach(demo_row(), home(), folder, settings, torch.device("cpu"))
    pages = (np.stack(diary.pages).clip(0, 1) * 255).round().astype(np.uint8)
    target = ROOT / "nbs" / "course" / "film.npz"
    target.parent.mkdir(exist_ok=True)
    np.savez_compressed(target, crop=diary.crop.permute(1, 2, 0).numpy(), heatmaps=pages)
    return learning_log(folder / "metrics.jsonl")


PARTS = {"error bar": bar, "losses": losses, "heads": heads, "film": film}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="of " + ", ".join(PARTS))
    wanted = parser.parse_args().parts or list(PARTS)
    torch.set_num_threads(1)
    for name in wanted:
        result = PARTS[name]()
        record = read_json(RECORD) if RECORD.exists() else {}
        about = {"what": "held-out SYNTHETIC people drawn by pose_nb.synth: no photographs"}
        about |= {"command": "python bench/course.py", "updates": UPDATES, "people in each": BATCH}
        when = {"date": datetime.now(UTC).isoformat(timespec="seconds")}
        made = record.get("made", {}) | {name: when | {"environment": environment("cpu")}}
        write_json(RECORD, record | about | {name: result, "made": made})


if __name__ == "__main__":
    main()
