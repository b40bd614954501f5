"""Generated maps of the recorded cases, as MMPose 1.3.2 was given them, and our codec for each."""

import json
from pathlib import Path

import numpy as np

from pose_nb.codecs.megvii import Megvii
from pose_nb.codecs.msra import MSRA
from pose_nb.codecs.udp import UDP

HERE = Path(__file__).parent


def golden(name):
    """The recorded figures that the project keeps."""
    return json.loads((HERE / "golden" / f"{name}.json").read_text())


def bump(H, W, cx, cy, sigma, amp=1.0):
    x, y = np.arange(W, dtype=float)[None], np.arange(H, dtype=float)[:, None]
    return amp * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2.0 * sigma * sigma))


def peaky_heatmaps(seed, K, H, W, sigma=2.0, amp=1.0, special=True):
    """(K, H, W): noise and two bumps each; the first ten may be edge cases. Random numbers in the
    recorded order."""
    r = np.random.RandomState(seed)
    maps = r.rand(K, H, W) * 0.02
    cx, cy = r.rand(K) * (W + 4) - 2, r.rand(K) * (H + 4) - 2
    a, cx2, cy2 = 0.3 + 0.8 * r.rand(K), r.rand(K) * W, r.rand(K) * H
    for k in range(K):
        maps[k] += bump(H, W, cx[k], cy[k], sigma, a[k]) + bump(
            H, W, cx2[k], cy2[k], 1.5 * sigma, 0.5 * a[k]
        )
    if special:
        z = 0.01 * np.abs(np.sin(np.arange(H * W, dtype=float).reshape(H, W)))
        at = lambda x, y: z + bump(H, W, x, y, sigma)
        edge = [
            at(0, 0),
            at(W - 1, H - 1),
            np.maximum(bump(H, W, 9, 11, sigma), bump(H, W, 20, 11, sigma)),
            at(W // 2, H // 2),
            at(1, H / 3),
            at(W - 2, H / 3),
            at(W / 3, 1),
            at(2, 2),
            at(W - 3, H - 3),
            at(W / 2 + 0.5, H / 2),
        ]
        for k, m in enumerate(edge[:K]):
            maps[k] = m
    return (maps * amp).astype(np.float32)


def combined_maps(seed, K, H, W):
    """(3K, H, W): a noisy disc and random offsets for each keypoint. Random numbers in the recorded
    order."""
    r = np.random.RandomState(seed)
    label, cx, cy = r.rand(K, H, W) * 0.05, r.rand(K) * W, r.rand(K) * H
    ox, oy = r.rand(K, H, W) * 1.6 - 0.8, r.rand(K, H, W) * 1.6 - 0.8
    discs = np.stack([label[k] + 0.9 * (bump(H, W, cx[k], cy[k], 1.0) > 0.2) for k in range(K)])
    return np.stack([discs, ox, oy], 1).reshape(3 * K, H, W).astype(np.float32)


def make(facts):
    """Our codec for a recorded description."""
    sizes = facts["input_size"], facts["heatmap_size"]
    if facts["type"] == "MSRAHeatmap":
        return MSRA(*sizes, facts["sigma"], unbiased=facts.get("unbiased", False))
    if facts["type"] == "UDPHeatmap":
        return UDP(
            *sizes, facts.get("sigma", 2.0), combined=facts.get("heatmap_type") == "combined"
        )
    return Megvii(*sizes, facts["kernel_size"])
