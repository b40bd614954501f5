"""Experiments that no table has: one narrow network, SYNTHETIC people, one thing changed at a time.

    python bench/experiments.py [--seconds 600] [--seeds 3] [--only 'face-*'] [--records FOLDER]

Every variant is trained once for each seed: the same first weights, the same order of the same
crops, the same held-out people, so that runs of one seed are pairs. What needs no training (flip
test, boxes, decoder) is changed on the networks that are there. Each run is added to
records/experiments/<variant>.json as soon as it is measured, and passed over the next time.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import mobilenet_v2, shufflenet_v2_x0_5

from pose_nb.codecs.megvii import Megvii
from pose_nb.codecs.msra import MSRA
from pose_nb.codecs.peaks import find_peaks
from pose_nb.codecs.udp import UDP
from pose_nb.data import loader
from pose_nb.data.augment import Augment
from pose_nb.demo import PyramidHead
from pose_nb.environment import environment
from pose_nb.evaluation import HeldOut, Outcome, held_out, test_on
from pose_nb.files import read_json, write_json
from pose_nb.losses import StagedLoss, adaptive_wing, ohkm
from pose_nb.metrics.nme import EYES_68, eye_distance
from pose_nb.metrics.nms import rescore
from pose_nb.metrics.oks import oks
from pose_nb.networks.cost import macs, parameters
from pose_nb.skeletons import MPII
from pose_nb.synth import make_dataset
from pose_nb.synth.forms import make_form
from pose_nb.tables.networks import Network
from pose_nb.tables.recipes import FlatCosine, Recipe, Supervise
from pose_nb.tables.rows import Row
from pose_nb.tables.zoo import get_row
from pose_nb.training import train

BODY = dict(train=900, val=300, seed=7, people=(1, 2), facing=True)  # images
FACE = dict(train=500, val=200, seed=7)
LEARN_FROM = 900  # of the drawn people, at most
SEEDS = 3
BATCH = 24

# ---------------------------------------------------------------- networks


def conv(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


class Levels(nn.Module):
    """Stages whose outputs are all kept, at 1/4, 1/8, 1/16 and 1/32 of the image."""

    def __init__(self, stages: list[nn.Module], channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stages, self.channels = nn.ModuleList(stages), channels

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def plain(width: int = 16) -> Levels:
    """Two 3×3 convolutions a level: the network of all experiments but one."""
    w = (3, width, 2 * width, 4 * width, 4 * width)
    stages: list[nn.Module] = [nn.Sequential(conv(3, width, 2), conv(width, width, 2))]
    stages += [nn.Sequential(conv(a, b, 2), conv(b, b)) for a, b in zip(w[1:], w[2:])]
    return Levels(stages, w[1:])


def shufflenet() -> Levels:
    """The listed family at half its width."""
    net = shufflenet_v2_x0_5()
    stem = nn.Sequential(net.conv1, net.maxpool)
    return Levels([stem, net.stage2, net.stage3, net.stage4], (24, 48, 96, 192))


def mobilenet() -> Levels:
    """The listed family at 0.35 of its width."""
    f = mobilenet_v2(width_mult=0.35).features
    parts: list[nn.Module] = [f[:4], f[4:7], f[7:14], f[14:18]]
    return Levels(parts, tuple(part[-1].out_channels for part in parts))


class Head(PyramidHead):
    """The demo's head, for maps of any size. factor: multiplies the answer."""

    def __init__(self, channels: tuple[int, ...], keypoints: int, factor: float = 1.0) -> None:
        super().__init__(channels, keypoints, width=48)
        self.factor = factor

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        lateral = [layer(f) for layer, f in zip(self.lateral, features, strict=True)]
        x = F.relu(lateral[-1])
        for finer, mix in zip(lateral[-2::-1], self.mix):
            x = mix(F.relu(F.interpolate(x, finer.shape[-2:]) + finer))
        return [self.factor * self.final_layer(x)]


def head(channels: tuple[int, ...], keypoints: int, codec: Any) -> Head:
    """Megvii's targets are 255 high: its maps are multiplied, so that rate and start still fit."""
    return Head(channels, keypoints, 255.0 if isinstance(codec, Megvii) else 1.0)


# ---------------------------------------------------------------- what is changed


class NoShift(MSRA):
    shift_flip = False


class Peak(MSRA):
    """The highest pixel, without the quarter towards its neighbour."""

    def decode(self, heatmaps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        points, values = find_peaks(heatmaps)
        stride = self.input_size[0] / self.heatmap_size[0]
        return points.to(heatmaps.dtype) * stride, values


class Shift(UDP):
    shift_flip = True


@dataclass(frozen=True)
class Trial:
    """One way to test a trained network."""

    what: str
    codec: Callable[..., Any] | None = None  # None: as trained
    flip: bool = True
    boxes: str = "gt"
    jitter: float = 0.0  # of the box's sides, at most


@dataclass(frozen=True)
class Variant:
    """One way to train the network, and how it is tested besides the usual way."""

    what: str
    codec: Callable[..., Any] = MSRA
    size: tuple[int, int] = (72, 96)
    loss: Callable[..., torch.Tensor] = StagedLoss()
    backbone: Callable[[], Levels] = plain
    start: str = ""  # variant whose weights it begins with, without the last layer
    face: bool = False
    trials: dict[str, Trial] = field(default_factory=dict)


def dark(*sizes: tuple[int, int], sigma: float) -> MSRA:
    return MSRA(*sizes, sigma=sigma, unbiased=True)


def megvii(*sizes: tuple[int, int], sigma: float) -> Megvii:
    return Megvii(*sizes, kernel_size=5)


NO_FLIP = Trial("no flip test", flip=False)
BOXES = {
    "jitter10": Trial("annotated boxes, moved and scaled by up to 10 %", jitter=0.1),
    "jitter20": Trial("annotated boxes, moved and scaled by up to 20 %", jitter=0.2),
    "det": Trial("boxes of a detector that misses, doubles and invents people", boxes="det"),
}
DECODERS = {
    "peak": Trial("the highest pixel alone", codec=Peak),
    "as-dark": Trial("decoded as DARK does", codec=dark),
    "unshifted": Trial("flip test without the shift by one column", codec=NoShift),
}
EYES = (64, 64)
VARIANTS = {
    "face-msra": Variant("MSRA", size=EYES, face=True, trials={"noflip": NO_FLIP}),
    "msra": Variant("MSRA", trials={"noflip": NO_FLIP} | BOXES | DECODERS),
    "dark": Variant("DARK", dark),
    "udp": Variant(
        "UDP",
        UDP,
        trials={
            "noflip": NO_FLIP,
            "shifted": Trial("flip test with a shift by one column", codec=Shift),
        },
    ),
    "megvii": Variant("Megvii", megvii),
    "size-96x128": Variant("input 96×128", size=(96, 128)),
    "size-48x64": Variant("input 48×64", size=(48, 64)),
    "ohkm": Variant("squared error of the 8 hardest keypoints", loss=StagedLoss(ohkm)),
    "awing": Variant("Adaptive Wing loss", loss=StagedLoss(adaptive_wing)),
    "pretrained": Variant("start from drawn faces", start="face-msra"),
    "face-dark": Variant("DARK", dark, size=EYES, face=True),
    "face-udp": Variant("UDP", UDP, size=EYES, face=True),
    "face-awing": Variant(
        "Adaptive Wing loss", size=EYES, face=True, loss=StagedLoss(adaptive_wing)
    ),
    "face-96": Variant("input 96×96", size=(96, 96), face=True),
    "mobilenet": Variant("MobileNetV2 × 0.35", backbone=mobilenet),
    "shufflenet": Variant("ShuffleNetV2 × 0.5", backbone=shufflenet),
}


def make_codec(kind: Callable[..., Any], size: tuple[int, int]) -> Any:
    """Maps of a quarter of the input; the Gaussian's width grows with them, as in the tables."""
    w, h = size
    return kind(size, (w // 4, h // 4), sigma=w / 64)


def row_of(name: str, variant: Variant) -> Row:
    recipe = Recipe(
        lr=1e-2,
        batch=BATCH,
        epochs=10 if variant.face else 6,
        schedule=FlatCosine(hold=0, floor=0.0, warmup=50, start=0.02),
        augment=Augment(half_body=0.0, shift_prob=0.0, scale=(0.9, 1.1), rotate_prob=0.0),
        supervise=Supervise(variant.loss),
    )
    codec = make_codec(variant.codec, variant.size)
    return replace(
        get_row("300w/hrnetv2-w18" if variant.face else "coco/shufflenet-v2"),
        id=f"experiments/{name}",
        network=lambda: Network(variant.backbone, head),
        codec=codec,
        udp_crop=codec.udp,
        recipe=recipe,
        published={},
        checkpoints=(),
        starts_from="",
    )


# ---------------------------------------------------------------- people


def draw(cache: Path, face: bool) -> Path:
    folder = cache / ("face" if face else "body")
    if face:
        return make_form(folder, "300w", **FACE, progress=False)
    return make_dataset(folder, **BODY, progress=False)


def head_lengths(cache: Path, people: HeldOut) -> np.ndarray:
    """From the neck to the top of the head of each person, in pixels; 0 where one is not seen.

    The same people are drawn once more, with the joints of MPII.
    """
    again = make_dataset(cache / "heads", **BODY | dict(train=0), skeleton=MPII, progress=False)
    found = read_json(again / "annotations" / "person_keypoints_val2017.json")["annotations"]
    points = {item["id"]: np.reshape(item["keypoints"], (-1, 3)) for item in found}
    neck, top = MPII.index("upper_neck"), MPII.index("head_top")
    lengths = []
    for number in people.records.ids.tolist():
        a, b = points[number][neck], points[number][top]
        lengths.append(np.linalg.norm(a[:2] - b[:2]) if a[2] > 0 and b[2] > 0 else 0.0)
    return np.array(lengths)


def jittered(people: HeldOut, amount: float, seed: int) -> HeldOut:
    """The people in boxes that are moved and scaled by up to `amount` of their sides."""
    if not amount:
        return people
    records, rng = people.records, np.random.default_rng((seed, int(1000 * amount)))
    draw = rng.uniform(-amount, amount, (len(records), 3)).astype(np.float32)
    centers, scales = records.centers + draw[:, :2] * records.scales, records.scales
    scales = scales * (1 + draw[:, 2:])
    boxes = np.concatenate([centers - scales / 2, centers + scales / 2], 1)
    return replace(people, records=replace(records, centers=centers, scales=scales, boxes=boxes))


# ---------------------------------------------------------------- figures


def person_by_person(truth: HeldOut, outcome: Outcome, heads: np.ndarray) -> dict[str, str]:
    """For each annotated person, as whole numbers in one text: OKS and score in thousandths, error
    in thousandths of the box's longer side, keypoints within 0.5 and 0.1 head lengths."""
    records, poses = truth.records, outcome.poses
    nearest = best_answers(truth, outcome)
    found = nearest >= 0
    points, scores = poses.keypoints[nearest], poses.scores[nearest]
    off = np.linalg.norm(points - records.keypoints, axis=-1)
    labelled = records.visible > 0
    longer = (records.boxes[:, 2:] - records.boxes[:, :2]).max(1)
    error = np.where(labelled, off, 0).sum(1) / labelled.sum(1).clip(1) / longer
    columns = {"error": 1000 * np.where(found, error, 1)}
    if len(heads):
        same = similarity(truth, points)
        total = rescore(scores, np.ones(len(scores), np.float32))
        columns |= {"oks": 1000 * same * found, "score": 1000 * total * found}
        for name, part in (("pck50", 0.5), ("pck10", 0.1)):
            near = (off < part * heads[:, None]) & labelled & found[:, None]
            columns[name] = near.sum(1)
    else:
        eyes = eye_distance(records.keypoints, EYES_68)
        columns["nme"] = 10_000 * np.where(labelled, off, 0).mean(1) / eyes
    return {name: text(values) for name, values in columns.items()}


def text(values: np.ndarray) -> str:
    return " ".join(map(str, np.rint(values).astype(int).tolist()))


def similarity(truth: HeldOut, points: np.ndarray) -> np.ndarray:
    records = truth.records
    boxes = np.concatenate([records.boxes[:, :2], records.boxes[:, 2:] - records.boxes[:, :2]], 1)
    sigmas = records.skeleton.oks_sigmas()
    return oks(points, records.keypoints, records.visible, records.areas, boxes, sigmas)


def best_answers(truth: HeldOut, outcome: Outcome) -> np.ndarray:
    """For each annotated person the answer about them; of a detector's boxes the one that fits them
    best, -1 if there is none in the image."""
    records, poses = truth.records, outcome.poses
    if len(poses.keypoints) == len(records) and np.array_equal(
        np.array(poses.image_files)[poses.image_index], np.array(records.image_files)
    ):
        return np.arange(len(records))
    files = np.array(poses.image_files)[poses.image_index]
    nearest = np.full(len(records), -1)
    for i, file in enumerate(records.image_files):
        there = np.flatnonzero(files == file)
        if len(there):
            alone = replace(truth, records=records.subset([i] * len(there)))
            nearest[i] = there[np.argmax(similarity(alone, poses.keypoints[there]))]
    return nearest


# ---------------------------------------------------------------- runs


@dataclass
class Workshop:
    """Where data, networks and records lie."""

    cache: Path
    records: Path
    heads: np.ndarray = field(default_factory=lambda: np.zeros(0))
    people: dict[tuple[bool, str], HeldOut] = field(default_factory=dict)

    def held_out(self, row: Row, face: bool, boxes: str = "gt") -> HeldOut:
        if (face, boxes) not in self.people:
            data = draw(self.cache, face)
            self.people[face, boxes] = held_out(row.benchmark, data, "val", boxes)
            if not face and not len(self.heads):
                self.heads = head_lengths(self.cache, self.people[face, boxes])
        return self.people[face, boxes]

    def path(self, name: str) -> Path:
        return self.records / f"{name}.json"

    def done(self, name: str) -> list[int]:
        path = self.path(name)
        return [run["seed"] for run in read_json(path)["runs"]] if path.exists() else []

    def weights(self, name: str, seed: int) -> Path:
        return self.cache / "weights" / f"{name}-{seed}.pt"


def learn(shop: Workshop, name: str, seed: int) -> tuple[Row, nn.Module, dict[str, Any]]:
    """A variant's network for a seed, trained now unless its weights are there."""
    variant, path = VARIANTS[name], shop.weights(name, seed)
    row = row_of(name, variant)
    torch.manual_seed(1000 + seed)
    model = row.create()
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["weights"])
        return row, model, saved["facts"]
    if variant.start:
        before = learn(shop, variant.start, seed)[1].state_dict()
        kept = {k: v for k, v in before.items() if not k.startswith("head.final_layer")}
        model.load_state_dict(kept, strict=False)
    began, facts = time.process_time(), {}
    with tempfile.TemporaryDirectory(dir=shop.cache) as out:
        how = dict(
            model=model, device="cpu", seed=seed, batch_size=BATCH, val_boxes="gt", workers=0
        )
        how |= dict(
            pictures=False,
            eval_every=row.recipe.epochs,
            limit=LEARN_FROM,
            val_limit=2,
            progress=False,
        )
        model = train(row, draw(shop.cache, variant.face), out, **how)
        epochs = [line for line in log_of(Path(out)) if "seconds" in line]
    facts = {
        "training CPU seconds": round(time.process_time() - began, 1),
        "updates": epochs[-1]["step"],
        "last loss": epochs[-1]["loss"],
        "parameters": parameters(model),
        "multiply-adds": macs(row.create(), row.codec.input_size),
    }
    path.parent.mkdir(exist_ok=True)
    torch.save({"weights": model.state_dict(), "facts": facts}, path)
    return row, model, facts


def log_of(out: Path) -> list[dict[str, Any]]:
    from pose_nb.runs.state import read_log

    return read_log(out / "metrics.jsonl")


def look(shop: Workshop, name: str, row: Row, model: nn.Module, trial: Trial, seed: int) -> dict:
    """Figures of a network, tested in one way, and those of every person."""
    variant = VARIANTS[name]
    if trial.codec:
        row = replace(row, codec=make_codec(trial.codec, variant.size))
    truth = shop.held_out(row, variant.face)
    people = jittered(shop.held_out(row, variant.face, trial.boxes), trial.jitter, seed)
    how = dict(workers=0, device="cpu", progress=False, batch_size=64)
    outcome = test_on(people, model, row, trial.flip, **how)
    heads = np.zeros(0) if variant.face else shop.heads
    figures = {key: round(value, 5) for key, value in outcome.figures.items()}
    return {"figures": figures, "people": person_by_person(truth, outcome, heads)}


def keep(shop: Workshop, name: str, about: dict[str, Any], seed: int, run: dict) -> None:
    """Add a run to its variant's record."""
    path = shop.path(name)
    record = read_json(path) if path.exists() else about | {"runs": []}
    place = environment("cpu")
    run = {"seed": seed, "code": place.pop("code"), "date": place.pop("date")} | run
    record["environment"] = place
    record["runs"] = sorted([*record["runs"], run], key=lambda r: r["seed"])
    write_json(path, record)


def about(shop: Workshop, name: str, what: str, row: Row) -> dict[str, Any]:
    """What a record says before its runs."""
    face = VARIANTS[name.partition(".")[0]].face
    truth, settings = shop.held_out(row, face), FACE if face else BODY
    records = truth.records
    files = {file: i for i, file in enumerate(dict.fromkeys(records.image_files))}
    settings = settings | {"people to learn from": LEARN_FROM}
    told = {
        "variant": name,
        "what": what,
        "command": f"python bench/experiments.py --only {name}",
        "data": {"kind": "synthetic", "form": "300w" if face else "coco"} | settings,
        "image": text(np.array([files[file] for file in records.image_files])),
        "labelled": text((records.visible > 0).sum(1)),
    }
    return told if face else told | {"head length": text(shop.heads)}


def run(shop: Workshop, name: str, seed: int) -> None:
    """Train a variant for one seed, and test it in all its ways."""
    variant = VARIANTS[name]
    trials = {name: Trial(variant.what)}
    trials |= {f"{name}.{key}": trial for key, trial in variant.trials.items()}
    trials = {key: trial for key, trial in trials.items() if seed not in shop.done(key)}
    if not trials:
        return
    row, model, facts = learn(shop, name, seed)
    for key, trial in trials.items():
        measured = look(shop, name, row, model, trial, seed)
        keep(shop, key, about(shop, key, trial.what, row), seed, facts | measured)
        figure = row.benchmark.figure
        print(f"{key}, seed {seed}: {figure} {measured['figures'][figure]:.4f}", flush=True)


def asked_for(name: str, patterns: list[str]) -> bool:
    """Whether a pattern names a variant's record or one of its trials'."""
    records = [name, *(f"{name}.{trial}" for trial in VARIANTS[name].trials)]
    return any(fnmatch(record, pattern) for record in records for pattern in patterns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of records' names")
    parser.add_argument("--seconds", type=float, default=600, help="begin no run after so long")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--records", type=Path, help="default: records/experiments")
    given = parser.parse_args()
    torch.set_num_threads(1)
    loader.read_image = lru_cache(maxsize=None)(loader.read_image)  # 0.5 GB, a third of the time
    cache = Path(os.environ.get("POSE_NB_CACHE", tempfile.gettempdir())) / "experiments"
    default = Path(__file__).parent.parent / "records" / "experiments"
    shop, began = Workshop(cache, given.records or default), time.perf_counter()
    cache.mkdir(parents=True, exist_ok=True)
    chosen = [name for name in VARIANTS if asked_for(name, given.only)]
    if not chosen:
        sys.exit(f"--only {' '.join(given.only)}: no such record; there are {', '.join(VARIANTS)}")
    for seed in range(given.seeds):
        for name in chosen:
            if time.perf_counter() - began > given.seconds:
                sys.exit("time is up; the same command goes on")
            run(shop, name, seed)
    print(f"done; networks and drawings are in {cache}")


if __name__ == "__main__":
    main()
