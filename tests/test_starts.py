"""ImageNet starts: a library's weights fit the network that names them, and give its features."""

from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import nn

from pose_nb.backbones import mobilenetv2, mspn, pvt, resnet, resnetv1d, seresnet, swin, vitpose
from pose_nb.files import InputError
from pose_nb.tables import networks
from pose_nb.tables.rows import start_model
from pose_nb.tables.zoo import ROWS, get_row
from pose_nb.weights.loading import export_mmpose
from pose_nb.weights.names import published_names
from pose_nb.weights.starts import (
    Authors,
    Timm,
    Torchvision,
    go_on,
    load_start,
    read_start,
    start,
)


class Only(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


def library(imagenet):
    """The library's network, with random weights."""
    if isinstance(imagenet, Torchvision):
        builder, _, _ = imagenet.name.partition("_Weights.")
        return torchvision.models.get_model_builder(builder)()
    return timm.create_model(imagenet.name.split(".")[0])


def begun(network, model, tensors):
    """`load_start` with what the network says."""
    made = network()
    adapt = made.imagenet.adapt if made.imagenet else None
    return load_start(model, tensors, made.names, adapt)


def sums(tensors):
    """A fingerprint of each matrix, which no renaming or reordering changes."""
    matrices = [v for k, v in tensors.items() if v.is_floating_point() and v.dim() > 1]
    return {round(value.double().sum().item(), 6) for value in matrices}


FITTING = [
    networks.resnet50,
    networks.mobilenetv2,
    networks.shufflenetv2,
    networks.resnext50,
    networks.resnext101,
    networks.resnetv1d50,
    networks.seresnet50,
    networks.resnest50,
    networks.hrnet_w32,
    networks.hrnetv2_w18,
    networks.cspnext_tiny,
    networks.swin_tiny,
    networks.vitpose_base,
]


@pytest.mark.parametrize("network", FITTING, ids=lambda network: network.__name__)
def test_library_weights_fit(network):
    made = network()
    model, values = Only(made.backbone()), library(made.imagenet).state_dict()
    report = begun(network, model, values)
    assert len(report.loaded) > 0.95 * len(model.state_dict())
    counters = ("relative_position_index", "num_batches_tracked")
    assert all(key.endswith(counters) for key in report.kept)
    ours = {k: v for k, v in model.state_dict().items() if "pos_embed" not in k}
    assert sums(ours) <= sums(values)


def test_every_start_is_one_that_the_library_has():
    """Of all networks of the tables, with the bytes that only a download could show left out."""
    kinds = {row.network: row.network().imagenet for row in ROWS}
    for network, imagenet in kinds.items():
        if isinstance(imagenet, Torchvision):
            assert torchvision.models.get_weight(imagenet.name).url.endswith(".pth")
        elif isinstance(imagenet, Timm):
            assert timm.get_pretrained_cfg(imagenet.name), network.__name__
    counts = [sum(isinstance(i, kind) for i in kinds.values()) for kind in (Torchvision, Timm)]
    assert counts == [8, 19]


@pytest.mark.parametrize(
    "network",
    [
        networks.resnet50,
        networks.mobilenetv2,
        networks.shufflenetv2,
        networks.resnetv1d50,
        networks.resnest50,
    ],
    ids=lambda network: network.__name__,
)
def test_features_are_the_librarys(network):
    torch.manual_seed(0)
    made = network()
    model, theirs, images = Only(made.backbone()), library(made.imagenet), torch.randn(1, 3, 64, 64)
    begun(network, model, theirs.state_dict())
    model.eval(), theirs.eval()
    parts = {networks.resnet50: -2, networks.shufflenetv2: -1}
    if network in parts:
        features = nn.Sequential(*list(theirs.children())[: parts[network]])
    else:
        features = getattr(theirs, "features", None) or theirs.forward_features
    with torch.no_grad():
        ours, expected = model.backbone(images)[-1], features(images)
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_mspn():
    model, network = Only(mspn.mspn50(2)), torchvision.models.resnet50()
    adapt = partial(mspn.from_resnet50, stages=2)
    report = load_start(model, network.state_dict(), adapt=adapt)
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
    names = published_names(model.state_dict(), resnetv1d.PUBLISHED_NAMES)
    torch.save(
        {
            "state_dict": {
                **{names[k]: v for k, v in model.state_dict().items()},
                "head.fc.weight": torch.ones(3),
            }
        },
        tmp_path / "x.pth",
    )
    report = load_start(other, read_start(tmp_path / "x.pth"), resnetv1d.PUBLISHED_NAMES)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values())
    ) and list(report.dropped) == ["head.fc.weight"]


def test_plain_published_names(tmp_path):
    """Files such as hrnet_w32-36af842e.pth have the published names without a prefix."""
    model, other = Only(seresnet.seresnet50()), Only(seresnet.seresnet50())
    names = published_names(model.state_dict(), seresnet.PUBLISHED_NAMES)
    load_start(
        other,
        {names[k].removeprefix("backbone."): v for k, v in model.state_dict().items()},
        seresnet.PUBLISHED_NAMES,
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
    begun(networks.pvt_small, model, theirs)
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
    report = begun(networks.swin_tiny, a, {**authors, "head.weight": torch.ones(3, 768)})
    assert report.dropped == {"head.weight": "of the classifier"}
    begun(networks.swin_tiny, b, values)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_refusals():
    model = Only(resnet.resnet50())
    good = torchvision.models.resnet50().state_dict()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for change, message in [
        ({"layer1.0.conv1.weight": None}, "layer1.0.conv1.weight gets no value"),
        ({"stem.weight": torch.ones(1)}, "'stem.weight' of the file"),
        (
            {"conv1.weight": torch.ones(64, 3, 3, 3)},
            r"\(64, 3, 3, 3\) in the file, \(64, 3, 7, 7\)",
        ),
        ({"bn1.bias": torch.full((64,), float("nan"))}, "bn1.bias has 64 values that are NaN"),
    ]:
        with pytest.raises(InputError, match=message):
            load_start(
                model,
                {k: v for k, v in {**good, **change}.items() if v is not None},
            )
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    report = load_start(model, good | {"conv1.weight": torch.ones(64, 3, 3, 3)}, leave=("conv1.",))
    assert "conv1.weight" in report.kept and torch.equal(
        model.state_dict()["backbone.conv1.weight"], before["backbone.conv1.weight"]
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no mirrors."""
    monkeypatch.setenv("POSE_NB_CACHE", str(tmp_path))
    monkeypatch.delenv("POSE_NB_MIRROR", raising=False)
    return tmp_path


def test_the_published_file_comes_first_then_the_library(cache):
    values = torchvision.models.resnet50().state_dict()
    torch.save(values, cache / "resnet50-0676ba61.pth")

    class Offline(Torchvision):
        def fetch(self):
            return values, "resnet50-0676ba61.pth"

    imagenet = Offline("ResNet50_Weights.IMAGENET1K_V1")
    torch.save(values, cache / "my_resnet50.pth")
    assert start(Only(resnet.resnet50()), "my_resnet50.pth", imagenet).source.endswith(
        "my_resnet50.pth"
    )
    (cache / "my_resnet50.pth").unlink()
    source = start(Only(resnet.resnet50()), "my_resnet50.pth", imagenet).source
    assert source == "offline's resnet50-0676ba61.pth, in place of my_resnet50.pth"
    with pytest.raises(InputError, match="SHA-256"):  # found, but not what its name says
        start(Only(resnet.resnet50()), "resnet50-0676ba61.pth", imagenet)
    with pytest.raises(InputError, match="no library has weights"):
        start(Only(resnet.resnet50()), "other.pth", None)
    with pytest.raises(InputError, match="github.com/whai362/PVT"):
        start(Only(pvt.pvt_small()), "pvt_small.pth", networks.pvt_small().imagenet)
    assert isinstance(networks.pvt_small().imagenet, Authors)


def test_a_row_hands_its_start_over(cache):
    row = get_row("coco/mobilenet-v2")
    values = torchvision.models.mobilenet_v2().state_dict()
    torch.save(values, cache / "classifier.pth")
    model = row.create()
    report = start_model(row, model, cache / "classifier.pth")
    assert not report.kept and model.backbone.features[0][0].weight.equal(
        values["features.0.0.weight"]
    )
    assert start_model(get_row("coco/litehrnet-18"), model).loaded == []  # begins at random
    with pytest.raises(InputError, match="was not found"):
        start_model(get_row("jhmdb/resnet-50"), model)  # goes on from MPII's


def test_a_wider_stem_is_left_out(cache):
    """ResNeSt-101's ImageNet files have one; the published training kept its own stem random."""
    network = networks.resnest101()
    model, values = Only(network.backbone()), library(network.imagenet).state_dict()
    torch.save(values, cache / "resnest101.pth")
    report = start(model, "resnest101.pth", network.imagenet, network.names)
    assert report.kept and all(key.startswith(network.imagenet.leave) for key in report.kept)


def test_positions_of_a_masked_autoencoder():
    """Published names, a class token and a square grid."""
    model, other = Only(vitpose.ViT(48, 2, 3)), vitpose.ViT(48, 2, 3, image_size=(224, 224))
    rules = vitpose.PUBLISHED_NAMES
    names = published_names([f"backbone.{key}" for key in other.state_dict()], rules)
    values = {
        names[f"backbone.{key}"].removeprefix("backbone."): value
        for key, value in other.state_dict().items()
    }
    values |= {"cls_token": torch.zeros(1, 1, 48), "pos_embed": torch.randn(1, 197, 48)}
    report = load_start(model, values, rules, vitpose.from_timm)
    expected = vitpose.resize_pos_embed(values["pos_embed"][:, 1:], (12, 16))
    assert model.backbone.pos_embed.equal(expected) and list(report.dropped) == ["cls_token"]


def test_going_on_from_a_pose_network(tmp_path):
    """JHMDB's 15 keypoints go on from MPII's 16: all but the last layer."""
    rules = mobilenetv2.PUBLISHED_NAMES

    def net(keypoints):
        model = Only(mobilenetv2.mobilenetv2())
        last, deconv = nn.Conv2d(8, keypoints, 1), nn.Conv2d(8, 8, 1)
        model.head = nn.ModuleDict({"final_layer": last, "deconv": deconv})
        return model

    source = net(16)
    export_mmpose(source, tmp_path / "mpii.pth", rules)
    for keypoints, kept in ((15, ["head.final_layer.weight", "head.final_layer.bias"]), (16, [])):
        model = net(keypoints)
        assert go_on(model, tmp_path / "mpii.pth", rules).kept == kept
        assert torch.equal(model.head["deconv"].weight, source.head["deconv"].weight)
