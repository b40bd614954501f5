"""ImageNet starts: a library's weights fit the network that names them, and give its features."""

from contextlib import contextmanager
from functools import partial
from unittest import mock

import pytest
import timm
import torch
import torchvision
from torch import nn

from pose_nb.backbones import mobilenetv2, mspn, pvt, resnet, resnetv1d, seresnet, swin, vitpose
from pose_nb.codecs.msra import MSRA
from pose_nb.files import InputError
from pose_nb.tables import networks
from pose_nb.tables.rows import start_model, start_plan
from pose_nb.tables.zoo import ROWS, get_row
from pose_nb.weights.finding import NotFound
from pose_nb.weights.loading import export_mmpose, save
from pose_nb.weights.names import published_names
from pose_nb.weights.starts import (
    Near,
    Timm,
    Torchvision,
    go_on,
    load_start,
    read_start,
    start,
    start_near,
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
    sources = []
    for network in DISTINCT:
        made = network()
        sources += [made.imagenet] if made.imagenet else []
        sources += [made.near.source] if made.near else []
    for source in sources:
        if isinstance(source, Torchvision):
            assert torchvision.models.get_weight(source.name).url.endswith(source.file)
        elif isinstance(source, Timm):
            assert timm.list_pretrained(source.name) == [source.name]
        else:
            assert source.page and source.server.startswith("https://" if source.file else "")


def shapes(source):
    """The library's network of a source, with zeros that take no memory."""
    with torch.device("meta"):
        state = library(source).state_dict()
    return {k: torch.zeros((), dtype=v.dtype).expand(v.shape) for k, v in state.items()}


@contextmanager
def without_values():
    """Tensors on the meta device take any value and keep none; PyTorch warns of each."""
    with mock.patch.object(nn.Module, "load_state_dict"), torch.device("meta"):
        yield


DISTINCT = list({row.network: None for row in ROWS if row.starts_from or row.continues})
CODEC = MSRA((192, 256), (48, 64))


IN_A_LIBRARY = [n for n in DISTINCT if isinstance(n().imagenet, Timm | Torchvision)]
ONLY_NEAR = [n for n in DISTINCT if n().near]


def test_every_network_that_began_with_a_file_has_something():
    assert set(DISTINCT) == {*IN_A_LIBRARY, *ONLY_NEAR} and len(DISTINCT) == 36
    assert not set(IN_A_LIBRARY) & set(ONLY_NEAR)


@pytest.mark.parametrize("network", IN_A_LIBRARY, ids=lambda network: network.__name__)
def test_every_networks_source_fits_it(network):
    """All networks at their true size, names and shapes alone; nothing but counters stays."""
    made = network()
    tensors, source = shapes(made.imagenet), made.imagenet

    def adapt(tensors):  # an index has a value to compare, which meta tensors lack
        adapted = source.adapt(tensors)
        return {k: v for k, v in adapted.items() if not k.endswith("relative_position_index")}

    with without_values():
        model = made.build(17, CODEC)
        report = load_start(model, tensors, made.names, source.adapt and adapt, source.leave)
    own = [key for key in model.state_dict() if key.startswith("backbone.")]
    assert len(report.loaded) + len(report.kept) == len(own)
    rest = [key for key in report.kept if not key.startswith(source.leave or ("nothing",))]
    random = ("relative_position_index", "num_batches_tracked")
    if network.__name__.startswith("mspn"):
        rest = [key for key in rest if ".upsample." not in key]
    assert all(key.endswith(random) for key in rest)


NEARLY = {  # tensors that a similar network lends, of how many; without counters and index tables
    "hrformer_small": (45, 1633),
    "hrformer_base": (45, 1633),
    "resnext152": (520, 775),
    "scnet50": (25, 585),
    "scnet101": (25, 1180),
    "seresnet101": (652, 652),
    "shufflenetv1": (5, 245),
    "vitpose_small": (149, 149),
    "pvt_small": (252, 264),
}


@pytest.mark.parametrize("network", ONLY_NEAR, ids=lambda network: network.__name__)
def test_a_near_start_fits_and_says_what_it_is(network):
    made = network()
    tensors = shapes(made.near.source)

    class Offline(type(made.near.source)):
        def fetch(self):
            return tensors, str(self)

    near = Near(Offline(made.near.source.name), made.near.adapt, made.near.what)
    with without_values():
        report = start_near(made.build(17, CODEC), near, "file.pth")
    assert report.source.startswith("NEAR, not the published start: ")
    assert made.near.source.name in report.source and made.near.what in report.source
    counters = ("num_batches_tracked", "relative_position_index")
    lent, kept = (
        [k for k in ks if not k.endswith(counters)] for ks in (report.loaded, report.kept)
    )
    assert (len(lent), len(lent + kept)) == NEARLY[network.__name__]


def test_a_longer_resnext_begins_as_the_shorter_one():
    torch.manual_seed(0)
    made, images = networks.resnext152(), torch.randn(1, 3, 64, 64)
    theirs = timm.create_model("resnext101_32x4d", zero_init_last=False).eval()
    model = made.build(17, CODEC).eval()
    load_start(
        model,
        theirs.state_dict(),
        leave=tuple(k for k in model.backbone.state_dict() if k not in theirs.state_dict()),
    )
    with torch.no_grad():
        ours, expected = model.backbone(images)[-1], theirs.forward_features(images)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_scnets_authors_names():
    made = networks.scnet50()
    model, theirs = made.build(17, CODEC), {}
    for key, value in model.backbone.state_dict().items():
        for number, letter in (("1", "a"), ("2", "b")):
            for kind in ("conv", "bn"):
                key = key.replace(f".{kind}{number}.", f".{kind}1_{letter}.")
        theirs[key] = torch.randn_like(value) if value.is_floating_point() else value
    theirs["fc.weight"] = torch.ones(3, 2048)
    report = load_start(model, theirs, made.names, made.imagenet.adapt)
    block = model.backbone.layer1[0]
    assert not report.kept and list(report.dropped) == ["fc.weight"]
    assert torch.equal(block.conv2.weight, theirs["layer1.0.conv1_b.weight"])
    assert torch.equal(block.bn1.bias, theirs["layer1.0.bn1_a.bias"])


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
            return values, f"torchvision's {self.file}"

    imagenet = Offline("ResNet50_Weights.IMAGENET1K_V1")
    torch.save(values, cache / "my_resnet50.pth")
    assert start(Only(resnet.resnet50()), "my_resnet50.pth", imagenet).source.endswith(
        "my_resnet50.pth"
    )
    (cache / "my_resnet50.pth").unlink()
    source = start(Only(resnet.resnet50()), "my_resnet50.pth", imagenet).source
    assert source == "torchvision's resnet50-0676ba61.pth, in place of my_resnet50.pth"
    with pytest.raises(InputError, match="SHA-256"):  # found, but not what its name says
        start(Only(resnet.resnet50()), "resnet50-0676ba61.pth", imagenet)
    with pytest.raises(NotFound, match="No library has weights"):
        start(Only(resnet.resnet50()), "other.pth", None)
    with pytest.raises(NotFound, match="github.com/ViTAE-Transformer/ViTPose"):
        start(Only(nn.Identity()), "other.pth", networks.vitpose_small().imagenet)


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


@pytest.fixture
def offline(cache, monkeypatch):
    """No connection: what is in the cache, and libraries that fail in their own ways."""

    def refuse(*args, **kwargs):
        raise InputError("no connection")

    def hub(*args, **kwargs):
        raise OSError("the hub cannot be reached")

    monkeypatch.setattr("pose_nb.weights.finding.download", refuse)
    monkeypatch.setattr(timm, "create_model", hub)
    return cache


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_without_its_file_stops_and_says_what_else_there_is(row, offline):
    if not (row.starts_from or row.continues):
        assert start_model(row, None).source == "random start, as published"
        assert start_model(row, None, "near").source == "random start, as published"
        return
    with pytest.raises(InputError) as refused:
        start_model(row, None)
    message, plan = str(refused.value), start_plan(row)
    assert (row.continues or row.starts_from) in message and "--start random" in message
    assert "--start FILE" in message
    assert (f"--start near takes {plan.near}" in message) == bool(plan.near)
    if row.starts_from and not row.continues:
        assert plan.library or plan.near
    with pytest.raises(InputError, match="--start FILE, weights of yours; --start random"):
        start_model(row, None, "near")
    told = start_model(row, None, "random")
    assert not told.loaded and (row.continues or row.starts_from) in told.source


def test_near_is_taken_where_nothing_exact_can_be_had_and_only_there(offline, monkeypatch):
    row = get_row("coco/shufflenet-v1")
    values = torchvision.models.shufflenet_v2_x1_0().state_dict()
    monkeypatch.setattr(Torchvision, "fetch", lambda self: (values, str(self)))
    model = row.create()
    before = model.backbone.conv1.conv.weight.clone()
    with pytest.raises(InputError, match="--start near takes torchvision's ShuffleNet_V2"):
        start_model(row, model, "published")
    assert model.backbone.conv1.conv.weight.equal(before)
    report = start_model(row, model, "near")
    assert "NEAR" in str(report) and row.starts_from in report.source
    assert model.backbone.conv1.conv.weight.equal(values["conv1.0.weight"])
    exact = {f"backbone.{k}": torch.ones_like(v) for k, v in model.backbone.state_dict().items()}
    (offline / row.starts_from).write_bytes(b"")
    monkeypatch.setattr("pose_nb.weights.finding.check_hash", lambda path: None)
    torch.save({"state_dict": exact}, offline / row.starts_from)
    assert "NEAR" not in start_model(row, model, "near").source
    assert (model.backbone.conv1.conv.weight == 1).all()


def test_a_pose_network_may_be_replaced_by_a_classifier_only_on_demand(offline, monkeypatch):
    row = get_row("jhmdb/resnet-50")
    values = torchvision.models.resnet50().state_dict()
    monkeypatch.setattr(Torchvision, "fetch", lambda self: (values, str(self)))
    model = row.create()
    with pytest.raises(InputError, match=r"--start near takes .*the backbone alone"):
        start_model(row, model)
    report = start_model(row, model, "near")
    assert row.continues in report.source and "NEAR" in report.source
    assert model.backbone.conv1.weight.equal(values["conv1.weight"])


def test_ones_own_pose_network_is_told_from_a_classifier(cache):
    """MPII's 16 keypoints for JHMDB's 15: a file of ours, whole, apart from the last layer."""
    mpii, row = get_row("mpii/resnet-50").create(), get_row("jhmdb/resnet-50")
    with torch.no_grad():
        mpii.head.deconv_layers[0].weight.fill_(2)
    save(mpii, cache / "mine.safetensors")
    model = row.create()
    report = start_model(row, model, cache / "mine.safetensors")
    assert report.kept == ["head.final_layer.weight", "head.final_layer.bias"]
    assert (model.head.deconv_layers[0].weight == 2).all()
    with pytest.raises(InputError, match="nowhere"):
        start_model(row, model, cache / "nowhere.pth")


def test_swin_large_passes_over_the_file_that_cannot_fit(cache, monkeypatch):
    row = get_row("coco/swin-l")
    assert row.starts_from == row.network().imagenet.instead_of
    torch.save({"model": {}}, cache / row.starts_from)
    monkeypatch.setattr(Timm, "fetch", lambda self: ({"a": torch.ones(1)}, str(self)))
    seen = {}

    def loaded(model, tensors, names, adapt, leave, source):
        seen["source"] = source

    monkeypatch.setattr("pose_nb.weights.starts.load_start", loaded)
    start_model(row, None)
    assert seen["source"].startswith("timm's swin_large") and row.starts_from in seen["source"]


KINDS = {"exact": 12, "other weights": 49, "near alone": 13, "random": 13}


def test_every_row_has_a_plan():
    plans = {row.id: start_plan(row) for row in ROWS}
    kinds = {
        "exact": [p for p in plans.values() if p.library.endswith("the same file")],
        "other weights": [p for p in plans.values() if p.library and "same file" not in p.library],
        "near alone": [p for p in plans.values() if p.near and not p.library],
        "random": [p for p in plans.values() if p.published == "random weights"],
    }
    assert sum(map(len, kinds.values())) == 87
    assert {kind: len(found) for kind, found in kinds.items()} == KINDS


def test_a_wider_stem_is_left_out(cache):
    """ResNeSt-101's ImageNet files have one; the published training kept its own stem random."""
    network = networks.resnest101()
    model, values = Only(network.backbone()), library(network.imagenet).state_dict()
    torch.save(values, cache / "resnest101.pth")
    report = start(model, "resnest101.pth", network.imagenet, network.names)
    assert report.kept and all(key.startswith(network.imagenet.leave) for key in report.kept)
    kept = [key for key in report.kept if not key.endswith("num_batches_tracked")]
    assert len(kept) == 17  # the tensors that the reference's loader skips with a warning
    short = model.backbone if hasattr(model, "backbone") else model
    assert short.state_dict()["layer1.0.downsample.2.weight"].equal(
        values["layer1.0.downsample.2.weight"]
    )


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
