"""What each network of the tables costs: parameters, multiply-adds, time of a forward pass.

    python bench/networks.py [--rows PATTERN] [--device cpu|cuda] [--quick] [--out FILE]

Rows that share a network share its figures; it is timed once. A CPU is timed in float32 with one
image at a time, a GPU in bfloat16 (autocast), channels_last, compiled, with 32 images at a time.
Each time is the median of three runs after a warm-up; --quick skips the times. The network has
random weights. Nothing is recorded for a device that was not there. The record of this project is
bench/records/networks.json.
"""

import argparse
import os
import shlex
import statistics
import sys
import time
from datetime import date
from pathlib import Path

import torch

import pose_nb
from pose_nb.networks.cost import macs, parameters
from pose_nb.environment import code_version, hardware
from pose_nb.inference import pick_device
from pose_nb.files import InputError, write_json

MODES = {
    "cpu": "float32, 1 image at a time, median of 3 after 1 warm-up; ms per image",
    "cuda": "bfloat16 autocast, channels_last, torch.compile, 32 images at a time, "
    "median of 3 × 10 passes after 3 warm-ups, synchronised; ms per image",
}


def shared_networks(rows):
    """Rows grouped by the network that they have in common: what is built, keypoints, input and
    heatmap size."""
    groups = {}
    for row in rows:
        key = (
            row.network,
            len(row.skeleton),
            row.codec.channels_per_keypoint,
            row.codec.input_size,
            row.codec.heatmap_size,
        )
        groups.setdefault(key, []).append(row)
    return list(groups.values())


@torch.inference_mode()
def cpu_ms(model, size):
    """Milliseconds per image on the CPU: float32, one image."""
    images = torch.randn(1, 3, size[1], size[0])
    model(images)
    return statistics.median(timed(lambda: model(images)) for _ in range(3)) * 1000


@torch.inference_mode()
def gpu_ms(model, size, device, batch=32, passes=10):
    """Milliseconds per image on a GPU: bfloat16 autocast, channels_last, compiled."""
    images = torch.randn(batch, 3, size[1], size[0], device=device).to(
        memory_format=torch.channels_last
    )
    torch._dynamo.reset()
    compiled = torch.compile(model.to(device, memory_format=torch.channels_last))

    def run(n):
        with torch.autocast("cuda", torch.bfloat16):
            for _ in range(n):
                compiled(images)
        torch.cuda.synchronize(device)

    run(3)
    return statistics.median(timed(lambda: run(passes)) for _ in range(3)) * 1000 / (batch * passes)


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(row, device, quick):
    """The figures of one network."""
    torch.manual_seed(0)
    model, size = pose_nb.create_model(row).eval(), row.codec.input_size
    figures = {"parameters": parameters(model), "macs": macs(model, size)}
    if not quick and device.type == "cpu":
        figures["cpu_ms"] = round(cpu_ms(model, size), 2)
    if not quick and device.type == "cuda":
        figures["gpu_ms"] = round(gpu_ms(model, size, device), 4)
    return figures


def line(group, found):
    """What is printed about one network."""
    times = [f"{found[k]:10.2f} ms per image" for k in ("cpu_ms", "gpu_ms") if k in found]
    others = f"   (and {len(group) - 1} more)" if len(group) > 1 else ""
    counts = f"{found['parameters'] / 1e6:9.2f} M parameters{found['macs'] / 1e9:9.2f} G mult-adds"
    return f"{group[0].id:36s}{counts}{''.join(times)}{others}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", default="*", metavar="PATTERN", help="such as coco/* or */hrnet-*"
    )
    parser.add_argument("--device", help="cpu or cuda; a GPU if there is one")
    parser.add_argument("--quick", action="store_true", help="count only, no times")
    parser.add_argument(
        "--note",
        default="",
        help="a remark for the record, such as what else the machine was doing",
    )
    parser.add_argument("--out", type=Path, metavar="FILE")
    options = parser.parse_args()
    try:
        device = pick_device(options.device)
        rows = [pose_nb.get_row(name) for name in pose_nb.list_models(options.rows)]
    except InputError as error:
        sys.exit(str(error))
    if not rows:
        sys.exit(f"no row matches {options.rows!r}; `pose-nb list` shows all")
    if device.type not in MODES and not options.quick:
        sys.exit(f"device {device.type}: times are for {' and '.join(MODES)}")

    began, loads, figures = code_version(), [os.getloadavg()[0]], {}
    for group in shared_networks(rows):
        found = measure(group[0], device, options.quick)
        figures |= {row.id: found for row in group}
        loads.append(os.getloadavg()[0])
        print(line(group, found), flush=True)
    record = {
        "command": shlex.join(["python", "bench/networks.py", *sys.argv[1:]]),
        "commit": began,
        "date": str(date.today()),
        "hardware": hardware(str(device)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "mode": "counted only" if options.quick else MODES[device.type],
        "load": [round(min(loads), 1), round(max(loads), 1)],
    }
    if options.note:
        record["note"] = options.note
    record["figures"] = {row.id: figures[row.id] for row in rows}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, record)


if __name__ == "__main__":
    main()
