"""Detectors: torchvision's from a file or the web, any function; what is said without either."""

import numpy as np
import pytest
import torch
from data_images import picture

from pose_nb import detector
from pose_nb.files import InputError
from pose_nb.prediction import boxes_or_detector, looks_for_people, predict
from pose_nb.tables.zoo import create_model, get_row
from pose_nb.weights.finding import NotFound

PHOTO, SMALL = picture(1, 60, 80), "ssdlite320_mobilenet_v3_large"


@pytest.fixture(scope="module")
def model():
    return create_model("coco/shufflenet-v2", "random")


def test_a_file_of_weights_and_a_damaged_one(tmp_path):
    torch.manual_seed(0)
    made = detector.person_detector(SMALL, "random", threshold=0.0)
    torch.save(made.network.state_dict(), tmp_path / "d.pth")
    read = detector.person_detector(SMALL, tmp_path / "d.pth", threshold=0.0)
    with torch.inference_mode():
        (answer,) = made.network([torch.zeros(3, 60, 80)])
    made.person = read.person = int(answer["labels"].mode().values)
    assert len(made([PHOTO])[0])
    assert all(map(np.array_equal, made([PHOTO, PHOTO[:40]]), read([PHOTO, PHOTO[:40]])))
    short = dict(list(made.network.state_dict().items())[5:])
    torch.save(short, tmp_path / "short.pth")
    with pytest.raises(InputError, match="short.pth: no weights of ssdlite"):
        detector.person_detector(SMALL, tmp_path / "short.pth")
    (tmp_path / "page.pth").write_text("<html></html>")
    with pytest.raises(InputError, match="page.pth"):
        detector.person_detector(SMALL, tmp_path / "page.pth")


def test_without_a_connection_it_says_what_to_do(model, monkeypatch):
    def nowhere(name, folder, mirrors):
        assert mirrors == ["https://download.pytorch.org/models"] and "907ea3f9" in name
        raise NotFound("not found. Tried:\n- /cache\n- the server: no connection")

    monkeypatch.setattr(detector, "find_weights", nowhere)
    with pytest.raises(InputError) as error:
        predict(model, PHOTO, device="cpu")
    for words in ("--box ", "--boxes whole", "--detector-weights", "no connection"):
        assert words in str(error.value)


def test_who_is_looked_for():
    assert all(
        looks_for_people(get_row(r)) for r in ("coco/resnet-50", "mpii/cpm", "aic/hrnet-w32")
    )
    assert not looks_for_people(get_row("wflw/hrnetv2-w18"))
    assert boxes_or_detector(None, get_row("wflw/hrnetv2-w18")) is None


def test_any_function_is_a_detector(model):
    seen = []

    def left_half(pictures):
        seen.append(len(pictures))
        return [[[0, 0, p.shape[1] / 2, p.shape[0], 0.5 + i / 100]] for i, p in enumerate(pictures)]

    poses = predict(model, [PHOTO] * 10, left_half, flip=False, device="cpu")
    assert seen == [8, 2] and poses.boxes[9].tolist() == [0, 0, 40, 60]
    assert np.allclose(poses.box_scores[:2], [0.5, 0.51])
    given = predict(model, [PHOTO] * 10, [p[None] for p in poses.boxes], flip=False, device="cpu")
    assert np.array_equal(given.keypoints, poses.keypoints) and given.box_scores is None


@pytest.mark.parametrize(
    "answer",
    [None, [], [[1, 2, 3]], [[["a"] * 4]], [[[5, 5, 1, 1]]], [[[0, 0, float("nan"), 4, 1]]], 7],
    ids=repr,
)
def test_a_detector_that_answers_nonsense(model, answer):
    with pytest.raises(InputError):
        predict(model, PHOTO, lambda pictures: answer, device="cpu")
