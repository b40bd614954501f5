"""Geometric augmentation with given draws against recorded figures, and its laws."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from data_images import picture
from pose_nb import skeletons
from pose_nb.data.augment import (
    BODY,
    BODY_MILD,
    SHIFT_MILD,
    WHOLE,
    WHOLE_MILD,
    Augment,
    Draws,
    half_body,
    mirror_image,
    mirror_points,
    truncated_normal,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "data.json").read_text())
SKELETONS = {s.name: s for s in skeletons.ALL}
OFF = dict(flip=0.0, half_body=0.0, shift=0.0, scale=(1.0, 1.0), rotate=0.0)


@pytest.mark.parametrize("case", GOLDEN["flip"], ids=lambda c: c["dataset"])
def test_flip(case):
    skeleton, W, box = SKELETONS[case["dataset"]], case["W"], np.float32(case["bbox_xyxy"])
    draws = Draws(0.499, 1, 1, 1, 1, 1, (0.0, 0.0, 0.0, 0.0))
    flipped, center, scale, _, keypoints, visible = Augment(**OFF | dict(flip=0.5)).apply(
        draws,
        skeleton,
        W,
        (box[:2] + box[2:]) / 2,
        box[2:] - box[:2],
        np.float32(case["keypoints"]),
        np.float32(case["visible"]),
    )
    out = case["out"]
    assert (
        flipped
        and np.allclose(keypoints, out["keypoints"], atol=1e-4)
        and visible.tolist() == out["visible"]
    )
    assert np.allclose(center, out["bbox_center"], atol=1e-4) and np.allclose(
        np.concatenate([center - scale / 2, center + scale / 2]), out["bbox"], atol=1e-4
    )
    assert (
        hashlib.sha256(
            mirror_image(picture(case["image_seed"], case["H"], W)).tobytes()
        ).hexdigest()
        == out["img_sha256"]
    )


@pytest.mark.parametrize(
    "case", GOLDEN["half_body"], ids=lambda c: f"{c['dataset']}-{c['u_apply']}-{c['u_upper']}"
)
def test_half_body(case):
    draws = Draws(1, case["u_apply"], case["u_upper"], 1, 1, 1, (0.0, 0.0, 0.0, 0.0))
    _, center, scale, *_ = Augment(**OFF | dict(half_body=0.3)).apply(
        draws,
        SKELETONS[case["dataset"]],
        500,
        np.float32(case["center_in"]),
        np.float32(case["scale_in"]),
        np.float32(case["keypoints"]),
        np.float32(case["visible"]),
    )
    assert np.allclose(center, case["center"], rtol=1e-5) and np.allclose(
        scale, case["scale"], rtol=1e-5
    )


@pytest.mark.parametrize(
    "case", GOLDEN["box_transform"], ids=lambda c: f"{c['options']}-{c['u_shift']}"
)
def test_box_transform(case):
    o = case["options"]
    augment = Augment(
        flip=0,
        half_body=0,
        shift=o.get("shift_factor", 0.16),
        shift_prob=o.get("shift_prob", 0.3),
        scale=tuple(o.get("scale_factor", (0.5, 1.5))),
        rotate=o.get("rotate_factor", 80),
    )
    draws = Draws(
        1, 1, 1, case["u_shift"], case["u_scale"], case["u_rotate"], tuple(case["trunc_normal"])
    )
    _, center, scale, rotation, *_ = augment.apply(
        draws,
        skeletons.COCO,
        500,
        np.float32(case["center_in"]),
        np.float32(case["scale_in"]),
        np.zeros((17, 2), np.float32),
        np.ones(17, np.float32),
    )
    assert np.allclose(center, case["center"], rtol=1e-5) and np.allclose(
        scale, case["scale"], rtol=1e-5
    )
    assert abs(rotation - case["rotation"]) <= 1e-5 * (1 + abs(case["rotation"]))


def test_truncated_normal_follows_its_law():
    law, x = GOLDEN["truncated_normal"], truncated_normal(np.random.default_rng(3), 400_000)
    assert (
        np.abs(x).max() <= 1
        and abs(x.mean() - law["mean"]) < 0.003
        and abs(x.std() - law["std"]) < 0.002
    )
    assert abs(np.mean(np.abs(x) < 0.5) - law["p_abs_below_half"]) < 0.003
    from math import erf, sqrt

    cdf = np.array(
        [(erf(v / sqrt(2)) + erf(1 / sqrt(2))) / (2 * erf(1 / sqrt(2))) for v in np.sort(x)[::400]]
    )
    assert np.abs(cdf - np.arange(len(cdf)) / len(cdf)).max() < 0.004, (
        "Kolmogorov-Smirnov distance to the law"
    )


def test_laws_of_a_whole_augmentation():
    rng, rows, visible = np.random.default_rng(0), [], np.ones(17, np.float32)
    keypoints = np.random.default_rng(1).uniform(50, 150, (17, 2)).astype(np.float32)
    center, scale = np.float32([100, 100]), np.float32([100, 200])
    for _ in range(6000):
        draws = BODY.draw(rng)
        _, c, s, angle, *_ = BODY.apply(
            draws._replace(flip=1.0, half=1.0),
            skeletons.COCO,
            300,
            center,
            scale,
            keypoints,
            visible,
        )
        rows.append(
            [
                *(c - center) / scale,
                s[0] / scale[0],
                angle,
                draws.flip < 0.5,
                draws.half <= 0.3,
                draws.upper < 0.7,
            ]
        )
    dx, dy, factor, angle, flip, half, upper = np.array(rows).T
    assert (
        abs(np.mean(dx != 0) - 0.3) < 0.02
        and np.abs(dx).max() <= 0.16 + 1e-6
        and abs(dx[dx != 0].std() / 0.16 - 0.5396) < 0.03
    )
    assert abs(np.corrcoef(dx[dx != 0], dy[dx != 0])[0, 1]) < 0.08
    assert (
        abs(factor.mean() - 1) < 0.01
        and abs(factor.std() - 0.5396 / 2) < 0.01
        and 0.5 <= factor.min()
        and factor.max() <= 1.5
    )
    assert (
        abs(np.mean(angle != 0) - 0.6) < 0.02 and abs(angle[angle != 0].std() - 0.5396 * 80) < 1.5
    )
    assert (
        abs(flip.mean() - 0.5) < 0.02
        and abs(half.mean() - 0.3) < 0.02
        and abs(upper.mean() - 0.7) < 0.02
    )


def test_rows_constants():
    get = lambda a: (a.flip, a.half_body, a.shift if a.shift_prob else 0.0, a.scale, a.rotate)
    assert get(BODY) == (0.5, 0.3, 0.16, (0.5, 1.5), 80) and get(BODY_MILD) == (
        0.5,
        0.3,
        0.16,
        (0.75, 1.25),
        60,
    )
    assert get(WHOLE) == (0.5, 0.0, 0.0, (0.5, 1.5), 80) and get(WHOLE_MILD) == (
        0.5,
        0.0,
        0.0,
        (0.75, 1.25),
        60,
    )
    assert get(SHIFT_MILD) == (0.5, 0.0, 0.16, (0.75, 1.25), 60)


@pytest.mark.parametrize("skeleton", skeletons.ALL, ids=lambda s: s.name)
def test_mirror_twice(skeleton):
    points = np.random.default_rng(0).uniform(0, 99, (len(skeleton), 2)).astype(np.float32)
    assert np.allclose(
        mirror_points(
            mirror_points(points, 100, skeleton.flip_indices), 100, skeleton.flip_indices
        ),
        points,
        atol=1e-4,
    )


def test_half_body_of_one_place_is_left_out():
    assert (
        half_body(
            np.full((17, 2), 5.0),
            np.ones(17),
            skeletons.COCO.upper_ids,
            skeletons.COCO.lower_ids,
            True,
        )
        is None
    )


def test_faces_never_get_half_a_body():
    s = skeletons.WFLW
    out = Augment(**OFF | dict(half_body=1.0)).apply(
        Draws(1, 0, 0, 1, 1, 1, (0.0,) * 4),
        s,
        100,
        np.float32([5, 5]),
        np.float32([9, 9]),
        np.random.default_rng(0).random((98, 2)).astype(np.float32),
        np.ones(98, np.float32),
    )
    assert out[2].tolist() == [9, 9]
