"""Losses and the training accuracy against recorded figures, and against hand-worked and independent values."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pose_nb.files import InputError
from pose_nb.losses import (
    StagedLoss,
    adaptive_wing,
    combined_mse,
    keypoint_mse,
    ohkm,
    pose_accuracy,
    units_loss,
)

OWN = Path(__file__).parent / "golden" / "losses.json"
GOLDEN = json.loads(OWN.read_text(encoding="utf-8"))


def loss_tensors(seed, B, K, H, W, weight_kind="mixed"):
    """The generated inputs of the recorded cases: maps with one bump per channel, a noisy answer,
    weights; float32."""
    r = np.random.RandomState(seed)
    noise = r.randn(B, K, H, W)
    cx, cy = r.rand(B, K) * W, r.rand(B, K) * H
    dx, dy = r.randn(B, K) * 1.5, r.randn(B, K) * 1.5
    w = r.rand(B, K)

    def bumps(x, y):
        gx, gy = np.arange(W, dtype=np.float64), np.arange(H, dtype=np.float64)[:, None]
        return np.exp(-((gx - x[..., None, None]) ** 2 + (gy - y[..., None, None]) ** 2) / 8.0)

    target = bumps(cx, cy)
    target[target < 0.011] = 0
    predicted = 0.8 * bumps(cx + dx, cy + dy) + 0.05 * noise
    weights = np.where(w < 0.25, 0.0, 1.0) if weight_kind == "mixed" else w
    target[weights == 0] = 0
    return tuple(torch.from_numpy(a.astype(np.float32)) for a in (predicted, target, weights))


def combined_tensors(seed, B, K, H, W, weight_kind):
    r = np.random.RandomState(seed)
    predicted = r.randn(B, 3 * K, H, W) * 0.3
    label, offsets, w = r.rand(B, K, H, W) > 0.97, r.randn(B, 2 * K, H, W), r.rand(B, K)
    if weight_kind == "mixed":
        w = np.where(w < 0.25, 0.0, 1.0)
    target = np.empty_like(predicted)
    target[:, 0::3], target[:, 1::3], target[:, 2::3] = label, offsets[:, 0::2], offsets[:, 1::2]
    return tuple(torch.from_numpy(a.astype(np.float32)) for a in (predicted, target, w))


def run(case, predicted, target, weights):
    cfg, kind = case["cfg"], case["cfg"]["type"]
    if not case["weights_given"]:
        weights = None
    if kind == "KeypointMSELoss":  # its flag is ignored: weights count when they are passed
        return keypoint_mse(
            predicted, target, weights, cfg.get("skip_empty_channel", False)
        ) * cfg.get("loss_weight", 1)
    if not cfg["use_target_weight"]:
        weights = None
    if kind == "KeypointOHKMMSELoss":
        return ohkm(predicted, target, weights, cfg.get("topk", 8))
    return adaptive_wing(
        predicted,
        target,
        weights,
        **{k: cfg[k] for k in ("alpha", "omega", "epsilon", "theta") if k in cfg},
    )


def check_case(case):
    predicted, target, weights = loss_tensors(**case["args"])
    predicted.requires_grad_()
    loss = run(case, predicted, target, weights)
    loss.backward()
    gradient = predicted.grad.double()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-6)
    assert gradient.abs().sum().item() == pytest.approx(case["grad_abs_sum"], rel=1e-5)
    assert gradient.square().sum().item() == pytest.approx(case["grad_sq_sum"], rel=1e-5)


def check_combined(case):
    predicted, target, weights = combined_tensors(
        *(case[k] for k in ("seed", "B", "K", "H", "W", "weight_kind"))
    )
    predicted.requires_grad_()
    loss = combined_mse(predicted, target, weights if case["use_target_weight"] else None)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-6)
    assert predicted.grad.double().abs().sum().item() == pytest.approx(
        case["grad_abs_sum"], rel=1e-5
    )


def check_stages(case):
    size = [case[k] for k in ("B", "K", "H", "W")]
    if "levels" in case:
        loss = units_loss(case["num_stages"])
        assert list(loss.levels) == case["level_indices"]
        outputs = [loss_tensors(6401 + 10 * j, *size)[0] for j in range(4 * case["num_stages"])]
        levels = [loss_tensors(6701 + 10 * i, *size)[1:] for i in range(case["levels"])]
        targets, weights = [t for t, _ in levels], [w for _, w in levels]
        last = targets[-1], weights[-1]
    else:
        loss = StagedLoss(keypoint_mse)
        outputs = [loss_tensors(6201 + 10 * s, *size)[0] for s in range(case["num_stages"])]
        last = targets, weights = loss_tensors(6201, *size)[1:]
    assert loss(outputs, targets, weights).item() == pytest.approx(case["loss_kpt"], rel=1e-6)
    assert pose_accuracy(outputs[-1], *last)[0].item() == pytest.approx(case["acc_pose"], abs=1e-6)


def check_accuracy(case):
    average, each = pose_accuracy(*loss_tensors(**case["args"]))
    assert average.item() == pytest.approx(case["avg"], abs=1e-6)
    assert each.nan_to_num(-1.0).tolist() == pytest.approx(case["per_keypoint"], abs=1e-6)
    assert (~each.isnan()).sum() == case["count"]


def check_wrapper(wrapper):
    predicted, target, weights = loss_tensors(**wrapper["first"]["args"])
    second = loss_tensors(**wrapper["second"]["pred_target_args"])
    parts = StagedLoss((keypoint_mse, adaptive_wing)).parts(
        [predicted, second[0]], [target, second[1]], weights
    )
    assert [p.item() for p in parts] == pytest.approx(wrapper["values"], rel=1e-6)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: c["name"])
def test_recorded(case):
    check_case(case)


@pytest.mark.parametrize("case", GOLDEN["combined"], ids=lambda c: str(c["seed"]))
def test_combined(case):
    check_combined(case)


@pytest.mark.parametrize(
    "case", GOLDEN["multi_stage"], ids=lambda c: f"{c['head'][:4]}-{c['num_stages']}"
)
def test_stages(case):
    check_stages(case)


@pytest.mark.parametrize("case", GOLDEN["train_accuracy"], ids=lambda c: str(c["args"]["seed"]))
def test_accuracy(case):
    check_accuracy(case)


def test_list_of_losses():
    check_wrapper(GOLDEN["wrapper"])


def test_full_reference():
    """Every case of the reference folder's own file."""
    folder = os.environ.get("POSE_NB_REFERENCE")
    if not folder:
        pytest.skip("set POSE_NB_REFERENCE=folder of recorded figures to run")
    full = json.loads(
        (Path(folder) / "components" / "golden" / "losses.json").read_text(encoding="utf-8")
    )
    for case in full["cases"]:
        check_case(case)
    for case in full["combined"]:
        check_combined(case)
    for case in full["multi_stage"]:
        check_stages(case)
    for case in full["train_accuracy"]:
        check_accuracy(case)
    check_wrapper(full["wrapper"])
    assert len(full["cases"]) >= 28


def small(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(*shape, generator=generator, dtype=dtype)
        for shape in ((2, 9, 5, 4), (2, 9, 5, 4), (2, 9))
    ]


@pytest.mark.parametrize("loss", [keypoint_mse, ohkm, adaptive_wing, combined_mse])
def test_gradients_are_right(loss):
    predicted, target, weights = small()
    if loss is combined_mse:
        weights = weights[:, :3]
    assert torch.autograd.gradcheck(lambda p: loss(p, target, weights), predicted.requires_grad_())


@pytest.mark.parametrize("loss", [keypoint_mse, ohkm, adaptive_wing, combined_mse])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    predicted, target, weights = (t.to(dtype) for t in small())
    if loss is combined_mse:
        weights = weights[:, :3]
    answer = loss(predicted, target, weights)
    assert answer.dtype == torch.float32
    assert answer == loss(predicted.float(), target.float(), weights.float())


def test_zero_weight_means_no_gradient():
    predicted, target, weights = small()
    weights[:, 4:] = 0
    for loss in (keypoint_mse, adaptive_wing, lambda *a: ohkm(*a, top=9)):
        leaf = predicted.clone().requires_grad_()
        loss(leaf, target, weights).backward()
        assert (
            (leaf.grad[:, 4:] == 0).all()
            and (leaf.grad[:, :4] != 0).all()
            and leaf.grad.isfinite().all()
        )


def test_perfect_answer_has_no_loss_and_finite_gradients():
    _, target, weights = small(dtype=torch.float32)
    for loss in (keypoint_mse, ohkm, adaptive_wing):
        leaf = target.clone().requires_grad_()
        value = loss(leaf, target, weights)
        value.backward()
        assert value == 0 and leaf.grad.isfinite().all()


@pytest.mark.parametrize("loss", [keypoint_mse, ohkm, adaptive_wing, combined_mse, pose_accuracy])
@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 9, 5, 4), (2, 9, 4, 5), (2, 9)),
        ((2, 9, 5, 4), (2, 9, 5, 4), (2, 1)),
        ((2, 9, 5, 4), (2, 9, 5, 4), (9,)),
        ((9, 5, 4), (9, 5, 4), (9,)),
        ((2, 9, 5, 4), (1, 9, 5, 4), (2, 9)),
    ],
)
def test_shapes_that_do_not_fit(loss, shapes):
    with pytest.raises(InputError, match="shape"):
        loss(*(torch.rand(s) for s in shapes))


def test_staged_errors():
    predicted, target, weights = small()
    with pytest.raises(InputError, match="gives 1 outputs, but the loss has 4"):
        units_loss(1)([predicted], [target] * 4, weights)
    with pytest.raises(InputError, match="3 targets for 4 outputs"):
        units_loss(1)([predicted] * 4, [target] * 3, weights)
    with pytest.raises(InputError, match="5 weights for 4 outputs"):
        units_loss(1)([predicted] * 4, [target] * 4, [weights] * 5)
    with pytest.raises(InputError, match="2 factors"):
        StagedLoss(factors=(1, 2))([predicted], target)
    with pytest.raises(InputError, match="groups of 3"):
        combined_mse(predicted[:, :8], target[:, :8])
    with pytest.raises(InputError, match="at least one stage"):
        units_loss(0)
    with pytest.raises(InputError, match="between 1 and 9"):
        ohkm(predicted, target, top=10)


def test_targets_by_level_or_by_output():
    loss, weights = units_loss(2), small()[2]
    targets = [small(i)[0] for i in range(5)]
    outputs = [small(10 + i)[0] for i in range(8)]
    assert loss(outputs, targets, weights) == loss(
        outputs, [targets[i] for i in loss.levels], [weights] * 8
    )
    assert loss(outputs, targets, weights) != loss(outputs, targets[2], weights)


def test_accuracy_edges():
    maps = torch.zeros(2, 3, 6, 8)
    average, each = pose_accuracy(maps, maps, torch.zeros(2, 3))  # nothing labelled
    assert average == 0 and each.isnan().all()
    maps[:, :, 2, 2] = 1
    assert pose_accuracy(maps, maps)[0] == 1
    assert pose_accuracy(-maps, maps)[0] == 0  # nothing above 0: the peak is at (-1, -1)
