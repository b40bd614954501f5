"""Drawn images for the data tests: smooth waves and noise, from numpy's frozen legacy generator."""

import numpy as np


def picture(seed, H, W):
    """(H, W, 3) uint8."""
    rng = np.random.RandomState(seed)
    phase, fx, fy = rng.rand(3) * 6.28, 0.02 + 0.2 * rng.rand(3), 0.02 + 0.2 * rng.rand(3)
    noise = rng.randint(0, 25, size=(H, W, 3))
    waves = 115.0 + 110.0 * np.sin(
        fx * np.arange(W)[None, :, None] + fy * np.arange(H)[:, None, None] + phase
    )
    return np.clip(np.floor(waves) + noise, 0, 255).astype(np.uint8)
