"""The codecs against figures recorded from MMPose 1.3.2, and the edge cases that would bore a reader of the notebooks."""

import inspect
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pose_nb.codecs.codec import Codec
from pose_nb.codecs.megvii import Megvii, encode_levels, level_kernels
from pose_nb.codecs.msra import MSRA
from pose_nb.codecs.blurs import blur, log_around, modulate
from pose_nb.codecs.peaks import around, find_peaks
from pose_nb.codecs.udp import UDP
from pose_nb.files import InputError

HERE = Path(__file__).parent
SIZES = ((192, 256), (48, 64))
ALL = {
    "msra": MSRA(*SIZES),
    "msra 1.5": MSRA(*SIZES, 1.5),
    "dark": MSRA(*SIZES, unbiased=True),
    "udp": UDP(*SIZES),
    "combined": UDP(*SIZES, combined=True),
    "megvii": Megvii(*SIZES),
    "megvii 11": Megvii(*SIZES, 11),
}
codecs = pytest.mark.parametrize("codec", ALL.values(), ids=ALL.keys())


def reference(name):
    """The whole recorded file, for those who have it."""
    folder = os.environ.get("POSE_NB_REFERENCE")
    if not folder:
        pytest.skip("set POSE_NB_REFERENCE=<folder of the reference figures> to run")
    return json.loads((Path(folder) / "components" / "golden" / f"{name}.json").read_text())


def golden(name):
    return json.loads((HERE / "golden" / f"{name}.json").read_text())


def bump(H, W, cx, cy, sigma, amp=1.0):
    x, y = np.arange(W, dtype=float)[None], np.arange(H, dtype=float)[:, None]
    return amp * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2.0 * sigma * sigma))


def peaky_heatmaps(seed, K, H, W, sigma=2.0, amp=1.0, special=True):
    """(K, H, W): noise and two bumps each; the first ten may be edge cases. Random numbers in the
    recorded order."""
    r = np.random.RandomState(seed)
    maps = r.rand(K, H, W) * 0.02
    cx, cy = r.rand(K) * (W + 4) - 2, r.rand(K) * (H + 4) - 2
    a, cx2, cy2 = 0.3 + 0.8 * r.rand(K), r.rand(K) * W, r.rand(K) * H
    for k in range(K):
        maps[k] += bump(H, W, cx[k], cy[k], sigma, a[k]) + bump(
            H, W, cx2[k], cy2[k], 1.5 * sigma, 0.5 * a[k]
        )
    if special:
        z = 0.01 * np.abs(np.sin(np.arange(H * W, dtype=float).reshape(H, W)))
        at = lambda x, y: z + bump(H, W, x, y, sigma)
        edge = [
            at(0, 0),
            at(W - 1, H - 1),
            np.maximum(bump(H, W, 9, 11, sigma), bump(H, W, 20, 11, sigma)),
            at(W // 2, H // 2),
            at(1, H / 3),
            at(W - 2, H / 3),
            at(W / 3, 1),
            at(2, 2),
            at(W - 3, H - 3),
            at(W / 2 + 0.5, H / 2),
        ]
        for k, m in enumerate(edge[:K]):
            maps[k] = m
    return (maps * amp).astype(np.float32)


def combined_maps(seed, K, H, W):
    """(3K, H, W): a noisy disc and random offsets for each keypoint. Random numbers in the recorded
    order."""
    r = np.random.RandomState(seed)
    label, cx, cy = r.rand(K, H, W) * 0.05, r.rand(K) * W, r.rand(K) * H
    ox, oy = r.rand(K, H, W) * 1.6 - 0.8, r.rand(K, H, W) * 1.6 - 0.8
    discs = np.stack([label[k] + 0.9 * (bump(H, W, cx[k], cy[k], 1.0) > 0.2) for k in range(K)])
    return np.stack([discs, ox, oy], 1).reshape(3 * K, H, W).astype(np.float32)


def make(facts):
    """Our codec for a recorded description."""
    sizes = facts["input_size"], facts["heatmap_size"]
    if facts["type"] == "MSRAHeatmap":
        return MSRA(*sizes, facts["sigma"], unbiased=facts.get("unbiased", False))
    if facts["type"] == "UDPHeatmap":
        return UDP(
            *sizes, facts.get("sigma", 2.0), combined=facts.get("heatmap_type") == "combined"
        )
    return Megvii(*sizes, facts["kernel_size"])


def check_encoding(case):
    codec = make(case["codec"])
    maps, weights = codec.encode(
        torch.tensor(case["keypoints"])[None], torch.tensor(case["visible"])[None]
    )
    assert (
        list(maps.shape[1:]) == case["heatmap_shape"]
        and maps.dtype == weights.dtype == torch.float32
    )
    assert np.array_equal(weights[0].numpy(), np.float32(case["weights"]))
    for channel in case["channels"]:
        m = maps[0, channel["c"]].double().numpy()
        peak = int(m.argmax())
        assert [peak % m.shape[1], peak // m.shape[1]] == channel["argmax_xy"]
        assert np.count_nonzero(m) == channel["n_nonzero"]
        found = [m.max(), m.sum(), (m**2).sum()] + [m[y, x] for y, x, _ in channel["samples"]]
        expected = [channel["max"], channel["sum"], channel["sumsq"]] + [
            v for _, _, v in channel["samples"]
        ]
        np.testing.assert_allclose(
            found, expected, rtol=2e-5, atol=1e-30, err_msg=f"channel {channel['c']}"
        )


def check_decoding(case):
    codec = make(case["codec"])
    maps = {"peaky_heatmaps": peaky_heatmaps, "combined_maps": combined_maps}[case["formula"]](
        **case["args"]
    )
    keypoints, scores = codec.decode(torch.from_numpy(maps)[None])
    keep = [k for k in range(keypoints.shape[1]) if k not in (case.get("ill_conditioned") or [])]
    expected = np.array(case.get("keypoints_true_input_px", case["keypoints"]))
    assert (np.abs(keypoints[0].numpy() - expected) <= 1e-4 * (1 + np.abs(expected)))[keep].all()
    assert (np.abs(scores[0].numpy() - case["scores"]) <= 2e-5)[keep].all()


def check_round_trip(case, codec):
    points = torch.tensor(case["keypoints"])[None]
    back, scores = codec.decode(codec.encode(points, torch.ones(points.shape[:2]))[0])
    expected = np.array(case["decoded"])
    if codec.udp:
        expected = expected * (np.array(codec.input_size) - 1) / np.array(codec.input_size)
    np.testing.assert_allclose(back[0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores[0], case["scores"], atol=2e-5)


def check_degenerate(case, codec):
    """As recorded, but finite where the recording says NaN: (-1, -1) heatmap px."""
    n = 2 * 64 * 48
    kind = {
        "zeros": np.zeros(n),
        "-0.1-": -0.1 - 0.01 * np.abs(np.sin(np.arange(n))),
        "full(": np.full(n, 0.25),
    }[case["map"][:5]]
    if isinstance(codec, Megvii):
        kind = kind * 255
    keypoints, scores = codec.decode(
        torch.from_numpy(kind.astype(np.float32)).reshape(1, 2, 64, 48)
    )
    assert keypoints.isfinite().all() and scores.isfinite().all()
    true = np.array([[float(v) for v in p] for p in case["keypoints"]])
    if codec.udp:
        true = true * (np.array(codec.input_size) - 1) / np.array(codec.input_size)
    if case["map"].startswith("zeros"):
        true = np.full((2, 2), -1) * codec.decode(torch.zeros(1, 1, 64, 48))[0][0, 0].abs().numpy()
    np.testing.assert_allclose(keypoints[0], true, rtol=1e-5)
    recorded = np.array([float(v) for v in case["scores"]])
    np.testing.assert_allclose(scores[0], np.where(np.isnan(recorded), 0.5, recorded), atol=2e-5)


def check_levels(case):
    maps, weights = encode_levels(
        torch.tensor(case["keypoints"])[None],
        torch.tensor(case["visible"])[None],
        *SIZES,
        case["kernel_sizes"],
    )
    for m, w, total, top, expected in zip(
        maps,
        weights,
        case["level_channel_sums"],
        case["level_channel_max"],
        case["weights"],
        strict=True,
    ):
        assert w[0].tolist() == expected
        np.testing.assert_allclose(m[0].double().sum((1, 2)), total, rtol=2e-5)
        np.testing.assert_allclose(m[0].amax((1, 2)), top, rtol=2e-5)


@pytest.mark.parametrize("case", golden("codecs")["encode"], ids=lambda c: c["name"])
def test_encoding_as_recorded(case):
    check_encoding(case)


@pytest.mark.parametrize("case", golden("codecs")["decode"], ids=lambda c: c["name"])
def test_decoding_as_recorded(case):
    check_decoding(case)


def test_round_trips_and_degenerate_maps_as_recorded():
    facts = golden("codecs")
    made = {c["name"]: make(c["codec"]) for c in facts["decode"]}
    for case in facts["round_trip"]:
        check_round_trip(case, made[case["name"]])
    for case in facts["degenerate"]:
        check_degenerate(case, made[case["name"]])


def test_levels_as_recorded():
    check_levels(golden("codecs")["multilevel"])
    assert level_kernels(1) == (11, 9, 7, 5) and level_kernels(2) == (15, 11, 9, 7, 11, 9, 7, 5)
    with pytest.raises(InputError):
        level_kernels(0)


def test_every_recorded_encoding():
    facts = reference("encode")
    for case in facts["cases"]:
        check_encoding(case)
    check_levels(facts["multilevel"])


def test_every_recorded_decoding():
    facts = reference("decode")
    made = {c["name"]: make(c["codec"]) for c in facts["cases"]}
    for case in facts["cases"]:
        check_decoding(case)
    for case in facts["round_trip"]:
        check_round_trip(case, made[case["name"]])
    for case in facts["degenerate"]:
        check_degenerate(case, made[case["name"]])


def test_a_wrong_figure_is_noticed():
    case = json.loads(json.dumps(golden("codecs")["decode"][0]))
    case["keypoints"][3][0] += 0.1
    with pytest.raises(AssertionError):
        check_decoding(case)
    case = json.loads(json.dumps(golden("codecs")["encode"][0]))
    case["channels"][5]["n_nonzero"] += 1
    with pytest.raises(AssertionError):
        check_encoding(case)


@codecs
def test_every_codec_keeps_the_protocol(codec):
    assert isinstance(codec, Codec)
    for verb in ("encode", "decode"):
        wanted, given = (
            list(inspect.signature(getattr(c, verb)).parameters) for c in (Codec, codec)
        )
        assert wanted == ["self", *given]
    for size in (codec.input_size, codec.heatmap_size):
        assert isinstance(size, tuple) and all(isinstance(side, int) for side in size)
    assert codec.channels_per_keypoint in (1, 3)
    assert codec.udp in (True, False) and codec.shift_flip in (True, False)


@codecs
def test_weights_follow_the_visibility(codec):
    visible = torch.tensor([[0.0, 0.49, 0.5, 0.7, 1.0, 2.0]])
    maps, weights = codec.encode(torch.full((1, 6, 2), 100.0), visible)
    assert torch.equal(weights, visible)
    drawn = maps.unflatten(1, (6, -1)).flatten(2).abs().amax(-1)[0] > 0
    assert drawn.tolist() == [False, False, True, True, True, True]
    pairs = torch.stack(
        [visible, torch.rand(1, 6)], -1
    )  # a second number per keypoint: not used by the codec
    assert torch.equal(codec.encode(torch.full((1, 6, 2), 100.0), pairs)[0], maps)


@codecs
def test_nothing_odd_reaches_the_loss(codec):
    nan, inf = math.nan, math.inf
    points = torch.tensor(
        [[[nan, 9.0], [9.0, nan], [inf, 9.0], [9.0, -inf], [9.0, 9.0], [9.0, 9.0], [nan, nan]]]
    )
    visible = torch.tensor([[1.0, 1.0, 1.0, 1.0, nan, inf, 0.3]])
    maps, weights = codec.encode(points, visible)
    assert (
        not maps.any() and not weights.any()
    )  # comparisons with NaN are false, so this also says "finite"
    far = torch.tensor([[[1e30, 9.0], [9.0, -1e30], [-1e12, 1e12]]])
    maps, weights = codec.encode(far, torch.ones(1, 3))
    if codec.channels_per_keypoint == 1:
        assert not maps.any() and not weights.any()
    else:
        assert not maps[:, ::3].any() and weights.all()  # combined: the offsets still point there


@codecs
def test_maps_with_nan_have_no_position_and_a_nan_score(codec):
    maps = torch.zeros(1, 2 * codec.channels_per_keypoint, 64, 48)
    maps[0, 0, 5, 5] = math.nan
    maps[0, codec.channels_per_keypoint, 30, 20] = 1
    keypoints, scores = codec.decode(maps)
    assert keypoints.isfinite().all() and (keypoints[0, 0] < 0).all()
    assert scores[0, 0].isnan() and scores[0, 1] > 0 and (keypoints[0, 1] > 0).all()
    maps[0, 0, 5, 5] = math.inf
    assert codec.decode(maps)[0].isfinite().all()


@codecs
@pytest.mark.parametrize("batch, keypoints", [(0, 17), (1, 1), (3, 133), (2, 0)])
def test_a_batch_is_its_members(codec, batch, keypoints):
    random = np.random.default_rng(batch + keypoints)
    points = torch.from_numpy(
        random.uniform((-30, -30), (220, 290), (batch, keypoints, 2)).astype(np.float32)
    )
    visible = torch.from_numpy(random.choice([0, 0.4, 1], (batch, keypoints)).astype(np.float32))
    maps, weights = codec.encode(points, visible)
    assert maps.shape == (
        batch,
        keypoints * codec.channels_per_keypoint,
        64,
        48,
    ) and weights.shape == (batch, keypoints)
    noisy = maps + torch.from_numpy(random.uniform(0, 0.05, maps.shape).astype(np.float32))
    found, scores = codec.decode(noisy)
    assert found.shape == (batch, keypoints, 2) and scores.shape == (batch, keypoints)
    for b in range(batch):
        alone = codec.encode(points[b : b + 1], visible[b : b + 1])
        assert torch.equal(alone[0], maps[b : b + 1]) and torch.equal(alone[1], weights[b : b + 1])
        torch.testing.assert_close(
            codec.decode(noisy[b : b + 1])[0], found[b : b + 1], rtol=1e-4, atol=1e-3
        )


@pytest.mark.parametrize(
    "sizes",
    [
        ((256, 256), (64, 64)),
        ((192, 256), (24, 32)),
        ((368, 368), (46, 46)),
        ((192, 256), (40, 56)),
        ((288, 384), (72, 96)),
        ((130, 94), (33, 47)),
        ((64, 64), (8, 5)),
    ],
)
def test_other_sizes(sizes):
    W, H = sizes[1]
    points = torch.tensor([[[sizes[0][0] * 0.4, sizes[0][1] * 0.6]]])
    for codec in (
        MSRA(*sizes),
        MSRA(*sizes, unbiased=True),
        UDP(*sizes),
        UDP(*sizes, combined=True),
        Megvii(*sizes),
    ):
        maps, weights = codec.encode(points, torch.ones(1, 1))
        found, scores = codec.decode(maps)
        assert maps.shape[-2:] == (H, W) and weights == 1
        if min(W, H) > 5:
            assert scores > 0.05  # the disc of a tiny combined map may fall between its pixels
        strides = torch.tensor([sizes[0][0] / W, sizes[0][1] / H])
        exact = codec.udp or getattr(codec, "unbiased", False)
        if min(W, H) > 20:
            assert ((found - points).abs()[0, 0] < strides * (0.02 if exact else 0.76)).all()


@codecs
def test_kinds_of_numbers(codec):
    points = torch.tensor([[[60.3, 70.1], [100.0, 200.0]]])
    maps, _ = codec.encode(points, torch.ones(1, 2))
    for other in (points.double(), points.numpy(), points.tolist()):
        assert torch.equal(codec.encode(other, [[1, 1]])[0], maps)
    assert codec.encode(points, torch.tensor([[True, False]]))[1].tolist() == [[1, 0]]
    whole, scores = codec.decode(maps)
    assert whole.dtype == scores.dtype == torch.float32
    assert codec.decode(maps.double())[0].dtype == torch.float64
    for kind, close in ((torch.float16, 0.2), (torch.bfloat16, 1.0)):
        half, half_scores = codec.decode(maps.to(kind))
        assert half.dtype == half_scores.dtype == torch.float32
        if codec.channels_per_keypoint == 1:
            assert (half - whole).abs().max() <= (
                close if "MSRA" not in repr(codec) or codec.unbiased else 4.0
            )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.decode(maps)[0], whole) and torch.equal(
            codec.encode(points, torch.ones(1, 2))[0], maps
        )
    channels_last = maps.to(memory_format=torch.channels_last)
    torch.testing.assert_close(codec.decode(channels_last)[0], whole)
    torch.testing.assert_close(codec.decode(maps.flip(-1).flip(-1)[:, :, :, :])[0], whole)


@codecs
def test_inference_first_training_after(codec):
    with torch.inference_mode():
        codec.decode(torch.rand(1, 3 * codec.channels_per_keypoint, 64, 48))
    maps = torch.rand(1, 3 * codec.channels_per_keypoint, 64, 48, requires_grad=True)
    keypoints, scores = codec.decode(maps)
    (
        keypoints.sum() + scores.sum()
    ).backward() if keypoints.requires_grad else scores.sum().backward()
    assert maps.grad.isfinite().all() and maps.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["dark", "udp", "combined"])
def test_positions_are_differentiable(name):
    sizes = (40, 48), (20, 24)
    codec = {
        "dark": MSRA(*sizes, unbiased=True),
        "udp": UDP(*sizes),
        "combined": UDP(*sizes, combined=True),
    }[name]
    maps = codec.encode(torch.tensor([[[20.3, 24.9]]]), torch.ones(1, 1))[0].double()
    noise = torch.rand(maps.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = (maps + 0.01 * noise).requires_grad_()
    assert torch.autograd.gradcheck(codec.decode, maps)


@pytest.mark.parametrize("name", ["msra", "megvii"])
def test_quarter_steps_have_no_gradient(name):
    keypoints, scores = ALL[name].decode(torch.rand(1, 2, 64, 48, requires_grad=True))
    assert (
        not torch.autograd.grad(scores.sum(), [keypoints], allow_unused=True)[0]
        if keypoints.requires_grad
        else scores.requires_grad
    )


@codecs
def test_no_value_is_needed_on_the_host(codec):
    """On the meta device tensors have no values: anything that looks at one (.item(), .cpu(),
    numpy) fails."""
    maps, weights = codec.encode(
        torch.empty(2, 5, 2, device="meta"), torch.empty(2, 5, device="meta")
    )
    keypoints, scores = codec.decode(maps)
    assert {t.device.type for t in (maps, weights, keypoints, scores)} == {
        "meta"
    } and keypoints.shape == (2, 5, 2)
    codec.decode(
        torch.rand(1, 5 * codec.channels_per_keypoint, 64, 48)
    )  # the tables made for meta do not reach the CPU


@codecs
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(codec):
    random = np.random.default_rng(0)
    points = torch.from_numpy(random.uniform((-10, -10), (200, 266), (8, 17, 2)).astype(np.float32))
    visible = torch.ones(8, 17)
    maps, weights = codec.encode(points, visible)
    noisy = (
        maps
        + torch.rand(maps.shape, generator=torch.Generator().manual_seed(0)) * 0.02 * maps.amax()
    )
    on_gpu = [t.cuda() for t in (points, visible, noisy)]
    codec.encode(*on_gpu[:2]), codec.decode(on_gpu[2])
    torch.cuda.set_sync_debug_mode("error")
    try:
        (gpu_maps, gpu_weights), (found, scores) = (
            codec.encode(*on_gpu[:2]),
            codec.decode(on_gpu[2]),
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(gpu_maps.cpu(), maps, rtol=1e-5, atol=1e-5)
    assert torch.equal(gpu_weights.cpu(), weights)
    expected, expected_scores = codec.decode(noisy)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(scores.cpu(), expected_scores, rtol=1e-4, atol=1e-5)


def test_blurring_around_the_peak_is_blurring_the_map():
    maps = torch.randn(6, 9, 30, 26, generator=torch.Generator().manual_seed(0))
    maps[0] *= 1e-3
    maps[1] = maps[1].abs() * 100
    maps[2] -= 1.5
    maps[3] = maps[3].abs() ** 6
    maps[4, :, 3:, 3:] = -5
    points, values = find_peaks(maps)
    for radius, low, high in ((2, 1e-10, math.inf), (1, 1e-3, 50)):
        whole = around(modulate(maps.double(), 11), points, radius).clamp(low, high).log()
        near = log_around(maps, points, radius, 11, low, high)
        centred = lambda L, r=radius: (L - L[..., r : r + 1, r : r + 1])[values > 0]
        torch.testing.assert_close(centred(near), centred(whole), rtol=1e-4, atol=1e-4)


def test_peaks_are_the_first_in_reading_order():
    for height in (1, 2, 5, 6, 46, 64):
        maps = torch.randint(
            0, 4, (3, 5, height, 7), generator=torch.Generator().manual_seed(height)
        ).float()
        points, values = find_peaks(maps)
        index = maps.flatten(2).numpy().argmax(-1)
        assert np.array_equal(
            points.numpy(), np.stack([index % 7, index // 7], -1)
        ) and torch.equal(values, maps.amax((-2, -1)))


@pytest.mark.parametrize("border", ["zero", "reflect"])
@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11, 15, 23])
def test_blur_is_opencv(border, size):
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(size).random((21, 30)).astype(np.float32)
    flag = cv2.BORDER_CONSTANT if border == "zero" else cv2.BORDER_REFLECT_101
    padded = cv2.copyMakeBorder(image, 16, 16, 16, 16, flag, value=0)
    expected = cv2.GaussianBlur(padded, (size, size), 0)[16:-16, 16:-16]
    np.testing.assert_allclose(
        blur(torch.from_numpy(image)[None, None], size, border)[0, 0], expected, atol=2e-6
    )


@codecs
def test_codecs_are_values(codec):
    again = pickle.loads(pickle.dumps(codec))
    assert again == codec and hash(again) == hash(codec) and eval(repr(codec)) == codec
    assert (
        codec.channels_per_keypoint in (1, 3)
        and codec.udp in (True, False)
        and codec.shift_flip == isinstance(codec, MSRA)
    )
    with pytest.raises(AttributeError):
        codec.input_size = (1, 1)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: MSRA((192, 0), (48, 64)), "input_size"),
        (lambda: MSRA((192, 256), 48), "heatmap_size"),
        (lambda: MSRA((192, 256), (48.5, 64)), "48.5"),
        (lambda: UDP((192, 256), (1, 64)), "at least 2"),
        (lambda: MSRA(*SIZES, sigma=-1), "sigma"),
        (lambda: UDP(*SIZES, sigma=math.nan), "sigma"),
        (lambda: Megvii(*SIZES, kernel_size=6), "odd"),
        (lambda: ALL["msra"].encode(torch.zeros(17, 2), torch.ones(17)), r"\(B, K, 2\)"),
        (lambda: ALL["udp"].encode(torch.zeros(1, 17, 2), torch.ones(1, 16)), r"\(1, 17\)"),
        (lambda: ALL["dark"].decode(torch.zeros(17, 64, 48)), "64, 48"),
        (lambda: ALL["combined"].decode(torch.zeros(1, 17, 64, 48)), "3·K"),
        (lambda: ALL["megvii"].decode(torch.zeros(1, 17, 48, 64)), r"\(1, 17, 48, 64\)"),
    ],
)
def test_mistakes_are_named(wrong, says):
    with pytest.raises(InputError, match=says):
        wrong()


def test_the_bench_runs(tmp_path):
    record = tmp_path / "record.json"
    command = [
        sys.executable,
        str(HERE.parent / "bench" / "codecs.py"),
        "--batch",
        "2",
        "--keypoints",
        "3",
        "--repeats",
        "1",
        "--out",
        str(record),
    ]
    answer = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
    )
    assert answer.returncode == 0, answer.stderr
    rows = json.loads(record.read_text())["rows"]
    assert [r["codec"] for r in rows] == ["MSRA", "DARK", "UDP", "UDP combined", "Megvii"] and all(
        r["decode_ratio"] > 0 for r in rows
    )
