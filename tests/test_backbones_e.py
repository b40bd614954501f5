"""ResNet and its relatives, MobileNetV2, ShuffleNetV1 and V2 against figures of MMPose 1.3.2.

Names, costs and outputs. With POSE_NB_REFERENCE set to a folder with golden/ and state_dicts/ of
all networks, each network is run at all its sizes.
"""

import hashlib
import importlib
import json
import os
import re
import zlib
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from pose_nb.networks.cost import macs, parameters
from pose_nb.networks.heads import HeatmapHead
from pose_nb.tables import networks
from pose_nb.tables.zoo import ROWS
from pose_nb.weights.starts import Timm

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "backbones_e.json").read_text(encoding="utf-8")
)["networks"]
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
LIGHT = (
    "resnet50",
    "resnetv1d50",
    "seresnet50",
    "resnext50",
    "scnet50",
    "resnest50",
    "mobilenetv2",
    "shufflenetv1",
    "shufflenetv2",
)
REFERENCE = os.environ.get("POSE_NB_REFERENCE")


def family(variant):
    """The module that a variant lives in."""
    name = next(m for m in sorted(MODULES, key=len, reverse=True) if variant.startswith(m))
    return importlib.import_module(f"pose_nb.backbones.{name}")


def build(variant):
    """A network without values; they are loaded later."""
    with torch.device("meta"):
        return getattr(family(variant), variant)()


def published(name, rules):
    return reduce(lambda n, rule: re.sub(*rule, n), rules, name)


def value(name, shape, gain):
    """Deterministic value of a state_dict entry, from its published name."""
    rng, last = np.random.default_rng(zlib.crc32(name.encode())), name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return torch.zeros((), dtype=torch.long)
    if last == "running_mean":
        x = rng.standard_normal(shape) * 0.1
    elif last == "running_var":
        x = rng.uniform(0.7, 1.3, shape)
    elif last == "bias":
        x = rng.standard_normal(shape) * 0.05
    elif len(shape) == 1:
        x = rng.uniform(0.6, 1, shape)
    else:
        x = rng.standard_normal(shape) * (gain * np.sqrt(2 / np.prod(shape[1:])))
    return torch.from_numpy(np.asarray(x, np.float32))


def filled(network, rules, prefix, gain):
    """The network with its deterministic values, in evaluation mode; every entry is set."""
    values = {
        k: value(f"{prefix}.{published(k, rules)}", tuple(v.shape), gain)
        for k, v in network.state_dict().items()
    }
    network.load_state_dict(values, assign=True)
    return network.eval()


def pose_network(variant, gain, keypoints):
    backbone = filled(build(variant), family(variant).PUBLISHED_NAMES, "backbone", gain)
    with torch.device("meta"):
        head = HeatmapHead(backbone.channels[-1], keypoints)
    return backbone, filled(head, (), "head", gain)


@torch.no_grad()
def run(backbone, head, seed, shape, dtype=torch.float32):
    """Backbone maps and heatmaps of the recorded random input."""
    images = torch.from_numpy(
        np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    ).to(dtype)
    maps = backbone.to(dtype)(images)
    return maps, head.to(dtype)(maps)[-1]


def error(heatmaps, expected, key):
    """Largest difference over the recorded standard deviation."""
    found = heatmaps.double().numpy().ravel()[expected["index"]]
    return np.abs(found - np.array(expected[key])).max() / expected["std"]


@pytest.mark.parametrize("variant", GOLDEN)
def test_names_shapes_and_cost(variant):
    g, network, rules = GOLDEN[variant], build(variant), family(variant).PUBLISHED_NAMES
    lines = sorted(
        f"{published(k, rules)} {list(v.shape)}" for k, v in network.state_dict().items()
    )
    assert len(set(lines)) == len(network.state_dict())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == g["entries"]
    assert network.channels == (g["map"]["shape"][1],)
    with torch.device("meta"):
        head = HeatmapHead(network.channels[-1], g["keypoints"])
    assert parameters(network) + parameters(head) == g["parameters_with_head"]
    assert macs(network, g["input_shape"][:1:-1]) == g["macs"]


@pytest.mark.parametrize("variant", LIGHT)
def test_outputs(variant):
    g = GOLDEN[variant]
    backbone, head = pose_network(variant, g["gain"], g["keypoints"])
    maps, heatmaps = run(backbone, head, g["seed"], g["input_shape"])
    assert [list(m.shape) for m in maps] == [g["map"]["shape"]] and list(heatmaps.shape) == g[
        "heatmaps"
    ]["shape"]
    assert abs(maps[0].mean().item() - g["map"]["mean"]) < 1e-5 * g["map"]["std"]
    assert abs(maps[0].std(correction=0).item() - g["map"]["std"]) < 1e-5 * g["map"]["std"]
    assert error(heatmaps, g["heatmaps"], "float32") < g["tolerance"]
    _, exact = run(backbone, head, g["seed"], g["input_shape"], torch.float64)
    assert error(exact, g["heatmaps"], "float64") < 1e-7


def test_the_comparison_notices_a_slip():
    g = GOLDEN["shufflenetv1"]
    backbone, head = pose_network("shufflenetv1", g["gain"], g["keypoints"])

    def found():
        return error(run(backbone, head, g["seed"], g["input_shape"])[1], g["heatmaps"], "float32")

    assert found() < g["tolerance"]
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in norms:
        m.eps = 1e-3
    assert found() > 10 * g["tolerance"]
    for m in norms:
        m.eps = 1e-5
    backbone.layers[1][3].groups = 2
    assert found() > 10 * g["tolerance"]


def library(imagenet):
    """The library's network that a start names, without values."""
    with torch.device("meta"):
        if isinstance(imagenet, Timm):
            return timm.create_model(imagenet.name)
        builder, _, _ = imagenet.name.partition("_Weights.")
        return torchvision.models.get_model_builder(builder)()


STARTING = [v for v in GOLDEN if getattr(networks, v)().imagenet is not None]


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


def test_every_variant_is_covered():
    names = {row.network.__name__ for row in ROWS}
    assert {name for name in names if name.startswith(MODULES)} == set(GOLDEN)


@pytest.mark.parametrize("variant", ("mobilenetv2", "shufflenetv1", "shufflenetv2", "scnet50"))
def test_trains(variant):
    torch.manual_seed(0)
    network = getattr(family(variant), variant)().train()
    (out,) = network(torch.randn(2, 3, 160, 128))
    out.square().mean().backward()
    assert out.shape[2:] == (5, 4)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


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


def reference_networks():
    if not REFERENCE:
        return ["none"]
    names = [p.stem for p in sorted((Path(REFERENCE) / "golden").glob("*.json"))]
    return [n for n in names if n.split("_")[0].replace("-", "") in GOLDEN]


@pytest.mark.parametrize("arch", reference_networks())
def test_all_recorded_networks(arch):
    if not REFERENCE:
        pytest.skip("set POSE_NB_REFERENCE=<folder with golden/ and state_dicts/> to run")
    g = json.loads((Path(REFERENCE) / "golden" / f"{arch}.json").read_text())
    entries = dict(
        json.loads((Path(REFERENCE) / "state_dicts" / f"{arch}.json").read_text())["entries"]
    )
    variant = arch.split("_")[0].replace("-", "")
    backbone, head = pose_network(variant, g["gain"], g["output"]["shape"][1])
    rules = family(variant).PUBLISHED_NAMES
    ours = {
        f"backbone.{published(k, rules)}": list(v.shape) for k, v in backbone.state_dict().items()
    }
    ours |= {f"head.{k}": list(v.shape) for k, v in head.state_dict().items()}
    assert ours == entries
    maps, heatmaps = run(backbone, head, g["input"]["seed"], g["input"]["shape"])
    assert [list(m.shape) for m in maps] == [b["shape"] for b in g["backbone"]]
    assert (
        error(heatmaps, {**g["output"], "float32": g["output"]["value"]}, "float32")
        < g["tolerance_over_std"]
    )
    _, exact = run(backbone, head, g["input"]["seed"], g["input"]["shape"], torch.float64)
    assert error(exact, {**g["output"], "float64": g["output_float64"]["value"]}, "float64") < 1e-7
