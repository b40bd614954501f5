"""PoseTrack18's AP against figures recorded from the poseval toolkit."""

import json
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
    videos = list(case["gt"].values())
    results = [a for video in case["pred"].values() for a in video["annotations"]]
    arrays, figures = posetrack_tables(videos, results), posetrack_ap(videos, results)
    assert arrays["frames"] == case["n_frames_after_cleanup"]
    assert list(JOINTS) == case["joint_order"][:15]
    recorded = {"ap": "ap", "precision": "precision_at_end", "recall": "recall_at_end"}
    for ours, theirs in recorded.items():
        found = np.append(arrays[ours], np.nanmean(arrays[ours]))
        expected = np.array(case[theirs], float)
        assert np.allclose(found, expected, rtol=0, atol=1e-6, equal_nan=True), ours
    assert figures == pytest.approx(case["groups"], abs=1e-6)
    assert list(GROUPS) == [k.split()[0] for k in case["groups"]][:7]


def test_figures_are_as_recorded():
    check(GOLDEN)


def test_the_whole_recording(reference):
    file = reference / "components" / "golden" / "posetrack_ap.json"
    cases = json.loads(file.read_text())["cases"]
    assert len(cases) == 3
    for case in cases:
        check(case)


def test_ignore_regions_are_noticed():
    images = [im for video in GOLDEN["gt"].values() for im in video["images"]]
    assert any("ignore_regions_x" in im for im in images)
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
        expected = [shape.contains(geometry.Point(p)) for p in points]
        assert inside_polygon(points, polygon).tolist() == expected


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


@pytest.mark.parametrize("hits, expected", [([1, 0], 1.0), ([0, 1], 0.5)])
def test_the_first_of_equal_scores_counts_first(hits, expected):
    assert average_precision([0.5, 0.5], hits, 1)[0] == expected
