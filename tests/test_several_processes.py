"""Two processes on the CPU do what one does: the same samples, weights, figures, clear ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import together
from safetensors.torch import load_file
from small_run import log

from pose_nb.files import InputError
from pose_nb.launching import launch


@pytest.fixture(scope="module")
def both(people, tmp_path_factory):
    """The folders of what two processes did, and of what one did."""
    two, one = (tmp_path_factory.mktemp(name) for name in ("two", "one"))
    launch(2, together.learn_and_look, str(people), str(two))
    together.learn(people, one / "learnt", 4)
    together.look(people, one / "looked")
    return two, one


def test_training_is_the_same(both):
    two, one = (load_file(folder / "learnt" / "state.safetensors") for folder in both)
    weights = [name for name in one if name.startswith("model.")]
    far = max((two[name] - one[name]).abs().max().item() for name in weights)
    begun = together.plain().state_dict()
    moved = max((one[f"model.{name}"] - value).abs().max().item() for name, value in begun.items())
    assert far < 1e-6 < 1e-3 < moved


def test_what_is_logged_is_the_same(both):
    two, one = (log(folder / "learnt") for folder in both)
    assert [line["step"] for line in two] == [line["step"] for line in one] == [2, 4]
    for theirs, ours in zip(two, one, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-6)
        assert theirs["accuracy"] == pytest.approx(ours["accuracy"], abs=1e-9)
        assert theirs.get("val AP") == ours.get("val AP")


def test_only_one_writes(both):
    two, one = ({p.name for p in (folder / "learnt").iterdir()} for folder in both)
    assert two == one >= {"run.json", "metrics.jsonl", "epochs.csv", "curves.png", "people"}
    assert json.loads((both[0] / "learnt" / "run.json").read_text())["processes"] == 2


def test_evaluation_is_the_same_to_the_last_digit(both):
    two, one = (json.loads((f / "looked" / "figures.json").read_text()) for f in both)
    assert two["figures"] == one["figures"] and two["keypoints"] == one["keypoints"]
    results = [(folder / "looked" / "results.json").read_bytes() for folder in both]
    assert results[0] == results[1]


def test_every_family_trains(people, tmp_path):
    answers = tmp_path / "answers.json"
    launch(2, together.step_of_each_family, str(people), str(answers))
    found = json.loads(answers.read_text())
    assert list(found) == together.FAMILIES
    assert all(torch.isfinite(torch.tensor(answer["loss"])) for answer in found.values())
    assert [name for name, answer in found.items() if not answer["same"]] == []
    assert all(sorted(answer["seen"]) == [0, 1, 2, 3] for answer in found.values())


def test_an_error_in_one_is_one_sentence(tmp_path):
    with pytest.raises(InputError) as error:
        launch(2, together.wrong_in_one, str(tmp_path))
    assert str(error.value) == "picture 7 cannot be read"


def test_one_is_killed(people, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import together\nfrom pose_nb.launching import launch\n"
        f"launch(2, together.slow, {str(people)!r}, {str(tmp_path / 'run')!r})"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    state, deadline = tmp_path / "run" / "state.safetensors", time.time() + 300
    while not state.exists() and time.time() < deadline and run.poll() is None:
        time.sleep(0.1)
    assert run.poll() is None, run.stderr.read()[-800:]
    listed = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    working = [
        int(pid) for pid in listed if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(working[-1], signal.SIGKILL)
    _, said = run.communicate(timeout=120)
    assert run.returncode != 0 and "was killed by signal 9" in said and "goes on" in said, said[
        -800:
    ]
    saved = load_file(state)
    assert all(torch.isfinite(value.float()).all() for value in saved.values())


def test_how_many(tmp_path):
    with pytest.raises(InputError, match="--processes 0"):
        launch(0, together.wrong_in_one, str(tmp_path))
