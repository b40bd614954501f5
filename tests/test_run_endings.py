"""However a run ends, its last state is whole, one sentence says what to do, and it goes on."""

import errno
import json
import os
import signal

import pytest
from safetensors import SafetensorError
from small_run import ARGUMENTS, log, losses, network, tiny_row, weights_equal

from pose_nb import training
from pose_nb.data import loader
from pose_nb.files import InputError
from pose_nb.runs.plan import make_plan
from pose_nb.runs.state import locked
from pose_nb.synth import make_dataset
from pose_nb.tables import rows
from pose_nb.tables.recipes import scaled_lr
from pose_nb.tables.zoo import get_row, list_models
from pose_nb.training import train
from pose_nb.weights.tensors import read_safetensors


def at_picture(monkeypatch, number, act):
    """Call `act` when the picture of that number is read."""
    read, count = loader.read_image, iter(range(1, 10_000))

    def reader(path):
        if next(count) == number:
            act()
        return read(path)

    monkeypatch.setattr(loader, "read_image", reader)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_stop_within_an_epoch(people, whole, tmp_path, monkeypatch, number):
    with monkeypatch.context() as patch:
        at_picture(patch, 10, lambda: signal.raise_signal(number))  # in the second epoch
        with pytest.raises(KeyboardInterrupt, match="stopped after step 3; the same command"):
            train(tiny_row(), people, tmp_path, **ARGUMENTS)
    train(tiny_row(), people, tmp_path, **ARGUMENTS)
    assert losses(tmp_path) == losses(whole) and weights_equal(tmp_path, whole)


def test_states_within_epochs(people, whole, tmp_path, monkeypatch):
    steps, step = [], training.train_step

    def counted(*arguments):
        steps.append(1)
        if len(steps) == 4:  # the second batch of the second epoch
            raise MemoryError
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", counted)
    with pytest.raises(MemoryError):
        train(tiny_row(), people, tmp_path, **ARGUMENTS, save_every=1)
    position = json.loads(read_safetensors(tmp_path / "state.safetensors")[1]["position"])
    assert (position["epoch"], position["batch"], position["step"]) == (1, 1, 3)
    train(tiny_row(), people, tmp_path, **ARGUMENTS, save_every=1)
    assert len(steps) == 4 + 5, "three of eight steps were saved"
    assert losses(tmp_path) == losses(whole) and weights_equal(tmp_path, whole)


@pytest.mark.parametrize(
    "changed, said",
    [
        (dict(lr=1e-3), "lr: 'None' then, '0.001' now"),
        (dict(batch_size=8), "batch_size: '4' then, '8' now"),
        (dict(seed=1), "seed: '0' then, '1' now"),
        (dict(precision="bf16"), "precision: 'no' then, 'bf16' now"),
        (dict(limit=7), "limit: '8' then, '7' now"),
        (dict(epochs=5), "epochs: '4' then, '5' now"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_other_settings_are_refused(people, whole, changed, said):
    before = (whole / "state.safetensors").read_bytes()
    with pytest.raises(InputError) as error:
        train(tiny_row(), people, whole, **ARGUMENTS | changed)
    assert said in str(error.value) and "begin in another --out folder" in str(error.value)
    assert (whole / "state.safetensors").read_bytes() == before


def test_other_data_and_recipe_are_refused(people, whole, tmp_path):
    with pytest.raises(InputError, match="recipe.clip: 'None' then, '1.0' now"):
        train(tiny_row(clip=1.0), people, whole, **ARGUMENTS)
    other = make_dataset(tmp_path / "o", train=8, val=2, seed=4, workers=0, progress=False)
    with pytest.raises(InputError, match="annotations, train: "):
        train(tiny_row(), other, whole, **ARGUMENTS)


def test_a_full_disk(people, tmp_path, monkeypatch):
    train(tiny_row(), people, tmp_path, **ARGUMENTS | dict(epochs=1))
    before = (tmp_path / "state.safetensors").read_bytes()

    def full(*arguments):
        raise SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)}")

    with monkeypatch.context() as patch:
        patch.setattr("pose_nb.weights.tensors.save_file", full)
        with pytest.raises(InputError, match="No space left on device.*is untouched"):
            train(tiny_row(), people, tmp_path / "new", **ARGUMENTS)
    assert (tmp_path / "state.safetensors").read_bytes() == before
    assert not list(tmp_path.rglob("*.part"))


def test_a_reader_that_dies(people, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "read_image", lambda path: os._exit(1))
    with pytest.raises(InputError, match="a process that reads images died .*try fewer --workers"):
        train(tiny_row(), people, tmp_path, **ARGUMENTS | dict(workers=1))


def test_memory_that_does_not_suffice(people, tmp_path, monkeypatch):
    import torch

    def too_large(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(training, "train_step", too_large)
    with pytest.raises(InputError, match="batch of 4 does not fit.*--batch-size 2 --accumulate 2"):
        train(tiny_row(), people, tmp_path, **ARGUMENTS)


def test_two_runs_in_one_folder(people, tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="another run is writing there"):
        train(tiny_row(), people, tmp_path, **ARGUMENTS)


def test_leftovers_of_a_killed_run_go(people, tmp_path):
    leftover = tmp_path / ".state.safetensors.abc.part"
    leftover.write_bytes(b"half")
    train(tiny_row(), people, tmp_path, **ARGUMENTS | dict(epochs=1))
    assert not leftover.exists()


def test_a_complete_run_says_so(people, tmp_path, capsys):
    arguments = ARGUMENTS | dict(epochs=1, progress=True)
    train(tiny_row(), people, tmp_path, **arguments)
    capsys.readouterr()
    train(tiny_row(), people, tmp_path, **arguments)
    assert "this run is complete: epoch 1, step 2" in capsys.readouterr().out


def test_run_json_tells_what_was_done(people, tmp_path):
    train(tiny_row(), people, tmp_path, **ARGUMENTS | dict(epochs=1))
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["row"] == "coco/example" and facts["plan"]["epochs"] == 1
    assert facts["start"] == "random weights" and facts["learning rate"] == 0.0015
    assert facts["settings"]["recipe.schedule.warmup"] == "3"
    assert len(facts["settings"]["annotations, train"]) == 64
    assert {"code", "hardware", "libraries", "date"} <= facts["environment"].keys()
    head, *lines = (tmp_path / "epochs.csv").read_text().splitlines()
    assert "loss" in head and "val AP" in head and len(lines) == 1


def test_a_run_that_is_cut_short(people, tmp_path):
    """Three updates have the schedule of the whole run: warm-up first, the drop at the end."""
    row = tiny_row()
    train(row, people, tmp_path, **ARGUMENTS | dict(epochs=None, steps=3, lr=1e-3))
    line = log(tmp_path)[-1]
    assert line["step"] == 3 and "val AP" in line
    assert line["lr"] == pytest.approx(1e-3 * row.recipe.schedule(2 * 8 / 3, 2, 4))


def test_trackers_that_are_not_there(people, tmp_path):
    with pytest.raises(InputError, match="tracker 'mlflow': known are tensorboard and wandb"):
        train(tiny_row(), people, tmp_path / "new", **ARGUMENTS | dict(trackers=["mlflow"]))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_the_plan_without_flags_is_the_published_run(processes):
    """Images per update and rate of all rows, whatever the number of devices up to eight."""
    nothing = dict(batch_size=None, accumulate=None, precision="no", fold=1, start="published")
    for name in list_models():
        row = get_row(name)
        plan = make_plan(row, 100_000, processes, **nothing)
        images = plan.batch_size * plan.accumulate * processes
        assert images == row.recipe.batch and scaled_lr(row.recipe, images)[0] == row.recipe.lr
        assert (plan.epochs, plan.eval_every) == (row.recipe.epochs, row.recipe.eval_every)
        assert plan.val_boxes == (row.recipe.eval_boxes or row.benchmark.table_boxes)
        assert plan.seed == (row.recipe.seed or 0) and plan.lr is None


def test_published_start_is_the_default(people, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(rows, "start_model", lambda row, model, start: asked.append(start))
    settings = {name: value for name, value in ARGUMENTS.items() if name != "start"}
    train(tiny_row(), people, tmp_path, **settings | dict(epochs=1))
    assert asked == ["published"] and network().training
