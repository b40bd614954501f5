"""Every row of every table at its true size: a few updates and a test on SYNTHETIC people.

    python bench/all_rows.py [--only 'coco/*'] [--seconds 600] [--device cuda] [--again]

Each row is one `pose-nb reproduce` in a process of its own; its record goes to records/. Rows that
have a record are passed over, so the command can be called again and again, for ten minutes each.
On a CPU the quick rows get enough updates to be seen learning, the others two.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path

from pose_nb.synth.forms import make_form
from pose_nb.tables.facts import FACTS
from pose_nb.tables.ledger import record_path
from pose_nb.tables.zoo import get_row

QUICK = "*shufflenet*", "*mobilenet*", "*alexnet*"  # rows that are to be seen learning on a CPU


def budget(name: str, device: str) -> dict[str, float]:
    """Updates, batch, rate and images of each split for a row; the scaled rate would be tiny."""
    if device != "cpu":
        return dict(steps=120, batch_size=32, lr=5e-4, limit=32)
    if any(fnmatch(name, pattern) for pattern in QUICK):
        return dict(steps=60, batch_size=8, lr=1e-3, limit=8)
    return dict(steps=2, batch_size=2, limit=2)


def reproduce(name: str, cache: Path, device: str, records: Path | None) -> float:
    """Seconds of one row's `pose-nb reproduce`; its output is shown if it fails."""
    form = get_row(name).benchmark.data.name
    data = make_form(cache / form, form, train=32, val=8, progress=False)
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache) as out:
        words = ["reproduce", name, "--data", data.name, "--out", Path(out).name]
        words += ["--start", "random"]
        words += ["--workers", "0", "--device", device, "--accumulate", "1"]
        for option, value in budget(name, device).items():
            words += [f"--{option.replace('_', '-')}", value]
        words += ["--records", records.resolve()] if records else []
        began = time.perf_counter()
        command = [sys.executable, "-m", "pose_nb.cli", *map(str, words)]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        run = subprocess.run(command, cwd=cache, **pipes)  # so that no path of ours is recorded
        if run.returncode:
            print(run.stdout[-3000:])
            raise SystemExit(f"{name}: failed")
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="pattern of row ids")
    parser.add_argument("--seconds", type=float, default=600, help="begin no row after so long")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--records", type=Path, help="default: that of the project")
    parser.add_argument("--again", action="store_true", help="also rows that have a record")
    given = parser.parse_args()
    cache = Path(os.environ.get("POSE_NB_CACHE", tempfile.gettempdir())) / "all_rows"
    names = sorted((n for n in FACTS if fnmatch(n, given.only)), key=lambda n: FACTS[n].macs)
    began, done = time.perf_counter(), 0
    for name in names:
        if not given.again and record_path(name, given.records).exists():
            done += 1
            continue
        if time.perf_counter() - began > given.seconds:
            print(f"{done} of {len(names)} rows have a record; call again for the others")
            return
        print(
            f"{name:45s} {reproduce(name, cache, given.device, given.records):6.1f} s", flush=True
        )
        done += 1
    shutil.rmtree(cache, ignore_errors=True)
    print(f"all {len(names)} rows have a record")


if __name__ == "__main__":
    main()
