"""Two processes on the CPU do what one does: the same samples, weights, figures, clear ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import together
from safetensors.torch import load_file
from small_run import log

from pose_nb.files import InputError
from pose_nb.launching import _what_failed, launch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def both(people, tmp_path_factory):
    """The folders of what two processes did, and of what one did."""
    two, one = (tmp_path_factory.mktemp(name) for name in ("two", "one"))
    launch(2, together.everything, str(people), str(two))
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


def test_every_family_trains(both):
    found = json.loads((both[0] / "answers.json").read_text())
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


def test_a_kill_counts_before_what_the_others_say(tmp_path):
    """The launcher asks them to stop: they say so, but that is not why the run ended."""
    (tmp_path / "0.stopped").write_text("stopped; 3 groups are left")
    codes = {0: 1, 1: -signal.SIGKILL}
    failures = {rank: SimpleNamespace(local_rank=rank, exitcode=codes[rank]) for rank in codes}
    error = SimpleNamespace(failures=failures, get_first_failure=lambda: (0, failures[0]))
    assert "process 1 was killed by signal 9" in _what_failed(tmp_path, error)
    del failures[1]
    with pytest.raises(KeyboardInterrupt, match="3 groups"):
        _what_failed(tmp_path, error)


@pytest.mark.skipif(not os.environ.get("POSE_NB_ALL_FAMILIES"), reason="takes a minute")
def test_two_processes_predict_what_one_does(people, tmp_path):
    """Byte for byte, and each picture once: by --processes and by torchrun."""
    pose_nb, torchrun = (str(Path(sys.executable).with_name(n)) for n in ("pose-nb", "torchrun"))
    line = ["predict", str(people / "val2017"), "--boxes", "whole", "--device", "cpu"]
    line += ["--weights", str(Path(__file__).parents[1] / "nbs" / "demo_weights.safetensors")]
    ways = {"one": ([pose_nb], []), "two": ([pose_nb], ["--processes", "2"])}
    ways["torchrun"] = ([torchrun, "--nproc-per-node", "2", "-m", "pose_nb.cli"], [])
    for name, (begin, end) in ways.items():
        out = tmp_path / name
        subprocess.run([*begin, *line, "--out", str(out), *end], check=True, capture_output=True)
        told = [
            json.loads(x) for f in out.glob("answers-*") for x in f.read_text().split("\n") if x
        ]
        assert sorted(e["file"] for e in told) == sorted(map(str, (people / "val2017").iterdir()))
        assert (out / "keypoints.json").read_bytes() == (
            tmp_path / "one" / "keypoints.json"
        ).read_bytes()


def test_how_many(tmp_path):
    with pytest.raises(InputError, match="--processes 0"):
        launch(0, together.wrong_in_one, str(tmp_path))
