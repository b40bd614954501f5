"""A step reaches every parameter, in each family; each kind of head learns two people by heart.

Inputs are reduced to what the network allows; codec, loss and optimiser are the row's own.
"""

from dataclasses import replace

import pytest
import torch

import pose_nb
from pose_nb.data.crop import normalise

# the smallest row of each family, and of each kind of head
ROWS = [
    "coco/alexnet",
    "coco/cpm",
    "coco/hourglassnet",
    "coco/resnet-50",
    "coco/resnetv1d-50",
    "coco/seresnet-50",
    "coco/resnext-50",
    "coco/scnet-50",
    "coco/resnest-50",
    "coco/mobilenet-v2",
    "coco/shufflenet-v1",
    "coco/shufflenet-v2",
    "coco/hrnet-w32",
    "cofw/hrnetv2-w18",
    "coco/litehrnet-18",
    "coco/mspn-1-stg",
    "coco/rsn-50-3x",
    "coco/hrformer-s",
    "coco/pvt-s",
    "coco/swin-t",
    "coco/cspnext-tiny",
    "coco/vitpose-s",
]

# (input, heatmap) sizes, squares, where 64 → 16 does not do: the hourglass halves its quarter five
# times; CPM's maps have an eighth, AlexNet's pools cut more, and SCNet pools 4×4 pixels of its
# coarsest map
SIZES = {
    "coco/hourglassnet": (128, 32),
    "coco/scnet-50": (128, 32),
    "coco/cpm": (48, 6),
    "coco/alexnet": (64, 8),
}

# parameters that the published networks have and never use, so that training does not change them
NEVER_RUN = {"coco/hourglassnet": "backbone.inters.0."}

# a cheap row for each kind of head and target, and one with attention
LEARNERS = [
    "coco/mobilenet-v2",
    "coco/litehrnet-18",
    "cofw/hrnetv2-w18",
    "coco/cpm",
    "coco/mspn-1-stg",
    "coco/vitpose-s",
]


def reduced(name):
    """A row with the smallest square input that its network allows."""
    row = pose_nb.get_row(name)
    whole, maps = SIZES.get(name, (64, 16))
    codec = replace(row.codec, input_size=(whole, whole), heatmap_size=(maps, maps))
    if whole == 128:
        codec = replace(codec, sigma=4.0)  # as large a spot, in the picture, as at 64
    return replace(row, codec=codec)


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
                spot = images[b, :, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
                spot[:] = colours[k][:, None, None]
    return normalise(images), keypoints, visible


def forward(model, row, people):
    """Outputs of all stages, the loss and what it compares with."""
    images, keypoints, visible = people
    outputs = model(images, all_stages=True)
    return outputs, *row.recipe.supervise(outputs, keypoints, visible, row.codec)


def without_gradient(model):
    return {name for name, p in model.named_parameters() if p.grad is None}


def fast_adam(model, lr=1e-3):
    """Adam at a rate for learning by heart.

    The maps of MSPN and RSN are 255 high and come out of a batch norm that starts at 1: it takes
    bigger steps, or 30 would get nowhere.
    """
    high, rest = [], []
    for name, p in model.named_parameters():
        last = name.startswith("head.predict_layers.") and ".conv_layers.1.bn." in name
        (high if last else rest).append(p)
    groups = [{"params": rest}] + [{"params": high, "lr": 3000 * lr}] * bool(high)
    return torch.optim.Adam(groups, lr)


def learnt(losses):
    """How far the loss came down: the mean of the last three against the first two."""
    return sum(losses[-3:]) / 3 / min(losses[:2])


def learn_by_heart(model, row, people, steps, lr=1e-3):
    """The losses of so many steps of Adam on two people; fewer, if it came down before."""
    optimizer, losses = fast_adam(model, lr), []
    while len(losses) < 5 or (len(losses) < steps and learnt(losses) >= 0.8):
        loss = forward(model, row, people)[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def check_step(model, row, people, never_run=None):
    """One step of the row's own recipe: every parameter is held once, has a gradient, and moves."""
    optimizer = row.recipe.optimizer(model, row.recipe.lr)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(held) == sorted(trained), "each parameter once"

    outputs, loss, target, weights = forward(model, row, people)
    assert torch.isfinite(loss) and loss > 0 and weights.sum() > len(row.skeleton)
    assert all(output.shape == target.shape for output in outputs)
    loss.backward()
    unused = {n for n, _ in model.named_parameters() if never_run and n.startswith(never_run)}
    assert without_gradient(model) == unused and bool(unused) == bool(never_run)
    assert unused == {n for n, p in model.named_parameters() if not p.requires_grad}
    broken = [
        n for n, p in model.named_parameters() if n not in unused and not p.grad.isfinite().all()
    ]
    assert not broken, f"gradients that are not finite: {broken}"

    probes = [p for p in model.parameters() if p.grad is not None and p.grad.abs().max() > 1e-6]
    before = [p.detach().clone() for p in (probes[0], probes[-1])]
    optimizer.step()
    assert not any(map(torch.equal, (probes[0], probes[-1]), before)), "the step changed nothing"


@pytest.mark.parametrize("name", ROWS)
def test_a_step_reaches_every_parameter(name):
    torch.manual_seed(0)
    row = reduced(name)
    check_step(row.create(), row, two_people(row), NEVER_RUN.get(name))


@pytest.mark.parametrize("name", LEARNERS)
def test_two_people_are_learnt_by_heart(name):
    torch.manual_seed(0)
    row = reduced(name)
    losses = learn_by_heart(row.create(), row, two_people(row), 25)
    assert learnt(losses) < 0.8, f"the loss went from {losses[0]:.4g} to {losses[-1]:.4g} only"


def test_the_check_of_gradients_can_fail():
    row = reduced("coco/mobilenet-v2")
    model = row.create()
    model.head.deconv_layers[0].weight.requires_grad_(False)
    forward(model, row, two_people(row))[1].backward()
    assert without_gradient(model) == {"head.deconv_layers.0.weight"}


def test_the_check_of_learning_can_fail():
    torch.manual_seed(0)
    row = reduced("coco/mobilenet-v2")
    losses = learn_by_heart(row.create(), row, two_people(row), 6, lr=0.0)
    assert len(losses) == 6 and learnt(losses) > 0.99
