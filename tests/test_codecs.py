"""Codecs: equal to recorded figures, unbiased for every σ, safe with odd input, on any device."""

import inspect
import json
import math
import pickle
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codec_cases import combined_maps, golden, make, peaky_heatmaps
from pose_nb.codecs.codec import Codec
from pose_nb.codecs.megvii import Megvii, encode_levels, level_kernels
from pose_nb.codecs.msra import MSRA
from pose_nb.codecs.peaks import find_peaks
from pose_nb.codecs.udp import UDP
from pose_nb.files import InputError

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


def round_trip(codec, points):
    """decode(encode(points)) - points, (N, 2) in input px, for points (N, 2)."""
    points = torch.as_tensor(points, dtype=torch.float32)[None]
    maps, _ = codec.encode(points, torch.ones(points.shape[:2]))
    return (codec.decode(maps)[0] - points)[0]


# ---------------------------------------------------------------- recorded figures


def check_encoding(case):
    codec, points, visible = make(case["codec"]), case["keypoints"], case["visible"]
    maps, weights = codec.encode(torch.tensor(points)[None], torch.tensor(visible)[None])
    assert list(maps.shape[1:]) == case["heatmap_shape"]
    assert maps.dtype == weights.dtype == torch.float32
    assert np.array_equal(weights[0].numpy(), np.float32(case["weights"]))
    for channel in case["channels"]:
        m = maps[0, channel["c"]].double().numpy()
        peak = int(m.argmax())
        assert [peak % m.shape[1], peak // m.shape[1]] == channel["argmax_xy"]
        assert np.count_nonzero(m) == channel["n_nonzero"]
        places, values = [s[:2] for s in channel["samples"]], [s[2] for s in channel["samples"]]
        found = [m.max(), m.sum(), (m**2).sum()] + [m[y, x] for y, x in places]
        expected = [channel["max"], channel["sum"], channel["sumsq"], *values]
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-30, err_msg=str(channel))


def check_decoding(case):
    codec = make(case["codec"])
    formula = {"peaky_heatmaps": peaky_heatmaps, "combined_maps": combined_maps}[case["formula"]]
    keypoints, scores = codec.decode(torch.from_numpy(formula(**case["args"]))[None])
    keep = [k for k in range(keypoints.shape[1]) if k not in (case.get("ill_conditioned") or [])]
    expected = np.array(case.get("keypoints_true_input_px", case["keypoints"]))
    assert (np.abs(keypoints[0].numpy() - expected) <= 1e-4 * (1 + np.abs(expected)))[keep].all()
    assert (np.abs(scores[0].numpy() - case["scores"]) <= 2e-5)[keep].all()


def true_pixels(codec, recorded):
    """Recorded keypoints without the factor w / (w - 1) that the reference's UDP leaves in."""
    recorded, size = np.array(recorded), np.array(codec.input_size)
    return recorded * (size - 1) / size if codec.udp else recorded


def check_round_trip(case, codec):
    points = torch.tensor(case["keypoints"])[None]
    back, scores = codec.decode(codec.encode(points, torch.ones(points.shape[:2]))[0])
    expected = true_pixels(codec, case["decoded"])
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
    maps = (255 * kind if isinstance(codec, Megvii) else kind).astype(np.float32)
    keypoints, scores = codec.decode(torch.from_numpy(maps).reshape(1, 2, 64, 48))
    assert keypoints.isfinite().all() and scores.isfinite().all()
    expected = true_pixels(codec, [[float(v) for v in p] for p in case["keypoints"]])
    if case["map"].startswith("zeros"):
        gaps = np.array(codec.input_size) - codec.udp, np.array(codec.heatmap_size) - codec.udp
        expected = -np.ones((2, 2)) * gaps[0] / gaps[1]
    np.testing.assert_allclose(keypoints[0], expected, rtol=1e-5)
    recorded = np.array([float(v) for v in case["scores"]])
    np.testing.assert_allclose(scores[0], np.where(np.isnan(recorded), 0.5, recorded), atol=2e-5)


def check_levels(case):
    points, visible = torch.tensor(case["keypoints"])[None], torch.tensor(case["visible"])[None]
    maps, weights = encode_levels(points, visible, *SIZES, case["kernel_sizes"])
    columns = (case[k] for k in ("level_channel_sums", "level_channel_max", "weights"))
    for m, w, total, top, expected in zip(maps, weights, *columns, strict=True):
        assert w[0].tolist() == expected
        np.testing.assert_allclose(m[0].double().sum((1, 2)), total, rtol=2e-5)
        np.testing.assert_allclose(m[0].amax((1, 2)), top, rtol=2e-5)


@pytest.mark.parametrize("case", golden("codecs")["encode"], ids=lambda c: c["name"])
def test_targets_are_as_recorded(case):
    check_encoding(case)


@pytest.mark.parametrize("case", golden("codecs")["decode"], ids=lambda c: c["name"])
def test_answers_are_as_recorded(case):
    check_decoding(case)


def test_round_trips_and_degenerate_maps_are_as_recorded():
    facts = golden("codecs")
    made = {c["name"]: make(c["codec"]) for c in facts["decode"]}
    for case in facts["round_trip"]:
        check_round_trip(case, made[case["name"]])
    for case in facts["degenerate"]:
        check_degenerate(case, made[case["name"]])


def test_targets_of_several_levels_are_as_recorded():
    check_levels(golden("codecs")["multilevel"])
    assert level_kernels(1) == (11, 9, 7, 5) and level_kernels(2) == (15, 11, 9, 7, 11, 9, 7, 5)


def test_the_whole_recording(reference):
    folder = reference / "components" / "golden"
    encode, decode = (json.loads((folder / f"{v}.json").read_text()) for v in ("encode", "decode"))
    for case in encode["cases"]:
        check_encoding(case)
    check_levels(encode["multilevel"])
    made = {c["name"]: make(c["codec"]) for c in decode["cases"]}
    for case in decode["cases"]:
        check_decoding(case)
    for case in decode["round_trip"]:
        check_round_trip(case, made[case["name"]])
    for case in decode["degenerate"]:
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


# ---------------------------------------------------------------- the protocol, and values


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
    assert codec.udp in (True, False) and codec.shift_flip == isinstance(codec, MSRA)


@codecs
def test_codecs_are_values(codec):
    again = pickle.loads(pickle.dumps(codec))
    assert again == codec and hash(again) == hash(codec) and eval(repr(codec)) == codec
    assert replace(codec, heatmap_size=(24, 32)) != codec
    with pytest.raises(AttributeError):
        codec.input_size = (1, 1)


# ---------------------------------------------------------------- σ and kernels

SIGMAS = [s / 20 for s in range(20, 81)] + [7 / 3, math.pi, 6.3]  # 1, 1.05, … 4 and a few odd


def sub_pixel_grid(stride_x, stride_y):
    """Every sub-pixel position in the middle of the crop, evenly: (N, 2) input px."""
    steps = (torch.arange(64) + 0.5) / 16  # four heatmap pixels
    return torch.cartesian_prod((20 + steps) * stride_x, (28 + steps[::33]) * stride_y)


@pytest.mark.parametrize("name", ["msra", "dark", "udp"])
def test_no_sigma_shifts_the_keypoints(name):
    grid = {"msra": (4, 4), "dark": (4, 4), "udp": (191 / 47, 255 / 63)}[name]
    points = sub_pixel_grid(*grid)
    for sigma in SIGMAS:
        error = round_trip(replace(ALL[name], sigma=sigma), points)
        # σ = 1.5 keeps the published window, which is one pixel short on one side
        bias = 0.004 if (name, sigma) == ("udp", 1.5) else 0.001
        assert error[:, 0].mean().abs() < bias, (sigma, error.mean(0))
        largest = 2.001 if name == "msra" else 0.01
        assert error.abs().max() < largest, (sigma, error.abs().max())


@pytest.mark.parametrize("size", range(1, 25, 2))
def test_no_kernel_shifts_the_keypoints(size):
    error = round_trip(Megvii(*SIZES, size), sub_pixel_grid(4, 4))
    assert error[:, 0].mean().abs() < 0.001 and error.abs().max() < 2.001


def test_only_sigma_1_5_slips_and_only_near_the_border():
    codec, x = MSRA(*SIZES, 1.5), torch.arange(0, 188, 0.5)
    error = round_trip(codec, torch.stack([x, torch.full_like(x, 128)], -1))[:, 0]
    slips = error.abs() > 2
    assert slips.any() and x[slips].max() < 4.5 * 4 and error.max() <= 6
    for sigma in (1.25, 1.45, 1.55, 2.5, 3.25):  # others do not
        error = round_trip(replace(codec, sigma=sigma), torch.stack([x, x + 20], -1))
        assert error[:, 0].abs().max() <= 2


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
@pytest.mark.parametrize("name", ["msra", "dark", "udp", "combined", "megvii"])
def test_any_size_comes_back(name, sizes):
    codec, (W, H) = replace(ALL[name], input_size=sizes[0], heatmap_size=sizes[1]), sizes[1]
    points = torch.tensor([[[sizes[0][0] * 0.4, sizes[0][1] * 0.6]]])
    maps, weights = codec.encode(points, torch.ones(1, 1))
    found, scores = codec.decode(maps)
    assert maps.shape[-2:] == (H, W) and weights == 1
    if min(W, H) > 5:  # the disc of a tiny combined map may fall between its pixels
        assert scores > 0.05
    if min(W, H) > 20:
        stride = torch.tensor([sizes[0][0] / W, sizes[0][1] / H])
        exact = name in ("dark", "udp", "combined")
        assert ((found - points).abs()[0, 0] < stride * (0.02 if exact else 0.76)).all()


# ---------------------------------------------------------------- odd input


@codecs
def test_weights_follow_the_visibility(codec):
    visible, points = torch.tensor([[0.0, 0.49, 0.5, 0.7, 1.0, 2.0]]), torch.full((1, 6, 2), 100.0)
    maps, weights = codec.encode(points, visible)
    assert torch.equal(weights, visible)
    drawn = maps.unflatten(1, (6, -1)).flatten(2).abs().amax(-1)[0] > 0
    assert drawn.tolist() == [False, False, True, True, True, True]
    pairs = torch.stack([visible, torch.rand(1, 6)], -1)  # the second number: not for the codec
    assert torch.equal(codec.encode(points, pairs)[0], maps)


@codecs
def test_nothing_odd_reaches_the_loss(codec):
    nan, inf = math.nan, math.inf
    points = [[nan, 9], [9, nan], [inf, 9], [9, -inf], [9, 9], [9, 9], [nan, nan]]
    visible = torch.tensor([[1.0, 1.0, 1.0, 1.0, nan, inf, 0.3]])
    maps, weights = codec.encode(torch.tensor([points]), visible)
    assert not maps.any() and not weights.any()  # NaN would count as true
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
        (lambda: level_kernels(0), "at least one stage"),
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


# ---------------------------------------------------------------- batches, numbers, devices


@codecs
@pytest.mark.parametrize("batch, keypoints", [(0, 17), (1, 1), (3, 133), (2, 0)])
def test_a_batch_is_its_members(codec, batch, keypoints):
    random = np.random.default_rng(batch + keypoints)
    points = np.float32(random.uniform((-30, -30), (220, 290), (batch, keypoints, 2)))
    visible = np.float32(random.choice([0, 0.4, 1], (batch, keypoints)))
    points, visible = torch.from_numpy(points), torch.from_numpy(visible)
    maps, weights = codec.encode(points, visible)
    assert maps.shape == (batch, keypoints * codec.channels_per_keypoint, 64, 48)
    noisy = maps + torch.from_numpy(np.float32(random.uniform(0, 0.05, maps.shape)))
    found, scores = codec.decode(noisy)
    assert found.shape == (batch, keypoints, 2)
    assert weights.shape == scores.shape == (batch, keypoints)
    for b in range(batch):
        one = slice(b, b + 1)
        alone = codec.encode(points[one], visible[one])
        assert torch.equal(alone[0], maps[one]) and torch.equal(alone[1], weights[one])
        assert torch.allclose(codec.decode(noisy[one])[0], found[one], rtol=1e-4, atol=1e-3)


@codecs
def test_any_kind_of_number_gives_float32(codec):
    points = torch.tensor([[[60.3, 70.1], [100.0, 200.0]]])
    maps, _ = codec.encode(points, torch.ones(1, 2))
    for other in (points.double(), points.numpy(), points.tolist()):
        assert torch.equal(codec.encode(other, [[1, 1]])[0], maps)
    assert codec.encode(points, torch.tensor([[True, False]]))[1].tolist() == [[1, 0]]
    whole, scores = codec.decode(maps)
    assert whole.dtype == scores.dtype == torch.float32
    assert codec.decode(maps.double())[0].dtype == torch.float64
    rounds = isinstance(codec, MSRA) and not codec.unbiased
    for kind, close in ((torch.float16, 0.2), (torch.bfloat16, 1.0)):
        half, half_scores = codec.decode(maps.to(kind))
        assert half.dtype == half_scores.dtype == torch.float32
        if codec.channels_per_keypoint == 1:
            assert (half - whole).abs().max() <= (4.0 if rounds else close)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.decode(maps)[0], whole)
        assert torch.equal(codec.encode(points, torch.ones(1, 2))[0], maps)
    for layout in (maps.to(memory_format=torch.channels_last), maps.mT.contiguous().mT):
        assert torch.allclose(codec.decode(layout)[0], whole, rtol=1e-5, atol=1e-4)


@codecs
def test_training_may_follow_inference(codec):
    with torch.inference_mode():
        codec.decode(torch.rand(1, 3 * codec.channels_per_keypoint, 64, 48))
    maps = torch.rand(1, 3 * codec.channels_per_keypoint, 64, 48, requires_grad=True)
    keypoints, scores = codec.decode(maps)
    total = scores.sum() + (keypoints.sum() if keypoints.requires_grad else 0)
    total.backward()
    assert maps.grad.isfinite().all() and maps.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["dark", "udp", "combined"])
def test_positions_are_differentiable(name):
    codec = replace(ALL[name], input_size=(24, 28), heatmap_size=(12, 14), sigma=1.5)
    maps = codec.encode(torch.tensor([[[12.3, 14.9]]]), torch.ones(1, 1))[0].double()
    noise = torch.rand(maps.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(codec.decode, (maps + 0.01 * noise).requires_grad_())


@pytest.mark.parametrize("name", ["msra", "megvii"])
def test_quarter_steps_have_no_gradient(name):
    keypoints, scores = ALL[name].decode(torch.rand(1, 2, 64, 48, requires_grad=True))
    assert scores.requires_grad and not keypoints.requires_grad


@codecs
def test_no_value_is_needed_on_the_host(codec):
    """On the meta device tensors have no values: anything that looks at one fails."""
    points, visible = torch.empty(2, 5, 2, device="meta"), torch.empty(2, 5, device="meta")
    maps, weights = codec.encode(points, visible)
    keypoints, scores = codec.decode(maps)
    assert {t.device.type for t in (maps, weights, keypoints, scores)} == {"meta"}
    assert keypoints.shape == (2, 5, 2)
    codec.decode(torch.rand(1, 5 * codec.channels_per_keypoint, 64, 48))  # constants: per device


@codecs
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_without_waiting(codec):
    random = np.random.default_rng(0)
    points = torch.from_numpy(np.float32(random.uniform((-10, -10), (200, 266), (8, 17, 2))))
    visible = torch.ones(8, 17)
    maps, weights = codec.encode(points, visible)
    noise = torch.rand(maps.shape, generator=torch.Generator().manual_seed(0))
    noisy = maps + noise * 0.02 * maps.amax()
    on_gpu = [t.cuda() for t in (points, visible, noisy)]
    codec.encode(*on_gpu[:2]), codec.decode(on_gpu[2])  # makes the constants
    torch.cuda.set_sync_debug_mode("error")
    try:
        gpu_maps, gpu_weights = codec.encode(*on_gpu[:2])
        found, scores = codec.decode(on_gpu[2])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(gpu_maps.cpu(), maps, rtol=1e-5, atol=1e-5)
    assert torch.equal(gpu_weights.cpu(), weights)
    expected, expected_scores = codec.decode(noisy)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(scores.cpu(), expected_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("height", [1, 2, 5, 6, 46, 64])
def test_peaks_are_the_first_in_reading_order(height):
    generator = torch.Generator().manual_seed(height)
    maps = torch.randint(0, 4, (3, 5, height, 7), generator=generator).float()
    points, values = find_peaks(maps)
    index = maps.flatten(2).numpy().argmax(-1)
    assert np.array_equal(points.numpy(), np.stack([index % 7, index // 7], -1))
    assert torch.equal(values, maps.amax((-2, -1)))


def test_the_bench_runs(tmp_path, monkeypatch, capsys):
    record = tmp_path / "record.json"
    few = ["--batch", "2", "--keypoints", "3", "--repeats", "1", "--out", str(record)]
    monkeypatch.setattr(sys, "argv", ["bench/codecs.py", *few])
    runpy.run_path(str(Path(__file__).parent.parent / "bench" / "codecs.py"), run_name="__main__")
    rows = json.loads(record.read_text())["rows"]
    assert [r["codec"] for r in rows] == ["MSRA", "DARK", "UDP", "UDP combined", "Megvii"]
    assert all(r["decode_ratio"] > 0 for r in rows) and "UDP combined" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [dict(input_size="48"), dict(input_size=("a", 2)), dict(sigma="2")]
)
def test_sizes_and_sigmas_of_another_kind(wrong):
    sizes = dict(input_size=(192, 256), heatmap_size=(48, 64))
    with pytest.raises(InputError, match=next(iter(wrong))):
        MSRA(**sizes | wrong)
