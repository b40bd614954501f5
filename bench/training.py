"""Where a training step's time goes, as ratios measured in one run.

    python bench/training.py [--row coco/resnet-50] [--device cuda] [--batch 8] [--steps 8]

- step: `learner.train_step` against forward, backward and update of the bare network;
- loop: `training.train_epoch` with 0, 1 and 2 workers against the step on a batch in memory;
- loader: samples against reading a picture and cutting a crop, nothing else;
- evaluation: `predict_records` with flip test against two forwards of the bare network.

Each pair is measured in turns, and the median of each is taken. SYNTHETIC people.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from pose_nb.data.crop import normalise, warp
from pose_nb.data.inputs import read_image
from pose_nb.data.loader import PoseDataset, make_loader
from pose_nb.environment import environment
from pose_nb.evaluation import predict_records
from pose_nb.files import temporary_folder, write_json
from pose_nb.geometry import box_to_center_scale, crop_matrix
from pose_nb.inference import pick_device
from pose_nb.runs.learner import make_learner, start_accelerator, train_step, usual_precision
from pose_nb.runs.state import Position
from pose_nb.synth import make_dataset
from pose_nb.tables.zoo import get_row
from pose_nb.training import train_epoch

RECORD = Path(__file__).parent / "records" / "training.json"


def in_turns(repeats, device, **functions):
    """The median seconds of each function; they are called in turns."""
    times = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def bare_step(learner, images, target):
    """Forward, mean squared error, backward and update: the least that a step can be."""
    autocast = learner.accelerator.autocast

    def step():
        with autocast():
            outputs = learner.model(images, all_stages=True)
        loss = sum((maps.float() - target).square().mean() for maps in outputs)
        learner.accelerator.backward(loss)
        learner.optimizer.step()
        learner.optimizer.zero_grad()

    return step


def steps_and_loops(row, records, device, batch_size, repeats):
    """Seconds of a batch in each of the loops."""
    people = records.subset([i % len(records) for i in range(batch_size * repeats)])
    precision = usual_precision(device)
    found = {}
    for workers in (0, 1, 2):
        size, recipe = row.codec.input_size, row.recipe
        data = PoseDataset(people, size, row.udp_crop, recipe.augment)
        loader = make_loader(data, batch_size, workers, shuffle=True)
        accelerator = start_accelerator(device, precision)
        learner = make_learner(row, row.create(), loader, accelerator, 9, say=len)
        if not workers:
            batch = {k: v.to(device) for k, v in next(iter(loader)).items()}
            images = normalise(batch["image"]).contiguous(memory_format=torch.channels_last)
            target, _ = row.codec.encode(batch["keypoints"], batch["visible"])
            learner.model.train()
            found |= in_turns(
                repeats,
                device,
                step=lambda one=learner, b=batch: train_step(one, b),
                bare=bare_step(learner, images, target),
            )
        train_epoch(learner, 0, len, progress=False)  # starts the workers
        learner.position = Position(epoch=1)
        began = time.perf_counter()
        line = train_epoch(learner, 0, len, progress=False)
        key = f"loop, {workers} workers"
        found[key] = (time.perf_counter() - began) / len(learner.loader)
        found[f"waiting, {workers} workers"] = line["waiting"]
    return found


def samples(row, records, repeats):
    """Seconds of a training sample, of a test sample, and of reading and cutting alone."""
    size = row.codec.input_size
    training = PoseDataset(records, size, row.udp_crop, row.recipe.augment)
    testing = PoseDataset(records, size, row.udp_crop)
    center, scale = box_to_center_scale(records.boxes[0], size[0] / size[1])
    matrix = crop_matrix(center, scale, 0, size, row.udp_crop)

    def sample(data):
        data._latest = "", None  # as if each person came in a picture of its own
        return data[0]

    return in_turns(
        40 * repeats,
        torch.device("cpu"),
        training_sample=lambda: sample(training),
        test_sample=lambda: sample(testing),
        read_and_warp=lambda: warp(read_image(records.image_files[0]), matrix, size),
    )


def evaluation(row, records, device, batch_size, repeats):
    """Seconds of a test of `batch_size` people, and of two forwards of the bare network."""
    model = row.create().to(device).eval().to(memory_format=torch.channels_last)
    people = records.subset([i % len(records) for i in range(batch_size)])
    (w, h), how = row.codec.input_size, dict(progress=False, device=device, workers=0)
    images = torch.rand(batch_size, 3, h, w, device=device)
    images = images.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forwards():
        return model(images), model(images)

    return in_turns(
        repeats,
        device,
        evaluation=lambda: predict_records(
            model, people, row.codec, udp_crop=row.udp_crop, batch_size=batch_size, **how
        ),
        two_forwards=forwards,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", default="coco/resnet-50")
    parser.add_argument("--device")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    row, device = get_row(given.row), pick_device(given.device)
    root = make_dataset(temporary_folder() / "people", train=16, val=1, seed=3, progress=False)
    records = row.benchmark.load(root, "train")
    seconds = steps_and_loops(row, records, device, given.batch, given.steps)
    seconds |= samples(row, records, given.steps)
    seconds |= evaluation(row, records, device, given.batch, given.steps)
    pairs = {
        "step / bare network": ("step", "bare"),
        "loop without workers / step": ("loop, 0 workers", "step"),
        "loop with 1 worker / step": ("loop, 1 workers", "step"),
        "loop with 2 workers / step": ("loop, 2 workers", "step"),
        "training sample / read and warp": ("training_sample", "read_and_warp"),
        "test sample / read and warp": ("test_sample", "read_and_warp"),
        "evaluation / two forwards": ("evaluation", "two_forwards"),
    }
    ratios = {name: round(seconds[a] / seconds[b], 3) for name, (a, b) in pairs.items()}
    for name, value in ratios.items():
        print(f"{name:34s} {value:.2f}")
    place = environment(str(device))
    facts = dict(command=" ".join(sys.argv), environment=place, row=row.id, batch=given.batch)
    rounded = {name: round(value, 6) for name, value in seconds.items()}
    write_json(RECORD, facts | dict(ratios=ratios, seconds=rounded))


if __name__ == "__main__":
    main()
