"""Published weights in and out: names, strictness, formats, hostile values."""

import json
import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from pose_nb.files import InputError
from pose_nb.weights.hashes import sha256
from pose_nb.weights.loading import (
    LoadReport,
    convert,
    convert_file,
    export_mmpose,
    load,
    load_published,
    load_weights,
    save,
    weights_file,
)
from pose_nb.weights.names import modern_names, published_names
from pose_nb.weights.tensors import read_safetensors

RULES = ((r"^stem\.", "conv1."), (r"\.norm\.", ".bn."))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 4, 3), nn.ModuleDict({"norm": nn.BatchNorm2d(4)})


class Toy(nn.Module):
    def __init__(self, keypoints=5):
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.ModuleDict({"final_layer": nn.Conv2d(4, keypoints, 1)})


def toy_published(model=None):
    model = model or Toy()
    return OrderedDict(
        (name, model.state_dict()[key].clone())
        for key, name in published_names(model.state_dict(), RULES).items()
    )


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_table():
    table = published_names(Toy().state_dict(), RULES)
    assert (
        table["backbone.stem.weight"] == "backbone.conv1.weight"
        and table["backbone.layer.norm.bias"] == "backbone.layer.bn.bias"
    )
    assert table["head.final_layer.bias"] == "head.final_layer.bias"
    with pytest.raises(ValueError, match="two of our keys"):
        published_names(Toy().state_dict(), ((r"weight|bias", "x"),))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("style", ["1.x", "0.x", "0.x module", "bare"])
def test_round_trip(tmp_path, zipped, style):
    source, other = Toy(), Toy()
    state = toy_published(source)
    if style.startswith("0.x"):
        state = OrderedDict((k.replace("head.", "keypoint_head."), v) for k, v in state.items())
    if style.endswith("module"):
        state = OrderedDict((f"module.{k}", v) for k, v in state.items())
    path = tmp_path / "toy.pth"
    content = (
        state
        if style == "bare"
        else {
            "meta": {"dataset": np.ones(2)},
            "state_dict": state,
            "ema_state_dict": {"module.x": torch.ones(1)},
        }
    )
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert not same(source, other)
    report = load_weights(other, path, names=RULES)
    assert same(source, other) and len(report.loaded) == 9 and "9 tensors loaded" in str(report)


def test_export(tmp_path):
    source, other = Toy(), Toy()
    export_mmpose(source, tmp_path / "x.pth", RULES, {"epoch": 7})
    raw = torch.load(
        tmp_path / "x.pth", weights_only=True
    )  # plain enough for PyTorch's own restricted reader
    assert list(raw["state_dict"]) == list(toy_published()) and raw["meta"]["epoch"] == 7
    assert raw["state_dict"]._metadata[""]["version"] == 2
    load_weights(other, tmp_path / "x.pth", RULES)
    assert same(source, other)


BIAS, FLOAT = "head.final_layer.bias", torch.ones(5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("backbone.conv1.weight", None, r"conv1.weight is not in the file \(for our backbone.stem"),
        ("backbone.fc.weight", torch.ones(1), "'backbone.fc.weight' is in the file"),
        (BIAS, torch.ones(7), r"\(7,\) in the file, \(5,\) in the model"),
        (BIAS, FLOAT.long(), "int64 in the file, float32 in the model"),
        (BIAS, FLOAT * torch.tensor([1, 1, 1, 1, float("nan")]), "1 values that are NaN"),
        (BIAS, FLOAT * float("inf"), "5 values that are NaN, infinite"),
        (BIAS, FLOAT.double() * 1e300, "5 values that are NaN, infinite or too large"),
        ("backbone.layer.bn.num_batches_tracked", torch.tensor(1.5), "float32 in the file, int64"),
    ],
)
def test_missing_surplus_and_values(name, value, message):
    model, state = Toy(), toy_published()
    state[name] = value
    if value is None:
        del state[name]
    before = {key: own.clone() for key, own in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        convert(state, model, RULES)
    assert all(torch.equal(before[key], own) for key, own in model.state_dict().items())


def test_every_problem_is_named():
    with pytest.raises(InputError, match="(?s)17 entries.*… and 9 more.*other rules"):
        convert({f"x{i}": torch.ones(1) for i in range(9)}, Toy(), RULES)


def test_what_may_be_missing_or_left_over():
    state = toy_published()
    del state["backbone.layer.bn.num_batches_tracked"]
    state["backbone.stages.0.relative_position_index"] = torch.zeros(2, 2, dtype=torch.int64)
    state["backbone.inters.0.conv.weight"] = torch.ones(1)
    report = LoadReport()
    result = convert(state, Toy(), RULES, report=report)
    assert list(report.dropped) == [
        "backbone.stages.0.relative_position_index",
        "backbone.inters.0.conv.weight",
    ]
    assert report.kept == ["backbone.layer.norm.num_batches_tracked"] and len(result) == 9


def test_half_precision_files_become_the_models_precision():
    state = OrderedDict(
        (k, v.half() if v.is_floating_point() else v) for k, v in toy_published().items()
    )
    assert convert(state, Toy(), RULES)["backbone.stem.weight"].dtype == torch.float32


def test_another_number_of_keypoints():
    source, model = Toy(17), Toy(5)
    with pytest.raises(InputError, match="17"):
        convert(toy_published(source), model, RULES)
    report = LoadReport()
    model.load_state_dict(
        convert(toy_published(source), model, RULES, leave=("head.final_layer.",), report=report)
    )
    assert report.kept == ["head.final_layer.weight", "head.final_layer.bias"]
    assert torch.equal(model.backbone.stem.weight, source.backbone.stem.weight)


def test_old_names():
    old = [
        "keypoint_head.deconv_layers.0.weight",
        "keypoint_head.final_layer.weight",
        "keypoint_head.multi_final_layers.0.weight",
        "keypoint_head.predict_layers.3.conv_layers.0.conv.weight",
        "data_preprocessor.mean",
        "backbone.norm1.weight",
    ]
    new, renamed, dropped = modern_names({k: 0 for k in old})
    assert list(new) == [
        "head.deconv_layers.0.weight",
        "head.final_layer.weight",
        "head.multi_final_layers.0.weight",
        "head.predict_layers.3.conv_layers.0.conv.weight",
        "backbone.norm1.weight",
    ] and list(dropped) == ["data_preprocessor.mean"]
    face = modern_names(
        {
            f"keypoint_head.final_layer.{n}": 0
            for n in ("0.weight", "0.bias", "1.running_var", "3.weight", "3.bias")
        }
    )[0]
    assert list(face) == [
        "head.conv_layers.0.weight",
        "head.conv_layers.0.bias",
        "head.conv_layers.1.running_var",
        "head.final_layer.weight",
        "head.final_layer.bias",
    ]
    swin = modern_names({f"backbone.norm{n}.{w}": 0 for n in range(4) for w in ("weight", "bias")})
    assert list(swin[0]) == ["backbone.norm3.weight", "backbone.norm3.bias"] and len(swin[2]) == 6
    twice = {"head.final_layer.bias": 0, "keypoint_head.final_layer.bias": 0}
    with pytest.raises(InputError, match="two entries"):
        modern_names(twice)
    assert (
        "modulex.a" in modern_names({"modulex.a": 0, "module.b": 0})[0]
    )  # not on every key: left alone


def test_own_files(tmp_path):
    source, other = Toy(), Toy()
    save(source, tmp_path / "a.safetensors", {"row": "toy", "epoch": 3})
    assert load(other, tmp_path / "a.safetensors") == {
        "names": "pose_nb",
        "row": "toy",
        "epoch": "3",
    } and same(source, other)
    assert load_weights(Toy(), tmp_path / "a.safetensors").loaded
    with pytest.raises(InputError, match=r"a\.safetensors.*\n.*final_layer"):
        load(Toy(17), tmp_path / "a.safetensors")
    load(Toy(17), tmp_path / "a.safetensors", leave=("head.",))
    torch.save(source.state_dict(), tmp_path / "plain.pth")  # our names in a .pth: recognised
    assert not load_weights(other, tmp_path / "plain.pth", names=RULES).renamed
    with pytest.raises(InputError, match=".safetensors"):
        save(source, tmp_path / "a.pth")


def test_tied_weights_are_saved(tmp_path):
    model = Toy()
    model.extra = model.head["final_layer"]
    save(model, tmp_path / "a.safetensors")
    load(model, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "content", [b"", b"\x10" + b"\0" * 7 + b"{bad json}      ", b"<html>", b"\xff" * 100, b"\0" * 8]
)
def test_bad_safetensors(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="no sound safetensors"):
        load_weights(Toy(), tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        read_safetensors(tmp_path / "b.safetensors")


def test_what_is_no_source(tmp_path, monkeypatch):
    monkeypatch.setenv("POSE_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("POSE_NB_MIRROR", raising=False)
    with pytest.raises(InputError, match="no such file"):
        weights_file(tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="needs a row"):
        weights_file("published")
    with pytest.raises(InputError, match="was not found. Tried"):
        weights_file("toy-01234567_20200101.pth")
    splits = ("toy_sub1-01234567_20200101.pth", "toy_sub2-01234567_20200101.pth")
    with pytest.raises(InputError, match="toy_sub1"):
        weights_file("published", splits)


def test_published_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSE_NB_CACHE", str(tmp_path))
    source, other = Toy(), Toy()
    export_mmpose(source, tmp_path / "x.pth", RULES)
    name = f"toy-{sha256(tmp_path / 'x.pth')[:8]}_20200101.pth"
    (tmp_path / "x.pth").rename(tmp_path / name)
    report = load_weights(other, weights_file("published", (name,)), RULES)
    assert same(source, other) and report.source == name
    assert weights_file(name) == tmp_path / name


def test_convert_file(tmp_path):
    source, other = Toy(), Toy()
    state = OrderedDict(
        (k.replace("head.", "keypoint_head."), v) for k, v in toy_published(source).items()
    )
    path = tmp_path / "toy-01234567_20200101.pth"
    torch.save(
        {"meta": {"epoch": 9, "env": np.ones(2)}, "state_dict": state, "optimizer": {}},
        path,
        _use_new_zipfile_serialization=False,
    )
    card = convert_file(path, rows=["a/b", "c/d"])
    assert card == json.loads((tmp_path / "toy-01234567_20200101.json").read_text())
    assert (
        card["rows"] == ["a/b", "c/d"]
        and card["tensors"] == 9
        and card["sha256"] == sha256(path)
        and card["meta"] == {"epoch": 9}
    )
    assert card["hash_in_name"].startswith("DIFFERS")
    assert card["renamed"] == {
        f"keypoint_head.final_layer.{w}": f"head.final_layer.{w}" for w in ("weight", "bias")
    }
    report = load_weights(other, tmp_path / "toy-01234567_20200101.safetensors", names=RULES)
    assert same(source, other) and len(report.renamed) == 7
    with pytest.raises(InputError, match="saved as .safetensors"):
        convert_file(path, tmp_path / "x.pth")


def test_nothing_in_a_file_runs(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": toy_published(), "meta": Trap()}, tmp_path / "x.pth")
    for read in (load_published, convert_file, lambda p: load_weights(Toy(), p, names=RULES)):
        with pytest.raises(InputError, match="attack"):
            read(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- hostile values and names


def test_an_error_names_the_file_and_stays_short(tmp_path):
    twice = {
        "head.final_layer.bias": torch.ones(5),
        "keypoint_head.final_layer.bias": torch.ones(5),
    }
    torch.save({"state_dict": twice}, tmp_path / "twice.pth")
    for read in (load_published, convert_file, lambda path: load_weights(Toy(), path, RULES)):
        with pytest.raises(InputError, match="twice.pth: two entries are called"):
            read(tmp_path / "twice.pth")
    state = toy_published() | {"x" * 1_000_000: torch.ones(1)}
    with pytest.raises(InputError) as caught:
        convert(state, Toy(), RULES)
    assert len(str(caught.value)) < 400
