"""AlexNet, CPM, hourglass, HRNet, Lite-HRNet, MSPN and RSN: names, costs and outputs against figures recorded from MMPose 1.3.2.

With POSE_NB_REFERENCE set to a folder with golden/ and state_dicts/ of all networks, each network is run at all its sizes.
"""

import hashlib
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from pose_nb.backbones import alexnet, cpm, hourglass, hrnet, litehrnet, mspn, rsn
from pose_nb.networks.cost import macs, parameters
from pose_nb.files import InputError
from pose_nb.networks.heads import ConcatHead, HeatmapHead, PassHead, StackHead, UnitsHead
from pose_nb.networks.model import PoseModel
from pose_nb.tables import networks

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "backbones_f.json").read_text(encoding="utf-8")
)["networks"]
REFERENCE = os.environ.get("POSE_NB_REFERENCE")
MODULES = (alexnet, cpm, hourglass, hrnet, litehrnet, mspn, rsn)
BUILD = {
    "alexnet": lambda k: PoseModel(alexnet.alexnet(), HeatmapHead(256, k)),
    "cpm": lambda k: PoseModel(cpm.cpm(k), PassHead()),
    "hourglass52": lambda k: PoseModel(hourglass.hourglass52(), StackHead(256, k)),
    "hrnet_w32": lambda k: PoseModel(hrnet.hrnet_w32(), HeatmapHead(32, k, ())),
    "hrnet_w48": lambda k: PoseModel(hrnet.hrnet_w48(), HeatmapHead(48, k, ())),
    "hrnetv2_w18": lambda k: PoseModel(hrnet.hrnetv2_w18(), ConcatHead((18, 36, 72, 144), k)),
    "litehrnet18": lambda k: PoseModel(litehrnet.litehrnet18(), HeatmapHead(40, k, ())),
    "litehrnet30": lambda k: PoseModel(litehrnet.litehrnet30(), HeatmapHead(40, k, ())),
    "mspn50_1": lambda k: PoseModel(mspn.mspn50(1), UnitsHead(256, k, (48, 64), 1)),
    "mspn50_4": lambda k: PoseModel(mspn.mspn50(4), UnitsHead(256, k, (48, 64), 4)),
    "rsn50_1": lambda k: PoseModel(rsn.rsn50(1), UnitsHead(256, k, (48, 64), 1)),
    "rsn50_3": lambda k: PoseModel(rsn.rsn50(3), UnitsHead(256, k, (48, 64), 3)),
}
LIGHT = ("alexnet", "hrnet_w32", "hrnetv2_w18", "litehrnet18", "litehrnet30", "mspn50_1", "rsn50_1")
HEAVY = ("cpm", "hourglass52", "hrnet_w48", "mspn50_4", "rsn50_3")


def build(variant):
    """A pose network without values."""
    with torch.device("meta"):
        return BUILD[variant](GOLDEN[variant]["keypoints"])


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


def filled(network, gain):
    network.load_state_dict(
        {k: value(k, tuple(v.shape), gain) for k, v in network.state_dict().items()}, assign=True
    )
    return network.eval()


@torch.no_grad()
def run(network, seed, shape, dtype=torch.float32):
    """Backbone maps and heatmaps of all stages for the recorded random input."""
    images = torch.from_numpy(
        np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    ).to(dtype)
    maps = network.to(dtype).backbone(images)
    return maps, network.head(maps)


def error(heatmaps, expected, key):
    """Largest difference over the recorded standard deviation."""
    found = heatmaps.double().numpy().ravel()[expected["index"]]
    return np.abs(found - np.array(expected[key])).max() / expected["std"]


def repeated_paths(backbone, size):
    """Multiply-adds of Lite-HRNet's paths from branch 0 down, which the recorded network ran twice;
    each step halves the map."""
    total = 0
    for unit in backbone.modules():
        if not isinstance(unit, litehrnet.LiteUnit):
            continue
        for row in list(unit.fuse_layers)[1:]:
            for n, step in enumerate(row[0], start=3):
                total += (
                    sum(m.weight.numel() for m in step if isinstance(m, nn.Conv2d))
                    * (size[0] >> n)
                    * (size[1] >> n)
                )
    return total


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.rsplit(".", 1)[-1])
def test_our_names_are_the_published_ones(module):
    assert module.PUBLISHED_NAMES == ()


@pytest.mark.parametrize("variant", GOLDEN)
def test_names_shapes_and_cost(variant):
    g, network = GOLDEN[variant], build(variant)
    lines = sorted(f"{k} {list(v.shape)}" for k, v in network.state_dict().items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == g["entries"]
    assert network.backbone.channels == tuple(m["shape"][1] for m in g["maps"])
    assert parameters(network) == g["parameters"]
    size = (g["input_shape"][3], g["input_shape"][2])
    twice = repeated_paths(network.backbone, size) if variant.startswith("lite") else 0
    assert macs(network.backbone, size) + twice == g["macs"]
    assert not variant.startswith("lite") or twice > 0.1 * g["macs"]


@pytest.mark.parametrize("variant", (*LIGHT, *HEAVY))
def test_outputs(variant):
    g = GOLDEN[variant]
    network = filled(build(variant), g["gain"])
    maps, stages = run(network, g["seed"], g["input_shape"])
    assert [list(m.shape) for m in maps] == [m["shape"] for m in g["maps"]] and list(
        stages[-1].shape
    ) == g["heatmaps"]["shape"]
    for m, expected in zip(maps, g["maps"]):
        assert abs(m.mean().item() - expected["mean"]) < 1e-5 * expected["std"]
        assert abs(m.std(correction=0).item() - expected["std"]) < 1e-5 * expected["std"]
    assert not g["stages"] or len(stages) == len(g["stages"])
    for heatmaps, expected in zip(stages, g["stages"]):
        assert error(heatmaps, expected, "value") < g["tolerance"]
    assert error(stages[-1], g["heatmaps"], "float32") < g["tolerance"]
    if variant in LIGHT:
        _, exact = run(network, g["seed"], g["input_shape"], torch.float64)
        assert error(exact[-1], g["heatmaps"], "float64") < 1e-7


def slips():
    """Name of a slip -> network and a function that makes it."""

    def upsampling(network):
        for m in network.modules():
            if isinstance(m, nn.Upsample):
                m.mode = "bilinear"

    def epsilon(network):
        for m in network.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eps = 1e-3

    def swapped_skips(network):
        first = network.backbone.stage2[0].fuse_layers
        first[0][1][0].weight.data = first[0][1][0].weight.data.flip(0)

    def clean_sum(unit, maps):
        maps = unit.layers(maps)
        return [F.relu(sum(path(m) for path, m in zip(row, maps))) for row in unit.fuse_layers]

    def meant(network):
        for m in network.modules():
            if isinstance(m, litehrnet.LiteUnit):
                m.forward = lambda maps, m=m: clean_sum(m, maps)

    return {
        "nearest": ("hrnet_w32", upsampling),
        "eps": ("hrnet_w32", epsilon),
        "weights": ("hrnet_w32", swapped_skips),
        "the sum that was meant": ("litehrnet18", meant),
    }


@pytest.mark.parametrize("slip", slips())
def test_the_comparison_notices_a_slip(slip):
    variant, spoil = slips()[slip]
    g = GOLDEN[variant]
    network = filled(build(variant), g["gain"])
    spoil(network)
    assert (
        error(run(network, g["seed"], g["input_shape"])[1][-1], g["heatmaps"], "float32")
        > 10 * g["tolerance"]
    )


def test_alexnet_is_torchvisions():
    theirs = torchvision.models.alexnet(weights=None).eval()
    ours = alexnet.alexnet().eval()
    ours.load_state_dict(theirs.features.state_dict(prefix="features."))
    images = torch.randn(2, 3, 128, 96)
    with torch.no_grad():
        assert torch.equal(ours(images)[0], theirs.features(images))


@pytest.mark.parametrize("variant", ("hrnet_w32", "hrnet_w48", "hrnetv2_w18"))
def test_hrnet_has_timms_names(variant):
    name = getattr(networks, variant)().imagenet.name
    assert timm.list_pretrained(name) == [name]
    with torch.device("meta"):
        theirs, ours = timm.create_model(name).state_dict(), getattr(hrnet, variant)().state_dict()
    assert all(theirs[k].shape == v.shape for k, v in ours.items())


def test_hrnet_is_timms():
    with torch.device("meta"):
        theirs, ours = timm.create_model("hrnet_w18"), hrnet.HRNet(18, outputs=4)
    theirs, ours = filled(theirs, 0.65), filled(ours, 0.65)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x = F.relu(theirs.bn2(theirs.conv2(F.relu(theirs.bn1(theirs.conv1(images))))))
        for a, b in zip(ours(images), theirs.stages(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("branches", (2, 3, 4))
def test_litehrnet_sums_as_its_weights_were_trained(branches):
    """Against a literal version with in-place additions; the arguments stay what they were."""
    torch.manual_seed(0)
    unit = litehrnet.LiteUnit([40 * 2**i for i in range(branches)]).double().eval()
    maps = [
        torch.randn(2, 40 * 2**i, 32 // 2**i, 24 // 2**i, dtype=torch.float64)
        for i in range(branches)
    ]
    before = [m.clone() for m in maps]
    with torch.no_grad():
        found, inside, expected = unit(maps), unit.layers(maps), []
        for i, row in enumerate(unit.fuse_layers):
            y = inside[0] if i == 0 else row[0](inside[0])
            for j in range(branches):
                y += inside[j] if i == j else row[j](inside[j])
            expected.append(y)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.relu(), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(maps, before))


def test_mspn_starts_from_one_resnet():
    torch.manual_seed(0)
    resnet, network = torchvision.models.resnet50(weights=None).eval(), mspn.mspn50(1).eval()
    answer = network.load_state_dict(mspn.from_resnet50(resnet.state_dict()), strict=False)
    assert (
        not answer.unexpected_keys
        and answer.missing_keys
        and all(".upsample." in k for k in answer.missing_keys)
    )
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))
        expected = [
            x := layer(x) for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
        ]
        found = network.multi_stage_mspn[0].downsample(network.top(images), None)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    with torch.device("meta"):
        four = mspn.mspn50(4)
    names = mspn.from_resnet50(resnet.state_dict(), 4)
    assert {k for k in four.state_dict() if ".upsample." not in k} == set(names)
    assert torchvision.models.get_weight(networks.mspn50_4().imagenet.name)


@pytest.mark.parametrize(
    "network, size, multiple",
    [
        (lambda: hourglass.hourglass52(), (256, 192), 128),
        (lambda: hrnet.hrnet_w32(), (240, 192), 32),
        (lambda: litehrnet.litehrnet18(), (256, 200), 32),
    ],
)
def test_sizes_that_do_not_fit_are_named(network, size, multiple):
    with torch.device("meta"):
        network = network()
        with pytest.raises(InputError, match=f"{size[1]}×{size[0]}.*{multiple}"):
            network(torch.zeros(1, 3, *size))


SMALL = {
    "alexnet": lambda: alexnet.alexnet(),
    "cpm": lambda: cpm.CPM(3, stages=3, width=8),
    "hourglass": lambda: hourglass.HourglassNet((16, 16, 24), (1, 1, 1)),
    "hrnet": lambda: hrnet.HRNet(8),
    "hrnetv2": lambda: hrnet.HRNet(8, 4, "bilinear"),
    "litehrnet": lambda: litehrnet.LiteHRNet((1, 1, 1)),
    "rsn": lambda: rsn.rsn50(2),
}


@pytest.mark.parametrize("name", SMALL)
def test_trains(name):
    """Gradients are finite and reach every parameter, apart from the hourglass's block that nothing
    calls."""
    torch.manual_seed(0)
    network = SMALL[name]().train()
    outputs = network(torch.randn(2, 3, 96, 64))
    assert tuple(m.shape[1] for m in outputs) == network.channels
    sum(m.square().mean() for m in outputs).backward()
    silent = {k.split(".")[0] for k, p in network.named_parameters() if p.grad is None}
    assert silent == ({"inters"} if name == "hourglass" else set())
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", SMALL)
def test_images_do_not_touch_each_other(name):
    torch.manual_seed(0)
    network, images = SMALL[name]().eval(), torch.randn(3, 3, 96, 64)
    with torch.no_grad():
        together, alone = network(images), network(images[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5 * a.std().item())


def reference_networks():
    if not REFERENCE:
        return ["none"]
    prefixes = ("alexnet", "cpm", "hourglassnet", "hrnet", "litehrnet", "mspn", "rsn")
    return [
        p.stem
        for p in sorted((Path(REFERENCE) / "golden").glob("*.json"))
        if p.stem.startswith(prefixes)
    ]


def reference_variant(arch):
    short = arch.split("_")[0]
    return {
        "hourglassnet": "hourglass52",
        "mspn-1-stg": "mspn50_1",
        "mspn-4-stg": "mspn50_4",
        "rsn-50": "rsn50_1",
        "rsn-50-3x": "rsn50_3",
    }.get(short, short.replace("-w", "_w").replace("-18", "18").replace("-30", "30"))


@pytest.mark.parametrize("arch", reference_networks())
def test_all_recorded_networks(arch):
    if not REFERENCE:
        pytest.skip("set POSE_NB_REFERENCE=<folder with golden/ and state_dicts/> to run")
    g = json.loads((Path(REFERENCE) / "golden" / f"{arch}.json").read_text())
    entries = json.loads((Path(REFERENCE) / "state_dicts" / f"{arch}.json").read_text())["entries"]
    with torch.device("meta"):
        network = BUILD[reference_variant(arch)](g["output"]["shape"][1])
    assert [
        [k, list(v.shape)] for k, v in network.state_dict().items()
    ] == entries  # also in the same order
    assert parameters(network) == g["num_parameters"]
    filled(network, g["gain"])
    maps, stages = run(network, g["input"]["seed"], g["input"]["shape"])
    assert [list(m.shape) for m in maps] == [b["shape"] for b in g["backbone"]]
    for heatmaps, expected in zip(stages, g.get("stages", [])):
        assert error(heatmaps, expected, "value") < g["tolerance_over_std"]
    assert error(stages[-1], g["output"], "value") < g["tolerance_over_std"]
    _, exact = run(network, g["input"]["seed"], g["input"]["shape"], torch.float64)
    assert error(exact[-1], {**g["output"], "value": g["output_float64"]["value"]}, "value") < 1e-7
