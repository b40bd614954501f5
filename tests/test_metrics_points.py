"""PCK, PCKh, JHMDB, AUC, EPE and NME against figures recorded from MMPose 1.3.2 and published by data set authors."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pose_nb.files import InputError
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
from pose_nb.metrics.pck import (
    auc,
    epe,
    head_sizes,
    jhmdb_pck,
    mpii_pckh,
    normalized_distances,
    pck,
    read_mpii_mat,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics_points.json").read_text())
EYES = {"300w": EYES_68, "coco_wholebody_face": EYES_68, "cofw": EYES_COFW, "wflw": EYES_WFLW}


def reference():
    folder = os.environ.get("POSE_NB_REFERENCE")
    if not folder:
        pytest.skip("set POSE_NB_REFERENCE=<folder of the recorded figures> to run")
    return json.loads((Path(folder) / "components" / "golden" / "metrics_points.json").read_text())


def samples(part):
    folder = os.environ.get("POSE_NB_SAMPLES")
    if not folder:
        pytest.skip("set POSE_NB_SAMPLES=<folder of data samples> to run")
    return Path(folder) / part


def check_primitives(case):
    pred, truth, mask, norm = (np.array(case[k]) for k in ("pred", "gt", "mask", "norm"))
    for expected in case["pck"]:
        each, mean = pck(pred, truth, mask, norm, expected["thr"])
        assert np.abs(each - expected["per_keypoint"]).max() < 1e-6 and mean == pytest.approx(
            expected["avg"], abs=1e-6
        )
        assert (each >= 0).sum() == expected["count"]
    assert nme(pred, truth, mask, norm) == pytest.approx(case["nme"], abs=1e-6)
    assert auc(pred, truth, mask, 30) == pytest.approx(case["auc_norm30"], abs=1e-6)
    assert epe(pred, truth, mask) == pytest.approx(case["epe"], rel=1e-6)


def check_mpii(case):
    figures = mpii_pckh(
        np.array(case["pred"]), case["gt_1based"], case["visible"], case["head_size"]
    )
    expected = case["result"]
    assert figures["PCKh@0.5"] == pytest.approx(expected["PCK"], abs=1e-6)
    assert figures["PCKh@0.1"] == pytest.approx(expected["PCK@0.1"], abs=1e-6)
    for row in ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"):
        assert figures[row] == pytest.approx(expected[f"{row} PCK"], abs=1e-6)


def check_jhmdb(case):
    assert jhmdb_pck(
        case["pred"], case["gt"], case["visible"], case["bbox_xyxy"], case["thr"]
    ) == pytest.approx(case["result"], abs=1e-6)


def check_nme(case):
    size = (
        box_size(case["bbox_xyxy"])
        if case["dataset"] == "aflw"
        else eye_distance(case["gt"], EYES[case["dataset"]])
    )
    assert nme(case["pred"], case["gt"], case["visible"], size) == pytest.approx(
        case["result"]["NME"], abs=1e-6
    )


def test_primitives():
    check_primitives(GOLDEN["primitives"])


def test_mpii():
    check_mpii(GOLDEN["mpii_pckh"])


def test_jhmdb():
    check_jhmdb(GOLDEN["jhmdb"])


@pytest.mark.parametrize("case", GOLDEN["nme"], ids=lambda c: c["dataset"])
def test_nme(case):
    check_nme(case)


def test_all_recorded_figures():
    golden = reference()
    check_primitives(golden["primitives"])
    check_mpii(golden["mpii_pckh"])
    check_jhmdb(golden["jhmdb"])
    for case in golden["nme"]:
        check_nme(case)


def test_the_comparison_can_fail():
    case = GOLDEN["mpii_pckh"]
    with pytest.raises(AssertionError):
        check_mpii(case | {"pred": (np.array(case["pred"]) + 1).tolist()})
    with pytest.raises(AssertionError):
        check_nme(GOLDEN["nme"][0] | {"gt": GOLDEN["nme"][0]["pred"]})


def test_mpii_validation_set():
    """All 2,958 people, a real set of predictions, against figures computed elsewhere from the same
    files."""
    mat = read_mpii_mat(samples("mpii_pckh") / "detections_our_format.mat")
    expected = json.loads((samples("mpii_pckh") / "reference_numbers.json").read_text())
    sizes = head_sizes(mat["head_boxes"])
    figures = mpii_pckh(mat["pred"] - 1, mat["truth"], mat["visible"], sizes)
    each, _ = pck(mat["pred"], mat["truth"], mat["visible"], sizes, 0.5)
    joints = [
        j for j in range(16) if j not in (6, 7)
    ]  # the file has no figures for pelvis and thorax
    assert np.allclose(
        100 * each[joints], np.array(list(expected["per_joint"].values()))[joints], atol=1e-6
    )
    assert np.array(mat["visible"]).sum(0).tolist() == list(expected["visible_counts"].values())
    for row in ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"):
        assert figures[row] == pytest.approx(expected["summary"][row.lower()], abs=1e-6)
    assert figures["PCKh@0.5"] == pytest.approx(expected["summary"]["mean_weighted14"], abs=1e-6)
    assert figures["PCKh@0.1"] == pytest.approx(
        expected["summary"]["mean_weighted14@0.1"], abs=1e-6
    )


def test_cofw68_published_errors():
    """Five prediction files of COFW68 against the error and success rate in the authors' own
    figures."""
    from scipy.io import loadmat

    folder = samples("cofw68")
    expected = json.loads((folder / "reference_numbers.json").read_text())
    files = sorted(
        (folder / "COFW68_Data" / "test_annotations").glob("*_points.mat"),
        key=lambda f: int(f.stem.split("_")[0]),
    )
    mats = [loadmat(f) for f in files]
    truth, occluded = (
        np.stack([m["Points"] for m in mats]),
        np.stack([m["Occ"].ravel() for m in mats]),
    )
    size = eye_centre_distance(truth)
    published = {
        "HPM_HelenLfpw_COFW68test": (0.0940, 72.39, 0.0793, 87.57),
        "SAPM_COFW68": (0.0929, 71.20, 0.0800, 86.79),
        "CFSS_CFOW68": (0.0880, 78.11, 0.0730, 89.94),
        "TCDCN_CFOW68": (0.1072, 58.97, 0.0983, 69.03),
        "RCPR-occ_300w": (0.1227, 57.59, 0.1144, 67.85),
    }
    for name, row in published.items():
        lines = (folder / "Results" / f"{name}.txt").read_text().split("\n")
        rows = [np.array(line.split(), float) for line in lines if line.strip()]
        order = np.argsort([r[0] for r in rows[0::4]])
        pred, flags = (
            np.stack([np.stack(rows[1::4]), np.stack(rows[2::4])], -1)[order],
            np.stack(rows[3::4])[order],
        )
        got = []
        for visible in (np.ones_like(occluded), occluded == 0):
            errors = face_errors(pred, truth, visible, size)
            got += [round(float(errors.mean()), 4), round(100 * (1 - failure_rate(errors)), 2)]
        assert tuple(got) == pytest.approx(row, abs=1e-9), name
        assert 100 * np.array(occlusion_precision_recall(flags, occluded)) == pytest.approx(
            [expected[name]["occ_precision_pct"], expected[name]["occ_recall_pct"]], abs=1e-6
        )


@pytest.mark.parametrize("K", [1, 2, 5, 17, 68, 133])
def test_any_number_of_keypoints(K):
    rng = np.random.default_rng(K)
    truth = rng.uniform(0, 100, (50, K, 2)).astype(np.float32)
    pred, mask = truth + rng.normal(0, 5, truth.shape).astype(np.float32), rng.random((50, K)) < 0.7
    norm = rng.uniform(10, 50, 50).astype(np.float32)
    each, mean = pck(pred, truth, mask, norm, 0.2)
    for k in range(K):  # plain loops give the same
        right = [
            np.linalg.norm((pred[n, k] - truth[n, k]) / norm[n]) < 0.2
            for n in range(50)
            if mask[n, k]
        ]
        assert each[k] == pytest.approx(np.mean(right))
    assert mean == pytest.approx(each.mean())
    loop = [
        np.linalg.norm(pred[n, k] - truth[n, k]) / norm[n]
        for n in range(50)
        for k in range(K)
        if mask[n, k]
    ]
    assert nme(pred, truth, mask, norm) == pytest.approx(np.mean(loop), rel=1e-5)
    full = np.ones_like(mask)
    assert face_errors(pred, truth, full, norm).mean() == pytest.approx(
        nme(pred, truth, full, norm), rel=1e-5
    )


def test_edges():
    one = np.zeros((1, 1, 2), np.float32)
    assert pck(one + [3, 4], one, [[1]], [10], 0.5)[1] == 0  # exactly on the threshold is wrong
    assert normalized_distances(one, one, [[1]], [0.0])[1].sum() == 0
    assert (
        pck(one, one, [[0]], [1.0], 0.5)[0].tolist() == [-1]
        and pck(one, one, [[0]], [1.0], 0.5)[1] == 0
        and nme(one, one, [[0]], [1.0]) == 0
    )
    with pytest.raises(InputError, match="shapes"):
        pck(one, one, [[1, 1]], [1.0], 0.5)
