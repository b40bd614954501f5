"""Kill a training run at random moments, go on, and compare the end with a run that nobody killed.

    python bench/kills.py [--kills 100]

The run is a small network on eight synthetic people that saves a state after each update. It is
killed by SIGKILL, also while it writes, and started again until it is complete; then another run
begins. Every state that is left behind must be whole, at most one update may be lost at a time, and
the weights of the end must be those of the undisturbed run, to the last bit.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from pose_nb.demo import demo_row
from pose_nb.environment import environment
from pose_nb.files import temporary_folder, write_json
from pose_nb.synth import make_dataset
from pose_nb.training import train
from pose_nb.weights.tensors import read_safetensors

RECORD = Path(__file__).parent / "records" / "kills.json"
SETTINGS = dict(batch_size=4, save_every=1, workers=0, device="cpu", progress=False)
SETTINGS |= dict(val_boxes="gt", val_limit=1, limit=8, eval_every=4, pictures=False)


def begin(people: Path, out: Path) -> int:
    """The process id of the run, which goes on where folder `out` says."""
    child = os.fork()
    if child:
        return child
    row = demo_row(4)
    train(replace(row, recipe=replace(row.recipe, ema=0.01)), people, out, **SETTINGS)
    os._exit(0)


def steps_saved(out: Path) -> int:
    """Updates in the state of a folder; reading it proves that it is whole."""
    state = out / "state.safetensors"
    if not state.exists():
        return 0
    return json.loads(read_safetensors(state)[1]["position"])["step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng, root = random.Random(0), temporary_folder()
    people = make_dataset(root / "people", train=8, val=1, seed=3, workers=0, progress=False)
    began = time.perf_counter()
    os.waitpid(begin(people, root / "whole"), 0)
    length = time.perf_counter() - began
    whole = load_file(root / "whole" / "state.safetensors")
    kills, runs, in_writing, equal = 0, 0, 0, True
    while kills < given.kills:
        out, runs = root / f"run{runs}", runs + 1
        while True:
            before, child = steps_saved(out), begin(people, out)
            time.sleep(rng.uniform(0.0, 0.6 * length))
            done, _ = os.waitpid(child, os.WNOHANG)
            if done:
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
            in_writing += bool(list(out.glob(".*.part")))
            assert steps_saved(out) >= before, "a kill lost a state"
        state = load_file(out / "state.safetensors")
        equal &= state.keys() == whole.keys() and all(
            torch.equal(state[name], whole[name]) for name in whole
        )
    found = dict(kills=kills, runs=runs, killed_in_writing=in_writing, ends_are_bit_equal=equal)
    write_json(RECORD, dict(command=" ".join(sys.argv), environment=environment()) | found)
    print(found)
    raise SystemExit(not equal)


if __name__ == "__main__":
    main()
