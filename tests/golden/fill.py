"""Values for every entry of a network, made from its published name: no weight file is needed.

The rule (names, streams, spreads) is the one under which networks.json was recorded.
"""

import zlib

import numpy as np


def fill(name, shape, gain):
    """Value of the entry `name`: float32, int64 zeros for counters, None for index tables, which a
    network makes itself."""
    last = name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if last == "relative_position_index":
        return None
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if last == "running_var":
        value = rng.uniform(0.7, 1.3, shape)
    elif last == "running_mean":
        value = rng.standard_normal(shape) * 0.1
    elif last in ("relative_position_bias_table", "pos_embed"):
        value = rng.standard_normal(shape) * 0.5
    elif last.endswith("bias"):
        value = rng.standard_normal(shape) * 0.05
    elif last.endswith("weight") and len(shape) < 2:
        value = rng.uniform(0.6, 1.0, shape)
    elif last.endswith("weight"):
        value = rng.standard_normal(shape)
        value *= gain * np.sqrt(2.0 / np.prod(shape[1:]))  # in place: hundreds of millions of them
    else:
        value = rng.standard_normal(shape) * 0.02
    return value.astype(np.float32)
