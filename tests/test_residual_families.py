"""ResNet, its relatives, MobileNetV2 and the ShuffleNets: starts that fit, images kept apart."""

import importlib

import pytest
import timm
import torch
import torchvision

from pose_nb.tables import networks
from pose_nb.weights.starts import Timm, Torchvision

VARIANTS = """mobilenetv2 resnest101 resnest50 resnet101 resnet152 resnet50
resnetv1d101 resnetv1d152 resnetv1d50 resnext101 resnext152 resnext50
scnet101 scnet50 seresnet101 seresnet50 shufflenetv1 shufflenetv2""".split()
MODULES = (
    "resnet",
    "resnetv1d",
    "seresnet",
    "resnext",
    "scnet",
    "resnest",
    "mobilenetv2",
    "shufflenetv1",
    "shufflenetv2",
)


def family(variant):
    """The module that a variant lives in."""
    name = next(m for m in sorted(MODULES, key=len, reverse=True) if variant.startswith(m))
    return importlib.import_module(f"pose_nb.backbones.{name}")


def build(variant):
    """A network without values; they are loaded later."""
    with torch.device("meta"):
        return getattr(family(variant), variant)()


def library(imagenet):
    """The library's network that a start names, without values."""
    with torch.device("meta"):
        if isinstance(imagenet, Timm):
            return timm.create_model(imagenet.name)
        builder, _, _ = imagenet.name.partition("_Weights.")
        return torchvision.models.get_model_builder(builder)()


STARTING = [v for v in VARIANTS if isinstance(getattr(networks, v)().imagenet, Timm | Torchvision)]


@pytest.mark.parametrize("variant", STARTING)
def test_starting_weights_fit(variant):
    """A library's file has the very names and shapes of our network (no file is fetched)."""
    theirs = library(getattr(networks, variant)().imagenet).state_dict()
    theirs = {k: v.shape for k, v in theirs.items() if not k.startswith(("fc.", "classifier."))}
    ours = {k: v.shape for k, v in build(variant).state_dict().items()}
    assert theirs.keys() == ours.keys()
    unfit = {k.split(".")[0] for k in ours if ours[k] != theirs[k]}
    # only the stem of ResNeSt-101 is wider there
    assert unfit == ({"conv1", "bn1", "layer1"} if variant == "resnest101" else set())


def test_images_do_not_touch_each_other():
    torch.manual_seed(0)
    network, images = family("shufflenetv2").shufflenetv2().eval(), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(images)[0][1:2], network(images[1:2])[0], atol=1e-6)


def test_scnet_names_its_smallest_image():
    network = build("scnet50").eval()
    assert network(torch.zeros(1, 3, 97, 97, device="meta"))[0].shape[-2:] == (4, 4)
    with pytest.raises(RuntimeError, match="too small"):
        network(torch.zeros(1, 3, 96, 96, device="meta"))
