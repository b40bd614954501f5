"""Whether a network of each family says the same from an ONNX file, to 0.01 px of the crop.

    python bench/export.py [ROW ...] [--out FILE]

Random weights, with batch norms that have seen noise, as after training: each channel varies, and
maps have clear peaks. Where float32 strays from float64 in such a network by more than 1 % of the
maps' spread (a random RSN does, by 25 %), its batch norms stay fresh: `norms`. Crops of noise, one
and then two of them, since batches of any size must go.
Where torch itself answers otherwise in float64 (by more than 0.005 px), float32 does not decide the
keypoint; these are counted, and not compared: `open`. The whole list takes many minutes.
"""

import argparse
import copy
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from pose_nb.data.crop import normalise
from pose_nb.environment import code_version, hardware, library_versions
from pose_nb.export import CropsToKeypoints, export_model
from pose_nb.files import write_json
from pose_nb.flip import last_output
from pose_nb.tables.zoo import create_model

ROWS = """coco/alexnet coco/shufflenet-v2 coco/mobilenet-v2 coco/resnet-50 coco/vitpose-s
coco/vitpose-b-simple mpii/cspnext-m coco/resnetv1d-50 coco/resnext-50 coco/seresnet-50
coco/shufflenet-v1 coco/litehrnet-18 coco/hourglassnet coco/cpm coco/mspn-1-stg coco/rsn-50
coco/scnet-50 coco/resnest-50 coco/pvt-s coco/swin-t coco/hrnet-w32 wflw/hrnetv2-w18-dark
coco/hrformer-s""".split()  # one of each family, and some for their heads and codecs


def noise(row, count):
    """Crops (count, 3, h, w) uint8 of smooth noise."""
    w, h = row.codec.input_size
    coarse = torch.randint(0, 256, (count, 3, h // 16, w // 16)).float()
    return nn.functional.interpolate(coarse, (h, w), mode="bicubic").clamp(0, 255).byte()


@torch.no_grad()
def random_network(row, momentum):
    """A random network of a row whose maps have peaks; its batch norms saw noise so much."""
    torch.manual_seed(0)
    model = create_model(row, "random")
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = momentum
    for layer in model.head.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(layer.weight)
    model.train()(normalise(noise(model.row, 2)))
    return model.eval()


@torch.no_grad()
def strays(model):
    """How far the maps in float32 are from those in float64, as a share of their spread."""
    crops = normalise(noise(model.row, 1))
    exact = last_output(copy.deepcopy(model).double()(crops.double()))
    return float((last_output(model(crops)) - exact).abs().max() / exact.std())


def lively(row):
    """(a random network of a row that float32 decides, what its batch norms have seen)."""
    model = random_network(row, momentum=1.0)
    if strays(model) < 0.01:
        return model, "noise"
    return random_network(row, momentum=0.0), "nothing"


@torch.inference_mode()
def compare(model, ask):
    """How far the keypoints (B, K, 2) of `ask` are from the network's, in px of the crop.

    {"largest px": …, "keypoints": how many, "open": how many float32 does not decide}
    """
    row, exact = model.row, copy.deepcopy(model).double()
    whole, largest, open_ones, seen = CropsToKeypoints(model, row).eval(), 0.0, 0, 0
    for count in (1, 2):
        crops = noise(row, count)
        points, scores = (a.numpy() for a in whole(crops))
        found, heights = (np.asarray(a) for a in ask(crops))
        assert found.shape == points.shape == (count, len(row.skeleton), 2)
        assert len(np.unique(points)) > 5  # these are no answers of an empty map
        np.testing.assert_allclose(heights, scores, rtol=1e-3, atol=1e-3 * np.abs(scores).max())
        maps = last_output(exact(normalise(crops).double()))
        undecided = np.abs(row.codec.decode(maps)[0].numpy() - points).max(-1) > 0.005
        away = np.abs(found - points).max(-1)[~undecided]
        largest = max(largest, float(away.max(initial=0)))
        open_ones, seen = open_ones + int(undecided.sum()), seen + undecided.size
    return {"largest px": round(largest, 6), "keypoints": seen, "open": open_ones}


def by_onnx(path):
    """A function from crops to keypoints and scores, with onnxruntime and one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    return lambda crops: session.run(None, {"crops": crops.numpy()})


def check(name):
    """One line of the record: a row's network, exported and asked."""
    model, seen = lively(name)
    with tempfile.TemporaryDirectory() as folder:
        out = export_model(model, Path(folder) / "a.onnx")
        family = type(model.backbone).__module__.split(".")[-1]
        line = {"row": name, "family": family, "format": "onnx", "norms": seen}
        return line | {"bytes": out.stat().st_size} | compare(model, by_onnx(out))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", default=ROWS)
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    torch.set_num_threads(1)
    facts = dict(date=str(date.today()), code=code_version(), hardware=hardware())
    facts["libraries"] = library_versions(("torch", "onnx", "onnxscript", "onnxruntime"))
    table = []
    for name in words.rows:
        table.append(check(name))
        print(table[-1], flush=True)
        if words.out:  # after each, so that a stopped run leaves what it found
            write_json(words.out, facts | {"table": table})
    worst = max(line["largest px"] for line in table)
    print(f"{len(table)} rows, at most {worst:.6f} px away")


if __name__ == "__main__":
    main()
