"""PCK, PCKh, JHMDB, AUC and EPE as recorded from MMPose 1.3.2 and as published for MPII."""

import json
from pathlib import Path

import numpy as np
import pytest

from pose_nb.files import InputError
from pose_nb.metrics.pck import (
    MPII_LEFT_OUT,
    auc,
    epe,
    head_sizes,
    jhmdb_pck,
    mpii_pckh,
    normalized_distances,
    pck,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics_points.json").read_text())
ROWS = ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle")


def check_primitives(case):
    pred, truth, mask, norm = (np.array(case[k]) for k in ("pred", "gt", "mask", "norm"))
    for expected in case["pck"]:
        each, mean = pck(pred, truth, mask, norm, expected["thr"])
        assert np.abs(each - expected["per_keypoint"]).max() < 1e-6
        assert mean == pytest.approx(expected["avg"], abs=1e-6)
        assert (each >= 0).sum() == expected["count"]
    assert auc(pred, truth, mask, 30) == pytest.approx(case["auc_norm30"], abs=1e-6)
    assert epe(pred, truth, mask) == pytest.approx(case["epe"], rel=1e-6)


def check_mpii(case):
    pred = np.array(case["pred"])
    figures = mpii_pckh(pred, case["gt_1based"], case["visible"], case["head_size"])
    expected = {"PCKh@0.5": case["result"]["PCK"], "PCKh@0.1": case["result"]["PCK@0.1"]}
    expected |= {row: case["result"][f"{row} PCK"] for row in ROWS}
    assert figures == pytest.approx(expected, abs=1e-6)


def check_jhmdb(case):
    assert case["thr"] == 0.2
    figures = jhmdb_pck(case["pred"], case["gt"], case["visible"], case["bbox_xyxy"])
    assert figures == pytest.approx(case["result"], abs=1e-6)


def test_pck_auc_and_epe_are_as_recorded():
    check_primitives(GOLDEN["primitives"])


def test_mpii_is_as_recorded():
    check_mpii(GOLDEN["mpii_pckh"])


def test_jhmdb_is_as_recorded():
    check_jhmdb(GOLDEN["jhmdb"])


def test_the_whole_recording(reference):
    file = reference / "components" / "golden" / "metrics_points.json"
    golden = json.loads(file.read_text())
    check_primitives(golden["primitives"])
    check_mpii(golden["mpii_pckh"])
    check_jhmdb(golden["jhmdb"])


def test_the_comparison_can_fail():
    case = GOLDEN["mpii_pckh"]
    with pytest.raises(AssertionError):
        check_mpii(case | {"pred": (np.array(case["pred"]) + 1).tolist()})


def test_mpii_validation_set_is_as_published(samples):
    """All 2,958 people, a real set of predictions, against figures computed elsewhere from the same
    files."""
    from scipy.io import loadmat

    folder = samples / "mpii_pckh"
    mat = loadmat(folder / "detections_our_format.mat")
    expected = json.loads((folder / "reference_numbers.json").read_text())
    sizes = head_sizes(mat["headboxes_src"].transpose(2, 0, 1).reshape(-1, 4))
    truth, pred = (mat[key].transpose(2, 0, 1) for key in ("pos_gt_src", "pos_pred_src"))
    visible = mat["jnt_missing"].T == 0
    assert visible.sum(0).tolist() == list(expected["visible_counts"].values())
    joints = np.setdiff1d(np.arange(16), MPII_LEFT_OUT)  # the file has no figures for these
    each, _ = pck(pred, truth, visible, sizes, 0.5)
    per_joint = np.array(list(expected["per_joint"].values()))
    assert np.allclose(100 * each[joints], per_joint[joints], atol=1e-6)
    summary, figures = expected["summary"], mpii_pckh(pred - 1, truth, visible, sizes)
    recorded = {row: summary[row.lower()] for row in ROWS}
    recorded |= {"PCKh@0.5": summary["mean_weighted14"]}
    recorded |= {"PCKh@0.1": summary["mean_weighted14@0.1"]}
    assert figures == pytest.approx(recorded, abs=1e-6)


@pytest.mark.parametrize("K", [1, 5, 133])
def test_any_number_of_keypoints_is_a_plain_loop(K):
    rng = np.random.default_rng(K)
    truth = rng.uniform(0, 100, (50, K, 2)).astype(np.float32)
    pred, mask = truth + rng.normal(0, 5, truth.shape).astype(np.float32), rng.random((50, K)) < 0.7
    norm = rng.uniform(10, 50, 50).astype(np.float32)
    each, mean = pck(pred, truth, mask, norm, 0.2)
    for k in range(K):
        miss = [np.linalg.norm(pred[n, k] - truth[n, k]) / norm[n] for n in range(50) if mask[n, k]]
        assert each[k] == pytest.approx(np.mean(np.array(miss) < 0.2))
    assert mean == pytest.approx(each.mean())


def test_nobody_labelled_and_no_size_do_not_count():
    one = np.zeros((1, 1, 2), np.float32)
    assert pck(one + [3, 4], one, [[1]], [10], 0.5)[1] == 0  # exactly on the threshold is wrong
    assert normalized_distances(one, one, [[1]], [0.0])[1].sum() == 0
    each, mean = pck(one, one, [[0]], [1.0], 0.5)
    assert each.tolist() == [-1] and mean == 0


@pytest.mark.parametrize("mask, norm", [([[1, 1]], [1.0]), ([[1]], [1.0, 2.0]), ([1], [1.0])])
def test_wrong_shapes_are_named(mask, norm):
    one = np.zeros((1, 1, 2), np.float32)
    with pytest.raises(InputError, match="shapes"):
        pck(one, one, mask, norm, 0.5)
