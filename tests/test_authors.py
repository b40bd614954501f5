"""Other writers' names for our networks: the same heatmaps as the writers' own implementations.

All weights are generated here; no published file is needed. POSE_NB_ALL_SIZES=1 runs the networks
of every real size beside the small ones.
"""

import functools
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pose_nb.backbones.vitpose import PUBLISHED_NAMES, ViT
from pose_nb.codecs.udp import UDP
from pose_nb.files import InputError
from pose_nb.networks.heads import HeatmapHead
from pose_nb.networks.model import PoseModel
from pose_nb.tables.networks import Network, image_size
from pose_nb.tables.vitposes import AuthorsSimpleHead
from pose_nb.tables.zoo import MORE_ROWS, ROWS, get_row
from pose_nb.weights.authors import EXPERTS, expert_of, published_tensors, writer_of
from pose_nb.weights.copies import COPIES
from pose_nb.weights.loading import convert, load_weights
from pose_nb.weights.starts import go_on

ALL_SIZES = bool(os.environ.get("POSE_NB_ALL_SIZES"))
SMALL = {"tiny": (32, 2, 4, 8)}  # width, depth, heads, rows of an expert
REAL = {  # of ViTPose and ViTPose+
    "small": (384, 12, 12, 96),
    "base": (768, 12, 12, 192),
    "large": (1024, 24, 16, 256),
    "huge": (1280, 32, 16, 320),
}
SIZES = SMALL | (REAL if ALL_SIZES else {})
INPUT = (32, 48) if not ALL_SIZES else (192, 256)


def randomised(model, seed=0):
    """The model with random statistics and norms, too, in double precision, for inference."""
    torch.manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand_like(value) if "var" in name else torch.randn_like(value)
            value.copy_(noise * (0.05 if value.ndim > 1 else 0.3) + (0.8 if "var" in name else 0.0))
    return model.double().eval()


def ours(size, simple, keypoints, image=INPUT):
    width, depth, heads, _ = size
    deconv = HeatmapHead(width, keypoints, (256, 256))
    head = AuthorsSimpleHead(width, keypoints) if simple else deconv
    return PoseModel(ViT(width, depth, heads, image), head)


def precision(size):
    """Double, but for networks of which two would not fit into 16 GB so."""
    return torch.float64 if size[0] <= 768 else torch.float32


def same_heatmaps(theirs, model, images):
    with torch.inference_mode():
        expected, found = theirs(images), model.to(images.dtype).eval()(images)
    assert expected.shape == found.shape and expected.std() > 1e-3
    least = 1e-9 if images.dtype == torch.float64 else 1e-4
    assert torch.allclose(expected, found, rtol=least, atol=least * expected.abs().max())


# ---------------------------------------------------------------- transformers


@functools.lru_cache(1)
def transformers_model(size, simple, experts, keypoints, image=INPUT):
    transformers = pytest.importorskip("transformers", reason="pip install pose_nb[dev]")
    width, depth, heads, part = size
    backbone = transformers.VitPoseBackboneConfig(
        image_size=(image[1], image[0]),
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_experts=experts,
        part_features=part,
        layer_norm_eps=1e-6,  # the authors'; transformers' default is 1e-12
        out_indices=[depth],
    )
    config = transformers.VitPoseConfig(
        backbone_config=backbone, num_labels=keypoints, use_simple_decoder=simple
    )
    return randomised(transformers.VitPoseForPoseEstimation(config)).to(precision(size))


@pytest.mark.parametrize("simple", [False, True], ids=["classic", "simple"])
@pytest.mark.parametrize("size", SIZES)
def test_transformers_vitpose(size, simple, tmp_path):
    theirs = transformers_model(SIZES[size], simple, 1, 17)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    model = ours(SIZES[size], simple, 17).to(precision(SIZES[size]))
    report = load_weights(model, tmp_path / "model.safetensors", PUBLISHED_NAMES)
    assert set(report.renamed) | set(report.dropped) == set(theirs.state_dict())
    assert not report.dropped and not report.kept
    images = torch.randn(2, 3, INPUT[1], INPUT[0], dtype=precision(SIZES[size]))
    same_heatmaps(lambda x: theirs(x).heatmaps, model, images)


@pytest.mark.parametrize("expert", range(6), ids=EXPERTS)
@pytest.mark.parametrize("simple", [False, True], ids=["classic", "simple"])
@pytest.mark.parametrize("size", SIZES)
def test_transformers_experts_collapse(size, simple, expert):
    theirs = transformers_model(SIZES[size], simple, 6, 17)
    reading = published_tensors(theirs.state_dict(), expert)
    assert reading.writer == "transformers"
    model = ours(SIZES[size], simple, 17).to(precision(SIZES[size]))
    model.load_state_dict(convert(reading.tensors, model, PUBLISHED_NAMES))
    images = torch.randn(2, 3, INPUT[1], INPUT[0], dtype=precision(SIZES[size]))
    index = torch.full((2,), expert)
    same_heatmaps(lambda x: theirs(x, dataset_index=index).heatmaps, model, images)


def test_transformers_older_names_for_experts():
    """`experts.experts.0` in the files on the Hub, `experts.0` in later versions."""
    state = transformers_model(SMALL["tiny"], True, 6, 17).state_dict()
    old = {k.replace("mlp.experts.", "mlp.experts.experts."): v for k, v in state.items()}
    new = {k.replace("experts.experts.", "experts."): v for k, v in old.items()}
    assert old != new
    for expert in (0, 5):
        a, b = published_tensors(old, expert).tensors, published_tensors(new, expert).tensors
        assert list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_transformers_processor_and_ours_decode_the_same_heatmaps():
    """Its crops through both networks give equal keypoints when its own processor reads them."""
    transformers = pytest.importorskip("transformers", reason="pip install pose_nb[dev]")
    from types import SimpleNamespace

    theirs = transformers_model(SMALL["tiny"], False, 1, 17, (192, 256))
    model = ours(SMALL["tiny"], False, 17, (192, 256)).double()
    tensors = published_tensors(theirs.state_dict()).tensors
    model.load_state_dict(convert(tensors, model, PUBLISHED_NAMES))
    processor = transformers.VitPoseImageProcessor()
    picture = torch.randint(0, 256, (3, 120, 100), dtype=torch.uint8)
    boxes = [[[20.0, 10.0, 40.0, 80.0], [5.0, 30.0, 60.0, 60.0]]]
    images = processor(picture, boxes=boxes, return_tensors="pt").pixel_values.double()
    with torch.inference_mode():
        maps = theirs(images).heatmaps, model.eval()(images)
    read = [
        processor.post_process_pose_estimation(SimpleNamespace(heatmaps=m), boxes)[0] for m in maps
    ]
    for expected, found in zip(*read):
        assert torch.allclose(expected["keypoints"], found["keypoints"], atol=1e-4)
        assert torch.allclose(expected["scores"], found["scores"])


# ---------------------------------------------------------------- the authors' ViTPose


class Plus(nn.Module):
    """ViTPose+ under its authors' names, as their code describes it; written for this test."""

    def __init__(self, size, experts, keypoints, image):
        super().__init__()
        width, depth, heads, part = size
        self.heads, self.grid = heads, (image[1] // 16, image[0] // 16)
        body = nn.Module()
        body.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 16, 16, padding=2)})
        body.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1] + 1, width))
        body.blocks = nn.ModuleList(self.block(width, part, experts) for _ in range(depth))
        body.last_norm = nn.LayerNorm(width, eps=1e-6)
        self.backbone = body
        self.keypoint_head = self.head(width, keypoints[0])
        self.associate_keypoint_heads = nn.ModuleList(self.head(width, k) for k in keypoints[1:])

    def block(self, width, part, experts):
        norms = {f"norm{i}": nn.LayerNorm(width, eps=1e-6) for i in (1, 2)}
        qkv, proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        mlp = {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width - part)}
        mlp["experts"] = nn.ModuleList(nn.Linear(4 * width, part) for _ in range(experts))
        attention = nn.ModuleDict({"qkv": qkv, "proj": proj})
        return nn.ModuleDict({**norms, "attn": attention, "mlp": nn.ModuleDict(mlp)})

    def head(self, width, keypoints):
        layers = nn.Sequential()
        for before in (width, 256):
            layers.append(nn.ConvTranspose2d(before, 256, 4, 2, 1, bias=False))
            layers.extend([nn.BatchNorm2d(256), nn.ReLU()])
        parts = {"deconv_layers": layers, "final_layer": nn.Conv2d(256, keypoints, 1)}
        return nn.ModuleDict(parts)

    def forward(self, images, expert=0):
        body = self.backbone
        x = body.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = x + body.pos_embed[:, 1:] + body.pos_embed[:, :1]
        for block in body.blocks:
            y = block["norm1"](x)
            q, k, v = block["attn"]["qkv"](y).chunk(3, -1)
            split = [t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v)]
            attended = nn.functional.scaled_dot_product_attention(*split)
            x = x + block["attn"]["proj"](attended.transpose(1, 2).flatten(2))
            y = nn.functional.gelu(block["mlp"]["fc1"](block["norm2"](x)))
            own = [block["mlp"]["experts"][expert](y)] if len(block["mlp"]["experts"]) else []
            x = x + torch.cat([block["mlp"]["fc2"](y), *own], -1)
        maps = body.last_norm(x).transpose(1, 2).unflatten(-1, self.grid)
        head = self.associate_keypoint_heads[expert - 1] if expert else self.keypoint_head
        return head["final_layer"](head["deconv_layers"](maps))


COUNTS = (17, 14, 16, 17, 17, 133)  # keypoints of ViTPose+'s six sets


@functools.cache
def plus(double=True):
    model = randomised(Plus(SMALL["tiny"], 6, COUNTS, INPUT))
    return model if double else model.float()


@pytest.mark.parametrize("expert", range(6), ids=EXPERTS)
def test_the_authors_vitpose_plus(expert):
    theirs = plus()
    reading = published_tensors(theirs.state_dict(), expert)
    assert reading.writer == "ViTPose"
    assert set(reading.renamed) | set(reading.dropped) == set(theirs.state_dict())
    model = ours(SMALL["tiny"], False, COUNTS[expert]).double()
    model.load_state_dict(convert(reading.tensors, model, PUBLISHED_NAMES))
    images = torch.randn(2, 3, INPUT[1], INPUT[0], dtype=torch.float64)
    same_heatmaps(lambda x: theirs(x, expert), model, images)


def split(state, expert):
    """What the authors' tool writes for one set: the second matrices joined, the set's own head."""
    parts = {k: v for k, v in state.items() if "experts" not in k and "associate" not in k}
    for name in [k for k in parts if ".mlp.fc2." in k]:
        own = state[name.replace("fc2.", f"experts.{expert}.")]
        parts[name] = torch.cat([parts[name], own])
    for name in [k for k in parts if k.startswith("keypoint_head.")] if expert else []:
        own = f"associate_keypoint_heads.{expert - 1}."
        parts[name] = state[name.replace("keypoint_head.", own)]
    return parts


@pytest.mark.parametrize("rest", [False, True], ids=["only one set", "with the other experts"])
def test_vitpose_plus_that_was_split(rest, tmp_path):
    """The tool's coco.pth keeps the experts beside the joined matrices; its mpii.pth does not."""
    state = plus().state_dict()
    expert = 0 if rest else 2
    done = (state if rest else {}) | split(state, expert)
    torch.save({"state_dict": done}, tmp_path / "split.pth")
    model = ours(SMALL["tiny"], False, COUNTS[expert]).double()
    load_weights(model, tmp_path / "split.pth", PUBLISHED_NAMES, expert=expert)
    expected = published_tensors(state, expert).tensors
    found = published_tensors(done, expert).tensors
    assert list(found) == list(expected) and all(torch.equal(found[k], expected[k]) for k in found)


def test_a_vitpose_of_one_set_needs_no_expert():
    theirs = randomised(Plus((32, 2, 4, 0), 0, (17,), INPUT))
    state = theirs.state_dict() | {"backbone.cls_token": torch.zeros(1, 1, 32)}
    reading = published_tensors({f"module.{k}": v for k, v in state.items()}, 4)
    assert list(reading.dropped) == ["backbone.cls_token"]
    model = ours((32, 2, 4, 0), False, 17).double()
    model.load_state_dict(convert(reading.tensors, model, PUBLISHED_NAMES))
    same_heatmaps(theirs, model, torch.randn(1, 3, INPUT[1], INPUT[0], dtype=torch.float64))


@pytest.mark.parametrize("writer", ["transformers", "ViTPose+"])
def test_training_goes_on_from_any_writers_file(writer, tmp_path):
    """As prediction reads them; with other keypoints, all but the last layer."""
    theirs = plus() if writer == "ViTPose+" else transformers_model(SMALL["tiny"], False, 6, 17)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    whole, mine = ours(SMALL["tiny"], False, 17), ours(SMALL["tiny"], False, 5)
    load_weights(whole, tmp_path / "theirs.pth", PUBLISHED_NAMES)
    report = go_on(mine, tmp_path / "theirs.pth", PUBLISHED_NAMES)
    assert report.kept == ["head.final_layer.weight", "head.final_layer.bias"]
    expected, found = whole.state_dict(), mine.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in report.loaded)
    assert len(report.loaded) == len(found) - 2


def test_what_does_not_fit_is_named():
    state = plus().state_dict()
    model = ours(SMALL["tiny"], False, 17).double()
    with pytest.raises(InputError, match="no expert 6"):
        published_tensors(state, 6)
    more = published_tensors(state | {"backbone.blocks.0.gamma": torch.zeros(3)}).tensors
    with pytest.raises(InputError, match="gamma.*no place"):
        convert(more, model, PUBLISHED_NAMES)
    less = {k: v for k, v in state.items() if k != "backbone.blocks.1.mlp.fc1.bias"}
    with pytest.raises(InputError, match=r"layers\.1\.ffn\.layers\.0\.0\.bias is not in the file"):
        convert(published_tensors(less).tensors, model, PUBLISHED_NAMES)
    hf = {"backbone.encoder.layer.0.attention.attention.query.weight": torch.zeros(4, 4)}
    with pytest.raises(InputError, match="attention.key.weight is not in the file"):
        published_tensors(hf)
    assert writer_of({"backbone.layers.0.ln1.weight": 0}) == "MMPose"


# ---------------------------------------------------------------- HRNet, Simple Baselines


def filled(model, seed=0):
    """A network that was made without memory, with random weights."""
    return randomised(model.to_empty(device="cpu"), seed).float()


def read(row_id, state):
    """The row's network with a file's weights; its own random ones are never drawn."""
    row = get_row(row_id)
    network = row.network()
    with torch.device("meta"):
        model = network.build(len(row.skeleton), row.codec)
    reading = published_tensors(state)
    assert reading.writer == "HRNet" and len(reading.renamed) == len(state) and not reading.dropped
    model.load_state_dict(convert(reading.tensors, model, network.names), assign=True)
    return model.eval()


def close_heatmaps(theirs, model, images):
    with torch.inference_mode():
        expected, found = theirs(images), model(images)
    assert expected.shape == found.shape and expected.std() > 0
    assert torch.allclose(expected, found, atol=1e-4 * expected.abs().max())


def test_simple_baselines():
    """torchvision's ResNet with the deconvolutions beside it: the names of Simple Baselines."""
    from torchvision.models import resnet50

    with torch.device("meta"):
        theirs = resnet50()
        del theirs.fc, theirs.avgpool
        deconv = nn.Sequential()
        for before in (2048, 256, 256):
            deconv.append(nn.ConvTranspose2d(before, 256, 4, 2, 1, bias=False))
            deconv.extend([nn.BatchNorm2d(256), nn.ReLU()])
        theirs.deconv_layers, theirs.final_layer = deconv, nn.Conv2d(256, 17, 1)
    filled(theirs)

    def forward(x):
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            x = layer(x)
        return theirs.final_layer(theirs.deconv_layers(x))

    close_heatmaps(forward, read("coco/resnet-50", theirs.state_dict()), torch.randn(1, 3, 64, 64))


def test_hrnet():
    """timm's HRNet has the authors' names; their pose network has one output and another end."""
    import re

    import timm

    with torch.device("meta"):
        theirs = timm.create_model("hrnet_w32", num_classes=0)
        theirs.final_layer = nn.Conv2d(32, 17, 1)
    filled(theirs)
    classifier = r"incre_modules|downsamp_modules|classifier|stage4\.2\.fuse_layers\.[123]\."
    state = {k: v for k, v in theirs.state_dict().items() if not re.match(classifier, k)}
    model = read("coco/hrnet-w32", {f"module.{k}": v for k, v in state.items()})

    def forward(x):
        x = theirs.act1(theirs.bn1(theirs.conv1(x)))
        x = theirs.act2(theirs.bn2(theirs.conv2(x)))
        return theirs.final_layer(theirs.stages(x)[0])

    close_heatmaps(forward, model, torch.randn(1, 3, 64, 64))


# ---------------------------------------------------------------- rows


def tiny_row(name, keypoints):
    """A row with a small ViT in place of its own."""
    network = Network(lambda image_size: ViT(32, 2, 4, image_size), vit_small_head, PUBLISHED_NAMES)
    network = replace(network, needs=image_size)
    codec = UDP(INPUT, (INPUT[0] // 4, INPUT[1] // 4))
    row = replace(get_row(name), network=lambda: network, codec=codec)
    assert len(row.skeleton) == keypoints
    return row


def vit_small_head(channels, keypoints, codec):
    return HeatmapHead(channels[-1], keypoints, (256, 256))


@pytest.mark.parametrize(
    "name, expert", [("coco/vitpose-b", 0), ("aic/vitpose-b", 1), ("mpii/vitpose-b", 2)]
)
def test_a_row_takes_its_own_expert_and_head(name, expert, tmp_path):
    theirs = plus(double=False)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "vitpose+_base.pth")
    model = tiny_row(name, COUNTS[expert]).create(tmp_path / "vitpose+_base.pth").eval()
    images = torch.randn(1, 3, INPUT[1], INPUT[0])
    with torch.inference_mode():
        expected = theirs(images, expert)
        assert torch.allclose(model(images), expected, atol=1e-5 * expected.abs().max())


def test_rows_for_every_copy():
    """Each listed copy belongs to a row that can be made; other sets take COCO's expert."""
    ids = {copy.row for copy in COPIES}
    assert all(get_row(name).id == name for name in ids)
    assert ids <= {row.id for row in (*ROWS, *MORE_ROWS)}
    assert [expert_of(name) for name in ("coco", "mpii", "crowdpose")] == [0, 2, 0]
