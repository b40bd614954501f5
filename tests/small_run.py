"""A run of seconds: a tiny row on eight synthetic people, on the CPU; see `people` and `whole`."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import nn

from pose_nb.codecs.msra import MSRA
from pose_nb.data.augment import BODY
from pose_nb.networks.heads import HeatmapHead
from pose_nb.networks.model import PoseModel
from pose_nb.tables.benchmarks import COCO
from pose_nb.tables.recipes import Recipe, Steps
from pose_nb.training import train

ARGUMENTS = dict(
    start="random",
    batch_size=4,
    limit=8,
    eval_every=9,
    val_boxes="gt",
    val_limit=1,
    workers=0,
    device="cpu",
    progress=False,
    pictures=False,
)


def network(weights=None):
    from pose_nb.backbones.shufflenetv2 import shufflenetv2  # torchvision takes seconds

    return PoseModel(shufflenetv2(), HeatmapHead(1024, 17, (32, 32, 32)))


def tiny_row(create=network, **changes):
    """What training asks of a row, with ShuffleNetV2 on crops of 64 × 96 and all augmentation."""
    recipe = replace(
        Recipe(lr=3e-3, batch=8, epochs=4, schedule=Steps(drops=(3,), warmup=3), augment=BODY),
        **changes,
    )
    return SimpleNamespace(
        id="coco/example",
        benchmark=COCO,
        codec=MSRA((64, 96), (16, 24)),
        udp_crop=False,
        flip=True,
        nms=0.9,
        recipe=recipe,
        create=create,
    )


class Plain(nn.Module):
    """A network without batch normalisation, for which small batches that are accumulated must
    equal a large one."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 17, 3, padding=1)
        )

    def forward(self, images, all_stages=False):
        maps = self.layers(images)
        return [maps] if all_stages else maps


def sgd(model, lr):
    return torch.optim.SGD([{"params": list(model.parameters()), "factor": 1.0}], lr)


def slow_run(data, out):
    """A run that takes its time, to be killed."""
    from pose_nb.data import loader

    read = loader.read_image
    loader.read_image = lambda path: (time.sleep(0.08), read(path))[1]
    train(tiny_row(), data, out, **ARGUMENTS)


def log(out):
    return [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]


def losses(out):
    return {line["epoch"]: line["loss"] for line in log(out) if "accuracy" in line}


def weights_equal(a, b):
    """Whether two runs ended in the same state, to the last bit."""
    mine, theirs = (load_file(folder / "state.safetensors") for folder in (a, b))
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
