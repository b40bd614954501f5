"""Training that is killed, continued, accumulated, in low precision, or fed nonsense.

On the CPU, with a tiny row and synthetic people.
"""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from small_run import weights_equal, ARGUMENTS, Plain, log, losses, network, sgd, tiny_row

from pose_nb.backbones.shufflenetv2 import shufflenetv2
from pose_nb.files import InputError
from pose_nb.networks.heads import HeatmapHead
from pose_nb.networks.model import PoseModel
from pose_nb.tables.recipes import Recipe, scaled_lr
from pose_nb.training import train
from pose_nb.weights.loading import load_weights
from pose_nb.weights.tensors import read_safetensors


def test_killed_and_continued(people, whole, tmp_path):
    imports = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"
    code = f"{imports}; from small_run import weights_equal, slow_run; slow_run(*sys.argv[1:])"
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(people), str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.time() + 240  # on a busy machine, to import torch alone takes a while
        while time.time() < deadline and run.poll() is None:
            if (tmp_path / "metrics.jsonl").exists() and losses(tmp_path):
                break
            time.sleep(0.03)
        assert run.poll() is None, run.stderr.read().decode()[-500:]
        time.sleep(0.25)  # into the second epoch, which takes over half a second
    finally:
        run.kill()
    assert run.wait() == -signal.SIGKILL
    before = losses(tmp_path)
    assert 1 <= len(before) < 4, "the kill came in the middle of the run"
    train(tiny_row(), people, tmp_path, **ARGUMENTS)
    assert losses(tmp_path) == losses(whole)
    assert all(losses(tmp_path)[epoch] == value for epoch, value in before.items())
    mine, theirs = (load_file(folder / "state.safetensors") for folder in (tmp_path, whole))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_another_seed_is_another_run(people, whole, tmp_path):
    """The comparison above can fail."""
    train(tiny_row(), people, tmp_path, **ARGUMENTS, seed=1, epochs=1)
    assert losses(tmp_path)[1] != losses(whole)[1]


def test_crops_cut_by_the_device_are_the_same_run(people, whole, tmp_path):
    """On the CPU, where both decoders are libjpeg-turbo: the same losses, weights and figures."""
    train(tiny_row(), people, tmp_path, **ARGUMENTS, crops="device")
    assert losses(tmp_path) == losses(whole) and weights_equal(tmp_path, whole)
    assert log(tmp_path)[-1]["val AP"] == log(whole)[-1]["val AP"]
    with pytest.raises(InputError, match="crops"):
        train(tiny_row(), people, tmp_path, **ARGUMENTS)  # another way of cutting is another run


def test_log(whole):
    lines = [line for line in log(whole) if "accuracy" in line]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4] and [
        line["step"] for line in lines
    ] == [2, 4, 6, 8]
    assert all({"loss", "accuracy", "lr", "seconds"} <= line.keys() for line in lines)
    assert all(0 < line["loss"] < 1 and 0 <= line["accuracy"] <= 1 for line in lines)
    rate = 3e-3 * 4 / 8  # scaled to the batch; dropped in the last epoch
    assert [line["lr"] for line in lines] == pytest.approx(
        [rate * (0.001 + 0.999 / 2), rate, rate, rate / 10]
    )
    assert "val AP" in lines[-1] and not any("val AP" in line for line in lines[:-1])


def test_step_lines(people, tmp_path, monkeypatch):
    monkeypatch.setattr("pose_nb.training.LOG_EVERY", 1)
    train(tiny_row(), people, tmp_path, **ARGUMENTS, epochs=1)
    assert [(line["epoch"], line["step"], "accuracy" in line) for line in log(tmp_path)] == [
        (1, 1, False),
        (1, 2, False),
        (1, 2, True),
    ]


def test_best_weights_load(whole):
    model = network()
    report = load_weights(model, whole / "best.safetensors")
    assert len(report.loaded) == len(model.state_dict()) and not report.dropped and not report.kept
    best, state = model.state_dict(), load_file(whole / "state.safetensors")
    assert all(torch.equal(best[k], state[f"model.{k}"]) for k in best), (
        "validated once, at the end"
    )
    assert read_safetensors(whole / "best.safetensors")[1]["data"] == "synthetic"


def test_nothing_half_written(whole):
    assert sorted(p.name for p in whole.iterdir()) == [
        ".lock",
        "best.safetensors",
        "epochs.csv",
        "metrics.jsonl",
        "run.json",
        "state.safetensors",
    ]


def test_a_finished_run_is_left_alone(people, whole):
    before = {p.name: p.read_bytes() for p in whole.iterdir()}
    train(tiny_row(), people, whole, **ARGUMENTS)
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"<html>404</html>",
        lambda data: b"\xff" * 64 + data[64:],
    ],
    ids=["cut", "empty", "web page", "overwritten"],
)
def test_damaged_state(people, whole, tmp_path, damage):
    state = tmp_path / "state.safetensors"
    state.write_bytes(damage((whole / "state.safetensors").read_bytes()))
    before = state.read_bytes()
    with pytest.raises(
        InputError, match="state.safetensors: not a state of a training run .*remove it"
    ):
        train(tiny_row(), people, tmp_path, **ARGUMENTS)
    assert state.read_bytes() == before


def test_weights_are_no_state(people, whole, tmp_path):
    shutil.copy(whole / "best.safetensors", tmp_path / "state.safetensors")
    with pytest.raises(InputError, match="not a state of a training run"):
        train(tiny_row(), people, tmp_path, **ARGUMENTS)


def test_averaged_weights_go_on(people, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(tiny_row(ema=0.1), people, whole, **ARGUMENTS, epochs=2)
    with pytest.raises(PowerCut):
        train(tiny_row(ema=0.1), people, halves, **ARGUMENTS, epochs=2, after_epoch=power_cut)
    train(tiny_row(ema=0.1), people, halves, **ARGUMENTS, epochs=2)
    mine, theirs = (load_file(folder / "state.safetensors") for folder in (halves, whole))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
    best = load_file(whole / "best.safetensors")
    assert all(torch.equal(value, theirs[f"average.{name}"]) for name, value in best.items())
    assert any(not torch.equal(value, theirs[f"model.{name}"]) for name, value in best.items())


def test_averages_are_part_of_the_settings(people, whole):
    with pytest.raises(InputError, match="recipe.ema: 'None' then, '0.1' now"):
        train(tiny_row(ema=0.1), people, whole, **ARGUMENTS)


def test_state_of_another_network(people, whole):
    other = tiny_row(
        lambda weights=None: PoseModel(shufflenetv2(), HeatmapHead(1024, 17, (64, 64, 64)))
    )
    with pytest.raises(InputError, match="belongs to another network"):
        train(other, people, whole, **ARGUMENTS)


def test_scaled_rate_is_printed(people, tmp_path, capsys):
    train(tiny_row(), people, tmp_path / "scaled", **ARGUMENTS | {"progress": True}, epochs=1)
    assert (
        "learning rate 0.0015 (0.003 × 4/8, the linear scaling rule); 4 images per update"
        in capsys.readouterr().out
    )
    train(
        tiny_row(), people, tmp_path / "given", **ARGUMENTS | {"progress": True}, epochs=1, lr=0.001
    )
    assert "learning rate 0.001 (given); 4 images per update" in capsys.readouterr().out
    lr, sentence = scaled_lr(Recipe(), 512)
    assert lr == 5e-4 and sentence.startswith("learning rate 0.0005") and "×" not in sentence


class PowerCut(Exception):
    """What ends a run without a warning."""


def power_cut(model):
    raise PowerCut


def test_accumulated_batches(people, tmp_path):
    def run(**changes):
        return train(
            tiny_row(lambda weights=None: Plain(), optimizer=sgd),
            people,
            tmp_path / str(len(list(tmp_path.iterdir()))),
            **ARGUMENTS | dict(epochs=2, lr=0.1) | changes,
        ).state_dict()

    large, small, other = run(), run(batch_size=2, accumulate=2), run(batch_size=2)
    far = lambda a, b: max((a[k] - b[k]).abs().max().item() for k in a)
    assert far(large, small) < 1e-6 < 1e-5 < far(large, other)
    assert [line["step"] for line in log(tmp_path / "1")] == [2, 4] and [
        line["step"] for line in log(tmp_path / "2")
    ] == [4, 8]


def test_bf16(people, tmp_path):
    train(tiny_row(), people, tmp_path / "half", **ARGUMENTS, epochs=1, precision="bf16")
    train(tiny_row(), people, tmp_path / "full", **ARGUMENTS, epochs=1)
    half, full = losses(tmp_path / "half")[1], losses(tmp_path / "full")[1]
    assert half != full and half == pytest.approx(full, rel=0.05)
    kinds = {v.dtype for v in load_file(tmp_path / "half" / "best.safetensors").values()}
    assert torch.bfloat16 not in kinds, "weights stay in float32"


def test_nan_stops_the_run(people, tmp_path):
    def broken(weights=None):
        model = network()
        nn.init.constant_(model.head.final_layer.bias, float("nan"))
        return model

    with pytest.raises(
        InputError,
        match="loss became no number in epoch 1.*: lower the learning rate .*batch of annotations",
    ):
        train(tiny_row(broken), people, tmp_path, **ARGUMENTS)
    assert not (tmp_path / "state.safetensors").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"lr": -1.0},
        {"lr": 1e30},
        {"fold": 2},
        {"save_every": 0},
        {"steps": 0},
        {"batch_size": 0},
        {"accumulate": 0},
        {"eval_every": 0},
        {"precision": "fp8"},
        {"workers": -1},
    ],
    ids=str,
)
def test_impossible_settings(people, tmp_path, wrong):
    with pytest.raises(InputError):
        train(tiny_row(), people, tmp_path / "new", **ARGUMENTS | wrong)
    assert not (tmp_path / "new").exists()
