"""The flip test against figures recorded from MMPose 1.3.2, for every codec."""

import numpy as np
import pytest
import torch

from pose_nb.files import InputError
from pose_nb.flip import flip_heatmaps, flip_test
from pose_nb.geometry import to_image
from test_codecs import combined_maps, golden, make, peaky_heatmaps, reference

FORMULAS = {"peaky_heatmaps": peaky_heatmaps, "combined_maps": combined_maps}


def check_flip(case):
    maps = torch.from_numpy(FORMULAS[case["formula"]](**case["args"]))[None]
    turned = flip_heatmaps(
        maps, case["flip_indices"], case["shift"], offsets=case["mode"] == "udp_combined"
    )[0]
    for c, y, x, value in case["samples"]:
        assert abs(float(turned[c, y, x]) - value) <= 1e-6
    np.testing.assert_allclose(
        turned.double().sum((1, 2))[:8], case["channel_sums_first8"], rtol=1e-6
    )


def check_prediction(case, flip_indices):
    codec, K = make(case["codec"]), case["K"]
    (W, H), amp = codec.heatmap_size, 255.0 if case["codec"]["type"] == "MegviiHeatmap" else 1.0
    group = codec.channels_per_keypoint
    order = [group * i + j for i in flip_indices for j in range(group)]
    for seed, person in zip(case["heatmap_seeds"], case["samples"], strict=True):
        if group == 3:
            direct = combined_maps(seed, K, H, W)
        else:
            direct = peaky_heatmaps(seed, K, H, W, sigma=2.0, amp=amp, special=False)
        noise = np.random.RandomState(seed + 50).rand(*direct.shape).astype(
            np.float32
        ) * np.float32(0.02 * amp)
        mirrored = (direct + noise)[order][..., ::-1].copy()
        answers = iter([direct, mirrored])
        images = torch.zeros(1, 3, 4, 4)
        model = lambda _, answers=answers: [
            torch.zeros(1),
            torch.from_numpy(next(answers))[None],
        ]  # several stages: the last counts
        assert codec.shift_flip == case["test_cfg"]["shift_heatmap"]
        maps = (
            flip_test(model, images, flip_indices, codec)
            if case["test_cfg"]["flip_test"]
            else torch.from_numpy(direct)[None]
        )
        np.testing.assert_allclose(maps.double().sum(), person["aggregated_heatmap_sum"], rtol=1e-6)
        keypoints, scores = codec.decode(maps)
        center, scale = (torch.tensor(person[n])[None] for n in ("center", "scale"))
        found = to_image(keypoints, center, scale, codec.input_size, udp=codec.udp)[0].numpy()
        expected = np.array(person["image_keypoints"])
        assert (np.abs(found - expected) <= 1e-4 * (1 + np.abs(expected))).all()
        np.testing.assert_allclose(scores[0], person["scores"], atol=1e-5)


@pytest.mark.parametrize(
    "case", golden("flip")["flip"], ids=lambda c: f"{c['dataset']}-{c['mode']}-{c['shift']}"
)
def test_turned_maps_as_recorded(case):
    check_flip(case)


@pytest.mark.parametrize(
    "case", golden("flip")["predict"], ids=lambda c: f"{c['dataset']}-{c['codec']['type']}"
)
def test_predictions_as_recorded(case):
    check_prediction(case, case["flip_indices"])


def test_every_recorded_flip_and_prediction():
    facts = reference("predict")
    for case in facts["flip"]:
        check_flip(case)
    indices = {c["dataset"]: c["flip_indices"] for c in facts["flip"]}
    for case in facts["predict"]:
        check_prediction(case, indices[case["dataset"]])


def test_a_wrong_shift_is_noticed():
    case = next(c for c in golden("flip")["flip"] if c["mode"] == "heatmap")
    with pytest.raises(AssertionError):
        check_flip(case | {"shift": not case["shift"]})
    with pytest.raises(AssertionError):
        check_flip(case | {"flip_indices": list(range(len(case["flip_indices"])))})


@pytest.mark.parametrize("offsets", [False, True])
def test_turning_twice_is_nothing(offsets):
    maps = torch.rand(2, 9 if offsets else 3, 5, 7)
    once = flip_heatmaps(maps, (0, 2, 1), shift=False, offsets=offsets)
    assert torch.equal(
        flip_heatmaps(once, (0, 2, 1), shift=False, offsets=offsets), maps
    ) and not torch.equal(once, maps)


def test_kinds_of_input():
    codec = make({"type": "UDPHeatmap", "input_size": (16, 16), "heatmap_size": (4, 4)})
    half = lambda images: images.mean((1, 2, 3)).reshape(-1, 1, 1, 1).expand(-1, 2, 4, 4).bfloat16()
    images = torch.rand(3, 3, 16, 16, requires_grad=True)
    maps = flip_test(
        half, images, torch.tensor([1, 0]), codec
    )  # indices may be a tensor, a list or an array
    assert maps.dtype == torch.float32 and maps.shape == (3, 2, 4, 4) and maps.requires_grad
    assert flip_test(half, images[:0], np.array([1, 0]), codec).shape == (0, 2, 4, 4)
    one_column = torch.rand(1, 2, 3, 1)
    assert torch.equal(flip_heatmaps(one_column, [1, 0], shift=True), one_column[:, [1, 0]])
    assert (
        flip_heatmaps(torch.empty(1, 2, 3, 5, device="meta"), [1, 0], shift=True).device.type
        == "meta"
    )


@pytest.mark.parametrize(
    "indices, shape, offsets",
    [
        ((0, 0), (1, 2, 4, 4), False),
        ((0, 1, 2), (1, 2, 4, 4), False),
        ((1, 0), (1, 2, 4, 4), True),
        ((0, 2), (1, 2, 4, 4), False),
        ((1, 0), (2, 4, 4), False),
    ],
)
def test_mistakes_are_named(indices, shape, offsets):
    with pytest.raises(InputError, match="flip_indices"):
        flip_heatmaps(torch.zeros(shape), indices, True, offsets)
