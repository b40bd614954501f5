"""Published weights in and out: names, strictness, formats; and, with the reference folder, every network's real names."""

import importlib.util
import json
import os
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pose_nb.weights.finding import sha256
from pose_nb.files import InputError
from pose_nb.weights.loading import (
    LoadReport,
    convert,
    convert_file,
    export_mmpose,
    load,
    load_published,
    load_weights,
    modern_names,
    naming_rules,
    published_names,
    read_safetensors,
    save,
)

RULES = ((r"^stem\.", "conv1."), (r"\.norm\.", ".bn."))
PUBLISHED_NAMES = RULES  # this module is where a toy backbone's function is defined


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 4, 3), nn.ModuleDict({"norm": nn.BatchNorm2d(4)})


def toy_backbone():
    return Backbone()


class Toy(nn.Module):
    def __init__(self, keypoints=5):
        super().__init__()
        self.backbone = toy_backbone()
        self.head = nn.ModuleDict({"final_layer": nn.Conv2d(4, keypoints, 1)})


def toy_published(model=None):
    model = model or Toy()
    return OrderedDict(
        (name, model.state_dict()[key].clone())
        for key, name in published_names(model, RULES).items()
    )


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_table():
    table = published_names(Toy(), RULES)
    assert (
        table["backbone.stem.weight"] == "backbone.conv1.weight"
        and table["backbone.layer.norm.bias"] == "backbone.layer.bn.bias"
    )
    assert table["head.final_layer.bias"] == "head.final_layer.bias"
    with pytest.raises(ValueError, match="two of our keys"):
        published_names(Toy(), ((r"weight|bias", "x"),))


def test_rules_come_from_the_row():
    assert (
        naming_rules(toy_backbone) == RULES == naming_rules(SimpleNamespace(backbone=toy_backbone))
    )
    import functools

    assert naming_rules(functools.partial(toy_backbone)) == RULES
    model = Toy()
    assert naming_rules(model) == RULES  # the module of the backbone's class
    model.backbone.published_names = (("a", "b"),)
    assert naming_rules(model) == (("a", "b"),)
    with pytest.raises(InputError, match="no naming rules"):
        naming_rules(nn.Linear(2, 2))


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
    load_weights(
        other, tmp_path / "x.pth", row=SimpleNamespace(backbone=toy_backbone, checkpoint="x.pth")
    )
    assert same(source, other)


def test_missing_surplus_and_shapes():
    model = Toy()
    for change, message in [
        (
            dict(remove="backbone.conv1.weight"),
            r"backbone.conv1.weight is not in the file \(for our backbone.stem.weight\)",
        ),
        (dict(add=("backbone.fc.weight", torch.ones(1))), "backbone.fc.weight is in the file"),
        (
            dict(add=("head.final_layer.bias", torch.ones(7))),
            r"\(7,\) in the file, \(5,\) in the model",
        ),
        (
            dict(add=("head.final_layer.bias", torch.ones(5, dtype=torch.int64))),
            "int64 in the file, float32",
        ),
        (
            dict(add=("head.final_layer.bias", torch.tensor([1, 2, 3, 4, float("nan")]))),
            "1 values that are NaN",
        ),
        (
            dict(add=("head.final_layer.bias", torch.full((5,), float("inf")))),
            "5 values that are NaN or infinite",
        ),
        (
            dict(add=("backbone.layer.bn.num_batches_tracked", torch.tensor(1.5))),
            "float32 in the file, int64",
        ),
    ]:
        state = toy_published()
        if "remove" in change:
            del state[change["remove"]]
        else:
            state[change["add"][0]] = change["add"][1]
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(InputError, match=message):
            convert(state, model, RULES)
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


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


def test_convert_for_a_row():
    row = SimpleNamespace(backbone=toy_backbone, create=Toy, checkpoint="x.pth")
    source = Toy()
    assert torch.equal(
        convert(toy_published(source), row)["backbone.stem.weight"], source.backbone.stem.weight
    )


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
    with pytest.raises(InputError, match="two entries"):
        modern_names({"head.final_layer.bias": 0, "keypoint_head.final_layer.bias": 0})
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


def test_saving_is_atomic(tmp_path, monkeypatch):
    save(Toy(), tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    monkeypatch.setattr(
        "pose_nb.weights.loading.save_file", lambda *a: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError):
        save(Toy(), tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == before and len(
        list(tmp_path.iterdir())
    ) == 1


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
        load_weights(Toy(), tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="needs a row"):
        load_weights(Toy(), "published")
    with pytest.raises(InputError, match="was not found. Tried"):
        load_weights(Toy(), "toy-01234567_20200101.pth")
    row = SimpleNamespace(
        backbone=toy_backbone,
        checkpoint=("toy_sub1-01234567_20200101.pth", "toy_sub2-01234567_20200101.pth"),
    )
    with pytest.raises(InputError, match="toy_sub1"):
        load_weights(Toy(), "published", row)


def test_published_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSE_NB_CACHE", str(tmp_path))
    source, other = Toy(), Toy()
    export_mmpose(source, tmp_path / "x.pth", RULES)
    name = f"toy-{sha256(tmp_path / 'x.pth')[:8]}_20200101.pth"
    (tmp_path / "x.pth").rename(tmp_path / name)
    report = load_weights(
        other, "published", SimpleNamespace(backbone=toy_backbone, checkpoint=name)
    )
    assert same(source, other) and report.source == name


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
    rows = [
        SimpleNamespace(id="a/b", checkpoint=path.name),
        SimpleNamespace(id="c/d", checkpoint=("z.pth", path.name)),
        SimpleNamespace(id="e/f", checkpoint="other.pth"),
        SimpleNamespace(id="g/h", checkpoint=""),
    ]
    card = convert_file(path, rows=rows)
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
    with pytest.raises(InputError, match="must end in"):
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


# -- with the reference folder: real names of every network
# --------------------------------------------------------------------


def reference():
    folder = os.environ.get("POSE_NB_REFERENCE")
    if not folder:
        pytest.skip("set POSE_NB_REFERENCE=folder of recorded figures to run")
    spec = importlib.util.spec_from_file_location("fill", Path(folder) / "golden" / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Path(folder), module.fill


def rows_by_network():
    """One row of the zoo for each distinct network of the reference folder."""
    import csv
    from pose_nb.tables.zoo import ROWS

    folder, _ = reference()
    known = {row.id: row for row in ROWS}
    with open(folder / "rows.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return {line["arch"]: known[line["row_id"]] for line in lines if line["row_id"] in known}


def old_style(entries, arch):
    """Names as an 0.x file of this network has them."""

    def rename(name):
        if not name.startswith("head."):
            return name
        if arch.startswith("hrnetv2"):
            name = (
                name.replace("head.conv_layers.", "head.final_layer.")
                if "conv_layers" in name
                else name.replace("final_layer.", "final_layer.3.")
            )
        return "keypoint_" + name

    return {rename(k): v for k, v in entries.items()}


def test_every_published_name_has_a_place():
    """Names and shapes of all networks' published files, on the meta device: strict in both
    directions."""
    folder, _ = reference()
    networks = rows_by_network()
    for arch, row in networks.items():
        with torch.device("meta"):
            model = row.create()
        entries = {
            n: tuple(s)
            for n, s in json.loads((folder / "state_dicts" / f"{arch}.json").read_text())["entries"]
        }
        state = model.state_dict()
        own = {name: tuple(state[key].shape) for key, name in published_names(model, row).items()}
        extra = set(entries) - set(own)
        assert {k: entries.get(k) for k in own} == own, arch
        assert all(
            k.startswith("backbone.inters.0.") or k.endswith("relative_position_index")
            for k in extra
        ), (arch, sorted(extra)[:3])
    assert len(networks) == 70


@pytest.mark.parametrize(
    "arch",
    [
        "resnet-50_k17_256x192",
        "hrnetv2-w18_k98_256x256",
        "swin-t_k17_256x192",
        "mspn-1-stg_k17_256x192",
        "mobilenet-v2_k17_256x192",
        "vitpose-s_k17_256x192",
        "hourglassnet_k17_256x256",
    ],
)
def test_fake_published_files_give_recorded_heatmaps(tmp_path, arch):
    """An old-format file with 0.x names and reproducible weights, loaded through the front door,
    answers as recorded."""
    folder, fill = reference()
    golden = json.loads((folder / "golden" / f"{arch}.json").read_text())
    entries = json.loads((folder / "state_dicts" / f"{arch}.json").read_text())["entries"]
    row = rows_by_network()[arch]
    model = row.create()
    state = model.state_dict()
    own = {name: state[key] for key, name in published_names(model, row).items()}
    values = {
        n: own.get(n, torch.zeros(1))
        if (v := fill(n, s, golden["gain"])) is None
        else torch.from_numpy(np.asarray(v))
        for n, s in entries
    }
    torch.save(
        {"meta": {"x": np.ones(2)}, "state_dict": old_style(values, arch)},
        tmp_path / "x.pth",
        _use_new_zipfile_serialization=False,
    )
    load_weights(model, tmp_path / "x.pth", row)
    images = torch.from_numpy(
        np.random.default_rng(golden["input"]["seed"])
        .standard_normal(golden["input"]["shape"])
        .astype(np.float32)
    )
    with torch.no_grad():
        heatmaps = model.eval()(images)
    at, expected = golden["output"]["index"], np.asarray(golden["output"]["value"])
    error = np.abs(heatmaps.numpy().ravel()[at] - expected).max() / golden["output"]["std"]
    assert error < golden["tolerance_over_std"]
