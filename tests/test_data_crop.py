"""Image reading, the warp and the pixel changes against recorded bytes; broken image files."""

import hashlib
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from data_images import picture
from PIL import Image, ImageOps

from pose_nb.data.crop import crop_image, normalise, warp
from pose_nb.data.inputs import ImageError, check_images, read_image, read_image_size
from pose_nb.data.loader import PoseDataset
from pose_nb.data.pixels import (
    CSPNEXT,
    CSPNEXT_LATE,
    Rectangle,
    box_blur,
    distort,
    median_blur,
    shift_hsv,
)
from pose_nb.data.readers import load_coco
from pose_nb.files import InputError
from pose_nb.skeletons import Skeleton

GOLDEN = json.loads((Path(__file__).parent / "golden" / "data.json").read_text())


def sha(image):
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


@pytest.mark.parametrize("case", GOLDEN["warp"], ids=lambda c: str(c["image_seed"]))
def test_warp_gives_the_recorded_bytes(case):
    image = picture(case["image_seed"], case["H"], case["W"])
    assert sha(warp(image, case["matrix"], case["size"])) == case["sha256"]
    mirrored_channels = warp(image[..., ::-1].copy(), case["matrix"], case["size"])[..., ::-1]
    assert sha(mirrored_channels) == case["sha256"], "the order of channels must not matter"


def test_warp_test_can_fail():
    case = GOLDEN["warp"][0]
    matrix = np.array(case["matrix"])
    matrix[0, 2] += 1 / 64
    assert (
        sha(warp(picture(case["image_seed"], case["H"], case["W"]), matrix, case["size"]))
        != case["sha256"]
    )


def rgb(case):
    return picture(case["image_seed"], case["H"], case["W"])[..., ::-1].copy()


@pytest.mark.parametrize("case", GOLDEN["hsv"], ids=lambda c: str(c["gains_hsv"]))
def test_hsv(case):
    out = shift_hsv(rgb(case), case["gains_hsv"])[..., ::-1].astype(int)
    pixels = np.array(case["pixels_after_y_x_bgr"])
    assert (
        np.abs(out[pixels[:, 0], pixels[:, 1]] - pixels[:, 2:]).max() <= 2
    )  # OpenCV after 4.10 rounds the conversion differently
    assert np.abs(out.mean((0, 1)) - case["mean"]).max() < 0.5


@pytest.mark.parametrize("case", GOLDEN["photometric"], ids=lambda c: str(c["image_seed"]))
def test_photometric(case):
    out = distort(
        rgb(case),
        case["beta"] if case["brightness"] else None,
        case["contrast_alpha"] if case["contrast"] and case["contrast_mode"] else None,
        case["saturation_alpha"] if case["hsv_mode"] in (1, 3) else None,
        case["hue_delta"] if case["hsv_mode"] in (2, 3) else None,
        case["permutation"] if case["swap"] else None,
    )[..., ::-1].astype(int)
    pixels = np.array(case["pixels_after_y_x_c"])
    assert np.abs(out[pixels[:, 0], pixels[:, 1]] - pixels[:, 2:]).max() <= 2
    assert np.abs(out.mean((0, 1)) - case["mean"]).max() < 0.5


@pytest.mark.parametrize("case", GOLDEN["blur"], ids=lambda c: str(c["ksize"]))
def test_blur_and_median(case):
    assert sha(box_blur(rgb(case), case["ksize"])[..., ::-1]) == case["box_sha256"]
    assert sha(median_blur(rgb(case), case["ksize"])[..., ::-1]) == case["median_sha256"]


def test_recipes_of_the_rows():
    early, late = CSPNEXT, CSPNEXT_LATE
    assert (early.scale, early.rotate, early.shift, early.half_body, early.flip) == (
        (0.6, 1.4),
        80,
        0.16,
        0.3,
        0.5,
    )
    assert (late.scale, late.rotate, late.shift, late.half_body) == ((0.75, 1.25), 60, 0, 0.3)
    assert [type(p).__name__ for p in early.pixels] == ["HSV", "Blur", "Blur", "Rectangle"]
    assert (
        early.pixels[3] == Rectangle(1.0)
        and late.pixels[3] == Rectangle(0.5)
        and early.pixels[1].p == early.pixels[2].p == 0.1
    )


def test_normalise():
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    expected = (
        np.arange(256)[None].repeat(3, 0) - np.array([[123.675], [116.28], [103.53]])
    ) / np.array([[58.395], [57.12], [57.375]])
    assert np.abs(normalise(image).reshape(3, 256).numpy() - expected).max() < 1e-6


@pytest.fixture
def files(tmp_path):
    image = picture(1, 60, 80)
    for name in ("a.jpg", "a.png"):
        Image.fromarray(image).save(tmp_path / name)
    return tmp_path, image


def test_read_image_is_rgb(files):
    folder, image = files
    assert np.array_equal(read_image(folder / "a.png"), image)
    bgr = cv2.imread(str(folder / "a.jpg"))
    assert np.array_equal(read_image(folder / "a.jpg")[..., ::-1], bgr)


TURNS_ALL = tuple(map(int, cv2.__version__.split(".")[:2])) >= (4, 12)


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 9, 99])
def test_exif_orientation_as_opencv(tmp_path, orientation, ending):
    """The pixels are turned, the size from the header is theirs, and odd numbers mean nothing."""
    exif, file = Image.Exif(), tmp_path / f"a.{ending}"
    exif[0x0112] = orientation
    Image.fromarray(picture(1, 30, 50)).save(file, exif=exif)
    image = read_image(file)
    if ending in ("tiff", "webp") and not TURNS_ALL:
        pytest.skip(f"OpenCV {cv2.__version__} turns JPEG and PNG files alone")
    if ending == "tiff":  # cv2.imread fails where cv2.imdecode does not
        turned = ImageOps.exif_transpose(Image.open(file)) if orientation < 9 else Image.open(file)
        assert np.array_equal(image, turned)
    else:
        assert np.array_equal(image[..., ::-1], cv2.imread(str(file)))
    assert image.shape[:2] == ((50, 30) if 5 <= orientation <= 8 else (30, 50))
    assert read_image_size(file) == image.shape[1::-1]


def test_a_picture_of_another_size_is_refused(tmp_path):
    Image.fromarray(picture(1, 30, 50)).save(tmp_path / "a.jpg")
    content = dict(
        images=[dict(id=1, file_name="a.jpg", width=50, height=30)],
        annotations=[dict(id=1, image_id=1, bbox=[5, 5, 20, 20], keypoints=[9, 9, 2])],
    )
    for size, fine in (((50, 30), True), ((30, 50), False), ((100, 60), False)):
        content["images"][0].update(width=size[0], height=size[1])
        (tmp_path / "a.json").write_text(json.dumps(content))
        records = load_coco(tmp_path / "a.json", tmp_path, Skeleton("dot", ("dot",)))
        if fine:
            assert PoseDataset(records, (24, 32))[0]["image"].shape == (3, 32, 24)
            continue
        with pytest.raises(ImageError, match=f"has 50 x 30 pixels, but .*a.json says {size[0]} x"):
            PoseDataset(records, (24, 32))[0]


def test_links_out_of_the_image_folder(tmp_path, monkeypatch):
    for folder in ("images", "elsewhere"):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture(1, 30, 50)).save(tmp_path / folder / "a.jpg")
    images = tmp_path / "images"
    (images / "inside.jpg").symlink_to(images / "a.jpg")
    (images / "out.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    (images / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "linked").symlink_to(images)  # the folder itself may be a link
    dot = Skeleton("dot", ("dot",))

    def cut(name, folder="images"):
        content = dict(
            images=[dict(id=1, file_name=name, width=50, height=30)],
            annotations=[dict(id=1, image_id=1, bbox=[5, 5, 20, 20], keypoints=[9, 9, 2])],
        )
        (tmp_path / "a.json").write_text(json.dumps(content))
        records = load_coco(tmp_path / "a.json", tmp_path / folder, dot)
        check_images(records)
        return PoseDataset(records, (24, 32))[0]

    for name in ("a.jpg", "inside.jpg"):
        cut(name), cut(name, "linked")
    outside = ["out.jpg", "folder/a.jpg", "../elsewhere/a.jpg", str(tmp_path / "elsewhere/a.jpg")]
    for name in outside:
        with pytest.raises(InputError, match="POSE_NB_OUTSIDE=allow"):
            cut(name)
    monkeypatch.setenv("POSE_NB_OUTSIDE", "allow")
    for name in outside:
        cut(name)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_other_kinds_of_images(tmp_path, mode):
    image = (
        Image.fromarray(picture(1, 30, 50)).convert(mode)
        if mode != "I;16"
        else Image.fromarray(np.full((30, 50), 40000, np.uint16))
    )
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (30, 50, 3)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_cut_files(files, name, share):
    folder, _ = files
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=name):
        read_image(folder / name)


def test_pipes_and_huge_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(2**40)
    for name, word in (("pipe.jpg", "pipe or device"), ("sparse.jpg", "1,099,511,627,776 bytes")):
        with pytest.raises(ImageError, match=word):
            read_image(tmp_path / name)


def test_the_size_comes_from_the_header(files):
    folder, image = files
    for name in ("a.jpg", "a.png"):
        assert read_image_size(folder / name) == image.shape[1::-1]
    data = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(data[: len(data) // 2])
    assert read_image_size(folder / "a.jpg") == image.shape[1::-1]
    for name in ("none.jpg", "."):
        with pytest.raises(ImageError):
            read_image_size(folder / name)


def test_thumbnail_does_not_hide_a_cut(tmp_path):
    """A JPEG whose first part holds a whole small JPEG, with its end marker."""
    small, large = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture(1, 16, 16)).save(small, "jpeg")
    Image.fromarray(picture(2, 200, 200)).save(large, "jpeg", comment=small.getvalue())
    (tmp_path / "a.jpg").write_bytes(large.getvalue())
    assert read_image(tmp_path / "a.jpg").shape == (200, 200, 3)
    (tmp_path / "a.jpg").write_bytes(large.getvalue()[:-3000])
    with pytest.raises(InputError, match="cut short"):
        read_image(tmp_path / "a.jpg")


def test_other_bad_files(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "noise.png").write_bytes(bytes(range(256)) * 20)
    for name in (
        "text.jpg",
        "empty.jpg",
        "noise.png",
        "missing.jpg",
        ".",
        "a\0b.jpg",
        "x" * 300 + ".jpg",
    ):
        with pytest.raises(ImageError):
            read_image(tmp_path / name)


@pytest.mark.parametrize("size", [(40000, 10), (11000, 10000), (60000, 60000)])
def test_size_limits(tmp_path, size):
    import zlib

    small = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(small, "png")
    data = bytearray(small.getvalue())
    data[16:24] = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(bytes(data))
    with pytest.raises(ImageError, match="bomb.png.*smaller"):
        read_image(tmp_path / "bomb.png")


def test_check_images(files):
    folder, _ = files
    good = SimpleNamespace(image_files=[str(folder / "a.jpg")] * 5, image_dir="")
    assert check_images(good) == check_images(good, decode=True) == 1
    bad = SimpleNamespace(
        image_files=[str(folder / f"{i}.jpg") for i in range(6)] + good.image_files, image_dir=""
    )
    with pytest.raises(InputError) as error:
        check_images(bad)
    assert (
        "6 of 7" in str(error.value)
        and "0.jpg" in str(error.value)
        and "and 3 more" in str(error.value)
        and "4.jpg" not in str(error.value)
    )


def test_crop_outside_and_tiny():
    image = picture(1, 40, 50)
    assert crop_image(image, [-900, 20], [30, 40], 0, (48, 64)).max() == 0
    assert crop_image(image, [20, 20], [1e-3, 1e-3 * 64 / 48], 0, (48, 64)).shape == (64, 48, 3)
    assert crop_image(image, [20, 20], [1e5, 1e5 * 64 / 48], 45, (48, 64)).shape == (64, 48, 3)
