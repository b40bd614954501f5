"""Losses and the logged accuracy: as recorded, with right gradients, and loud about mistakes."""

import json
from functools import partial
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

GOLDEN = json.loads((Path(__file__).parent / "golden" / "losses.json").read_text())


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
def test_losses_and_gradients_are_as_recorded(case):
    check_case(case)


@pytest.mark.parametrize("case", GOLDEN["combined"], ids=lambda c: str(c["seed"]))
def test_combined_maps_are_as_recorded(case):
    check_combined(case)


@pytest.mark.parametrize(
    "case", GOLDEN["multi_stage"], ids=lambda c: f"{c['head'][:4]}-{c['num_stages']}"
)
def test_sums_over_stages_are_as_recorded(case):
    check_stages(case)


@pytest.mark.parametrize("case", GOLDEN["train_accuracy"], ids=lambda c: str(c["args"]["seed"]))
def test_the_accuracy_is_as_recorded(case):
    check_accuracy(case)


def test_a_list_of_losses_is_as_recorded():
    check_wrapper(GOLDEN["wrapper"])


def test_the_whole_recording(reference):
    full = json.loads((reference / "components" / "golden" / "losses.json").read_text())
    assert len(full["cases"]) >= 28
    for case in full["cases"]:
        check_case(case)
    for case in full["combined"]:
        check_combined(case)
    for case in full["multi_stage"]:
        check_stages(case)
    for case in full["train_accuracy"]:
        check_accuracy(case)
    check_wrapper(full["wrapper"])


# ---------------------------------------------------------------- properties

LOSSES = [keypoint_mse, partial(ohkm, top=2), adaptive_wing, combined_mse]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=["mse", "ohkm", "wing", "combined"])


def small(seed=0, dtype=torch.float64, keypoints=3, channels=3):
    """Maps (2, channels, 3, 2), twice, and weights (2, keypoints)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (2, channels, 3, 2), (2, channels, 3, 2), (2, keypoints)
    return [torch.rand(*shape, generator=generator, dtype=dtype) for shape in shapes]


def given(loss, **options):
    """`small`, as the loss needs it: combined maps have three channels for each keypoint."""
    return small(keypoints=1 if loss is combined_mse else 3, **options)


@every_loss
def test_gradients_are_right(loss):
    predicted, target, weights = given(loss)
    assert torch.autograd.gradcheck(lambda p: loss(p, target, weights), predicted.requires_grad_())


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    halves = [t.to(dtype) for t in given(loss)]
    answer = loss(*halves)
    assert answer.dtype == torch.float32
    assert answer == loss(*(t.float() for t in halves))


@every_loss
def test_no_weights_are_weights_of_one(loss):
    predicted, target, weights = given(loss)
    assert loss(predicted, target) == loss(predicted, target, torch.ones_like(weights))


@pytest.mark.parametrize("loss", [keypoint_mse, partial(ohkm, top=3), adaptive_wing])
def test_zero_weight_means_no_gradient(loss):
    predicted, target, weights = small()
    weights[:, 2:] = 0
    loss(predicted.requires_grad_(), target, weights).backward()
    assert (predicted.grad[:, 2:] == 0).all() and (predicted.grad[:, :2] != 0).all()
    assert predicted.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES[:3])
def test_a_perfect_answer_has_no_loss_and_finite_gradients(loss):
    _, target, weights = small(dtype=torch.float32)
    leaf = target.clone().requires_grad_()
    value = loss(leaf, target, weights)
    value.backward()
    assert value == 0 and leaf.grad.isfinite().all()


def test_targets_may_come_by_level_or_by_output():
    sizes = dict(keypoints=9, channels=9)
    loss, weights = units_loss(2), small(**sizes)[2]
    targets = [small(i, **sizes)[0] for i in range(5)]
    outputs = [small(10 + i, **sizes)[0] for i in range(8)]
    by_output = [targets[i] for i in loss.levels]
    assert loss(outputs, targets, weights) == loss(outputs, by_output, [weights] * 8)
    assert loss(outputs, targets, weights) != loss(outputs, targets[2], weights)


def test_the_accuracy_of_nothing():
    maps = torch.zeros(2, 3, 6, 8)
    average, each = pose_accuracy(maps, maps, torch.zeros(2, 3))  # nothing labelled
    assert average == 0 and each.isnan().all()
    maps[:, :, 2, 2] = 1
    assert pose_accuracy(maps, maps)[0] == 1
    assert pose_accuracy(-maps, maps)[0] == 0  # nothing above 0: the peak is at (-1, -1)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize("loss", [*LOSSES, pose_accuracy])
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
def test_shapes_that_do_not_fit_are_named(loss, shapes):
    with pytest.raises(InputError, match="shape"):
        loss(*(torch.rand(s) for s in shapes))


NINE = torch.zeros(2, 9, 3, 2)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: units_loss(1)([NINE], [NINE] * 4), "gives 1 outputs, but the loss has 4"),
        (lambda: units_loss(1)([NINE] * 4, [NINE] * 3), "3 targets for 4 outputs"),
        (lambda: units_loss(1)([NINE] * 4, [NINE] * 4, [NINE] * 5), "5 weights for 4 outputs"),
        (lambda: StagedLoss(factors=(1, 2))([NINE], NINE), "2 factors"),
        (lambda: combined_mse(NINE[:, :8], NINE[:, :8]), "groups of 3"),
        (lambda: units_loss(0), "at least one stage"),
        (lambda: ohkm(NINE, NINE, top=10), "between 1 and 9"),
    ],
)
def test_mistakes_are_named(wrong, says):
    with pytest.raises(InputError, match=says):
        wrong()
