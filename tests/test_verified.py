"""From "not run" to "verified": a miniature of every set, weights whose figures are known."""

import ast
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pose_nb.codecs.udp import UDP
from pose_nb.data.poses import Poses
from pose_nb.measuring import measure, verdicts
from pose_nb.synth.forms import make_form
from pose_nb.tables.facts import FACTS, figure
from pose_nb.tables.ledger import record_path, tolerance
from pose_nb.tables.networks import Network
from pose_nb.tables.results import columns, results
from pose_nb.tables.zoo import get_row

CODEC = UDP((48, 64), (24, 32), sigma=1.5)
ROWS = {row.split("/")[0]: row for row in reversed(FACTS)}  # one of each table


class Nothing(nn.Module):
    channels = ()

    def forward(self, images):
        return [images]


class Always(nn.Module):
    """The same heatmaps for every crop: they are its weights."""

    def __init__(self, channels, keypoints, codec):
        super().__init__()
        w, h = codec.heatmap_size
        self.maps = nn.Parameter(torch.zeros(keypoints, h, w))

    def forward(self, features):
        return [self.maps[None].repeat(len(features[-1]), 1, 1, 1)]


def stand_in(name):
    """The row with another network: its set, splits, boxes, metric and units are its own."""
    return replace(
        get_row(name),
        network=lambda: Network(Nothing, Always),
        codec=CODEC,
        udp_crop=True,
        flip=False,
    )


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder with a miniature of each set. Nothing in it says that it was drawn."""
    root = tmp_path_factory.mktemp("sets")
    for row in map(get_row, ROWS.values()):
        data = row.benchmark.data
        if not (root / data.name).exists():
            make_form(root / data.name, data.name, 1, 4, seed=5, workers=0, progress=False)
            (root / data.name / "synthpose.json").unlink()
    return root


def crop_sizes(records):
    """Padded by a quarter, and as wide for their height as the network's input: (N, 2)."""
    wide, high = (1.25 * records.scales).T
    return np.stack([np.maximum(wide, 0.75 * high), np.maximum(high, wide / 0.75)], 1)


def pose_of(row, data):
    """The pose of somebody who is labelled well, as shares of the crop that shows them: (K, 2)."""
    split, boxes = row.benchmark.table_splits[0], row.benchmark.table_boxes
    people, crops = (row.benchmark.load(data, split, kind) for kind in ("gt", boxes))
    person = people.visible.sum(1).argmax()
    away = np.abs(crops.centers - people.centers[person]).sum(1)
    away += 1e6 * (crops.image_ids != people.image_ids[person])
    crop = away.argmin()
    off = people.keypoints[person] - crops.centers[crop]
    return np.clip(off / crop_sizes(crops)[crop] + 0.5, 0.05, 0.95)


def encoded(pose):
    """Heatmaps (K, h, w) of a pose, and the pose that is read from them."""
    points = torch.tensor(pose * [47, 63], dtype=torch.float32)[None]
    maps = CODEC.encode(points, torch.ones(1, len(pose)))[0]
    return maps[0], CODEC.decode(maps)[0][0].numpy() / [47, 63]


def write_weights(pose, folder, folds):
    """Weights that answer this pose in every crop: as many files as the row has networks."""
    places = [folder / f"split{n}" for n in range(1, folds + 1)] if folds > 1 else [folder]
    for place in places:
        place.mkdir(parents=True)
        save_file({"head.maps": encoded(pose)[0]}, place / "best.safetensors")
    return folder


def known_figures(row, data, pose):
    """The table's figures, from boxes and labels alone: no crop, no network, no heatmap."""
    bench, splits, pose = row.benchmark, {}, encoded(pose)[1]
    for split in bench.table_splits:
        people = bench.load(data, split, bench.table_boxes)
        points = people.centers[:, None] + (pose - 0.5) * crop_sizes(people)[:, None]
        ones = np.ones(points.shape[:2], np.float32)
        areas = crop_sizes(people).prod(1).astype(np.float32)
        files = list(dict.fromkeys(people.image_files))
        image = np.array([files.index(file) for file in people.image_files])
        poses = Poses(
            points.astype(np.float32), ones, people.boxes, areas, image, row.skeleton, tuple(files)
        )
        splits[split] = bench.measure(people, poses, bench.truth(data, split), row.nms)[0]
    return bench.table_figures(splits)


@pytest.mark.parametrize("table", ROWS)
def test_a_row_is_verified_by_its_own_weights_and_by_no_others(table, sets, tmp_path, monkeypatch):
    name, ledger = ROWS[table], tmp_path / "records"
    row = stand_in(name)
    data, folds = sets / row.benchmark.data.name, len(row.benchmark.folds)
    poses = {"right": pose_of(row, data)}
    poses["wrong"] = [0, 1] + poses["right"] * [1, -1]  # upside down
    weights = {w: write_weights(pose, tmp_path / w, folds) for w, pose in poses.items()}
    known = {w: known_figures(row, data, pose) for w, pose in poses.items()}
    printed = {key: float(figure(known["right"][key])) for key in row.published}
    monkeypatch.setitem(FACTS, name, replace(FACTS[name], published=printed))
    row = replace(row, published=printed)
    how = dict(records=ledger, workers=0, device="cpu")

    def line():
        return next(line for line in results(table, ledger) if line.row == name)

    (attempt,) = measure(table, [row], tmp_path / "nowhere", weights=weights["right"], **how)
    assert attempt.status == line().status == "not run" and "nowhere" in attempt.missing
    assert not verdicts([line()]) and not any("measured" in key for key in columns([line()])[0])

    (attempt,) = measure(table, [row], data, weights=weights["right"], **how)
    assert attempt.status == line().status == "verified"
    assert line().measured(synthetic=False) == pytest.approx(known["right"], abs=2e-3, rel=2e-3)
    assert {v.name for v in verdicts([line()]) if v.holds} == set(printed)

    first = asdict(attempt.record)
    record_path(name, ledger).unlink()
    assert line().status == "not run"
    again = asdict(measure(table, [row], data, weights=weights["right"], **how)[0].record)
    for record in (first, again):
        record["environment"] = {
            k: v for k, v in record["environment"].items() if k not in ("date", "peak memory")
        }
        for split in record["evaluation"]["splits"].values():
            split.pop("instances per second")
    assert json.dumps(first) == json.dumps(again)

    (attempt,) = measure(table, [row], data, weights=weights["wrong"], **how)
    assert attempt.status == line().status == "runs"
    assert line().measured(synthetic=False) == pytest.approx(known["wrong"], abs=2e-3, rel=2e-3)
    assert not all(v.holds for v in verdicts([line()]))
    key = row.benchmark.figure if row.benchmark.figure in printed else next(iter(printed))
    assert abs(known["wrong"][key] - known["right"][key]) > tolerance(printed[key])


def test_drawn_people_verify_nothing(sets, tmp_path, monkeypatch):
    """The same data, weights and figures, in a folder that says it was drawn."""
    row = stand_in("300w/hrnetv2-w18")
    data = shutil.copytree(sets / "300w", tmp_path / "300w")
    pose = pose_of(row, data)
    weights = write_weights(pose, tmp_path / "weights", 1)
    row = replace(row, published=known_figures(row, data, pose))
    how = dict(weights=weights, records=tmp_path / "ledger", workers=0, device="cpu")
    assert measure("300w", [row], data, **how)[0].status == "verified"
    (data / "synthpose.json").write_text("{}")
    record_path(row.id, tmp_path / "ledger").unlink()
    assert measure("300w", [row], data, **how)[0].status == "runs"


def test_what_is_counted_from_human_arts_sample(samples):
    """The notebook's literals about the 13 detected boxes that MMPose's repository holds."""
    folder = samples / "humanart"
    rows = json.loads((folder / "test_humanart_det_AP_H_56.json").read_text())
    images = json.loads((folder / "test_humanart.json").read_text())["images"]
    size = {image["id"]: np.array([image["width"], image["height"]]) for image in images}
    inside, overlaps = {"corners": 0, "widths": 0}, []
    for one in rows:
        start, other = np.split(np.array(one["bbox"]), 2)
        ends, edge = {"corners": other, "widths": start + other}, size[one["image_id"]] + 1
        for reading, end in ends.items():
            inside[reading] += bool((end <= edge).all())
        overlaps.append(float((other - start).prod() / other.prod()))  # one holds the other
    path = Path(__file__).parent.parent / "nbs" / "results" / "07_humanart_det.ipynb"
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
    (cell,) = [cell for cell in cells if cell.startswith("SAMPLE = ")]
    sample, told = (ast.literal_eval(node.value) for node in ast.parse(cell).body[:2])
    assert list(sample.values()) == [len(rows), inside["corners"], inside["widths"]]
    assert [round(v, 2) for v in sorted(overlaps)] == told
