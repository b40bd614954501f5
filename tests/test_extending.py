"""What a newcomer adds in how few lines: a data set, a metric, a family, a codec, a row."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pose_nb
from data_images import picture
from pose_nb.codecs.codec import Codec
from pose_nb.data.records import from_boxes
from pose_nb.files import read_json, write_json
from pose_nb.skeletons import Skeleton
from pose_nb.tables.benchmarks import COCO, COCO_AP, Benchmark, Measure
from pose_nb.tables.networks import Network, deconv_head
from pose_nb.tables.recipes import Recipe
from pose_nb.tables.rows import Row, diff
from pose_nb.tables.sets import PoseSet
from pose_nb.weights.loading import export_mmpose, load_weights

BIRD = Skeleton(
    "bird", ("beak", "left_wing", "right_wing"), flip_pairs=(("left_wing", "right_wing"),)
)
ROW = "coco/mobilenet-v2"  # any row: only its codec and crop are used, since nothing is trained


@pytest.fixture
def birds(tmp_path):
    """A folder of two pictures with one bird each, as a COCO file and as a list of its own."""
    images, annotations, rows = [], [], []
    for i in (1, 2):
        points = [[60, 40], [90.5, 70], [30, 72]]
        Image.fromarray(picture(i, 120, 160)).save(tmp_path / f"{i}.png")
        images.append(dict(id=i, file_name=f"{i}.png", width=160, height=120))
        flat = np.c_[points, [2, 2, 2]].ravel().tolist()
        annotations.append(
            dict(id=i, image_id=i, category_id=1, bbox=[20, 30, 80, 50], area=4000, keypoints=flat)
            | dict(iscrowd=0, num_keypoints=3)
        )
        rows.append(dict(picture=f"{i}.png", box=[20, 30, 100, 80], points=points))
    category = dict(id=1, name="bird", keypoints=list(BIRD.keypoints))
    coco = dict(images=images, annotations=annotations, categories=[category])
    write_json(tmp_path / "birds.json", coco)
    write_json(tmp_path / "list.json", rows)
    return tmp_path


def evaluate(benchmark, folder):
    """The figures of the encoded and decoded truth, from files to figures."""
    row = replace(pose_nb.get_row(ROW), benchmark=benchmark)
    return pose_nb.evaluate(None, folder, row=row, oracle=True, progress=False)


# ---------------------------------------------------------------- a data set: two lines


def test_a_data_set_in_cocos_format(birds):
    data = PoseSet("birds", BIRD, "birds", {"val": "birds.json"}, images="")
    table = Benchmark("Birds", data, COCO_AP, splits={"AP": "val"})

    assert evaluate(table, birds)["AP"] == 1
    assert table.table_figures({"val": {"AP": 0.5}}) == {"AP": 0.5}


def read_birds(annotation_file, image_dir, skeleton):
    """The one new file of a data set with a format of its own: a function from it to records."""
    rows = read_json(annotation_file, list)
    files = [str(image_dir / row["picture"]) for row in rows]
    ids, ones = range(len(rows)), np.ones((len(rows), len(skeleton)))
    boxes, points = ([row[key] for row in rows] for key in ("box", "points"))
    return from_boxes(skeleton, files, ids, ids, boxes, points, ones, np.ones(len(rows)))


def test_a_data_set_with_a_format_of_its_own(birds):
    data = PoseSet("birds", BIRD, "birds", {"val": "list.json"}, images="", read=read_birds)
    table = Benchmark("Birds", data, Measure(wing_miss, "miss", lower_is_better=True))

    assert evaluate(table, birds)["miss"] < 1
    assert data.load(birds).source == str(birds / "list.json"), "though the reader named no source"


# ---------------------------------------------------------------- a metric: a function and a line


def wing_miss(records, poses, truth, nms):
    """How many pixels the wings are off, on average; and nothing to save."""
    wings = [BIRD.index(name) for name in ("left_wing", "right_wing")]
    off = np.linalg.norm(poses.keypoints - records.keypoints, axis=-1)[:, wings]
    return {"miss": float(off.mean())}, []


def test_a_metric(birds):
    measure = Measure(wing_miss, "miss", lower_is_better=True)

    data = PoseSet("birds", BIRD, "birds", {"val": "birds.json"}, images="")
    assert 0 < evaluate(Benchmark("Birds", data, measure), birds)["miss"] < 1
    assert measure.better(2.0, 3.0) and not measure.better(3.0, 2.0)


# ---------------------------------------------------------------- a family: one module, two lines


class Patches(nn.Module):
    """A backbone in its own module: its channels, and images to a list of maps."""

    channels = (8,)

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 32, stride=32)

    def forward(self, images):
        return [self.layer(images)]


PUBLISHED_NAMES = ((r"^layer\.", "patches."),)  # if others have published weights of it


def patches():
    return Network(Patches, deconv_head, PUBLISHED_NAMES)


def patches_row():
    return Row("birds/patches", COCO, patches, pose_nb.get_row(ROW).codec, Recipe())


def test_a_family(tmp_path):
    row = patches_row()

    model = row.create().eval()
    heatmaps = model(torch.zeros(1, 3, 256, 192))
    assert heatmaps.shape == (1, 17, 64, 48)
    assert "random weights" in str(row) and "published" not in str(row)
    names = patches().names
    export_mmpose(model, tmp_path / "x.pth", names)
    other = row.create(tmp_path / "x.pth").eval()
    assert torch.equal(other(torch.zeros(1, 3, 256, 192)), heatmaps)
    assert load_weights(other, tmp_path / "x.pth", names).renamed["backbone.patches.bias"]


# ---------------------------------------------------------------- a codec: one class


@dataclass(frozen=True)
class OneHot:
    """A one on the nearest pixel, and the highest pixel back."""

    input_size: tuple[int, int]
    heatmap_size: tuple[int, int]
    channels_per_keypoint: ClassVar[int] = 1
    udp: ClassVar[bool] = False
    shift_flip: ClassVar[bool] = False

    def stride(self):
        return torch.tensor(self.input_size) / torch.tensor(self.heatmap_size)

    def encode(self, keypoints, visible):
        pixels = torch.stack(torch.meshgrid(*map(torch.arange, self.heatmap_size), indexing="xy"))
        nearest = (keypoints / self.stride()).round()[..., None, None]
        return (pixels == nearest).all(2).float(), visible.float()

    def decode(self, heatmaps):
        scores, place = heatmaps.flatten(2).max(-1)
        w = self.heatmap_size[0]
        return torch.stack([place % w, place // w], -1) * self.stride(), scores


def test_a_codec(birds):
    codec = OneHot((192, 256), (48, 64))
    both = {"train": "birds.json", "val": "birds.json"}
    data = PoseSet("birds", BIRD, "birds", both, images="")
    table = Benchmark("Birds", data, Measure(wing_miss, "miss", lower_is_better=True))
    row = Row("birds/one-hot", table, patches, codec, Recipe(), flip=False)

    assert isinstance(codec, Codec)
    assert "OneHot(input_size=(192, 256), heatmap_size=(48, 64))" in str(row)
    oracle = pose_nb.evaluate(None, birds, row=row, oracle=True, progress=False)
    assert 0 < oracle["miss"] < 2, "the crop is about as large as the bird: 4 px a heatmap pixel"
    pose_nb.train(row, birds, birds / "run", epochs=1, device="cpu", workers=0, progress=False)
    best = row.create(birds / "run" / "best.safetensors")
    assert pose_nb.evaluate(best, birds, row=row, progress=False)["miss"] > oracle["miss"]


def test_one_changed_argument():
    row = pose_nb.get_row("coco/resnet-50")

    dark = replace(row, id="mine/resnet-50-dark", codec=replace(row.codec, unbiased=True))

    assert list(diff(row, dark)) == ["id", "codec.unbiased"]
    assert list(diff(row, replace(row, network=patches))) == ["network"]
