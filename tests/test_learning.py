"""Every network of the tables learns: one optimiser step reaches every parameter, and a member of each family learns two people by heart.

Inputs are reduced to what the network allows; codec, loss and optimiser are the row's own.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pose_nb
from pose_nb.data.crop import normalise

GOLDEN = json.loads((Path(__file__).parent / "golden" / "networks.json").read_text())["networks"]
FAMILIES = {
    family: f"coco/{model}"
    for family, model in dict(
        alexnet="alexnet",
        cpm="cpm",
        hourglass="hourglassnet",
        resnet="resnet-50",
        resnetv1d="resnetv1d-50",
        seresnet="seresnet-50",
        resnext="resnext-50",
        scnet="scnet-50",
        resnest="resnest-50",
        mobilenetv2="mobilenet-v2",
        shufflenetv1="shufflenet-v1",
        shufflenetv2="shufflenet-v2",
        hrnet="hrnet-w32",
        litehrnet="litehrnet-18",
        mspn="mspn-1-stg",
        rsn="rsn-50",
        hrformer="hrformer-s",
        pvt="pvt-s",
        swin="swin-t",
        cspnext="cspnext-tiny",
        vitpose="vitpose-s",
    ).items()
}

# (input, heatmap) sizes, squares, where 64 → 16 does not do: the hourglass halves its quarter five
# times; CPM's maps have an eighth, AlexNet's pools cut more,
# and SCNet pools 4×4 pixels of its coarsest map
SIZES = {
    "hourglass52": (128, 32),
    "scnet50": (128, 32),
    "scnet101": (128, 32),
    "cpm": (64, 8),
    "alexnet": (64, 8),
}

# parameters that the published networks have and never use, so that training does not change them
NEVER_RUN = {"hourglass52": "backbone.inters.0."}


def name(row):
    return row.network.__name__


def reduced(row, size=None):
    """The row with square inputs of `size`, or the smallest that its network allows."""
    whole, maps = SIZES.get(name(row), (64, 16))
    size = size or whole
    return replace(
        row,
        codec=replace(row.codec, input_size=(size, size), heatmap_size=(size * maps // whole,) * 2),
    )


def two_people(row, seed=0):
    """A picture for each of two people, uint8 (2, 3, h, w): a coloured square at every keypoint, on
    a dim ground; with keypoints and visibility."""
    (w, h), K = row.codec.input_size, len(row.skeleton)
    chance = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 60, (2, 3, h, w), generator=chance, dtype=torch.uint8)
    keypoints = (0.15 + 0.7 * torch.rand(2, K, 2, generator=chance)) * torch.tensor([w, h])
    visible = torch.ones(2, K)
    visible[1, 0] = 0  # one keypoint of one person is hidden
    colours = torch.randint(80, 256, (K, 3), generator=chance, dtype=torch.uint8)
    for b in range(2):
        for k, (x, y) in enumerate(keypoints[b].long().tolist()):
            if visible[b, k]:
                images[b, :, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = colours[k][
                    :, None, None
                ]
    return normalise(images), keypoints, visible


@pytest.mark.parametrize(
    "arch",
    [pytest.param(a, marks=pytest.mark.slow) if a.startswith("vitpose-h") else a for a in GOLDEN],
)
def test_a_step_reaches_every_parameter(arch):
    torch.manual_seed(0)
    row = reduced(pose_nb.get_row(GOLDEN[arch]["rows"][0]))
    model, (images, keypoints, visible) = row.create(), two_people(row)
    optimizer = row.recipe.optimizer(model, row.recipe.lr)
    optimised = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(optimised) == sorted(id(p) for p in model.parameters()), (
        "the optimiser must hold every parameter once"
    )

    outputs = model(images, all_stages=True)
    loss, target, weights = row.recipe.supervise(outputs, keypoints, visible, row.codec)
    assert torch.isfinite(loss) and loss > 0
    assert all(o.shape == target.shape for o in outputs) and weights.sum() > len(row.skeleton)
    loss.backward()

    without = {n for n, p in model.named_parameters() if p.grad is None}
    unused = NEVER_RUN.get(name(row))
    assert without == {n for n, _ in model.named_parameters() if unused and n.startswith(unused)}
    assert bool(without) == (unused is not None)
    broken = [
        n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
    ]
    assert not broken, f"gradients that are not finite: {broken}"

    probes = [p for p in model.parameters() if p.grad is not None and p.grad.abs().max() > 1e-6]
    probes = [probes[0], probes[-1]]
    before = [p.detach().clone() for p in probes]
    optimizer.step()
    assert not any(torch.equal(p, old) for p, old in zip(probes, before)), (
        "the step changed nothing"
    )


# the costly ones take a smaller picture or fewer steps
OVERFIT_SIZES, OVERFIT_STEPS = {"cpm": 48}, {"hourglass": 12}


def learn_by_heart(model, row, steps, lr=1e-3):
    """The losses of so many steps of Adam on two people.

    The maps of MSPN and RSN are 255 high and come out of a batch norm that starts at 1: it takes
    bigger steps, or 30 would get nowhere.
    """
    images, keypoints, visible = two_people(row)
    last = [
        p
        for n, p in model.named_parameters()
        if n.startswith("head.predict_layers.") and ".conv_layers.1.bn." in n
    ]
    rest = [p for p in model.parameters() if all(p is not q for q in last)]
    optimizer = torch.optim.Adam(
        [{"params": rest}] + [{"params": last, "lr": 3000 * lr}] * bool(last), lr
    )
    losses = []
    for _ in range(steps):
        loss = row.recipe.supervise(model(images, all_stages=True), keypoints, visible, row.codec)[
            0
        ]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_two_people_by_heart(family):
    torch.manual_seed(0)
    row = reduced(pose_nb.get_row(FAMILIES[family]), OVERFIT_SIZES.get(family))
    if row.codec.input_size[0] == 128:
        row = replace(
            row, codec=replace(row.codec, sigma=4.0)
        )  # as large a spot, in the picture, as at 64
    losses = learn_by_heart(row.create(), row, OVERFIT_STEPS.get(family, 30))
    start, end = min(losses[:2]), sum(losses[-3:]) / 3
    assert end < 0.7 * start, f"the loss went from {start:.4g} to {end:.4g} only"


def test_the_check_of_gradients_can_fail():
    row = reduced(pose_nb.get_row("coco/mobilenet-v2"))
    model, (images, keypoints, visible) = row.create(), two_people(row)
    model.head.deconv_layers[0].weight.requires_grad_(False)
    row.recipe.supervise(model(images, all_stages=True), keypoints, visible, row.codec)[
        0
    ].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == [
        "head.deconv_layers.0.weight"
    ]


def test_the_check_of_learning_can_fail():
    torch.manual_seed(0)
    row = reduced(pose_nb.get_row("coco/mobilenet-v2"))
    losses = learn_by_heart(row.create(), row, 10, lr=0.0)
    assert sum(losses[-3:]) / 3 > 0.99 * min(losses[:2])
