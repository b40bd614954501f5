"""Every distinct network of the tables computes what MMPose 1.3.2 computed, with generated weights loaded through the public route."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pose_nb
from pose_nb.weights import loading as pw
from pose_nb.networks.cost import macs, parameters

sys.path.insert(0, str(Path(__file__).parent / "golden"))
from fill import fill

GOLDEN = json.loads((Path(__file__).parent / "golden" / "networks.json").read_text())["networks"]
IN_FLOAT64 = [
    a
    for a in GOLDEN
    if a.startswith(
        (
            "swin-t",
            "vitpose-s",
            "vitpose-b",
            "pvt",
            "hrformer-s",
            "resnet-50_k17",
            "hrnetv2-w18_k19",
            "litehrnet-18_k17",
        )
    )
]

# the reference runs some paths of Lite-HRNet twice with the same input and adds the two equal
# results; we run them once and double
REPEATED_PATHS = {
    "litehrnet-18_k16_256x256": 58291200,
    "litehrnet-18_k17_256x192": 43718400,
    "litehrnet-30_k16_256x256": 102202880,
    "litehrnet-30_k17_256x192": 76652160,
}


def filled(row, gain, path):
    """A file in the published format with generated weights for a row's network."""
    model = row.create()
    published = pw.published_names(model)  # our name -> published name
    state = {}
    for ours, value in model.state_dict().items():
        made = fill(published[ours], tuple(value.shape), gain)
        state[published[ours]] = value if made is None else torch.from_numpy(made)
    torch.save({"meta": {}, "state_dict": state}, path)
    return state


def test_every_row_has_a_recorded_network():
    recorded = [row for golden in GOLDEN.values() for row in golden["rows"]]
    assert (
        sorted(recorded) == sorted(pose_nb.list_models())
        and len(recorded) == 87
        and len(GOLDEN) == 70
    )


@pytest.mark.parametrize("arch", GOLDEN)
def test_network(arch, tmp_path):
    golden = GOLDEN[arch]
    row = pose_nb.get_row(golden["rows"][0])
    state = filled(row, golden["gain"], tmp_path / "file.pth")
    lines = sorted(f"{name} {list(value.shape)}" for name, value in state.items())
    assert len(lines) == golden["entries"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == golden["names"], (
        "names or shapes differ from the published ones"
    )

    model = pose_nb.create_model(row.id, weights=tmp_path / "file.pth").eval()
    (tmp_path / "file.pth").unlink()
    assert parameters(model) == golden["parameters"]
    shape = golden["shape"]
    assert macs(model, (shape[3], shape[2])) + REPEATED_PATHS.get(arch, 0) == golden["macs"]

    images = torch.from_numpy(
        np.random.default_rng(golden["seed"]).standard_normal(shape).astype("float32")
    )
    with torch.inference_mode():
        outputs = model.stages(images)
    assert list(outputs[-1].shape) == golden["output_shape"]
    compare(outputs[-1], golden["index"], golden["value32"], golden["std"], golden["tolerance"])
    assert not golden["stages"] or len(outputs) == len(golden["stages"])
    for output, (index, value) in zip(outputs, golden["stages"]):
        compare(output, index, value, output.std().item(), golden["tolerance"])
    if arch in IN_FLOAT64:  # a wrong LayerNorm epsilon hides in float32
        with torch.inference_mode():
            exact = model.double()(images.double())
        compare(exact, golden["index"], golden["value64"], golden["std"], 1e-7)


def compare(output, index, value, std, tolerance):
    difference = np.abs(output.flatten()[index].numpy().astype(float) - np.array(value)).max() / std
    assert difference < tolerance, (
        f"{difference:.2e} standard deviations off, {tolerance:.0e} allowed"
    )


def test_the_comparison_can_fail():
    with pytest.raises(AssertionError):
        compare(torch.tensor([1.0, 2.0]), [0, 1], [1.0, 2.001], 1.0, 1e-4)
