"""How long `predict` takes, beside the bare network, a loop over people, and a keypoint R-CNN.

    python bench/predict.py [--row ROW] [--people 1 10 100] [--runs 5] [--device cpu] [--out FILE]

One picture of 1280 x 720 with boxes spread over it; random weights, since only time is measured,
flip test off and on. In milliseconds, the median of some runs after one that warms up, turn by
turn, so that a busy machine disturbs all alike:

- predict: pixels and boxes in, keypoints out;
- network: the same number of crops, already cut and normalised, through the network alone;
- loop: `predict` for one person after the other, as tools without batches do;
- rcnn: torchvision's keypoint R-CNN on the picture, which finds its people itself; it is told to
  keep as many as there are boxes, since untrained it would keep a hundred.

Then, for networks of several kinds, the time with channels last, as `predict` lays numbers out,
as a share of that with PyTorch's usual order.

The record of this project is bench/records/predict.json.
"""

import argparse
import copy
import statistics
import time
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision

from pose_nb.environment import code_version, hardware
from pose_nb.files import write_json
from pose_nb.inference import pick_device, ready
from pose_nb.prediction import predict
from pose_nb.tables.zoo import get_row

SIZE = (1280, 720)
LAYOUTS = """coco/shufflenet-v2 coco/mobilenet-v2 coco/resnet-50 coco/resnest-50 coco/hrnet-w32
coco/vitpose-s""".split()


def boxes_of(people, rng):
    """Boxes (N, 4) of about a person's shape, inside of the picture."""
    height = rng.uniform(120, 500, people)
    low = rng.uniform(0, 1, (people, 2)) * (np.array(SIZE) - np.stack([height / 2.5, height], 1))
    return np.concatenate([low, low + np.stack([height / 2.5, height], 1)], 1).astype(np.float32)


def medians(ways, runs):
    """{name: median milliseconds} of functions that are called turn by turn."""
    times = {name: [] for name in ways}
    for turn in range(runs + 1):
        for name, call in ways.items():
            began = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: round(statistics.median(values), 1) for name, values in times.items()}


@torch.inference_mode()
def measure(row, people, flip, runs, device, rcnn):
    """Milliseconds of each way for so many people."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (*SIZE[::-1], 3), np.uint8)
    boxes, model = boxes_of(people, rng), ready(row.create("random"), device)
    w, h = row.codec.input_size
    crops = torch.rand(people, 3, h, w, device=device).contiguous(memory_format=torch.channels_last)
    how = dict(row=row, flip=flip, device=device)

    def network():
        for some in crops.split(32):
            model(some)
            if flip:
                model(some.flip(3))

    ways = {"predict": lambda: predict(model, picture, boxes, **how), "network": network}
    ways["loop"] = lambda: [predict(model, picture, box[None], **how) for box in boxes]
    if not flip:
        rcnn.roi_heads.detections_per_img = people
        tensor = torch.from_numpy(picture).permute(2, 0, 1).float().to(device) / 255
        ways["rcnn"] = lambda: rcnn([tensor])
    answer = medians(ways, runs)
    ratios = {f"predict / {name}": answer["predict"] / answer[name] for name in [*ways][1:]}
    return answer | {name: round(ratio, 2) for name, ratio in ratios.items()}


@torch.inference_mode()
def layouts(name, runs, device):
    """{"row": …, batch: time with channels last / time without} of a row's network alone."""
    row = get_row(name)
    last = ready(row.create("random"), device)
    usual = copy.deepcopy(last).to(memory_format=torch.contiguous_format)
    w, h = row.codec.input_size
    line = {"row": name}
    for people in (1, 8, 32):
        crops = torch.rand(people, 3, h, w, device=device)
        like = crops.contiguous(memory_format=torch.channels_last)
        times = medians({"last": partial(last, like), "usual": partial(usual, crops)}, runs)
        line[str(people)] = round(times["last"] / times["usual"], 2)
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", default="coco/resnet-50")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    if words.threads:
        torch.set_num_threads(words.threads)
    row, device = get_row(words.row), pick_device(words.device)
    rcnn = torchvision.models.detection.keypointrcnn_resnet50_fpn(
        weights=None, weights_backbone=None
    )
    rcnn, table = rcnn.to(device).eval(), []
    for people in words.people:
        for flip in (False, True):
            runs = words.runs if people < 100 else min(words.runs, 3)
            line = measure(row, people, flip, runs, device, rcnn)
            table.append({"people": people, "flip": flip, **line})
            print(table[-1], flush=True)
    shares = []
    for name in LAYOUTS:
        shares.append(layouts(name, words.runs, device))
        print(shares[-1], flush=True)
    if words.out:
        facts = dict(date=str(date.today()), code=code_version(), row=row.id, table=table)
        facts |= {"channels last / usual": shares}
        facts |= dict(hardware=hardware(str(device)), threads=torch.get_num_threads())
        write_json(words.out, facts | {"runs": words.runs, "unit": "ms, median", "picture": SIZE})


if __name__ == "__main__":
    main()
