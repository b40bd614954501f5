"""PoseTrack18's AP against figures recorded from the poseval toolkit."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pose_nb.metrics.posetrack import (
    GROUPS,
    JOINTS,
    average_precision,
    inside_polygon,
    posetrack_ap,
    posetrack_tables,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics_posetrack.json").read_text())


def check(case):
    videos, results = (
        list(case["gt"].values()),
        [a for video in case["pred"].values() for a in video["annotations"]],
    )
    tables, figures = posetrack_tables(videos, results), posetrack_ap(videos, results)
    assert (
        tables["frames"] == case["n_frames_after_cleanup"]
        and list(JOINTS) == case["joint_order"][:15]
    )
    for ours, theirs in (
        ("ap", "ap"),
        ("precision", "precision_at_end"),
        ("recall", "recall_at_end"),
    ):
        expected = np.array(case[theirs], float)
        assert np.allclose(
            np.append(tables[ours], np.nanmean(tables[ours])),
            expected,
            rtol=0,
            atol=1e-6,
            equal_nan=True,
        ), ours
    assert (
        figures == pytest.approx(case["groups"], abs=1e-6)
        and list(GROUPS) == [k.split()[0] for k in case["groups"]][:7]
    )


def test_recorded_figures():
    check(GOLDEN)


def test_all_recorded_figures():
    folder = os.environ.get("POSE_NB_REFERENCE")
    if not folder:
        pytest.skip("set POSE_NB_REFERENCE=<folder of the recorded figures> to run")
    cases = json.loads((Path(folder) / "components" / "golden" / "posetrack_ap.json").read_text())[
        "cases"
    ]
    assert len(cases) == 3
    for case in cases:
        check(case)


def test_the_comparison_can_fail():
    for video in GOLDEN["gt"].values():
        if any("ignore_regions_x" in image for image in video["images"]):
            break
    bare = {
        name: video | {"images": [{"id": im["id"]} for im in video["images"]]}
        for name, video in GOLDEN["gt"].items()
    }
    with pytest.raises(AssertionError):
        check(GOLDEN | {"gt": bare})


def test_polygons_agree_with_shapely():
    geometry = pytest.importorskip("shapely.geometry")
    rng = np.random.default_rng(0)
    points = rng.integers(0, 12, (200, 2)).astype(float)
    for _ in range(20):
        around = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        polygon = (
            6 + rng.integers(2, 6, len(around))[:, None] * np.c_[np.cos(around), np.sin(around)]
        ).round()
        shape = geometry.Polygon(polygon)
        if not shape.is_valid:
            continue
        assert inside_polygon(points, polygon).tolist() == [
            shape.contains(geometry.Point(p)) for p in points
        ]


def test_average_precision_is_a_plain_loop():
    rng = np.random.default_rng(1)
    for _ in range(50):
        n = rng.integers(1, 30)
        scores, hits = rng.random(n), rng.random(n) < 0.5
        total, right, area, curve = hits.sum() + rng.integers(1, 4), 0, 0.0, []
        for i, k in enumerate(np.argsort(-scores)):
            right += hits[k]
            curve.append((right / total, right / (i + 1)))
        for i, (recall, _) in enumerate(curve):
            area += (recall - (curve[i - 1][0] if i else 0)) * max(p for _, p in curve[i:])
        assert average_precision(scores, hits, total)[0] == pytest.approx(area)
