"""Benchmarks on made-up files: perfect and shifted poses, units, areas, duplicates, errors."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pose_nb.tables import benchmarks as B
from pose_nb.data.poses import Poses
from pose_nb.tables.benchmarks import Benchmark, only_images
from pose_nb.files import InputError, write_json

NAMED = {name: value for name, value in vars(B).items() if isinstance(value, Benchmark)}
ALL = {name: b for name, b in NAMED.items() if any(b is listed for listed in B.BENCHMARKS)}
PUBLISHED = {
    "COCO": "AP AR",
    "CROWDPOSE": "AP AR",
    "AIC": "AP AR",
    "HUMANART_DET": "AP AR",
    "HUMANART_GT": "AP AR",
    "MPII": "PCKh@0.5 PCKh@0.1",
    "JHMDB": "PCK tPCK",
    "POSETRACK18": "AP",
    "FACE_300W": "NMEcommon NMEchallenge NMEfull NMEtest",
    "AFLW": "NMEfull NMEfrontal",
    "COCO_WHOLEBODY_FACE": "NME",
    "COFW": "NME",
    "WFLW": "NMEtest NMEpose NMEillumination NMEocclusion NMEblur NMEmakeup NMEexpression",
}


def content(benchmark, seed=0):
    """Two people in each of three images, with the fields of all COCO-style formats at once, and
    MPII's list."""
    rng, K, items, rows = np.random.default_rng(seed), len(benchmark.skeleton), [], []
    for n in range(6):
        x, y = 60 + 280 * (n % 2), 60 + 20 * (n // 2)
        points = np.array([x, y]) + rng.uniform(0, 200, (K, 2))
        flat = np.c_[points, np.full(K, 2)].ravel().tolist()
        square = dict(bbox=[x, y, 200, 200], center=[x + 100, y + 100], scale=1.0, box_size=200.0)
        items.append(
            dict(
                id=n + 1,
                image_id=n // 2 + 1,
                category_id=1,
                keypoints=flat,
                area=20000.0,
                num_keypoints=K,
                iscrowd=0,
                face_box=square["bbox"],
                face_kpts=flat,
                face_valid=True,
                bbox_head=[x, y, 30, 40],
                **square,
            )
        )
        rows.append(
            dict(
                image=f"{n // 2 + 1:09d}.jpg",
                center=square["center"],
                scale=1.0,
                joints=points.tolist(),
                joints_vis=[1] * K,
            )
        )
    images = [
        dict(id=i, file_name=f"{i}.jpg", width=640, height=480, crowdIndex=0.35 * (i - 1))
        for i in (1, 2, 3)
    ]
    return (
        rows
        if benchmark.data.name == "mpii"
        else dict(images=images, annotations=items, categories=[dict(id=1, name="person")])
    )


def write(benchmark, root, value=None):
    value = content(benchmark) if value is None else value
    folder = root / benchmark.data.folder
    write_json(folder / benchmark.data.annotations["val"], value)
    if benchmark is B.POSETRACK18:
        write_json(folder / "annotations/val/video.json", value)
    return root


def load(benchmark, root):
    records = benchmark.load(root)
    if benchmark is B.MPII:
        records = replace(
            records, extra=records.extra | {"head_sizes": np.full(len(records), 40.0, np.float32)}
        )
    return records


def perfect(benchmark, records, shift=0.0, score=0.9):
    keypoints = (
        records.keypoints - np.float32(benchmark is B.MPII) + np.array([shift, 0], np.float32)
    )
    scores = np.full(keypoints.shape[:2], score, np.float32)
    areas = np.float32(1.25**2) * records.scales.prod(1)
    return Poses(keypoints, scores, records.boxes, areas, records.image_ids, records.skeleton)


def measure(benchmark, records, predictions, truth, nms=0.9):
    return benchmark.measure(records, predictions, truth, nms)


def test_tables():
    assert set(ALL) == set(PUBLISHED) and len(B.BENCHMARKS) == len(ALL)
    assert set(NAMED) - set(ALL) == {"MPII_AS_WRITTEN"}
    for name, benchmark in ALL.items():
        assert list(benchmark.splits) == PUBLISHED[name].split()
        assert set(benchmark.table_splits) <= set(benchmark.data.annotations)
        assert benchmark.boxes in ("annotated", "detector")
        assert benchmark.what in ("person", "face") and benchmark.licence.endswith(".")
        assert benchmark.table_boxes == "gt" or benchmark.data.detections
    assert (
        B.COCO.table_boxes == "det"
        and B.POSETRACK18.table_boxes == B.HUMANART_GT.table_boxes == "gt"
    )


def test_mpii_as_written_differs_in_training_targets_alone(tmp_path):
    """One row was trained on joints that count from 1, as its published figures say."""
    write_json(tmp_path / "annotations" / "mpii_train.json", content(B.MPII))
    usual, as_written = (b.load(tmp_path, "train") for b in (B.MPII, B.MPII_AS_WRITTEN))
    assert np.array_equal(usual.keypoints + 1, as_written.keypoints)
    assert np.array_equal(usual.centers, as_written.centers)
    write(B.MPII, tmp_path)
    usual, as_written = (b.load(tmp_path) for b in (B.MPII, B.MPII_AS_WRITTEN))
    assert np.array_equal(usual.keypoints, as_written.keypoints)


@pytest.mark.parametrize("name", PUBLISHED)
def test_perfect_and_shifted(name, tmp_path):
    benchmark = ALL[name]
    records, truth = load(benchmark, write(benchmark, tmp_path)), benchmark.truth(tmp_path)
    best, results = measure(benchmark, records, perfect(benchmark, records), truth)
    worse, _ = measure(benchmark, records, perfect(benchmark, records, 45), truth)
    assert best[benchmark.figure] == (
        0 if benchmark.measure.lower_is_better else 100 if benchmark.measure.percent else 1
    )
    assert benchmark.better(best[benchmark.figure], worse[benchmark.figure]) and benchmark.better(
        worse[benchmark.figure], None
    )
    assert not benchmark.better(best[benchmark.figure], best[benchmark.figure])
    assert len(results) == len(records) == 6
    json.dumps(results, allow_nan=False)
    json.dumps(best)
    table = benchmark.table_figures({split: best for split in benchmark.table_splits})
    assert list(table) == PUBLISHED[name].split()
    unit = 100 if benchmark.measure.percent and benchmark is not B.MPII else 1
    assert all(
        value == pytest.approx(0 if benchmark.measure.lower_is_better else unit)
        for value in table.values()
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_only_images(name, tmp_path):
    benchmark = ALL[name]
    records, truth = load(benchmark, write(benchmark, tmp_path)), benchmark.truth(tmp_path)
    some = records.subset(records.image_ids == 2)
    whole = json.dumps(truth)
    figures, _ = measure(
        benchmark, some, perfect(benchmark, some), only_images(truth, np.array([2]))
    )
    assert figures[benchmark.figure] == (
        0 if benchmark.measure.lower_is_better else 100 if benchmark.measure.percent else 1
    )
    assert json.dumps(truth) == whole  # a new truth, not a changed one
    if truth is not None and benchmark is not B.POSETRACK18:
        assert measure(benchmark, some, perfect(benchmark, some), truth)[0]["AP"] < 0.4


def test_faces_by_hand(tmp_path):
    for name, corners, percent in (
        ("FACE_300W", (36, 45), 100),
        ("COFW", (8, 9), 100),
        ("WFLW", (60, 72), 100),
        ("COCO_WHOLEBODY_FACE", (36, 45), 1),
    ):
        benchmark = ALL[name]
        records = benchmark.load(write(benchmark, tmp_path))
        eyes = np.linalg.norm(
            records.keypoints[:, corners[0]] - records.keypoints[:, corners[1]], axis=1
        )
        value = measure(benchmark, records, perfect(benchmark, records, 7), None)[0]["NME"]
        assert value == pytest.approx(percent * np.mean(7 / eyes), rel=1e-5)
    records = B.AFLW.load(write(B.AFLW, tmp_path))
    assert measure(B.AFLW, records, perfect(B.AFLW, records, 7), None)[0]["NME"] == pytest.approx(
        3.5, rel=1e-5
    )
    without = replace(records, extra={})
    assert measure(B.AFLW, without, perfect(B.AFLW, without, 7), None)[0]["NME"] == pytest.approx(
        3.5, rel=1e-5
    )


def test_results_are_in_the_files_own_counting(tmp_path):
    for benchmark in (B.MPII, B.JHMDB, B.COFW):
        raw = content(benchmark)
        records = load(benchmark, write(benchmark, tmp_path, raw))
        row = measure(benchmark, records, perfect(benchmark, records), None)[1][0]
        if benchmark is B.MPII:
            assert row["image"] == raw[0]["image"] and np.allclose(
                row["joints"], raw[0]["joints"], atol=1e-3
            )
        else:
            expected = np.array(raw["annotations"][0]["keypoints"]).reshape(-1, 3)[:, :2]
            assert row["id"] == 1 and np.allclose(
                np.array(row["keypoints"]).reshape(-1, 3)[:, :2], expected, atol=1e-3
            )


def test_area_rules(tmp_path):
    """AIC ignores the field area; COCO takes it, and 0.53 of the box where it is missing."""
    figures = {}
    for benchmark in (B.COCO, B.AIC):
        for area in (None, 2000.0, 20000.0):
            value = content(benchmark)
            for item in value["annotations"]:
                if area is None:
                    del item["area"]
                else:
                    item["area"] = area
            root = write(benchmark, tmp_path, value)
            records = benchmark.load(root)
            figures[benchmark.title, area] = measure(
                benchmark, records, perfect(benchmark, records, 4), benchmark.truth(root)
            )[0]["AP"]
    assert figures["COCO 2017", 2000.0] < figures["COCO 2017", 20000.0]
    assert (
        figures["AI Challenger", 2000.0]
        == figures["AI Challenger", 20000.0]
        == figures["AI Challenger", None]
    )


def test_unusual_annotations(tmp_path):
    value = content(B.COCO)
    value["annotations"] += [
        dict(id=50, image_id=1, category_id=1, bbox=[1, 1, 5, 5], area=9.0, iscrowd=0)
    ]
    value["categories"][0]["id"] = 7
    for item in value["annotations"]:
        item["category_id"] = 7
    records = B.COCO.load(write(B.COCO, tmp_path, value))
    figures, results = measure(B.COCO, records, perfect(B.COCO, records), B.COCO.truth(tmp_path))
    assert figures["AP"] == 1 and {r["category_id"] for r in results} == {7}
    figures, results = measure(
        B.COCO, records, perfect(B.COCO, records, score=0), B.COCO.truth(tmp_path)
    )
    assert figures["AP"] == 0 and not results  # poses without any score above 0 are no poses


def test_duplicates_cost_unless_removed(tmp_path):
    records, truth = B.COCO.load(write(B.COCO, tmp_path)), B.COCO.truth(tmp_path)
    double = records.subset([0, 0, 1, 2, 3, 4, 5])
    double.ids[:] = np.arange(7)
    predictions = perfect(B.COCO, double)
    predictions.scores[2:] = 0.5
    (kept, many), (removed, few) = (
        measure(B.COCO, double, predictions, truth, nms) for nms in (None, 0.9)
    )
    assert kept["AP"] < removed["AP"] == 1 and (len(many), len(few)) == (7, 6)


def test_errors(tmp_path):
    records = B.MPII.load(write(B.MPII, tmp_path))
    with pytest.raises(InputError, match="mpii_gt_val.mat"):
        measure(B.MPII, records, perfect(B.MPII, records), None)
    records = B.COFW.load(write(B.COFW, tmp_path))
    with pytest.raises(InputError, match="one pose per record"):
        measure(B.COFW, records.subset([0]), perfect(B.COFW, records), None)
    records.visible[:] = 0
    with pytest.raises(InputError, match="no labelled keypoint.*boxes='gt'"):
        measure(B.COFW, records, perfect(B.COFW, records), None)
    records = B.COCO.load(write(B.COCO, tmp_path))
    with pytest.raises(InputError, match="Benchmark.truth"):
        measure(B.COCO, records, perfect(B.COCO, records), None)
    with pytest.raises(InputError, match="no detector's boxes"):
        B.AIC.load(write(B.AIC, tmp_path), boxes="det")
    with pytest.raises(InputError, match="has no split"):
        B.COCO.truth(tmp_path, "vall")
    broken = content(B.COCO)
    del broken["annotations"][0]["bbox"]
    with pytest.raises(InputError, match="annotation 1: bbox is None"):
        measure(B.COCO, records, perfect(B.COCO, records), broken)
    write(B.POSETRACK18, tmp_path)
    (tmp_path / "posetrack18/annotations/val/video.json").unlink()
    with pytest.raises(InputError, match="per-video files"):
        B.POSETRACK18.truth(tmp_path)
