"""Every row trains and tests as published: our recipes against the reference's resolved facts."""

import json
from pathlib import Path

import pytest

import pose_nb
from pose_nb.codecs.megvii import Megvii
from pose_nb.codecs.msra import MSRA
from pose_nb.codecs.udp import UDP
from pose_nb.tables.recipes import AdamW, FlatCosine, Steps, SuperviseUnits
from pose_nb.tables.rows import loss_name

FACTS = json.loads((Path(__file__).parent / "golden" / "protocol.json").read_text())["rows"]
LOSSES = {
    "KeypointMSELoss": "keypoint_mse",
    "KeypointOHKMMSELoss": "ohkm",
    "AdaptiveWingLoss": "adaptive_wing",
}


def test_every_row_has_published_facts():
    assert sorted(FACTS) == sorted(pose_nb.list_models()) and len(FACTS) == 87


def schedule(recipe):
    """The reference's description of a schedule from ours."""
    plan = recipe.schedule
    warmup = dict(type="LinearLR", begin=0, end=plan.warmup, start_factor=plan.start)
    if isinstance(plan, Steps):
        drops = dict(type="MultiStepLR", begin=0, milestones=list(plan.drops), gamma=0.1)
        return warmup, drops
    assert isinstance(plan, FlatCosine)
    floor = recipe.lr * plan.floor
    cosine = dict(type="CosineAnnealingLR", eta_min=floor, begin=plan.hold, end=recipe.epochs)
    return warmup, cosine


def published_schedule(fact):
    warmup, rest = fact["schedule"]
    rest = {k: v for k, v in rest.items() if k != "T_max"}
    if rest["type"] == "MultiStepLR":
        # a schedule ends before a drop that lies behind its end
        end = rest.pop("end")
        rest["milestones"] = [epoch for epoch in rest["milestones"] if epoch < end]
    return {k: warmup[k] for k in ("type", "begin", "end", "start_factor")}, rest


def training(row):
    """Our facts under the reference's names."""
    recipe, optimizer = row.recipe, row.recipe.optimizer
    decayed = isinstance(optimizer, AdamW)
    layers = optimizer.layer_decay if decayed else None
    return {
        "batch": recipe.batch,
        "base batch": recipe.base_batch or recipe.batch,
        "epochs": recipe.epochs,
        "val interval": recipe.eval_every,
        "rule": "less" if row.benchmark.measure.lower_is_better else "greater",
        "optimizer": type(optimizer).__name__,
        "lr": recipe.lr,
        "weight decay": optimizer.weight_decay if decayed else 0,
        "layer decay": layers.decay if layers else None,
        "layers": layers.layers if layers else None,
        "clip": recipe.clip,
        "ema": recipe.ema,
        "switch": recipe.late[0] if recipe.late else None,
        "sync bn": recipe.sync_bn,
        "seed": recipe.seed,
        "start": row.starts_from or None,
        "load from": row.continues or None,
    }


@pytest.mark.parametrize("name", sorted(FACTS))
def test_training_is_the_published_one(name):
    row, fact = pose_nb.get_row(name), dict(FACTS[name])
    if isinstance(fact["load from"], str):
        fact["load from"] = fact["load from"].split("/")[-1]
    ours = training(row)
    assert ours == {key: fact[key] for key in ours}
    for part, published in zip(schedule(row.recipe), published_schedule(fact), strict=True):
        assert part == {k: v if k == "type" else pytest.approx(v) for k, v in published.items()}
    losses = fact["loss"] if isinstance(fact["loss"], list) else [fact["loss"]]
    supervise = row.recipe.supervise
    assert loss_name(supervise.loss) == " and ".join(dict.fromkeys(LOSSES[n] for n in losses))
    if isinstance(supervise, SuperviseUnits):
        assert len(losses) == 4 * supervise.stages


@pytest.mark.parametrize("name", sorted(FACTS))
def test_augmentation_is_the_published_one(name):
    row, fact = pose_nb.get_row(name), FACTS[name]
    augment = row.recipe.augment
    assert augment.half_body == fact["half body"]
    assert augment.shift_prob == fact["shift prob"]
    assert augment.shift_prob == 0 or augment.shift == fact["shift factor"]
    assert list(augment.scale) == fact["scale factor"]
    assert augment.rotate == fact["rotate factor"]
    assert augment.rotate_prob == fact["rotate prob"] and augment.flip == fact["flip prob"]
    assert row.udp_crop == bool(fact["udp crop train"]) == bool(fact["udp crop val"])


@pytest.mark.parametrize("name", sorted(FACTS))
def test_the_test_is_the_published_one(name):
    row, fact = pose_nb.get_row(name), FACTS[name]
    benchmark, data = row.benchmark, row.benchmark.data
    boxes = row.recipe.eval_boxes or benchmark.table_boxes
    assert boxes == {"detector": "det", "annotated": "gt"}[fact["val boxes"]]
    if boxes == "det":
        assert Path(data.detections).name == fact["val box file"]
        assert data.min_score == fact["val min score"]
    if benchmark.figure == "AP":
        assert row.nms == fact["nms"]
    assert row.flip == fact["flip"]
    if row.flip:
        assert row.codec.shift_flip == fact["shift"]
    assert Path(data.annotations["train"]).name == fact["train file"]
    assert Path(data.annotations["val"]).name == fact["val file"]
    kinds = {MSRA: "MSRAHeatmap", UDP: "UDPHeatmap", Megvii: "MegviiHeatmap"}
    assert kinds[type(row.codec)] == fact["codec"]
    if isinstance(row.codec, MSRA):
        assert (row.codec.sigma, row.codec.unbiased) == (fact["sigma"], bool(fact["unbiased"]))


@pytest.mark.parametrize("name", ["jhmdb/resnet-50", "jhmdb/cpm"])
def test_jhmdb_has_a_model_and_a_file_for_each_split(name):
    row = pose_nb.get_row(name)
    annotations = row.benchmark.data.annotations
    for number, (train, val, checkpoint, epochs, size) in enumerate(FACTS[name]["splits"], 1):
        split = "" if number == 1 else str(number)
        assert annotations[f"train{split}"] == train and annotations[f"val{split}"] == val
        assert row.checkpoints[number - 1] == checkpoint
        assert (row.recipe.epochs, list(row.codec.input_size)) == (epochs, size)


def test_mpii_cspnext_learns_joints_as_they_are_written(tmp_path):
    """MMPose 1.x trains on joints that count from 1; the other MPII rows are from 0.x."""
    as_written = pose_nb.get_row("mpii/cspnext-m").benchmark.data.options(tmp_path, "train")
    usual = pose_nb.get_row("mpii/resnet-50").benchmark.data.options(tmp_path, "train")
    assert (as_written["subtract_one"], usual["subtract_one"]) == (False, True)
