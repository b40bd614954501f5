"""What a data set in COCO's layout with real photographs gives, from the oracle to random weights.

    python bench/real_input.py --data FOLDER [--epochs 160] [--out bench/records/real_input.json]

FOLDER holds annotations/person_keypoints_{train,val}2017.json and the images; a subset of COCO will
do. Four figures: the AP of exactly reproduced targets (twice, for two codecs), the AP of random
weights, and whether a small network can learn the people by heart. That network is the demo's, with
random weights at the start; it is tested on the very people that it learnt from, so its AP says
only that the whole path works on photographs.
"""

import argparse
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

import pose_nb
from pose_nb.data.augment import Augment
from pose_nb.demo import demo_row
from pose_nb.environment import code_version, hardware
from pose_nb.evaluation import evaluate
from pose_nb.files import write_json
from pose_nb.inference import pick_device
from pose_nb.training import train

STILL = Augment(flip=0.0, half_body=0.0, shift_prob=0.0, scale=(1.0, 1.0), rotate_prob=0.0)


def untrained(data):
    """The figures of a listed row's targets and of its random weights."""
    row = pose_nb.get_row("coco/resnet-50")
    torch.manual_seed(0)
    return {
        f"{row.id}, oracle (decode of encoded truth), val": evaluate(
            None, data, row=row, oracle=True
        ),
        f"{row.id}, random weights, val": evaluate(row.create(), data, boxes="gt"),
    }


def learnt_by_heart(data, epochs):
    """The figures of the demo's network on the people that it has learnt from."""
    row = demo_row(epochs)
    row = replace(row, recipe=replace(row.recipe, lr=6e-3, augment=STILL))
    oracle = evaluate(None, data, row=row, oracle=True, split="train")
    how = dict(epochs=epochs, lr=6e-3, batch_size=16, workers=1, eval_every=epochs, val_limit=8)
    how |= dict(val_boxes="gt", pictures=False)
    with tempfile.TemporaryDirectory() as folder:
        model = train(row, data, folder, **how)
    found = evaluate(model, data, row=row, split="train", boxes="gt", flip=False)
    return {
        "demo network's codec, oracle, train": oracle,
        f"demo network, learnt by heart for {epochs} epochs, train": found,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--about", help="what the data is, for the record; default: its folder")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    code = code_version()
    figures = untrained(options.data) | learnt_by_heart(options.data, options.epochs)
    for name, values in figures.items():
        print(f"{name:75s} AP {values['AP']:.3f}  AR {values['AR']:.3f}")
    if options.out:
        record = {
            "command": f"python bench/real_input.py --data FOLDER --epochs {options.epochs}",
            "commit": code,
            "date": str(date.today()),
            "data": options.about or options.data.name,
            "hardware": hardware(str(pick_device())),
            "figures": figures,
        }
        write_json(options.out, record)


if __name__ == "__main__":
    main()
