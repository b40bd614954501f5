"""NME as recorded from MMPose 1.3.2, and the errors that COFW68's authors published."""

import json
from pathlib import Path

import numpy as np
import pytest

from pose_nb.metrics.nme import (
    EYES_68,
    EYES_COFW,
    EYES_WFLW,
    box_size,
    eye_centre_distance,
    eye_distance,
    face_errors,
    failure_rate,
    nme,
    occlusion_precision_recall,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics_points.json").read_text())
EYES = {"300w": EYES_68, "coco_wholebody_face": EYES_68, "cofw": EYES_COFW, "wflw": EYES_WFLW}
PUBLISHED = {  # error and success rate of all landmarks, and of the visible ones
    "HPM_HelenLfpw_COFW68test": (0.0940, 72.39, 0.0793, 87.57),
    "SAPM_COFW68": (0.0929, 71.20, 0.0800, 86.79),
    "CFSS_CFOW68": (0.0880, 78.11, 0.0730, 89.94),
    "TCDCN_CFOW68": (0.1072, 58.97, 0.0983, 69.03),
    "RCPR-occ_300w": (0.1227, 57.59, 0.1144, 67.85),
}


def check_set(case):
    if case["dataset"] == "aflw":
        size = box_size(case["bbox_xyxy"])
    else:
        size = eye_distance(case["gt"], EYES[case["dataset"]])
    found = nme(case["pred"], case["gt"], case["visible"], size)
    assert found == pytest.approx(case["result"]["NME"], abs=1e-6)


def check_primitive(case):
    pred, truth, mask, norm = (np.array(case[k]) for k in ("pred", "gt", "mask", "norm"))
    assert nme(pred, truth, mask, norm) == pytest.approx(case["nme"], abs=1e-6)


@pytest.mark.parametrize("case", GOLDEN["nme"], ids=lambda c: c["dataset"])
def test_each_set_is_as_recorded(case):
    check_set(case)


def test_masked_landmarks_are_as_recorded():
    check_primitive(GOLDEN["primitives"])


def test_the_whole_recording(reference):
    file = reference / "components" / "golden" / "metrics_points.json"
    golden = json.loads(file.read_text())
    check_primitive(golden["primitives"])
    for case in golden["nme"]:
        check_set(case)


def test_the_comparison_can_fail():
    with pytest.raises(AssertionError):
        check_set(GOLDEN["nme"][0] | {"gt": GOLDEN["nme"][0]["pred"]})


def read_results(file):
    """Predictions (N, 68, 2) and occlusion flags (N, 68) of a COFW68 result file, by image."""
    lines = [line for line in file.read_text().split("\n") if line.strip()]
    rows = [np.array(line.split(), float) for line in lines]
    order = np.argsort([r[0] for r in rows[0::4]])
    points = np.stack([np.stack(rows[1::4]), np.stack(rows[2::4])], -1)
    return points[order], np.stack(rows[3::4])[order]


def test_cofw68_is_as_its_authors_published(samples):
    from scipy.io import loadmat

    folder = samples / "cofw68"
    expected = json.loads((folder / "reference_numbers.json").read_text())
    files = (folder / "COFW68_Data" / "test_annotations").glob("*_points.mat")
    mats = [loadmat(f) for f in sorted(files, key=lambda f: int(f.stem.split("_")[0]))]
    truth = np.stack([m["Points"] for m in mats])
    occluded = np.stack([m["Occ"].ravel() for m in mats])
    size = eye_centre_distance(truth)
    for name, row in PUBLISHED.items():
        pred, flags = read_results(folder / "Results" / f"{name}.txt")
        got = []
        for visible in (np.ones_like(occluded), occluded == 0):
            errors = face_errors(pred, truth, visible, size)
            got += [round(float(errors.mean()), 4), round(100 * (1 - failure_rate(errors)), 2)]
        assert got == pytest.approx(row, abs=1e-9), name
        recorded = [expected[name][f"occ_{what}_pct"] for what in ("precision", "recall")]
        flagged = 100 * np.array(occlusion_precision_recall(flags, occluded))
        assert flagged == pytest.approx(recorded, abs=1e-6)


@pytest.mark.parametrize("K", [1, 5, 98])
def test_any_number_of_landmarks_is_a_plain_loop(K):
    rng = np.random.default_rng(K)
    truth = rng.uniform(0, 100, (50, K, 2)).astype(np.float32)
    pred, mask = truth + rng.normal(0, 5, truth.shape).astype(np.float32), rng.random((50, K)) < 0.7
    norm = rng.uniform(10, 50, 50).astype(np.float32)
    counted = zip(*np.nonzero(mask))
    loop = [np.linalg.norm(pred[n, k] - truth[n, k]) / norm[n] for n, k in counted]
    assert nme(pred, truth, mask, norm) == pytest.approx(np.mean(loop), rel=1e-5)
    full = np.ones_like(mask)  # all labelled: the mean of faces is the mean of landmarks
    by_face = face_errors(pred, truth, full, norm).mean()
    assert by_face == pytest.approx(nme(pred, truth, full, norm), rel=1e-5)


def test_nothing_labelled_is_no_error():
    one = np.zeros((1, 1, 2))
    assert nme(one, one, [[0]], [1.0]) == 0
