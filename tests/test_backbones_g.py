"""ViTPose, CSPNeXt, Swin, PVT and HRFormer: names, costs and outputs against figures recorded from MMPose 1.3.2.

With POSE_NB_REFERENCE set to a folder with golden/ and state_dicts/ of all networks, every network of these families runs,
the huge ones too (a few minutes, 6 GB).
"""

import hashlib
import importlib
import json
import os
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from pose_nb.backbones import cspnext, hrformer, pvt, swin, vitpose
from pose_nb.networks.cost import macs, parameters
from pose_nb.files import InputError
from pose_nb.networks.heads import HeatmapHead

sys.path.insert(0, str(Path(__file__).parent / "golden"))
from fill import fill

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "backbones_g.json").read_text(encoding="utf-8")
)["networks"]
LIGHT = (
    "vitpose.vit_small",
    "cspnext.cspnext_tiny",
    "swin.swin_tiny",
    "pvt.pvt_small",
    "hrformer.hrformer_small",
)
REFERENCE = os.environ.get("POSE_NB_REFERENCE")


def family(network):
    return importlib.import_module("pose_nb.backbones." + network.split(".")[0])


def build(network):
    return getattr(family(network), network.split(".")[1])()


def published(key, rules):
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def filled(module, prefix, gain, rules=()):
    """The module with a generated value in every entry (index tables stay), in evaluation mode."""
    state = {}
    for key, value in module.state_dict().items():
        made = fill(f"{prefix}.{published(key, rules)}", tuple(value.shape), gain)
        state[key] = value if made is None else torch.from_numpy(np.asarray(made))
    module.load_state_dict(state)
    return module.eval()


def network_and_head(network, golden):
    backbone = filled(build(network), "backbone", golden["gain"], family(network).PUBLISHED_NAMES)
    head = HeatmapHead(
        backbone.channels[-1], golden["output_shape"][1], (256,) * golden["deconvolutions"]
    )
    return backbone, filled(head, "head", golden["gain"])


@torch.no_grad()
def error(backbone, head, golden, dtype):
    """Backbone maps, and the largest difference of the heatmaps over their recorded standard
    deviation."""
    images = torch.from_numpy(
        np.random.default_rng(golden["seed"]).standard_normal(golden["shape"]).astype(np.float32)
    ).to(dtype)
    maps = backbone.to(dtype)(images)
    heatmaps = head.to(dtype)(maps)[-1]
    assert list(heatmaps.shape) == golden["output_shape"]
    found = heatmaps.double().numpy().ravel()[golden["index"]]
    return maps, np.abs(
        found - golden["float32" if dtype == torch.float32 else "float64"]
    ).max() / golden["std"]


def check(network, golden):
    backbone, head = network_and_head(network, golden)
    assert parameters(backbone) + parameters(head) == golden["parameters_with_head"]
    maps, off = error(backbone, head, golden, torch.float32)
    assert off < golden["tolerance"], f"float32: {off:.1e}"
    assert len(maps) == len(golden["maps"]) == len(backbone.channels)
    for found, expected, channels in zip(maps, golden["maps"], backbone.channels):
        assert list(found.shape) == expected["shape"] and found.shape[1] == channels
        assert (
            abs(found.mean() - expected["mean"]) < 1e-4 * expected["std"]
            and abs(found.std() / expected["std"] - 1) < 1e-4
        )
    _, off = error(backbone, head, golden, torch.float64)
    assert off < 1e-7, f"float64: {off:.1e}"


@pytest.mark.parametrize("network", GOLDEN)
def test_names_shapes_and_cost(network):
    golden = GOLDEN[network]
    with torch.device("meta"):
        model = build(network)
    lines = sorted(
        f"{published(key, family(network).PUBLISHED_NAMES)} {list(value.shape)}"
        for key, value in model.state_dict().items()
    )
    assert len(lines) == golden["entries"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == golden["names"], (
        "names or shapes differ from the published ones"
    )
    assert macs(model, (golden["shape"][3], golden["shape"][2])) == golden["macs"]


@pytest.mark.parametrize("network", LIGHT)
def test_output(network):
    check(network, GOLDEN[network])


# a convention changed -> the comparison must fail. In float64, where an epsilon shows.
def set_all(kind, name, value):
    def change(backbone):
        hits = [m for m in backbone.modules() if isinstance(m, kind)]
        assert hits
        for m in hits:
            setattr(m, name, value)

    return change


def no_shift_at_the_end(backbone):
    backbone.stages[3].blocks[1].shift = 0


def other_merging(backbone):
    weight = backbone.stages[0].downsample.reduction.weight
    with torch.no_grad():
        weight.copy_(weight.reshape(len(weight), -1, 2, 2).transpose(2, 3).reshape(weight.shape))


def reduced_norm_only(backbone):
    backbone.layers[2][1][6].attn.norm.eps = 1e-5


def soft_gate(backbone):
    backbone.stage4[2].attention.gate = nn.Sigmoid()


def corner_windows(backbone):
    attention = backbone.stage2[0].branches[1][0].attn  # on 32×24 maps

    def forward(maps):
        padded = F.pad(maps, (0, 0, 0, -maps.shape[2] % 7, 0, -maps.shape[1] % 7))
        return swin.from_windows(attention.attn(swin.to_windows(padded, 7)), 7, 35, 28)[:, :32, :24]

    attention.forward = forward


BROKEN = [
    ("vitpose.vit_small", set_all(nn.LayerNorm, "eps", 1e-5)),
    ("vitpose.vit_small", set_all(nn.GELU, "approximate", "tanh")),
    ("cspnext.cspnext_tiny", set_all(nn.BatchNorm2d, "eps", 1e-3)),
    ("cspnext.cspnext_tiny", soft_gate),
    ("swin.swin_tiny", set_all(nn.LayerNorm, "eps", 1e-6)),
    ("swin.swin_tiny", no_shift_at_the_end),
    ("swin.swin_tiny", other_merging),
    ("pvt.pvt_small", reduced_norm_only),
    ("hrformer.hrformer_small", set_all(nn.LayerNorm, "eps", 1e-5)),
    ("hrformer.hrformer_small", set_all(nn.Upsample, "align_corners", True)),
    ("hrformer.hrformer_small", corner_windows),
]


@pytest.mark.parametrize("network", LIGHT)
def test_the_comparison_can_fail(network):
    golden, changes = GOLDEN[network], [change for name, change in BROKEN if name == network]
    first = (
        np.array(golden["index"]) < np.prod(golden["output_shape"]) // 2
    )  # the first of the two pictures is enough
    golden = golden | {
        "shape": [1, *golden["shape"][1:]],
        "output_shape": [1, *golden["output_shape"][1:]],
        "index": np.array(golden["index"])[first],
        "float64": np.array(golden["float64"])[first],
    }
    _, off = error(*network_and_head(network, golden), golden, torch.float64)
    assert changes and off < 1e-7
    for change in changes:
        backbone, head = network_and_head(network, golden)
        change(backbone)
        _, off = error(backbone, head, golden, torch.float64)
        assert off > 3e-7, f"{change} goes unnoticed: {off:.1e}"


def test_sizes_other_than_the_usual():
    for model in (
        cspnext.cspnext_tiny(),
        swin.Swin(24, (2, 2), (2, 4)),
        hrformer.HRFormer(8, 1, modules=(1, 1, 1), blocks=1),
    ):
        with torch.no_grad():
            out = model.eval()(torch.randn(2, 3, 96, 64))[-1]
        assert out.shape[:2] == (2, model.channels[-1]) and out.isfinite().all()
    for size in ((64, 96), (192, 64)):
        with torch.no_grad():
            maps = vitpose.ViT(48, 1, 3, size)(torch.randn(1, 3, size[1], size[0]))[0]
        assert maps.shape == (1, 48, size[1] // 16, size[0] // 16)
    with pytest.raises(InputError, match="64, 96.*192, 256"):
        vitpose.ViT(48, 1, 3)(torch.randn(1, 3, 96, 64))
    with pytest.raises(InputError, match="200"):
        vitpose.vit_small((200, 256))


SMALL = {
    "vit": lambda: vitpose.ViT(48, 2, 3, (64, 64)),
    "cspnext": lambda: cspnext.CSPNeXt(0.167, 0.125),
    "swin": lambda: swin.Swin(24, (2, 2), (2, 4)),
    "pvt": lambda: pvt.PVT((16, 32), (1, 1), (1, 2), (2, 1), (2, 2), side=16, drop_path=0),
    "hrformer": lambda: hrformer.HRFormer(8, 1, modules=(1, 1, 1), blocks=1),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    model = SMALL[name]()
    model.train()(torch.randn(2, 3, 64, 64))[-1].square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


# against timm
def test_vit_equals_timm_without_padding():
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(
        img_size=(64, 48),
        embed_dim=48,
        depth=2,
        num_heads=3,
        class_token=False,
        num_classes=0,
        global_pool="",
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()
    ours = vitpose.ViT(48, 2, 3, (48, 64)).eval()
    ours.load_state_dict(vitpose.from_timm(theirs.state_dict(), grid=(3, 4)))
    ours.patch_embed.padding = (0, 0)
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        assert torch.allclose(ours(images)[0].flatten(2).transpose(1, 2), theirs(images), atol=1e-5)


def test_vit_takes_a_classifier_of_other_patches_and_places():
    theirs = timm.models.VisionTransformer(
        img_size=112, patch_size=14, embed_dim=48, depth=2, num_heads=3
    )
    vitpose.ViT(48, 2, 3).load_state_dict(vitpose.from_timm(theirs.state_dict()))


def test_swin_equals_timm_where_nothing_is_padded():
    torch.manual_seed(0)
    theirs = timm.models.SwinTransformer(
        img_size=112, embed_dim=24, depths=(2, 2), num_heads=(2, 4), num_classes=0, global_pool=""
    ).eval()
    for name, p in theirs.named_parameters():
        if "bias_table" in name or "norm" in name:
            nn.init.normal_(p, mean=float(name.endswith("norm.weight")), std=0.5)
    ours = swin.Swin(24, (2, 2), (2, 4)).eval()
    ours.load_state_dict(swin.from_timm(theirs.state_dict()))
    images = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        assert torch.allclose(ours(images)[0], theirs(images).permute(0, 3, 1, 2), atol=1e-4)


def test_cspnext_equals_timm():
    theirs = timm.models.cspnext.CspNext(deepen_factor=0.167, widen_factor=0.375).eval()
    ours = cspnext.cspnext_tiny().eval()
    ours.load_state_dict(cspnext.from_timm(theirs.state_dict()))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images)[0], theirs.forward_features(images))


@pytest.mark.parametrize(
    "module", [vitpose, cspnext, swin], ids=lambda m: m.__name__.split(".")[-1]
)
def test_timm_has_the_named_starts(module):
    for variant, (source, name) in module.IMAGENET.items():
        assert source == "timm" and hasattr(module, variant) and timm.is_model_pretrained(name)


# parts
def test_position_embeddings_are_resized():
    table = torch.randn(1, 49, 6)
    image = table.reshape(1, 7, 7, 6).permute(0, 3, 1, 2)
    expected = (
        F.interpolate(image, size=(16, 12), mode="bicubic", align_corners=False)
        .flatten(2)
        .transpose(1, 2)
    )
    assert torch.equal(vitpose.resize_pos_embed(table, (12, 16)), expected)
    for entries in (193, 197):
        with pytest.raises(InputError, match=f"{entries}.*class token"):
            vitpose.resize_pos_embed(torch.zeros(1, entries, 6), (12, 16))
    with pytest.raises(InputError, match="180 entries"):
        vitpose.resize_pos_embed(torch.zeros(1, 180, 6), (12, 16))


def test_layers_for_the_learning_rate():
    model = nn.ModuleDict({"backbone": vitpose.ViT(48, 12, 3), "head": HeatmapHead(48, 17, (8,))})
    layers = {name: vitpose.layer_id(name, 12) for name, _ in model.named_parameters()}
    assert set(layers.values()) == set(range(14))
    assert layers["backbone.pos_embed"] == layers["backbone.patch_embed.bias"] == 0
    assert (
        layers["backbone.layers.0.norm1.weight"] == 1
        and layers["backbone.layers.11.mlp.fc2.bias"] == 12
    )
    assert layers["backbone.ln1.weight"] == layers["head.final_layer.bias"] == 13


def test_index_tables_are_part_of_the_files():
    index = swin.relative_index(7)
    y, x = np.divmod(np.arange(49), 7)
    assert all(
        index[i, j] == (y[i] - y[j] + 6) * 13 + x[i] - x[j] + 6
        for i in range(49)
        for j in range(49)
    )
    for model in (swin.Swin(24, (2,), (2,)), hrformer.HRFormer(8, 1, modules=(1, 1, 1), blocks=1)):
        tables = [
            value
            for key, value in model.state_dict().items()
            if key.endswith("relative_position_index")
        ]
        assert tables and all(torch.equal(t, index) for t in tables)


def test_pvt_takes_the_authors_names():
    shapes = {
        "patch_embed2.proj.weight": (128, 64, 2, 2),
        "pos_embed4": (1, 50, 512),
        "block3.5.norm1.bias": (320,),
        "block1.0.attn.q.weight": (64, 64),
        "block1.0.attn.kv.weight": (128, 64),
        "block4.2.mlp.fc2.weight": (512, 2048),
        "head.bias": (1000,),
    }
    theirs = {name: torch.randn(shape) for name, shape in shapes.items()}
    ours = pvt.from_authors(theirs)
    reference = pvt.pvt_small().state_dict()
    assert set(ours) == {
        "layers.1.0.projection.weight",
        "layers.3.1.0.pos_embed",
        "layers.2.1.6.norm1.bias",
        "layers.0.1.1.attn.attn.in_proj_weight",
        "layers.3.1.3.ffn.layers.3.weight",
    }
    assert all(reference[key].shape == value.shape for key, value in ours.items())
    packed = torch.cat([theirs["block1.0.attn.q.weight"], theirs["block1.0.attn.kv.weight"]])
    assert torch.equal(ours["layers.0.1.1.attn.attn.in_proj_weight"], packed)


@pytest.mark.skipif(
    not REFERENCE, reason="set POSE_NB_REFERENCE to the folder with golden/ and state_dicts/ to run"
)
@pytest.mark.parametrize("network", GOLDEN)
def test_all_recorded_values(network):
    golden = GOLDEN[network]
    full = json.loads(
        (Path(REFERENCE) / "golden" / f"{golden['arch']}.json").read_text(encoding="utf-8")
    )
    output = full["output"]
    golden = golden | {
        "index": output["index"],
        "float32": output["value"],
        "float64": full["output_float64"]["value"],
    }
    entries = json.loads(
        (Path(REFERENCE) / "state_dicts" / f"{golden['arch']}.json").read_text(encoding="utf-8")
    )["entries"]
    with torch.device("meta"):
        model = build(network)
    ours = {
        published(key, family(network).PUBLISHED_NAMES): list(value.shape)
        for key, value in model.state_dict().items()
    }
    assert ours == {name[9:]: shape for name, shape in entries if name.startswith("backbone.")}
    check(network, golden)
