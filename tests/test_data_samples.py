"""Real samples of all twelve sets: records, crops and figures as they were recorded.

The samples and the figures (of MMPose 1.3.2) are not in the project; see conftest.py.
"""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from pose_nb.data.crop import normalise
from pose_nb.data.inputs import read_image
from pose_nb.data.loader import PoseDataset
from pose_nb.data.poses import Poses
from pose_nb.tables import benchmarks as B
from pose_nb.tables.sets import MPII_HEADS, SETS

# recorded case -> the benchmark that its figures belong to
CASES = {
    "coco_gt": B.COCO,
    "coco_det": B.COCO,
    "crowdpose_gt": B.CROWDPOSE,
    "crowdpose_det": B.CROWDPOSE,
    "aic_gt": B.AIC,
    "humanart_gt": B.HUMANART_GT,
    "humanart_det": B.HUMANART_DET,
    "mpii": B.MPII,
    "jhmdb": B.JHMDB,
    "posetrack18_gt": B.POSETRACK18,
    "posetrack18_det": B.POSETRACK18,
    "300w": B.FACE_300W,
    "aflw": B.AFLW,
    "coco_wholebody_face": B.COCO_WHOLEBODY_FACE,
    "cofw": B.COFW,
    "wflw": B.WFLW,
}
CROPS = [*CASES, "coco_gt_udp", "jhmdb_368"]
HEADS = "mpii/synthetic_mpii_headboxes.mat"

pytestmark = pytest.mark.filterwarnings("ignore:.*look like x1, y1, x2, y2")


def recorded(reference, name, key):
    """The recorded cases of a file, by tag."""
    content = json.loads((reference / "components" / "golden" / name).read_text())
    return {case["tag"]: case for case in content[key]}


def load(case, samples):
    """Records of one recorded case, from the sample files."""
    root, data, files = samples / "samples", SETS[case["dataset"]], case["files"]
    images = root / ("coco" if data.name == "coco_wholebody_face" else data.name)
    more = {"head_file": root / HEADS} if data.name == "mpii" else {}
    boxes = root / files["bbox_file"] if "bbox_file" in files else "gt"
    min_score = files.get("filter_cfg", {}).get("bbox_score_thr")
    return data.read(root / files["ann_file"], images, data.skeleton, boxes, min_score, **more)


def test_all_cases_are_tried(reference):
    assert set(recorded(reference, "dataset_parse.json", "datasets")) == set(CASES)
    assert set(recorded(reference, "preprocess_real.json", "cases")) == set(CROPS)
    assert {b.data.name for b in CASES.values()} == set(SETS)


# ---------------------------------------------------------------- records

FIELDS = {
    "bbox_xyxy": "boxes",
    "bbox_score": "box_scores",
    "keypoints": "keypoints",
    "visible": "visible",
    "area": "areas",
    "bbox_center": "centers",
    "bbox_scale": "scales",
}
EXTRA = {
    "num_keypoints": "num_keypoints",
    "crowd_index": "crowd_index",
    "head_size": "head_sizes",
    "box_size": "box_size",
}


@pytest.mark.parametrize("tag", CASES)
def test_records(tag, reference, samples):
    case = recorded(reference, "dataset_parse.json", "datasets")[tag]
    records = load(case, samples)
    assert len(records) == case["n_samples"]
    for i, sample in enumerate(case["samples"]):
        assert (records.ids[i], records.image_ids[i]) == (sample["id"], sample["img_id"])
        assert Path(records.image_files[i]) == samples / "samples" / sample["file"]
        ours = {name: getattr(records, field)[i] for name, field in FIELDS.items()}
        ours |= {n: records.extra[field][i] for n, field in EXTRA.items() if n in sample}
        for name in set(ours) & set(sample):
            value, expected = np.asarray(ours[name], float), np.asarray(sample[name], float)
            assert np.allclose(value, expected, rtol=1e-5, atol=1e-5), name


# ---------------------------------------------------------------- crops


@pytest.mark.parametrize("tag", CROPS)
def test_crops(tag, reference, samples):
    case = recorded(reference, "preprocess_real.json", "cases")[tag]
    source = tag.replace("_udp", "").replace("_368", "")
    records = load(recorded(reference, "dataset_parse.json", "datasets")[source], samples)
    dataset = PoseDataset(records, case["input_size"], udp=case["use_udp"])
    for sample in case["samples"]:
        i = int(np.flatnonzero(records.ids == sample["id"])[0])
        raw, item = read_image(records.image_files[i]), dataset[i]
        bgr = np.ascontiguousarray(raw[..., ::-1]).tobytes()
        assert hashlib.sha256(bgr).hexdigest() == sample["raw_sha256_bgr"]
        assert np.array_equal(item["center"].numpy(), np.float32(sample["input_center"]))
        assert np.array_equal(item["scale"].numpy(), np.float32(sample["input_scale"]))
        crop = item["image"].permute(1, 2, 0).numpy()[..., ::-1].astype(int)
        pixels = np.array(sample["pixels_y_x_bgr"])
        assert np.abs(crop[pixels[:, 0], pixels[:, 1]] - pixels[:, 2:]).max() <= 1
        assert np.abs(crop.mean((0, 1)) - sample["crop_mean_bgr"]).max() < 0.01
        sums = normalise(item["image"]).double().sum((1, 2)).numpy()
        assert np.allclose(sums, sample["normalised_sum_per_channel_rgb"], rtol=1e-3)


# ---------------------------------------------------------------- figures

FILES = {
    "coco": ("coco/test_coco.json", "coco/test_coco_det_AP_H_56.json"),
    "mpii": ("mpii/test_mpii.json", None),
    "crowdpose": ("crowdpose/test_crowdpose.json", "crowdpose/test_crowdpose_det_AP_40.json"),
    "aic": ("aic/test_aic.json", None),
    "jhmdb": ("jhmdb/test_jhmdb_sub1.json", None),
    "posetrack18": (
        "posetrack18/annotations/test_posetrack18_val.json",
        "posetrack18/annotations/test_posetrack18_human_detections.json",
    ),
    "humanart": ("humanart/test_humanart.json", "humanart/test_humanart_det_AP_H_56.json"),
    "300w": ("300w/test_300w.json", None),
    "aflw": ("aflw/test_aflw.json", None),
    "coco_wholebody_face": ("coco_wholebody_face/test_coco_wholebody.json", None),
    "cofw": ("cofw/test_cofw.json", None),
    "wflw": ("wflw/test_wflw.json", None),
}


@pytest.fixture(scope="module")
def layout(samples, tmp_path_factory):
    """The samples under the names that the complete data sets have."""
    root = tmp_path_factory.mktemp("layout")
    videos = "posetrack18/annotations/val"
    links = {f"mpii/{MPII_HEADS}": HEADS, videos: videos}
    for data in SETS.values():
        annotations, detections = FILES[data.name]
        links[f"{data.folder}/{data.annotations['val']}"] = annotations
        if detections:
            links[f"{data.folder}/{data.detections}"] = detections
    for link, target in links.items():
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(samples / "samples" / target)
    return root


def poses_of(case, benchmark, records):
    """The recorded predictions in the order of the records."""
    row = {number: i for i, number in enumerate(case["order_of_ids"])}
    assert set(row) == set(records.ids.tolist())
    order = [row[i] for i in records.ids.tolist()]
    square = benchmark.what == "face" or benchmark.data.name in ("mpii", "jhmdb")
    w, h = (256, 256) if square else (192, 256)
    sw, sh = (np.float32(1.25) * records.scales).T
    areas = np.where(sw > w / h * sh, sw * sw * h / w, w / h * sh * sh).astype(np.float32)
    points = np.array(case["pred_keypoints"], np.float32)[order]
    scores = np.array(case["pred_scores"], np.float32)[order]
    return Poses(points, scores, records.boxes, areas, records.image_ids, records.skeleton)


COCO_NAMES = {"AP(E)": "APE", "AP(M)": "APM", "AP(H)": "APH"} | {
    f"{a}{b}": f"{a}{c}"
    for a in ("AP", "AR")
    for b, c in (("", ""), (" .5", "50"), (" .75", "75"), (" (M)", "M"), (" (L)", "L"))
}
MPII_NAMES = {"PCK": "PCKh@0.5", "PCK@0.1": "PCKh@0.1"}


def expected_figures(case, benchmark):
    """The recorded figures in our names and units."""
    figures = case["result"]
    if benchmark is B.MPII:
        return {MPII_NAMES.get(k, k.removesuffix(" PCK")): v for k, v in figures.items()}
    if benchmark is B.POSETRACK18:
        return figures
    if benchmark.figure == "AP":
        return {COCO_NAMES[k]: v for k, v in figures.items()}
    return {k: v * (100 if benchmark.measure.percent else 1) for k, v in figures.items()}


@pytest.mark.parametrize("tag", CASES)
def test_figures(tag, reference, layout):
    benchmark, case = CASES[tag], recorded(reference, "metrics_real.json", "cases")[tag]
    records = benchmark.load(layout, boxes="det" if tag.endswith("_det") else "gt")
    poses, truth = poses_of(case, benchmark, records), benchmark.truth(layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figures, results = benchmark.measure(records, poses, truth, nms=0.9)
    tolerance = 1e-5 if benchmark.measure.percent else 1e-6
    assert figures == pytest.approx(expected_figures(case, benchmark), abs=tolerance)
    assert len(results) == case.get("n_after_nms", len(results))
    json.dumps(results, allow_nan=False)
