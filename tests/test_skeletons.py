"""The twelve skeletons against recorded facts, and custom ones with all that can be wrong."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pose_nb.files import InputError
from pose_nb.skeleton import DEFAULT_SIGMA, Skeleton, mirror_pairs
from pose_nb.skeletons import ALL, COCO, estimate_sigmas

GOLDEN = json.loads((Path(__file__).parent / "golden" / "skeletons.json").read_text())["skeletons"]


def facts(s):
    """A skeleton in the layout of the recorded files."""
    plain = lambda pairs: [list(p) for p in pairs]
    return {
        "keypoints": list(s.keypoints),
        "flip_pairs": plain(s.flip_pair_ids),
        "flip_indices": list(s.flip_indices),
        "skeleton": plain(s.link_ids),
        "upper_body_ids": list(s.upper_ids),
        "lower_body_ids": list(s.lower_ids),
        "sigmas": s.sigmas and list(s.sigmas),
        "keypoint_colors_rgb": plain(s.colors),
        "skeleton_colors_rgb": plain(s.link_colors),
    }


def digest(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


@pytest.mark.parametrize("skeleton", ALL, ids=lambda s: s.name)
def test_recorded_facts(skeleton):
    expected = GOLDEN[skeleton.name]
    assert len(skeleton) == skeleton.num_keypoints == expected["num_keypoints"]
    assert {k: digest(v) for k, v in facts(skeleton).items()} == {
        k: v for k, v in expected.items() if k != "num_keypoints"
    }


@pytest.mark.parametrize("skeleton", ALL, ids=lambda s: s.name)
def test_recorded_facts_in_full(skeleton):
    folder = os.environ.get("POSE_NB_REFERENCE")
    if not folder:
        pytest.skip("set POSE_NB_REFERENCE=<folder of the recorded figures> to run")
    expected = json.loads(
        (Path(folder) / "components" / "metainfo" / f"{skeleton.name}.json").read_text()
    )
    for key, value in facts(skeleton).items():
        assert value == expected[key], key


def test_names_are_unique_and_hashable():
    assert len({s.name for s in ALL}) == len(ALL) == 12 and len(set(ALL)) == 12


@pytest.mark.parametrize("skeleton", ALL, ids=lambda s: s.name)
def test_round_trip_through_json(skeleton):
    assert Skeleton.from_dict(json.loads(json.dumps(dataclasses.asdict(skeleton)))) == skeleton
    assert skeleton.name in str(skeleton)


@pytest.mark.parametrize("K", [1, 2, 17, 100, 133])
def test_any_number_of_keypoints(K):
    names = [f"{side}_{i}" for i in range(K // 2) for side in ("left", "right")] + (
        ["middle"] if K % 2 else []
    )
    s = Skeleton.from_dict({"name": "any", "keypoints": names, "sigmas": [0.05] * K})
    assert len(s) == K and len(s.flip_pairs) == K // 2
    x = np.random.default_rng(0).random(K)
    assert (x[list(s.flip_indices)][list(s.flip_indices)] == x).all()


def test_mirror_pairs():
    assert mirror_pairs(["a", "left_a", "right_a"]) == (("left_a", "right_a"),)
    assert mirror_pairs(["RightEye", "LeftEye"]) == (("RightEye", "LeftEye"),)
    assert mirror_pairs(["l_eye", "tail", "r_eye", "L1", "R1"]) == (("l_eye", "r_eye"),) + (
        (("L1", "R1"),)
    )
    assert mirror_pairs(["tail", "ear", "left_only", "collar", "real"]) == ()
    assert (
        Skeleton.from_dict({"keypoints": ["left_a", "right_a"], "flip_pairs": []}).flip_pairs == ()
    )


@pytest.mark.parametrize(
    "values, message",
    [
        ({"keypoints": ["a", "b"], "flip_pairs": [["a", "c"]]}, "'c' is no keypoint"),
        ({"keypoints": ["nose", "b"], "links": [["noze", "b"]]}, "did you mean 'nose'"),
        ({"keypoints": ["a", "a"]}, "more than once"),
        ({"keypoints": []}, "no keypoints"),
        ({"keypoints": "abc"}, "list of names"),
        ({"keypoints": None}, "list of names"),
        ({"keypoints": [1, 2]}, "list of names"),
        ({"keypoints": ["a", "b", "c"], "flip_pairs": [["a", "b"], ["a", "c"]]}, "in two pairs"),
        ({"keypoints": ["a", "b"], "flip_pairs": [["a", "a"]]}, "paired with itself"),
        ({"keypoints": ["a", "b"], "flip_pairs": [["a"]]}, "pair of names"),
        ({"keypoints": ["a", "b"], "links": ["ab"]}, "pair of names"),
        ({"keypoints": ["a", "b"], "links": 3}, "list of pairs"),
        ({"keypoints": ["a", "b"], "links": [[0, 2]]}, "outside 0 to 1"),
        ({"keypoints": ["a"], "sigmas": [0.1, 0.2]}, "2 numbers for 1"),
        ({"keypoints": ["a"], "sigmas": [-0.1]}, "above 0"),
        ({"keypoints": ["a"], "sigmas": [float("nan")]}, "finite"),
        ({"keypoints": ["a"], "sigmas": ["x"]}, "numbers"),
        ({"keypoints": ["a"], "upper_body": ["b"]}, "no keypoint"),
        ({"keypoints": ["a"], "colors": [[1, 2]]}, "no colour"),
        ({"keypoints": ["a"], "colours": []}, "colors"),
        ({"links": []}, "missing"),
        ([], "dictionary"),
        ({"keypoints": ["a"], "name": 7}, "is no text"),
        ({"keypoints": ["a"], "name": ["a"]}, "is no text"),
        ({"keypoints": ["a"], "sigmas": [10**400]}, "list of 1 numbers"),
        ({"keypoints": ["a"], "sigmas": 7}, "list of 1 numbers"),
        ({"keypoints": ["a"], "colors": 7}, "1 colours"),
        ({"keypoints": ["a"], "colors": "R"}, "1 colours"),
        ({"keypoints": ["a"], "upper_body": [["a"]]}, "list of names"),
        ({"keypoints": ["a", "b"], "links": [[["a"], "b"]]}, "no keypoint"),
        ({"keypoints": ["a", "b"], "links": [[True, 0]]}, "no keypoint"),
        ({"keypoints": ["k" * 10**7, "k" * 10**7]}, "more than once"),
        ({"keypoints": ["a"], "links": [["k" * 10**7, "a"]]}, "no keypoint"),
        ({"keypoints": [str(i) for i in range(100_000)], "sigmas": [0.1]}, "for 100000 keypoints"),
    ],
)
def test_mistakes(values, message):
    with pytest.raises(InputError, match=message) as caught:
        Skeleton.from_dict(values, "x.json")
    assert "x.json" in str(caught.value) and len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    "category",
    [
        {"keypoints": 5},
        {"keypoints": {"a": 1}},
        {"keypoints": ["a", "b"], "skeleton": 5},
        {"keypoints": ["a", "b"], "skeleton": {"a": "b"}},
        {"keypoints": ["a", "b"], "skeleton": [[1.0, 2]]},
        {"keypoints": ["a", "b"], "skeleton": [[True, 2]]},
        {"keypoints": ["a", "b"], "skeleton": [1]},
        {"keypoints": ["a", "b"], "name": {}},
        {"keypoints": ["a", "b"], "sigmas": "ab"},
        [],
        None,
    ],
)
def test_mistakes_in_a_category(category, tmp_path):
    with pytest.raises(InputError, match="x.json"):
        Skeleton.from_coco_category(category, source="x.json")
    (tmp_path / "x.json").write_text(json.dumps({"categories": [category]}))
    with pytest.raises(InputError, match="x.json"):
        Skeleton.from_file(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps({"categories": category}))
    with pytest.raises(InputError, match="x.json"):
        Skeleton.from_file(tmp_path / "x.json")


def test_files(tmp_path):
    category = {
        "id": 1,
        "name": "person",
        "keypoints": list(COCO.keypoints),
        "skeleton": [[a + 1, b + 1] for a, b in COCO.link_ids],
    }
    (tmp_path / "coco.json").write_text(
        json.dumps(
            {"images": [], "annotations": [], "categories": [{"id": 9, "name": "car"}, category]}
        )
    )
    (tmp_path / "category.json").write_text(json.dumps(category))
    for name in ("coco.json", "category.json"):
        s = Skeleton.from_file(tmp_path / name)
        assert (s.keypoints, s.flip_pairs, s.links, s.sigmas) == (
            COCO.keypoints,
            COCO.flip_pairs,
            COCO.links,
            None,
        )
    assert Skeleton.from_coco_category(category, COCO.sigmas).sigmas == COCO.sigmas
    (tmp_path / "boxes.json").write_text('{"categories": [{"id": 1, "name": "car"}]}')
    with pytest.raises(InputError, match="no category lists keypoints"):
        Skeleton.from_file(tmp_path / "boxes.json")
    with pytest.raises(InputError, match="from 1 to 17"):
        Skeleton.from_coco_category(category | {"skeleton": [[0, 1]]})
    with pytest.raises(InputError, match="does not exist"):
        Skeleton.from_file(tmp_path / "none.json")


def test_default_sigmas_warn():
    with pytest.warns(UserWarning, match="estimate_sigmas"):
        values = Skeleton("s", ["a", "b"]).oks_sigmas()
    assert values.tolist() == [DEFAULT_SIGMA] * 2


@pytest.mark.parametrize("K", [1, 17, 133])
def test_sigmas_are_recovered(K):
    rng = np.random.default_rng(K)
    sigmas, areas = rng.uniform(0.01, 0.12, K), rng.uniform(20, 300, 3000) ** 2
    spread = (sigmas / 2**0.5)[:, None] * areas[:, None, None, None] ** 0.5  # per axis
    labels = rng.uniform(0, 500, (3000, 1, K, 2)) + rng.normal(0, 1, (3000, 3, K, 2)) * spread
    assert np.abs(estimate_sigmas(labels, areas) / sigmas - 1).max() < 0.05
    seen = rng.random(labels.shape[:3]) < 0.7
    assert np.abs(estimate_sigmas(labels, areas, visible=seen) / sigmas - 1).max() < 0.06
    with pytest.raises(InputError, match="above 0"):
        estimate_sigmas(labels, areas * 0)
