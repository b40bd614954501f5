"""How fast the codecs are beside a plain implementation, joint by joint: time per instance, ratio.

    python bench/codecs.py                    # on the CPU
    python bench/codecs.py --device cuda      # maps and keypoints live on the GPU
    python bench/codecs.py --out record.json  # also write the figures down

Both sides encode and decode the same keypoints in the same run, and their answers are compared
before anything is timed. The plain side is what one would write from the definitions with numpy and
OpenCV: a loop over joints, one map at a time.
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
W, H = MAP
CODECS = {
    "MSRA": MSRA(INPUT, MAP),
    "DARK": MSRA(INPUT, MAP, unbiased=True),
    "UDP": UDP(INPUT, MAP),
    "UDP combined": UDP(INPUT, MAP, combined=True),
    "Megvii": Megvii(INPUT, MAP),
}
X, Y = np.arange(W, dtype=np.float32), np.arange(H, dtype=np.float32)[:, None]
RADIUS = 0.0546875 * max(MAP)  # of the combined form's disc


# ---------------------------------------------------------------- the plain side, joint by joint
# draw_*: position mu (2,) in heatmap px -> one map (or three), None if it misses the map


def draw_window(mu, exact):
    """A ±6 window around the rounded pixel, the Gaussian on it or, with exact, on mu."""
    n = (mu + 0.5).astype(int)
    (x0, y0), (x1, y1) = n - 6, n + 7
    if x0 >= W or y0 >= H or x1 < 0 or y1 < 0:
        return None
    cx, cy = (mu - n + 6) if exact else (6, 6)
    axis = np.arange(13, dtype=np.float32)
    patch = np.exp(-((axis - cx)[None] ** 2 + (axis - cy)[:, None] ** 2) / 8)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, W), min(y1, H)
    m = np.zeros((H, W), np.float32)
    m[top:bottom, left:right] = patch[top - y0 : bottom - y0, left - x0 : right - x0]
    return m


def draw_whole(mu):
    if (mu - 6 >= MAP).any() or (mu + 7 < 0).any():
        return None
    return np.exp(-((X - mu[0]) ** 2 + (Y - mu[1]) ** 2) / 8)


def draw_disc(mu):
    dx, dy = np.broadcast_arrays((mu[0] - X) / RADIUS, (mu[1] - Y) / RADIUS)
    return np.stack([np.where(dx**2 + dy**2 <= 1, 1, 0), dx, dy])


def draw_dot(mu, size=5):
    x, y = mu.astype(int)
    if not (0 <= x < W and 0 <= y < H):
        return None
    m = np.zeros((H, W), np.float32)
    m[y, x] = 1
    m = cv2.GaussianBlur(m, (size, size), 0)
    return m / m[y, x] * 255


DRAW = {
    "MSRA": lambda mu: draw_window(mu, exact=False),
    "DARK": draw_whole,
    "UDP": lambda mu: draw_window(mu, exact=True),
    "UDP combined": draw_disc,
    "Megvii": draw_dot,
}


def per_pixel(name):
    """Input px per heatmap px, (2,)."""
    gap = 1 if CODECS[name].udp else 0
    return np.float32([(i - gap) / (m - gap) for i, m in zip(INPUT, MAP)])


def plain_encode(name, keypoints, visible):
    """One instance: keypoints (K, 2), visible (K,) -> maps, weights."""
    group = CODECS[name].channels_per_keypoint
    maps, weights = np.zeros((len(keypoints), group, H, W), np.float32), visible.copy()
    for k, mu in enumerate(keypoints / per_pixel(name)):
        if visible[k] < 0.5:
            continue
        drawn = DRAW[name](mu)
        if drawn is None:
            weights[k] = 0
        else:
            maps[k] = drawn
    return maps.reshape(-1, H, W), weights


def peaks(maps):
    """Positions (K, 2) as floats and values (K,)."""
    index = maps.reshape(len(maps), -1).argmax(1)
    values = maps.reshape(len(maps), -1).max(1)
    points = np.stack([index % W, index // W], -1).astype(np.float32)
    points[values <= 0] = -1
    return points, values


def modulated(maps, size):
    """Blurred map by map with a zero border, scaled back to the old maximum."""
    answer, reach = np.empty_like(maps), size // 2
    for k, m in enumerate(maps):
        padded = np.zeros((H + 2 * reach, W + 2 * reach), np.float32)
        padded[reach:-reach, reach:-reach] = m
        blurred = cv2.GaussianBlur(padded, (size, size), 0)[reach:-reach, reach:-reach]
        answer[k] = blurred * (m.max() / blurred.max())
    return answer


# step_*: one map and its peak's pixel -> the step to take, (2,)


def step_quarter(m, x, y):
    if not (1 < x < W - 1 and 1 < y < H - 1):
        return 0
    return 0.25 * np.sign([m[y, x + 1] - m[y, x - 1], m[y + 1, x] - m[y - 1, x]])


def step_quarter_and_half(m, x, y):
    inside = 1 < x < W - 1 and 1 < y < H - 1
    return step_quarter(m, x, y) + 0.5 if inside else 0


def gradient(m, x, y):
    return 0.5 * np.array([m[y, x + 1] - m[y, x - 1], m[y + 1, x] - m[y - 1, x]])


def step_dark(m, x, y):
    if not (1 < x < W - 2 and 1 < y < H - 2):
        return 0
    xx = (m[y, x + 2] - 2 * m[y, x] + m[y, x - 2]) / 4
    yy = (m[y + 2, x] - 2 * m[y, x] + m[y - 2, x]) / 4
    xy = (m[y + 1, x + 1] - m[y - 1, x + 1] - m[y + 1, x - 1] + m[y - 1, x - 1]) / 4
    if xx * yy - xy * xy == 0:
        return 0
    return -np.linalg.inv([[xx, xy], [xy, yy]]) @ gradient(m, x, y)


def step_udp(m, x, y):
    m, x, y = np.pad(m, 1, mode="edge"), x + 1, y + 1
    centre, left, right, up, down = m[y, x], m[y, x - 1], m[y, x + 1], m[y - 1, x], m[y + 1, x]
    xx, yy = right - 2 * centre + left, down - 2 * centre + up
    corners = m[y + 1, x + 1] + m[y - 1, x - 1]
    xy = 0.5 * (corners - right - down + 2 * centre - left - up)
    hessian = np.array([[xx, xy], [xy, yy]]) + np.finfo(np.float32).eps * np.eye(2)
    return -np.linalg.inv(hessian) @ gradient(m, x, y)


def plain_decode(name, maps):
    """One instance: maps (C, H, W) -> keypoints (K, 2) in input px, scores (K,)."""
    if name == "UDP combined":
        points, scores = peaks(np.stack([cv2.GaussianBlur(m, (23, 23), 0) for m in maps[::3]]))
        for k, (x, y) in enumerate(points.astype(int)):
            points[k] += maps[3 * k + 1 : 3 * k + 3, y, x] * RADIUS
        return points * per_pixel(name), scores
    if name == "Megvii":
        maps = modulated(maps, 5)
    points, scores = peaks(maps)
    step = {"MSRA": step_quarter, "Megvii": step_quarter_and_half}.get(name)
    if step is None:
        low, high, step = (1e-3, 50, step_udp) if name == "UDP" else (1e-10, np.inf, step_dark)
        maps = np.log(np.clip(modulated(maps, 11), low, high))
    for k, (x, y) in enumerate(points.astype(int)):
        points[k] += step(maps[k], x, y)
    return points * per_pixel(name), scores / 255 + 0.5 if name == "Megvii" else scores


# ---------------------------------------------------------------- measuring


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


def compare(name, keypoints, visible, device):
    """Both sides on the same keypoints: AssertionError if they differ. The maps to decode."""
    codec = CODECS[name]
    points, seen = torch.from_numpy(keypoints).to(device), torch.from_numpy(visible).to(device)
    plain = [plain_encode(name, k, v) for k, v in zip(keypoints, visible)]
    maps, weights = codec.encode(points, seen)
    expected = np.stack([m for m, _ in plain])
    assert np.allclose(maps.cpu(), expected, rtol=1e-4, atol=1e-5), f"{name}: other maps"
    assert np.array_equal(weights.cpu(), np.stack([w for _, w in plain])), f"{name}: other weights"
    noise = np.random.default_rng(1).random(expected.shape)
    answer = np.float32(maps.cpu().numpy() + (255 if name == "Megvii" else 1) * 0.02 * noise)
    found = codec.decode(torch.from_numpy(answer).to(device))[0].cpu().numpy()
    worst = np.abs(found - np.stack([plain_decode(name, m)[0] for m in answer])).max()
    assert worst < 0.01, f"{name}: decoded keypoints differ by {worst} px"
    return answer


def measure(name, batch, keypoints_each, device, repeats, seed=0):
    """One row of figures."""
    rng, codec = np.random.default_rng(seed), CODECS[name]
    keypoints = np.float32(rng.uniform((30, 30), (160, 220), (batch, keypoints_each, 2)))
    visible = np.ones((batch, keypoints_each), np.float32)
    answer = compare(name, keypoints, visible, device)
    points, seen, given = (torch.from_numpy(a).to(device) for a in (keypoints, visible, answer))
    works = {
        "encode": (
            lambda: codec.encode(points, seen),
            lambda: [plain_encode(name, k, v) for k, v in zip(keypoints, visible)],
        ),
        "decode": (
            lambda: codec.decode(given),
            lambda: [plain_decode(name, m) for m in answer],
        ),
    }
    row = {"codec": name}
    with torch.inference_mode():
        for verb, (ours, theirs) in works.items():
            fast = seconds(ours, repeats, device)
            slow = seconds(theirs, max(3, repeats // 4), torch.device("cpu"))
            row[f"{verb}_us"], row[f"{verb}_plain_us"] = 1e6 * fast / batch, 1e6 * slow / batch
            row[f"{verb}_ratio"] = slow / fast
    return row


def options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--batch", type=int, default=64, help="instances in a batch (default: 64)")
    parser.add_argument("--keypoints", type=int, default=17, help="of an instance (default: 17)")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls (default: 20)")
    parser.add_argument("--out", help="a JSON file for the figures")
    return parser.parse_args()


def main():
    args = options()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("this PyTorch sees no CUDA device; leave --device out to measure on the CPU")
    cpu = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else cpu
    print(f"batch {args.batch}, {args.keypoints} x {H} x {W} maps, {hardware}")
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}; microseconds per instance:")
    heads = ("encode", "plain", "ratio", "decode", "plain", "ratio")
    print(f"{'':14s}" + "".join(f"{head:>11s}" for head in heads))
    rows = []
    for name in CODECS:
        row = measure(name, args.batch, args.keypoints, device, max(1, args.repeats))
        rows.append(row)
        figures = [value for key, value in row.items() if key != "codec"]
        print(f"{name:14s}" + "".join(f"{value:11.1f}" for value in figures))
    if args.out:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
        record = {
            "command": " ".join(["python", *sys.argv]),
            "commit": commit.stdout.strip(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "hardware": hardware,
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "batch": args.batch,
            "rows": rows,
        }
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
