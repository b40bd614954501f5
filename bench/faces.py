"""Train the narrow network of five face sets on SYNTHETIC portraits, and write its weights.

    python bench/faces.py [--only wflw aflw] [--epochs 60] [--out nbs/face_weights.safetensors]

Each step takes a batch from every set: trunk and head are shared, the last layer is the set's own.
Then all held-out SYNTHETIC faces are tested with the weights as they were written, in half
precision. The record is bench/records/faces.json; with other options it stands beside the weights.
"""

import argparse
import os
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pose_nb.data import loader
from pose_nb.data.augment import Augment
from pose_nb.data.crop import normalise
from pose_nb.data.loader import PoseDataset, make_loader
from pose_nb.environment import environment
from pose_nb.evaluation import held_out, test_on
from pose_nb.files import write_json
from pose_nb.lessons.faces import face_network, face_row
from pose_nb.losses import keypoint_mse
from pose_nb.synth import make_form
from pose_nb.tables.rows import Row
from pose_nb.weights.hashes import sha256
from pose_nb.weights.tensors import write_safetensors

TABLES = "300w", "aflw", "coco_wholebody_face", "cofw", "wflw"
TRAIN, VAL, SEED, BATCH, RATE = 160, 30, 70, 16, 1e-2  # pictures a set; faces a batch and set
AUGMENT = Augment(half_body=0, shift=0.1, shift_prob=0.5, scale=(0.85, 1.15), rotate=30)
ROOT = Path(__file__).parent.parent
WEIGHTS, RECORD = ROOT / "nbs" / "face_weights.safetensors", ROOT / "bench/records/faces.json"


def draw(table: str) -> Path:
    """The synthetic pictures of a set, drawn once."""
    cache = Path(os.environ.get("POSE_NB_CACHE", tempfile.gettempdir())) / "faces"
    return make_form(cache / table, table, TRAIN, VAL, SEED, progress=False)


def batches(row: Row, epoch: int, loaders: dict[str, Any]) -> Any:
    """The batches of a set in an epoch."""
    if row.id not in loaders:
        records = row.benchmark.load(draw(row.id.split("/")[0]), "train")
        data = PoseDataset(records, row.codec.input_size, augment=AUGMENT, seed=SEED)
        loaders[row.id] = make_loader(data, BATCH, shuffle=True, seed=SEED, drop_last=True)
    loaders[row.id].dataset.set_epoch(epoch)
    return loaders[row.id]


def learn(rows: dict[str, Row], epochs: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights, in half precision, and what is worth noting about their making."""
    torch.manual_seed(SEED)
    trunk, last = next(iter(rows.values())).create(), nn.ModuleDict()
    for table, row in rows.items():
        last[table] = row.create().head.final_layer
    trunk.head.final_layer = nn.Identity()
    loaders: dict[str, Any] = {}
    steps = min(len(batches(row, 0, loaders)) for row in rows.values())
    weights = [*trunk.parameters(), *last.parameters()]
    optimizer = torch.optim.AdamW(weights, RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs * steps)
    began, losses = time.process_time(), []
    for epoch in range(epochs):
        together = zip(*(batches(row, epoch, loaders) for row in rows.values()))
        for step in together:
            loss = error(trunk, last, rows, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        mean = sum(losses[-steps:]) / steps
        print(f"epoch {epoch + 1} of {epochs}: loss {mean:.6f}", flush=True)
    kept = {k: v for k, v in trunk.state_dict().items() if not k.endswith("batches_tracked")}
    kept |= last.state_dict()
    facts = {"updates": len(losses), "last loss": round(mean, 6)}
    facts["training CPU seconds"] = round(time.process_time() - began, 1)
    return {name: tensor.half().contiguous() for name, tensor in kept.items()}, facts


def error(trunk: nn.Module, last: nn.ModuleDict, rows: dict[str, Row], step: Any) -> torch.Tensor:
    """The mean over the sets of their losses for one step's batches."""
    features = trunk(normalise(torch.cat([batch["image"] for batch in step])))
    losses = []
    for (table, row), batch, mine in zip(rows.items(), step, features.split(BATCH)):
        target, weight = row.codec.encode(batch["keypoints"], batch["visible"])
        losses.append(keypoint_mse(last[table](mine), target, weight))
    return torch.stack(losses).mean()


def tested(rows: dict[str, Row], file: Path) -> dict[str, dict[str, Any]]:
    """Figures of the held-out faces of every set, with the weights of a file."""
    found = {}
    for table, row in rows.items():
        people = held_out(row.benchmark, draw(table), "val", "gt")
        how = dict(workers=0, device="cpu", progress=False)
        figures = test_on(people, face_network(table, file), row, **how).figures
        found[table] = {"faces": len(people.records), "NME": round(figures["NME"], 4)}
        print(table, found[table], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=TABLES, choices=TABLES)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    loader.read_image = lru_cache(maxsize=None)(loader.read_image)  # 1 GB
    rows = {table: face_row(table) for table in given.only}
    for table in rows:
        print(f"drawing {table}: {draw(table)}", flush=True)
    place = environment("cpu")
    tensors, facts = learn(rows, given.epochs)
    write_safetensors(given.out, tensors, {"what": "narrow network of pose_nb.lessons.faces"})
    data = {"kind": "synthetic", "train": TRAIN, "val": VAL, "seed": SEED}
    record = {"command": "python bench/faces.py", "environment": place, "data": data} | facts
    record |= {"weights": sha256(given.out), "held-out SYNTHETIC faces": tested(rows, given.out)}
    whole = given.out == WEIGHTS and given.epochs == 60 and len(rows) == len(TABLES)
    write_json(RECORD if whole else given.out.with_suffix(".json"), record)


if __name__ == "__main__":
    main()
