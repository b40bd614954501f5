"""Every network of the tables computes what MMPose 1.3.2 computed with the same weights."""

import hashlib
import json
import re
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pose_nb.networks.cost import macs, parameters
from pose_nb.tables.facts import FACTS
from pose_nb.tables.zoo import get_row
from pose_nb.weights.names import published_names

sys.path.insert(0, str(Path(__file__).parent / "golden"))
from fill import fill

GOLDEN = json.loads((Path(__file__).parent / "golden" / "networks.json").read_text())["networks"]

# a wrong LayerNorm epsilon hides in float32
IN_FLOAT64 = r"swin-t|vitpose-[sb]|pvt|hrformer-s|resnet-50_k17|hrnetv2-w18_k19|litehrnet-18_k17"

# the reference runs some paths of Lite-HRNet twice with the same input and adds the two equal
# results; we run them once and double
REPEATED_PATHS = {
    "litehrnet-18_k16_256x256": 58291200,
    "litehrnet-18_k17_256x192": 43718400,
    "litehrnet-30_k16_256x256": 102202880,
    "litehrnet-30_k17_256x192": 76652160,
}

LARGE = {"vitpose-h_k17_256x192"}  # 637 million parameters: some 15 s and 3 GB


def unstarted(tensor, *_, **__):
    """In place of every function of torch.nn.init: values are written afterwards anyway."""
    return tensor


STARTS = {name: unstarted for name in dir(nn.init) if name.endswith("_") and name[0] != "_"}


def build(row):
    """The network of a row without its random start, and our name -> published name."""
    network = row.network()
    with mock.patch.multiple(nn.init, **STARTS):
        model = network.build(len(row.skeleton), row.codec).eval()
    return model, published_names(model.state_dict(), network.names)


def write(model, names, gain):
    """Generated values for every entry of a model's state dict, apart from index tables."""
    for key, value in model.state_dict().items():
        made = fill(names[key], tuple(value.shape), gain)
        if made is not None:
            value.copy_(torch.from_numpy(made))


def pictures(golden):
    random = np.random.default_rng(golden["seed"])
    return torch.from_numpy(random.standard_normal(golden["shape"]).astype("float32"))


def compare(output, index, value, std, tolerance):
    difference = np.abs(output.flatten()[index].numpy().astype(float) - np.array(value)).max() / std
    assert difference < tolerance, (
        f"{difference:.2e} standard deviations off, {tolerance:.0e} allowed"
    )


def test_every_row_has_a_recorded_network():
    recorded = [row for golden in GOLDEN.values() for row in golden["rows"]]
    assert sorted(recorded) == sorted(FACTS)
    assert len(recorded) == 87 and len(GOLDEN) == 70


def test_the_costs_that_are_listed():
    for arch, golden in GOLDEN.items():
        expected = golden["parameters"], golden["macs"] - REPEATED_PATHS.get(arch, 0)
        for row in golden["rows"]:
            assert (FACTS[row].parameters, FACTS[row].macs) == expected, row


@pytest.mark.parametrize(
    "arch", [pytest.param(a, marks=[pytest.mark.slow] * (a in LARGE)) for a in GOLDEN]
)
def test_network(arch):
    golden = GOLDEN[arch]
    model, names = build(get_row(golden["rows"][0]))
    lines = sorted(f"{names[key]} {list(v.shape)}" for key, v in model.state_dict().items())
    assert len(lines) == golden["entries"]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest[:16] == golden["names"], "names or shapes differ from the published ones"
    assert parameters(model) == golden["parameters"]

    write(model, names, golden["gain"])
    images = pictures(golden)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        outputs = model.stages(images)
    assert list(outputs[-1].shape) == golden["output_shape"]
    compare(outputs[-1], golden["index"], golden["value32"], golden["std"], golden["tolerance"])
    assert not golden["stages"] or len(outputs) == len(golden["stages"])
    for output, (index, value) in zip(outputs, golden["stages"]):
        compare(output, index, value, output.std().item(), golden["tolerance"])

    count = counter.get_total_flops() // (2 * len(images))
    if arch.startswith(("hrformer", "pvt", "swin", "vitpose")):  # fused attention is not counted
        count = macs(model, golden["shape"][:1:-1])
    assert count + REPEATED_PATHS.get(arch, 0) == golden["macs"]

    if re.match(IN_FLOAT64, arch):
        with torch.inference_mode():
            exact = model.double()(images.double())
        compare(exact, golden["index"], golden["value64"], golden["std"], 1e-7)


OLD = ["hrnetv2-w18_k98_256x256", "swin-t_k17_256x192"]  # the two whose names changed most


@pytest.mark.parametrize("arch", ["resnetv1d-50_k17_256x192", "mobilenet-v2_k17_256x192", *OLD])
def test_a_published_file(arch, tmp_path):
    """The same through the front door: a file as 0.x wrote it, found, read, renamed, checked."""
    golden = GOLDEN[arch]
    row = get_row(golden["rows"][0])
    model, names = build(row)
    write(model, names, golden["gain"])
    state = {as_0x(names[key], arch): value for key, value in model.state_dict().items()}
    if arch.startswith("swin"):
        state |= {f"backbone.norm{i}.weight": torch.ones(96 * 2**i) for i in range(3)}
    content = {"meta": {"env": np.ones(2)}, "state_dict": state}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=False)

    with torch.inference_mode():
        heatmaps = row.create(tmp_path / "x.pth").eval()(pictures(golden))
    compare(heatmaps, golden["index"], golden["value32"], golden["std"], golden["tolerance"])


def as_0x(name, arch):
    """The name that an entry had in MMPose 0.x."""
    if arch.startswith("hrnetv2") and name.startswith("head."):
        name = name.replace("final_layer.", "final_layer.3.")
        name = name.replace("conv_layers.", "final_layer.")
    return re.sub(r"^head\.", "keypoint_head.", name)


def test_the_comparison_can_fail():
    with pytest.raises(AssertionError):
        compare(torch.tensor([1.0, 2.0]), [0, 1], [1.0, 2.001], 1.0, 1e-4)


def test_a_wrong_rule_shows():
    """Weights under another name are other weights: the comparison sees one swapped pair."""
    arch = "mobilenet-v2_k17_256x192"
    golden = GOLDEN[arch]
    model, names = build(get_row(golden["rows"][0]))
    a, b = "backbone.features.3.conv.1.0.weight", "backbone.features.4.conv.1.0.weight"
    assert model.state_dict()[a].shape == model.state_dict()[b].shape
    write(model, names | {a: names[b], b: names[a]}, golden["gain"])
    with torch.inference_mode():
        heatmaps = model(pictures(golden))
    with pytest.raises(AssertionError, match="standard deviations off"):
        compare(heatmaps, golden["index"], golden["value32"], golden["std"], golden["tolerance"])
