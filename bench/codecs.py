"""How fast the codecs are, beside a plain implementation that works joint by joint: time per instance, and the ratio.

    python bench/codecs.py                    # on the CPU
    python bench/codecs.py --device cuda      # maps and keypoints live on the GPU
    python bench/codecs.py --out record.json  # also write the figures down

Both sides encode and decode the same keypoints in the same run, and their answers are compared before anything is timed.
The plain side is what one would write from the definitions with numpy and OpenCV: a loop over joints, one map at a time.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time

import cv2
import numpy as np
import torch

from pose_nb.codecs.megvii import Megvii
from pose_nb.codecs.msra import MSRA
from pose_nb.codecs.udp import UDP

INPUT, MAP = (192, 256), (48, 64)
CODECS = {
    "MSRA": MSRA(INPUT, MAP),
    "DARK": MSRA(INPUT, MAP, unbiased=True),
    "UDP": UDP(INPUT, MAP),
    "UDP combined": UDP(INPUT, MAP, combined=True),
    "Megvii": Megvii(INPUT, MAP),
}


def windowed(mu, visible, exact):
    """(K, H, W) maps and weights: a ±6 window around the rounded pixel, the Gaussian on it or, with
    exact, on mu."""
    (W, H), radius = MAP, 6
    maps, weights = np.zeros((len(mu), H, W), np.float32), visible.copy()
    axis = np.arange(0, 2 * radius + 1, dtype=np.float32)
    for k in range(len(mu)):
        if visible[k] < 0.5:
            continue
        n = (mu[k] + 0.5).astype(int)
        x0, y0 = n - radius
        x1, y1 = n + radius + 1
        if x0 >= W or y0 >= H or x1 < 0 or y1 < 0:
            weights[k] = 0
            continue
        cx, cy = (mu[k] - n + radius) if exact else (radius, radius)
        patch = np.exp(-((axis - cx)[None] ** 2 + (axis - cy)[:, None] ** 2) / 8)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, W), min(y1, H)
        maps[k, top:bottom, left:right] = patch[top - y0 : bottom - y0, left - x0 : right - x0]
    return maps, weights


def plain_encode(name, keypoints, visible):
    """One instance: keypoints (K, 2), visible (K,) -> maps, weights."""
    (W, H), codec = MAP, CODECS[name]
    if codec.udp:
        factor = np.float32([(INPUT[0] - 1) / (W - 1), (INPUT[1] - 1) / (H - 1)])
    else:
        factor = np.float32([INPUT[0] / W, INPUT[1] / H])
    mu = keypoints / factor
    if name in ("MSRA", "UDP"):
        return windowed(mu, visible, exact=name == "UDP")
    K = len(mu)
    maps, weights = (
        np.zeros((3 * K if name == "UDP combined" else K, H, W), np.float32),
        visible.copy(),
    )
    x, y = np.arange(W, dtype=np.float32), np.arange(H, dtype=np.float32)[:, None]
    radius = 0.0546875 * max(W, H)
    for k in range(K):
        if visible[k] < 0.5:
            continue
        if name == "DARK":
            if (mu[k] - 6 >= MAP).any() or (mu[k] + 7 < 0).any():
                weights[k] = 0
            else:
                maps[k] = np.exp(-((x - mu[k, 0]) ** 2 + (y - mu[k, 1]) ** 2) / 8)
        elif name == "UDP combined":
            dx, dy = (mu[k, 0] - x) / radius, (mu[k, 1] - y) / radius
            maps[3 * k] = np.where(dx**2 + dy**2 <= 1, 1, 0)
            maps[3 * k + 1], maps[3 * k + 2] = dx, dy
        else:
            nx, ny = mu[k].astype(int)
            if not (0 <= nx < W and 0 <= ny < H):
                weights[k] = 0
            else:
                maps[k, ny, nx] = 1
                maps[k] = cv2.GaussianBlur(maps[k], (codec.kernel_size, codec.kernel_size), 0)
                maps[k] = maps[k] / maps[k, ny, nx] * 255
    return maps, weights


def peaks(maps):
    """Positions (K, 2) as floats and values (K,)."""
    index = maps.reshape(len(maps), -1).argmax(1)
    values = maps.reshape(len(maps), -1).max(1)
    points = np.stack([index % maps.shape[-1], index // maps.shape[-1]], -1).astype(np.float32)
    points[values <= 0] = -1
    return points, values


def modulated(maps, size):
    """Blurred map by map with a zero border, scaled back to the old maximum."""
    answer, reach = np.empty_like(maps), size // 2
    for k, m in enumerate(maps):
        padded = np.zeros((m.shape[0] + 2 * reach, m.shape[1] + 2 * reach), np.float32)
        padded[reach:-reach, reach:-reach] = m
        blurred = cv2.GaussianBlur(padded, (size, size), 0)[reach:-reach, reach:-reach]
        answer[k] = blurred * (m.max() / blurred.max())
    return answer


def plain_decode(name, maps):
    """One instance: maps (C, H, W) -> keypoints (K, 2) in input px, scores (K,)."""
    W, H = MAP
    if name == "UDP combined":
        labels = np.stack([cv2.GaussianBlur(m, (23, 23), 0) for m in maps[::3]])
        points, scores = peaks(labels)
        radius = 0.0546875 * max(W, H)
        for k, (x, y) in enumerate(points.astype(int)):
            points[k] += maps[3 * k + 1 : 3 * k + 3, y, x] * radius
        return points * np.float32([(INPUT[0] - 1) / (W - 1), (INPUT[1] - 1) / (H - 1)]), scores
    if name == "Megvii":
        maps = modulated(maps, 5)
    points, scores = peaks(maps)
    if name in ("MSRA", "Megvii"):
        for k, (x, y) in enumerate(points.astype(int)):
            if 1 < x < W - 1 and 1 < y < H - 1:
                m = maps[k]
                points[k] += 0.25 * np.sign([m[y, x + 1] - m[y, x - 1], m[y + 1, x] - m[y - 1, x]])
                if name == "Megvii":
                    points[k] += 0.5
        return points * np.float32([4, 4]), scores / 255 + 0.5 if name == "Megvii" else scores
    low, high = (1e-3, 50) if name == "UDP" else (1e-10, np.inf)
    L = np.log(np.clip(modulated(maps, 11), low, high))
    if name == "UDP":
        L = np.pad(L, ((0, 0), (1, 1), (1, 1)), mode="edge")
    for k, (x, y) in enumerate(points.astype(int)):
        m = L[k]
        if name == "UDP":
            x, y = x + 1, y + 1
            xx, yy = (
                m[y, x + 1] - 2 * m[y, x] + m[y, x - 1],
                m[y + 1, x] - 2 * m[y, x] + m[y - 1, x],
            )
            xy = 0.5 * (
                m[y + 1, x + 1]
                - m[y, x + 1]
                - m[y + 1, x]
                + 2 * m[y, x]
                - m[y, x - 1]
                - m[y - 1, x]
                + m[y - 1, x - 1]
            )
        elif 1 < x < W - 2 and 1 < y < H - 2:
            xx, yy = (
                (m[y, x + 2] - 2 * m[y, x] + m[y, x - 2]) / 4,
                (m[y + 2, x] - 2 * m[y, x] + m[y - 2, x]) / 4,
            )
            xy = (m[y + 1, x + 1] - m[y - 1, x + 1] - m[y + 1, x - 1] + m[y - 1, x - 1]) / 4
        else:
            continue
        gradient = 0.5 * np.array([m[y, x + 1] - m[y, x - 1], m[y + 1, x] - m[y - 1, x]])
        hessian = np.array([[xx, xy], [xy, yy]]) + (
            np.finfo(np.float32).eps * np.eye(2) if name == "UDP" else 0
        )
        if xx * yy - xy * xy != 0 or name == "UDP":
            points[k] -= np.linalg.inv(hessian) @ gradient
    factor = [(INPUT[0] - 1) / (W - 1), (INPUT[1] - 1) / (H - 1)] if name == "UDP" else [4, 4]
    return points * np.float32(factor), scores


def seconds(work, repeats, device):
    """Median time of one call, after one to warm up; a GPU is waited for."""

    def timed():
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    timed()
    return statistics.median(timed() for _ in range(repeats))


def measure(name, batch, keypoints_each, device, repeats, seed=0):
    """One row of figures; raises AssertionError if the two sides do not agree."""
    rng, codec = np.random.default_rng(seed), CODECS[name]
    keypoints = np.float32(rng.uniform((30, 30), (160, 220), (batch, keypoints_each, 2)))
    visible = np.ones((batch, keypoints_each), np.float32)
    points, seen = torch.from_numpy(keypoints).to(device), torch.from_numpy(visible).to(device)
    plain = [plain_encode(name, k, v) for k, v in zip(keypoints, visible)]
    maps, weights = codec.encode(points, seen)
    assert np.allclose(maps.cpu(), np.stack([m for m, _ in plain]), rtol=1e-4, atol=1e-5), (
        f"{name}: encoded maps differ"
    )
    assert np.array_equal(weights.cpu(), np.stack([w for _, w in plain]))
    answer = maps.cpu().numpy()
    top = 255 if name == "Megvii" else 1
    answer = np.float32(answer + top * 0.02 * rng.random(answer.shape))
    given = torch.from_numpy(answer).to(device)
    found = codec.decode(given)[0].cpu().numpy()
    expected = np.stack([plain_decode(name, m)[0] for m in answer])
    assert np.abs(found - expected).max() < 0.01, (
        f"{name}: decoded keypoints differ by {np.abs(found - expected).max()} px"
    )
    row = {"codec": name}
    with torch.inference_mode():
        people = list(zip(keypoints, visible))
        for verb, ours, theirs in (
            (
                "encode",
                lambda: codec.encode(points, seen),
                lambda: [plain_encode(name, k, v) for k, v in people],
            ),
            (
                "decode",
                lambda: codec.decode(given),
                lambda: [plain_decode(name, m) for m in answer],
            ),
        ):
            fast, slow = (
                seconds(ours, repeats, device),
                seconds(theirs, max(3, repeats // 4), torch.device("cpu")),
            )
            row |= {
                f"{verb}_us": 1e6 * fast / batch,
                f"{verb}_plain_us": 1e6 * slow / batch,
                f"{verb}_ratio": slow / fast,
            }
    return row


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--batch", type=int, default=64, help="instances in a batch (default: 64)")
    parser.add_argument(
        "--keypoints", type=int, default=17, help="keypoints of an instance (default: 17)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=20,
        help="timed calls, of which the median counts (default: 20)",
    )
    parser.add_argument("--out", help="a JSON file for the figures")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("this PyTorch sees no CUDA device; leave --device out to measure on the CPU")
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name()
    else:
        hardware = (
            f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
        )
    print(f"batch {options.batch}, {options.keypoints} x {MAP[1]} x {MAP[0]} maps, {hardware}")
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}")
    print(
        f"{'microseconds per instance':26s}{'encode':>10s}{'plain':>10s}{'ratio':>8s}{'decode':>12s}{'plain':>10s}{'ratio':>8s}"
    )
    rows = []
    for name in CODECS:
        row = measure(name, options.batch, options.keypoints, device, max(1, options.repeats))
        rows.append(row)
        print(
            f"{name:26s}{row['encode_us']:10.1f}{row['encode_plain_us']:10.1f}{row['encode_ratio']:7.1f}x"
            f"{row['decode_us']:12.1f}{row['decode_plain_us']:10.1f}{row['decode_ratio']:7.1f}x"
        )
    if options.out:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True
        ).stdout.strip()
        record = {
            "command": " ".join(["python", *sys.argv]),
            "commit": commit,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "hardware": hardware,
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "batch": options.batch,
            "rows": rows,
        }
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
