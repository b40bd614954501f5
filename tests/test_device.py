"""That training and testing stay on the device, shown without one.

Fake CUDA tensors have shapes and a device but no values: an operation that mixes devices, or that
needs to know a value, fails. POSE_NB_ALL_ROWS=1 tries every network instead of one per kind.
"""

import os
from collections import Counter
from dataclasses import replace

import pytest
import torch
from small_run import tiny_row
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pose_nb.codecs.megvii import Megvii
from pose_nb.codecs.msra import MSRA
from pose_nb.data.crop import normalise
from pose_nb.data.loader import PoseDataset, make_loader
from pose_nb.inference import crops_to_keypoints
from pose_nb.runs.learner import make_learner, start_accelerator, train_step
from pose_nb.runs.state import Average
from pose_nb.synth import make_dataset
from pose_nb.tables.zoo import get_row, list_models

# one of each kind of network, codec, targets, loss and optimiser
KINDS = """coco/shufflenet-v2 coco/resnet-101-dark coco/mspn-1-stg
coco/litehrnet-18 coco/hourglassnet coco/cpm mpii/cspnext-m coco/vitpose-s coco/swin-t coco/pvt-s
wflw/hrnetv2-w18-awing
""".split()


def distinct():
    """A row for each network and size of the tables."""
    rows = [get_row(name) for name in list_models()]
    known = {(r.network, len(r.skeleton), r.codec.input_size, type(r.codec)): r.id for r in rows}
    return sorted(known.values())


ROWS = distinct() if os.environ.get("POSE_NB_ALL_ROWS") else KINDS


def fakes_make_tensors():
    """Whether a fake tensor of a GPU makes another without one (in torch 2.6 it asks for one)."""
    with FakeTensorMode():
        try:
            torch.empty(1, device="cuda").new_tensor([1.0])
        except RuntimeError:
            return False
    return True


@pytest.mark.skipif(not fakes_make_tensors(), reason="this torch's fake tensors ask for a GPU")
@pytest.mark.parametrize("name", ROWS)
def test_no_device_is_mixed_and_no_value_is_asked_for(name):
    row = get_row(name)
    row.network()  # imports before the contexts
    with torch.device("meta"):
        model = row.create()
    (w, h), K = row.codec.input_size, len(row.skeleton)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cuda")
        crops = torch.empty(4, 3, h, w, dtype=torch.uint8, device="cuda")
        keypoints = torch.empty(4, K, 2, device="cuda")
        visible = torch.empty(4, K, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            outputs = model(normalise(crops), all_stages=True)
        outputs = [maps.float() for maps in outputs]
        loss, target, _ = row.recipe.supervise(outputs, keypoints, visible, row.codec)
        assert loss.device.type == target.device.type == "cuda" and loss.dtype == torch.float32
        for parameter in model.parameters():  # a backward of fake tensors needs a real device
            parameter.grad = torch.empty_like(parameter)
        row.recipe.optimizer(model, 1e-3).step()
        if row.recipe.ema:
            average = Average(model, row.recipe.ema)
            average.update(model)
        torch.isfinite(loss).float()
        where = torch.empty(4, 2, device="cuda"), torch.empty(4, 2, device="cuda")
        indices = row.skeleton.flip_indices if row.flip else None
        how = dict(device="cuda", precision="bf16")
        points, scores = crops_to_keypoints(model.eval(), crops, *where, row.codec, indices, **how)
        assert points.device.type == "cuda" and points.shape == (4, K, 2)
        assert points.dtype == scores.dtype == torch.float32


def test_a_value_that_is_asked_for_is_found():
    """The test above can fail."""
    with FakeTensorMode(), pytest.raises(Exception, match="_local_scalar_dense|DataDependent"):
        torch.empty(3, device="cuda").sum().item()
    with FakeTensorMode(), pytest.raises(Exception, match="cuda.*cpu|cpu.*cuda"):
        torch.empty(3, device="cuda") + torch.empty(3)


class Waits(TorchDispatchMode):
    """Counts operations for which a GPU's program would have to wait."""

    WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal", "masked_select"}

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if name in self.WAITING:
            self.found[name] += 1
        return operation(*args, **(kwargs or {}))


def fused(model, lr):
    """Adam in one kernel, as on a GPU; the other one reads its counters on the CPU."""
    groups = [{"params": list(model.parameters()), "factor": 1.0}]
    return torch.optim.Adam(groups, lr, fused=True)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device") / "people"
    return make_dataset(folder, train=4, val=1, seed=3, workers=0, progress=False)


@pytest.fixture
def learner(people):
    row = tiny_row(optimizer=fused, ema=0.01, clip=1.0)
    records = row.benchmark.load(people, "train").subset(range(4))
    loader = make_loader(PoseDataset(records, row.codec.input_size), 2)
    return make_learner(row, row.create(), loader, start_accelerator("cpu"), 2, say=len)


def test_a_step_waits_for_nothing(learner):
    first, second = learner.loader
    train_step(learner, first)  # constants are made in the first step
    with Waits() as waits:
        train_step(learner, second)
    assert not waits.found
    with Waits() as waits:
        loss, accuracy = train_step(learner, first, look=True)
        float(loss), float(accuracy)
    assert waits.found["_local_scalar_dense"] >= 2, "looking waits, and is counted"


@pytest.mark.parametrize(
    "codec",
    [
        MSRA((64, 96), (16, 24)),
        Megvii((64, 96), (16, 24)),
    ],  # DARK and UDP take a short cut on the CPU; the fake tensors above show them on a GPU
    ids=["MSRA", "Megvii"],
)
def test_a_batch_of_a_test_waits_for_nothing(learner, codec):
    row = replace(get_row("coco/resnet-50"), codec=codec)
    batch = next(iter(learner.loader))
    model = learner.plain.eval()

    def ask():
        where = batch["center"], batch["scale"]
        indices = row.skeleton.flip_indices
        return crops_to_keypoints(model, batch["image"], *where, row.codec, indices)

    ask()
    with Waits() as waits:
        points, _ = ask()
    assert not waits.found and torch.isfinite(points).all()
