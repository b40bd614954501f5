"""The flip test: mirrored answers turned back as recorded from MMPose 1.3.2, for every codec."""

import json

import numpy as np
import pytest
import torch

from codec_cases import combined_maps, golden, make, peaky_heatmaps
from pose_nb.codecs.udp import UDP
from pose_nb.files import InputError
from pose_nb.flip import flip_heatmaps, flip_test
from pose_nb.geometry import to_image

FORMULAS = {"peaky_heatmaps": peaky_heatmaps, "combined_maps": combined_maps}


def check_flip(case):
    maps = torch.from_numpy(FORMULAS[case["formula"]](**case["args"]))[None]
    offsets = case["mode"] == "udp_combined"
    turned = flip_heatmaps(maps, case["flip_indices"], case["shift"], offsets)[0]
    for c, y, x, value in case["samples"]:
        assert abs(float(turned[c, y, x]) - value) <= 1e-6
    sums = turned.double().sum((1, 2))[:8]
    np.testing.assert_allclose(sums, case["channel_sums_first8"], rtol=1e-6)


def answers(case, seed, flip_indices, codec):
    """The recorded answers about an image and about its mirror image, (C, H, W) each."""
    K, (W, H) = case["K"], codec.heatmap_size
    group, amp = codec.channels_per_keypoint, 255.0 if "Megvii" in case["codec"]["type"] else 1.0
    if group == 3:
        direct = combined_maps(seed, K, H, W)
    else:
        direct = peaky_heatmaps(seed, K, H, W, sigma=2.0, amp=amp, special=False)
    noise = np.random.RandomState(seed + 50).rand(*direct.shape).astype(np.float32)
    order = [group * i + j for i in flip_indices for j in range(group)]
    mirrored = (direct + noise * np.float32(0.02 * amp))[order][..., ::-1].copy()
    return torch.from_numpy(direct)[None], torch.from_numpy(mirrored)[None]


def check_prediction(case, flip_indices):
    codec, images = make(case["codec"]), torch.zeros(1, 3, 4, 4)
    assert codec.shift_flip == case["test_cfg"]["shift_heatmap"]
    for seed, person in zip(case["heatmap_seeds"], case["samples"], strict=True):
        maps, mirrored = answers(case, seed, flip_indices, codec)
        if case["test_cfg"]["flip_test"]:
            stages = iter([[torch.zeros(1), maps], [torch.zeros(1), mirrored]])  # the last counts
            maps = flip_test(lambda _, s=stages: next(s), images, flip_indices, codec)
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
def test_turned_maps_are_as_recorded(case):
    check_flip(case)


@pytest.mark.parametrize(
    "case", golden("flip")["predict"], ids=lambda c: f"{c['dataset']}-{c['codec']['type']}"
)
def test_predictions_are_as_recorded(case):
    check_prediction(case, case["flip_indices"])


def test_the_whole_recording(reference):
    facts = json.loads((reference / "components" / "golden" / "predict.json").read_text())
    for case in facts["flip"]:
        check_flip(case)
    indices = {c["dataset"]: c["flip_indices"] for c in facts["flip"]}
    for case in facts["predict"]:
        check_prediction(case, indices[case["dataset"]])


def test_a_wrong_shift_or_order_is_noticed():
    case = next(c for c in golden("flip")["flip"] if c["mode"] == "heatmap")
    straight = list(range(len(case["flip_indices"])))
    for change in ({"shift": not case["shift"]}, {"flip_indices": straight}):
        with pytest.raises(AssertionError):
            check_flip(case | change)


def test_any_kind_of_number_gives_float32():
    codec = UDP((16, 16), (4, 4))

    def half(images):
        return images.mean((1, 2, 3)).reshape(-1, 1, 1, 1).expand(-1, 2, 4, 4).bfloat16()

    images = torch.rand(3, 3, 16, 16, requires_grad=True)
    for indices in (torch.tensor([1, 0]), np.array([1, 0]), [1, 0]):
        maps = flip_test(half, images, indices, codec)
        assert maps.dtype == torch.float32 and maps.shape == (3, 2, 4, 4) and maps.requires_grad
    assert flip_test(half, images[:0], [1, 0], codec).shape == (0, 2, 4, 4)


def test_a_map_of_one_column_is_only_reordered():
    maps = torch.rand(1, 2, 3, 1)
    assert torch.equal(flip_heatmaps(maps, [1, 0], shift=True), maps[:, [1, 0]])


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
