"""What a data set in COCO's layout with real photographs gives: the codec's ceiling, the floor, and whether a small network can learn it by heart.

    python bench/real_input.py --data FOLDER [--epochs 160] [--out bench/records/real_input.json]

FOLDER holds annotations/person_keypoints_{train,val}2017.json and the images; a subset of COCO will do. The network is the demo's, with random
weights at the start; it is tested on the very people that it learnt from, so its AP says only that the whole path works on photographs.
"""

import argparse
import subprocess
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

import pose_nb
from pose_nb.data.augment import Augment
from pose_nb.demo import demo_row
from pose_nb.environment import hardware
from pose_nb.evaluation import evaluate
from pose_nb.files import write_json
from pose_nb.inference import pick_device
from pose_nb.training import train

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", type=Path, required=True)
parser.add_argument("--epochs", type=int, default=160)
parser.add_argument("--out", type=Path)
arguments = parser.parse_args()

row = pose_nb.get_row("coco/resnet-50")
torch.manual_seed(0)
figures = {
    "coco/resnet-50, oracle (decode of encoded truth), val": evaluate(
        None, arguments.data, row=row, oracle=True
    ),
    "coco/resnet-50, random weights, val": evaluate(
        pose_nb.create_model(row.id), arguments.data, workers=0
    ),
}
small = demo_row(arguments.epochs)
small = replace(
    small,
    recipe=replace(
        small.recipe,
        lr=6e-3,
        augment=Augment(flip=0.0, half_body=0.0, shift_prob=0.0, scale=(1.0, 1.0), rotate_prob=0.0),
    ),
)
figures["demo network's codec, oracle, train"] = evaluate(
    None, arguments.data, row=small, oracle=True, split="train"
)
with tempfile.TemporaryDirectory() as folder:
    model = train(
        small,
        arguments.data,
        folder,
        batch_size=16,
        epochs=arguments.epochs,
        lr=6e-3,
        workers=1,
        eval_every=arguments.epochs,
        val_limit=8,
    )
    figures[f"demo network, learnt by heart for {arguments.epochs} epochs, train"] = evaluate(
        model, arguments.data, row=small, split="train", flip=False
    )
for name, values in figures.items():
    print(f"{name:75s} AP {values['AP']:.3f}  AR {values['AR']:.3f}")
if arguments.out:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    write_json(
        arguments.out,
        {
            "command": f"python bench/real_input.py --data FOLDER --epochs {arguments.epochs}",
            "commit": commit,
            "date": str(date.today()),
            "data": "159 COCO 2017 images with the official annotations (a public subset)",
            "hardware": hardware(str(pick_device())),
            "figures": figures,
        },
    )
