"""The data set and its loader: contract, same batches for any number of workers, errors."""

import multiprocessing

import cv2
import numpy as np
import pytest
import torch

from data_images import picture
from pose_nb.data.augment import BODY, Augment
from pose_nb.data.loader import EpochSampler, PoseDataset, make_loader
from pose_nb.data.pixels import CSPNEXT, CSPNEXT_LATE
from pose_nb.data.records import from_boxes
from pose_nb.files import InputError
from pose_nb.geometry import box_to_center_scale, to_image
from pose_nb.skeletons import COCO


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), picture(i, 90, 120))
    boxes = np.array([[10 + i, 5, 80 + i, 85] for i in range(7)], np.float32)
    keypoints = rng.uniform(10, 85, (7, 17, 2)).astype(np.float32)
    return from_boxes(
        COCO,
        [str(folder / f"{i % 3}.png") for i in range(7)],
        [i % 3 for i in range(7)],
        range(7),
        boxes,
        keypoints,
        rng.integers(0, 2, (7, 17)),
        np.full(7, 900),
    )


@pytest.mark.parametrize("udp", [False, True])
def test_item(records, udp):
    item = PoseDataset(records, (48, 64), udp=udp)[4]
    assert (
        set(item) == {"image", "keypoints", "visible", "center", "scale", "index"}
        and item["index"] == 4
    )
    shapes = {
        "image": (3, 64, 48),
        "keypoints": (17, 2),
        "visible": (17,),
        "center": (2,),
        "scale": (2,),
    }
    for name, shape in shapes.items():
        assert tuple(item[name].shape) == shape and item[name].dtype == (
            torch.uint8 if name == "image" else torch.float32
        )
    center, scale = box_to_center_scale(records.boxes[4], 48 / 64)
    assert np.array_equal(item["center"], center) and np.allclose(item["scale"], scale)
    back = to_image(item["keypoints"].numpy(), center, scale, (48, 64), udp=udp)
    assert np.abs(back - records.keypoints[4]).max() < 1e-3


def test_item_does_not_touch_the_records(records):
    before = [v.copy() for v in vars(records).values() if isinstance(v, np.ndarray)]
    item = PoseDataset(records, (48, 64), augment=BODY)[0]
    for v in item.values():
        if isinstance(v, torch.Tensor):
            v.zero_()
    item = PoseDataset(records, (48, 64))[0]
    for v in item.values():
        if isinstance(v, torch.Tensor):
            v.zero_()
    assert all(
        np.array_equal(a, b)
        for a, b in zip(before, [v for v in vars(records).values() if isinstance(v, np.ndarray)])
    )


def batches(records, workers, epochs=(0, 1, 2), seed=5, **options):
    dataset = PoseDataset(records, (48, 64), augment=CSPNEXT, late=(2, CSPNEXT_LATE), seed=seed)
    loader, out = make_loader(dataset, 2, workers, shuffle=True, seed=seed, **options), []
    for epoch in epochs:
        dataset.set_epoch(epoch)
        out.append(list(loader))
    return out


def equal(a, b):
    return all(
        torch.equal(x[k], y[k])
        for p, q in zip(a, b, strict=True)
        for x, y in zip(p, q, strict=True)
        for k in x
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_matter(records, workers):
    assert equal(batches(records, 0), batches(records, workers))


def test_restart_and_seed(records):
    first = batches(records, 0)
    assert equal(first[1:], batches(records, 0, epochs=(1, 2)))
    assert not equal(first[:1], batches(records, 0, epochs=(0,), seed=6)) and not equal(
        first[:1], batches(records, 0, epochs=(1,))
    )


def test_late_augmentation(records):
    dataset = PoseDataset(
        records, (48, 64), augment=BODY, late=(2, Augment(0, 0, 0.7, 0, 0, (1, 1), 0, 0))
    )
    plain = PoseDataset(records, (48, 64))
    dataset.set_epoch(2)
    assert torch.equal(dataset[1]["image"], plain[1]["image"])
    dataset.set_epoch(1)
    assert not torch.equal(dataset[1]["image"], plain[1]["image"])


def test_every_sample_once(records):
    for drop_last, count in ((False, 7), (True, 6)):
        seen = torch.cat(
            [b["index"] for b in batches(records, 2, epochs=(0,), drop_last=drop_last)[0]]
        ).tolist()
        assert len(seen) == len(set(seen)) == count
    dataset = PoseDataset(records, (48, 64))
    assert list(EpochSampler(dataset, shuffle=False)) == list(range(7))
    assert [b["index"].tolist() for b in make_loader(dataset, 3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_spawned_workers_see_the_epoch(records):
    """Where processes are not forked (macOS, Windows) the epoch must still reach them."""
    dataset = PoseDataset(records, (48, 64), augment=BODY, seed=5)
    loader = torch.utils.data.DataLoader(
        dataset,
        4,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=multiprocessing.get_context("spawn"),
    )
    for epoch in range(2):
        dataset.set_epoch(epoch)
        for batch in loader:
            for i, image in zip(batch["index"].tolist(), batch["image"]):
                assert torch.equal(image, dataset[i]["image"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_one_sentence(records, workers):
    broken = records.subset(range(4))
    broken.image_files[2] = "nowhere/gone.jpg"
    with pytest.raises(InputError) as error:
        list(make_loader(PoseDataset(broken, (48, 64)), 2, workers))
    assert str(error.value) == "nowhere/gone.jpg: this image file does not exist"


def test_bad_arguments(records):
    dataset = PoseDataset(records, (48, 64))
    for options in (dict(batch_size=0), dict(batch_size=2, workers=-1)):
        with pytest.raises(InputError):
            make_loader(dataset, **options)
    with pytest.raises(InputError, match="no records"):
        PoseDataset(records.subset([]), (48, 64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_pinned(records):
    assert next(iter(make_loader(PoseDataset(records, (48, 64)), 2)))["image"].is_pinned()


def test_epoch_changes_samples_and_order(records):
    dataset = PoseDataset(records, (48, 64), augment=BODY, seed=5)
    orders, images = [], []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        orders.append(list(EpochSampler(dataset, seed=5)))
        images.append(dataset[2]["image"])
    assert orders[0] != orders[1] != orders[2] != orders[0] and all(
        sorted(o) == list(range(7)) for o in orders
    )
    assert not any(torch.equal(images[a], images[b]) for a, b in ((0, 1), (1, 2), (0, 2)))
    assert not torch.equal(
        dataset[2]["image"], PoseDataset(records, (48, 64), augment=BODY, seed=6)[2]["image"]
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_the_device_cuts_the_same_crops(records, workers):
    """Also mirrored, turned and half outside; two of CSPNeXt's epochs differ by a level here and
    there, where colours come back from HSV."""
    for augment, late, most in ((None, None, 0), (BODY, None, 0), (CSPNEXT, (1, CSPNEXT_LATE), 1)):
        how = dict(augment=augment, late=late, seed=3)
        sets = [PoseDataset(records, (48, 64), **how, crops=c) for c in ("workers", "device")]
        loaders = [make_loader(s, 4, workers=workers, shuffle=True, seed=3) for s in sets]
        for epoch in (0, 1):
            for dataset in sets:
                dataset.set_epoch(epoch)
            for ours, theirs in zip(*loaders, strict=True):
                apart = (ours["image"].int() - theirs["image"].cut("cpu").int()).abs()
                assert apart.max() <= most
                assert torch.equal(ours["index"], theirs["index"])


def test_who_cuts_is_checked(records):
    with pytest.raises(InputError, match="crops 'gpu': must be one of workers, device"):
        PoseDataset(records, (48, 64), crops="gpu")
