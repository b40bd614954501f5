"""Exported networks answer as the network does, in batches of any size, also without pose_nb."""

import json
import os
import pkgutil
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_images import picture
from small_run import Plain
from torch import nn

import pose_nb.backbones
from pose_nb.cli import main
from pose_nb.codecs.megvii import Megvii
from pose_nb.codecs.msra import MSRA
from pose_nb.codecs.udp import UDP
from pose_nb.export import CropsToKeypoints, check_export, export_model
from pose_nb.files import InputError
from pose_nb.prediction import predict
from pose_nb.tables.definitions import read_definition, row_of_weights
from pose_nb.tables.zoo import create_model, get_row
from pose_nb.viz import save_image

for package in ("onnx", "onnxscript"):
    pytest.importorskip(package)
onnxruntime = pytest.importorskip("onnxruntime")

ALL = bool(os.environ.get("POSE_NB_ALL_FAMILIES"))
DEMO = "nbs/demo_weights.safetensors"
SIZES = (48, 64), (12, 16)
CODECS = [
    MSRA(*SIZES),
    MSRA(*SIZES, unbiased=True),
    UDP(*SIZES),
    UDP(*SIZES, combined=True),
    Megvii(*SIZES),
]
BENCH = Path(__file__).parent.parent / "bench" / "export.py"
bench = SimpleNamespace(**runpy.run_path(str(BENCH)))  # asks a network of each family


def session_of(path):
    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, threads)


def away(model, row, ask, flip=False):
    """The largest distance, in pixels of the crop, to what the network itself says."""
    whole, most = CropsToKeypoints(model, row, flip).eval(), 0.0
    for count in (1, 3):
        crops = bench.noise(row, count)
        with torch.inference_mode():
            points, scores = (a.numpy() for a in whole(crops))
            found, heights = (np.asarray(a) for a in ask(crops))
        assert found.shape == (count, len(row.skeleton), 2) and heights.shape == scores.shape
        assert len(np.unique(points)) > 5  # these are no answers of an empty map
        np.testing.assert_allclose(heights, scores, rtol=1e-3, atol=1e-5)
        most = max(most, np.abs(found - points).max())
    return most


def by_onnx(path):
    session = session_of(path)
    return lambda crops: session.run(None, {"crops": crops.numpy()})


@pytest.fixture(scope="module")
def demo():
    return row_of_weights(DEMO).create(DEMO).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a network that the command line exported, with its script."""
    folder = tmp_path_factory.mktemp("exported")
    words = ["--weights", DEMO, "--out", folder / "pose.onnx", "--script", folder / "run.py"]
    with pytest.raises(SystemExit) as stop:
        main(["export", *map(str, words)])
    assert not stop.value.code
    assert sorted(p.name for p in folder.iterdir()) == ["pose.onnx", "run.py"]
    return folder


def test_onnx_answers_as_the_network(demo, exported):
    assert away(demo, demo.row, by_onnx(exported / "pose.onnx")) < 0.01
    session = session_of(exported / "pose.onnx")
    words = session.get_modelmeta().custom_metadata_map
    assert read_definition(json.loads(words["definition"]), "here") == demo.row
    facts = json.loads(words["export"])
    assert (facts["udp_crop"], facts["udp"], facts["padding"]) == (True, True, 1.25)
    assert facts["keypoints"] == list(demo.row.skeleton.keypoints)
    assert os.getcwd().encode() not in (exported / "pose.onnx").read_bytes()


def test_the_script_needs_no_pose_nb(demo, exported, tmp_path):
    save_image(tmp_path / "photo.png", picture(3, 150, 170))
    blocked = "import runpy, sys; sys.modules.update(pose_nb=None, torch=None, torchvision=None); "
    run = "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-I", "-c", blocked + run, exported / "run.py"]
    command += [exported / "pose.onnx", tmp_path / "photo.png"]
    for box in ([20.0, 10.0, 90.0, 140.0], None):  # None: the whole picture, wider than the crop
        done = subprocess.run(
            [*map(str, command), *map(str, box or [])], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found = np.array([line.split()[1:] for line in done.stdout.splitlines()], float)
        poses = predict(demo, tmp_path / "photo.png", [box] if box else "whole", flip=False)
        assert np.abs(found[:, :2] - poses.keypoints[0]).max() < 0.01
        assert np.abs(found[:, 2] - poses.scores[0]).max() < 1e-3


@pytest.fixture(scope="module")
def small():
    """A network of two layers, with the codec and the plain grid of a published row."""
    torch.manual_seed(0)
    return Plain().eval(), get_row("coco/resnet-50")


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torch_formats_answer_as_the_network(small, tmp_path, format):
    model, row = small
    out = export_model(model, tmp_path / f"pose.{format}", format, row=row, flip=True)
    words = {"metadata.json": ""}
    if format == "pt2":
        ask = torch.export.load(out, extra_files=words).module()
    else:
        ask = torch.jit.load(out, _extra_files=words)
    assert away(model, row, ask, flip=True) < 0.01
    assert json.loads(json.loads(words["metadata.json"])["export"])["flip_test"] is True


def test_onnx_with_the_flip_test(small, tmp_path):
    model, row = small
    model.train()
    out = export_model(model, tmp_path / "a.onnx", row=row, flip=True)
    assert model.training  # the network that was given is as before
    assert away(model.eval(), row, by_onnx(out), flip=True) < 0.01


class Decode(nn.Module):
    def __init__(self, codecs):
        super().__init__()
        self.codecs = codecs

    def forward(self, maps):
        parts = [codec.decode(maps[:, : 5 * codec.channels_per_keypoint]) for codec in self.codecs]
        return [answer for part in parts for answer in part]


@pytest.mark.filterwarnings("ignore")
def test_every_codec_decodes_in_the_graph(tmp_path):
    """Sharp, flat, empty and very high maps; the last meet the limits of DARK's and UDP's logs."""
    torch.manual_seed(0)
    points = torch.rand(7, 15, 2) * torch.tensor(SIZES[0])
    maps, _ = MSRA(*SIZES).encode(points, torch.ones(7, 15))
    maps = maps * torch.rand(7, 15, 1, 1) + 0.02 * torch.randn_like(maps)
    maps[0, 0], maps[1, 1], maps[2, 2], maps[3:] = 0, -1, 1e-9, 1e3 * maps[3:]
    traced = torch.jit.trace(Decode(CODECS), (torch.zeros(2, 15, 16, 12),), check_trace=False)
    agree(Decode(CODECS), traced, maps)
    decode = Decode(CODECS if ALL else CODECS[1:2])  # DARK's graph is the longest
    dynamic = {"maps": {0: torch.export.Dim("batch")}}
    program = torch.export.export(decode, (maps,), dynamic_shapes=dynamic, strict=False)
    file = tmp_path / "decode.onnx"
    torch.onnx.export(program, dynamo=True, input_names=["maps"], verbose=False).save(file)
    session = session_of(file)
    agree(decode, lambda some: session.run(None, {"maps": some.numpy()}), maps)


def agree(decode, ask, maps):
    for count in (1, 7):
        for answer, wanted in zip(ask(maps[:count]), decode(maps[:count]), strict=True):
            np.testing.assert_allclose(np.asarray(answer), wanted.numpy(), rtol=1e-5, atol=0.01)


def test_wrong_wishes_leave_nothing(demo, tmp_path, monkeypatch, capsys):
    out = tmp_path / "pose.onnx"
    with pytest.raises(InputError, match="'tflite': must be one of onnx, torchscript, pt2"):
        export_model(demo, out, "tflite")
    with pytest.raises(InputError, match="has no weights yet"):
        export_model(create_model("coco/shufflenet-v2"), out)
    with torch.device("meta"):
        huge = get_row("coco/vitpose-h").network().build(17, get_row("coco/vitpose-h").codec)
    with pytest.raises(InputError, match="holds 2 GiB at most; take the format pt2"):
        check_export(get_row("coco/vitpose-h"), huge, "onnx")
    check_export(get_row("coco/vitpose-h"), huge, "pt2")

    class Looks(nn.Module):
        def forward(self, images):
            return images[:, :, :32, :24] * (1 if images.sum() > 0 else 2)

    with pytest.raises(InputError, match="torch cannot write it as pt2"):
        export_model(Looks(), out, "pt2", row=demo.row)
    for words, said in {
        ("coco/alexnet", "--out", "a.onnx"): "has no weights yet",
        ("--out", "a.onnx"): "which network?",
        ("--weights", DEMO, "--out", "a.pt", "--format", "pt2", "--script", "r.py"): "goes with",
    }.items():
        with pytest.raises(SystemExit) as stop:
            main(["export", *words])
        assert stop.value.code == 2 and said in capsys.readouterr().err
    monkeypatch.setattr("pose_nb.export.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install onnx onnxscript onnxruntime"):
        export_model(demo, out)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not ALL, reason="takes minutes; python bench/export.py does the same")
@pytest.mark.parametrize("row", bench.ROWS)
def test_every_family(row):
    line = bench.check(row)
    assert line["largest px"] < 0.01 and line["open"] <= 0.05 * line["keypoints"]


def test_all_families_are_named():
    families = {module.name for module in pkgutil.iter_modules(pose_nb.backbones.__path__)}
    named = [get_row(name).network().backbone for name in bench.ROWS]
    assert families <= {backbone.__module__.split(".")[-1] for backbone in named}
