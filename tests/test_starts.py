"""ImageNet starts: every library network whose weights a backbone names must fit it, and give the same features where that can be compared."""

from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from torch import nn

import pose_nb.weights.starts
from pose_nb.backbones import (
    cspnext,
    hrnet,
    mobilenetv2,
    mspn,
    pvt,
    resnest,
    resnet,
    resnetv1d,
    resnext,
    seresnet,
    shufflenetv2,
    swin,
    vitpose,
)
from pose_nb.files import InputError
from pose_nb.weights.starts import library_name, load_start, start
from pose_nb.weights.loading import published_names


class Only(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


TIMM = [
    resnetv1d.resnetv1d50,
    seresnet.seresnet50,
    resnext.resnext101,
    resnest.resnest50,
    hrnet.hrnetv2_w18,
    hrnet.hrnet_w32,
    cspnext.cspnext_tiny,
    swin.swin_tiny,
    vitpose.vit_base,
]
VISION = {
    resnet.resnet50: "resnet50",
    mobilenetv2.mobilenetv2: "mobilenet_v2",
    shufflenetv2.shufflenetv2: "shufflenet_v2_x1_0",
    resnext.resnext50: "resnext50_32x4d",
}


def library(build):
    source, name = library_name(SimpleNamespace(backbone=build))
    if build in VISION:
        return torchvision.models.get_model_builder(VISION[build])()
    assert source == "timm"
    return timm.create_model(name.split(".")[0])


@pytest.mark.parametrize("build", [*TIMM, *VISION], ids=lambda b: b.__name__)
def test_library_weights_fit(build):
    model, network = Only(build()), library(build)
    values = network.state_dict()
    report = load_start(model, values, build)
    assert len(report.loaded) > 0.95 * len(model.state_dict())
    assert not [
        k for k in report.kept if not k.endswith(("relative_position_index", "num_batches_tracked"))
    ]
    known = {
        round(v.double().sum().item(), 6)
        for v in values.values()
        if v.is_floating_point() and v.dim() > 1
    }
    ours = {
        round(v.double().sum().item(), 6)
        for k, v in model.state_dict().items()
        if v.is_floating_point() and v.dim() > 1 and "pos_embed" not in k
    }
    assert ours <= known  # each matrix is one of the library's, reordered at most


@pytest.mark.parametrize(
    "build",
    [
        resnet.resnet50,
        mobilenetv2.mobilenetv2,
        shufflenetv2.shufflenetv2,
        resnetv1d.resnetv1d50,
        resnest.resnest50,
    ],
    ids=lambda b: b.__name__,
)
def test_features_are_the_librarys(build):
    torch.manual_seed(0)
    model, network, images = Only(build()).eval(), library(build).eval(), torch.randn(1, 3, 64, 64)
    load_start(model, network.state_dict(), build)
    with torch.no_grad():
        ours = model.backbone(images)[-1]
        if build is resnet.resnet50:
            theirs = nn.Sequential(*list(network.children())[:-2])(images)
        elif build is shufflenetv2.shufflenetv2:
            theirs = nn.Sequential(*list(network.children())[:-1])(images)
        else:
            theirs = (
                network.features(images)
                if hasattr(network, "features")
                else network.forward_features(images)
            )
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_mspn():
    model, network = Only(mspn.mspn50(2)), torchvision.models.resnet50()
    report = load_start(model, network.state_dict(), mspn.mspn50)
    state = model.state_dict()
    for stage in range(2):
        assert torch.equal(
            state[f"backbone.multi_stage_mspn.{stage}.downsample.layer3.5.conv2.weight"],
            network.layer3[5].conv2.weight,
        )
    assert set(report.dropped) == {"fc.weight", "fc.bias"} and all(
        "upsample" in k or "stages" not in k for k in report.kept
    )


def test_classifier_files_with_prefix(tmp_path):
    model, other = Only(resnetv1d.resnetv1d50()), Only(resnetv1d.resnetv1d50())
    names = published_names(model, resnetv1d.resnetv1d50)
    torch.save(
        {
            "state_dict": {
                **{names[k]: v for k, v in model.state_dict().items()},
                "head.fc.weight": torch.ones(3),
            }
        },
        tmp_path / "x.pth",
    )
    report = load_start(other, tmp_path / "x.pth", resnetv1d.resnetv1d50)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values())
    ) and list(report.dropped) == ["head.fc.weight"]


def test_plain_published_names(tmp_path):
    """Files such as hrnet_w32-36af842e.pth have the published names without a prefix."""
    model, other = Only(seresnet.seresnet50()), Only(seresnet.seresnet50())
    names = published_names(model, seresnet.seresnet50)
    load_start(
        other,
        {names[k].removeprefix("backbone."): v for k, v in model.state_dict().items()},
        seresnet.seresnet50,
    )
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values())
    )


def test_pvt_authors_names():
    """Shapes of the authors' file, under their names, go to the places that the names say."""
    model = Only(pvt.pvt_small())
    own = {k.removeprefix("backbone."): v for k, v in model.state_dict().items()}
    theirs, expected = {}, {}
    for i, (depth, count) in enumerate(zip((3, 4, 6, 3), (3136, 784, 196, 50))):
        width = own[f"layers.{i}.0.projection.weight"].shape[0]
        theirs[f"pos_embed{i + 1}"] = torch.randn(1, count, width)
        for w in ("weight", "bias"):
            theirs[f"patch_embed{i + 1}.proj.{w}"] = torch.randn_like(
                own[f"layers.{i}.0.projection.{w}"]
            )
            theirs[f"patch_embed{i + 1}.norm.{w}"] = torch.randn_like(own[f"layers.{i}.0.norm.{w}"])
        for j in range(depth):
            ours = f"layers.{i}.1.{j + 1}."
            for key in [k for k in own if k.startswith(ours)]:
                rest, value = key.removeprefix(ours), torch.randn_like(own[key])
                name = f"block{i + 1}.{j}."
                if "in_proj" in rest:
                    kind = rest.split("_")[-1]
                    theirs[f"{name}attn.q.{kind}"], theirs[f"{name}attn.kv.{kind}"] = (
                        value[:width],
                        value[width:],
                    )
                else:
                    rest = (
                        rest.replace("attn.attn.out_proj", "attn.proj")
                        .replace("ffn.layers.0", "mlp.fc1")
                        .replace("ffn.layers.3", "mlp.fc2")
                    )
                    theirs[name + rest] = (
                        value[..., 0, 0] if "mlp" in rest and value.dim() == 4 else value
                    )
                expected[key] = value
    theirs |= {
        "cls_token": torch.ones(1, 1, 512),
        "norm.weight": torch.ones(512),
        "norm.bias": torch.ones(512),
        "head.weight": torch.ones(3, 512),
    }
    load_start(model, theirs, pvt.pvt_small)
    state = model.state_dict()
    for key, value in expected.items():
        assert torch.equal(state["backbone." + key], value), key
    assert torch.equal(state["backbone.layers.3.1.0.pos_embed"], theirs["pos_embed4"][:, 1:])


def test_swin_authors_names():
    network = timm.create_model("swin_tiny_patch4_window7_224")
    values = {k: v for k, v in network.state_dict().items() if not k.startswith("head.")}
    authors = {}
    for key, value in values.items():
        if ".downsample." in key:
            key = f"layers.{int(key[7]) - 1}{key[8:]}"
        authors[key] = value
    authors["layers.0.blocks.1.attn_mask"] = torch.ones(2, 2)
    a, b = Only(swin.swin_tiny()), Only(swin.swin_tiny())
    load_start(a, {**authors, "head.weight": torch.ones(3, 768)}, swin.swin_tiny)
    load_start(b, values, swin.swin_tiny)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_refusals():
    model = Only(resnet.resnet50())
    good = torchvision.models.resnet50().state_dict()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for change, message in [
        ({"layer1.0.conv1.weight": None}, "layer1.0.conv1.weight gets no value"),
        ({"stem.weight": torch.ones(1)}, "stem.weight of the file"),
        (
            {"conv1.weight": torch.ones(64, 3, 3, 3)},
            r"\(64, 3, 3, 3\) in the file, \(64, 3, 7, 7\)",
        ),
        ({"bn1.bias": torch.full((64,), float("nan"))}, "bn1.bias has values that are NaN"),
    ]:
        with pytest.raises(InputError, match=message):
            load_start(
                model,
                {k: v for k, v in {**good, **change}.items() if v is not None},
                resnet.resnet50,
            )
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    report = load_start(
        model, good | {"conv1.weight": torch.ones(64, 3, 3, 3)}, resnet.resnet50, leave=("conv1.",)
    )
    assert "conv1.weight" in report.kept and torch.equal(
        model.state_dict()["backbone.conv1.weight"], before["backbone.conv1.weight"]
    )


def test_start_of_a_row(tmp_path, monkeypatch):
    monkeypatch.setenv("POSE_NB_CACHE", str(tmp_path))
    monkeypatch.delenv("POSE_NB_MIRROR", raising=False)
    values = torchvision.models.resnet50().state_dict()
    row = SimpleNamespace(
        id="coco/resnet-50", starts_from="my_resnet50.pth", backbone=resnet.resnet50
    )
    monkeypatch.setattr(
        pose_nb.weights.starts,
        "_from_library",
        lambda source, name: (values, "resnet50-0676ba61.pth"),
    )
    assert "in place of my_resnet50.pth" in start(Only(resnet.resnet50()), row).source
    row.starts_from = "resnet50-0676ba61.pth"
    assert start(Only(resnet.resnet50()), row).source == "torchvision's resnet50-0676ba61.pth"
    torch.save(values, tmp_path / "my_resnet50.pth")
    row.starts_from = "my_resnet50.pth"
    assert start(Only(resnet.resnet50()), row).source == str(tmp_path / "my_resnet50.pth")
    row.starts_from = ""
    assert start(Only(resnet.resnet50()), row).loaded == []
    with pytest.raises(InputError, match="no library"):
        start(
            Only(pvt.pvt_small()),
            SimpleNamespace(id="coco/pvt-s", starts_from="pvt_small.pth", backbone=pvt.pvt_small),
        )


def test_going_on_from_a_pose_network(tmp_path, monkeypatch):
    """JHMDB's 15 keypoints go on from MPII's 16: all but the last layer."""
    from pose_nb.weights.loading import export_mmpose

    monkeypatch.setenv("POSE_NB_CACHE", str(tmp_path))
    monkeypatch.delenv("POSE_NB_MIRROR", raising=False)

    def net(keypoints):
        model = Only(mobilenetv2.mobilenetv2())
        model.head = nn.ModuleDict(
            {"final_layer": nn.Conv2d(8, keypoints, 1), "deconv": nn.Conv2d(8, 8, 1)}
        )
        return model

    source = net(16)
    export_mmpose(source, tmp_path / "mpii.pth", mobilenetv2.mobilenetv2)
    row = SimpleNamespace(
        id="jhmdb/x", starts_from="", continues="mpii.pth", backbone=mobilenetv2.mobilenetv2
    )
    for keypoints, kept in ((15, ["head.final_layer.weight", "head.final_layer.bias"]), (16, [])):
        model = net(keypoints)
        assert start(model, row).kept == kept
        assert torch.equal(model.head["deconv"].weight, source.head["deconv"].weight)
    with pytest.raises(InputError, match="was not found"):
        start(net(15), SimpleNamespace(**{**vars(row), "continues": "other.pth"}))
