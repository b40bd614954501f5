"""What the processes do in tests/test_several_processes.py; each function is called in all."""

import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from small_run import ARGUMENTS, Plain, network, sgd, tiny_row

from pose_nb.data.loader import PoseDataset, make_loader
from pose_nb.evaluation import evaluate
from pose_nb.files import InputError
from pose_nb.runs.learner import make_learner, start_accelerator, train_step
from pose_nb.tables.recipes import Steps
from pose_nb.training import train

PLAIN = dict(optimizer=sgd, epochs=2, schedule=Steps((9,), warmup=1))
# small rows on crops of half the size, one of each kind of network (cheap mixing, several sizes,
# stages of which one never runs, attention); POSE_NB_ALL_FAMILIES=1 adds all other families
LIGHT = "coco/shufflenet-v2 coco/litehrnet-18 coco/hourglassnet coco/pvt-s".split()
OTHERS = """coco/mobilenet-v2 coco/mspn-1-stg coco/vitpose-s coco/swin-t coco/alexnet coco/resnet-50
coco/resnetv1d-50 coco/resnext-50 coco/seresnet-50 coco/scnet-50 coco/resnest-50
coco/shufflenet-v1 mpii/cspnext-m coco/hrnet-w32 coco/cpm coco/rsn-50 coco/hrformer-s""".split()
FAMILIES = LIGHT + (OTHERS if os.environ.get("POSE_NB_ALL_FAMILIES") else [])


def plain(weights=None):
    torch.manual_seed(5)
    return Plain()


def learn(people, out, batch_size):
    """Two epochs of a network without batch norm; the same for any division of the batch."""
    row = tiny_row(plain, **PLAIN)
    settings = ARGUMENTS | dict(batch_size=batch_size, lr=0.1, val_limit=None, pictures=True)
    return train(row, people, out, **settings)


def look(people, out):
    """Figures of a random network on all people, and its results, with accelerate's processes."""
    torch.manual_seed(7)
    how = dict(batch_size=3, boxes="gt", progress=False, out=out)
    accelerator = start_accelerator("cpu")
    return evaluate(network(), people, row=tiny_row(), accelerator=accelerator, **how)


def everything(people, out):
    """All of it in one launch: to start a process takes longer than what most of it does."""
    learn(people, Path(out) / "learnt", 2)
    look(people, Path(out) / "looked")
    step_of_each_family(people, Path(out) / "answers.json")


def half(row):
    """The row with input and heatmaps of half the size, where its network can do that."""
    if row.id in ("coco/alexnet", "coco/scnet-50"):  # maps of a fixed size; too small to pool
        return row
    sizes = {
        name: tuple(n // 2 for n in getattr(row.codec, name))
        for name in ("input_size", "heatmap_size")
    }
    return replace(row, codec=replace(row.codec, **sizes))


def with_joints(records, row):
    """Four people with as many joints as the row has; which is which does not matter here."""
    four, K = records.subset(range(4)), len(row.skeleton)
    return replace(
        four, skeleton=row.skeleton, keypoints=four.keypoints[:, :K], visible=four.visible[:, :K]
    )


def step_of_each_family(people, out):
    """One update of each family's network; whether all processes hold the same weights then."""
    from pose_nb.tables.zoo import get_row

    accelerator, records = start_accelerator("cpu"), tiny_row().benchmark.load(people, "train")
    answers = {}
    for name in FAMILIES:
        row = half(get_row(name))
        torch.manual_seed(11 + accelerator.process_index)  # other weights in each, until prepared
        model = row.create()
        dataset = PoseDataset(with_joints(records, row), row.codec.input_size, row.udp_crop)
        loader = make_loader(dataset, 2)
        learner = make_learner(row, model, loader, accelerator, 1, 1e-3, say=len)
        batch = next(iter(learner.loader))
        loss, _ = train_step(learner, batch)
        mine = torch.stack([p.detach().double().sum() for p in learner.plain.parameters()])
        everyone = accelerator.gather(mine[None])
        same = bool((everyone == everyone[0]).all())
        seen = accelerator.gather(batch["index"]).tolist()
        answers[name] = dict(loss=loss.item(), same=same, seen=seen)
        del learner, model
    if accelerator.is_main_process:
        Path(out).write_text(json.dumps(answers))


def wrong_in_one(out):
    accelerator = start_accelerator("cpu")
    if accelerator.process_index == 1:
        raise InputError("picture 7 cannot be read")
    accelerator.wait_for_everyone()


def slow(people, out):
    """A run that takes its time and saves each step, for a kill."""
    import time

    from pose_nb.data import loader

    read = loader.read_image
    loader.read_image = lambda path: (time.sleep(0.1), read(path))[1]
    row = tiny_row(plain, **PLAIN | dict(epochs=50))
    train(row, people, out, **ARGUMENTS | dict(batch_size=1, lr=0.1), save_every=1)
