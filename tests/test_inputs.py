"""Pictures in every form people have them: equal pixels, or a sentence that says what is wrong."""

import io
import itertools

import numpy as np
import pytest
import torch
from data_images import picture
from PIL import Image

from pose_nb.data.inputs import ImageError, as_rgb, read_image
from pose_nb.files import InputError
from pose_nb.gathering import find_inputs, is_video, read_input
from pose_nb.inference import row_of
from pose_nb.prediction import predict
from pose_nb.tables.zoo import create_model, get_row
from pose_nb.viz import save_image

PHOTO = picture(1, 60, 80)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("coco/shufflenet-v2", "random")


def stored(form, **options):
    data = io.BytesIO()
    Image.fromarray(PHOTO).save(data, form, **options)
    return data.getvalue()


@pytest.mark.parametrize("form", ["png", "bmp", "tiff", "webp"])
def test_bytes_pillow_and_file_agree(form, tmp_path):
    data = stored(form, **({"lossless": True} if form == "webp" else {}))
    (tmp_path / "x").write_bytes(data)
    opened = Image.open(io.BytesIO(data))
    for pixels in (as_rgb(data), as_rgb(opened), read_image(tmp_path / "x")):
        assert np.array_equal(pixels, PHOTO)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_pillow_as_it_turns_files(turn, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = turn
    file = tmp_path / "x.jpg"
    Image.fromarray(PHOTO).save(file, quality=100, subsampling=0, exif=exif)
    from_file, from_pillow = read_image(file), as_rgb(Image.open(file))
    assert from_file.shape == from_pillow.shape == ((60, 80, 3) if turn < 5 else (80, 60, 3))
    assert np.abs(from_file.astype(int) - from_pillow).max() <= 3  # two JPEG decoders


@pytest.mark.parametrize("mode", ["L", "LA", "La", "P", "RGBA", "CMYK", "1", "I;16", "F", "YCbCr"])
def test_every_mode_of_pillow(mode):
    image = Image.fromarray(PHOTO)
    if mode == "I;16":
        image = Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(PHOTO[..., 0].astype(np.float32) / 255)
    else:
        image = image.convert("LA" if mode == "La" else "RGB").convert(mode)
    pixels = as_rgb(image)
    assert pixels.shape == PHOTO.shape and pixels.dtype == np.uint8
    if mode in ("I;16", "F"):
        assert np.array_equal(pixels[..., 1], PHOTO[..., 0])


def test_any_array_is_a_picture_or_an_image_error():
    """Shapes and types in all combinations: RGB bytes, or one sentence; never another exception."""
    rng, fine = np.random.default_rng(0), 0
    shapes = [(), (5,), (6, 7), (6, 7, 1), (6, 7, 2), (6, 7, 3), (6, 7, 4), (3, 6, 7), (2, 6, 7, 3)]
    shapes += [(0, 7, 3), (1, 1), (1, 1, 3)]
    types = ["u1", "u2", "i4", "i8", "f2", "f4", "f8", "c8", "?", "M8[s]", "O", "U3"]
    for shape, kind in itertools.product(shapes, types):
        values = np.array(rng.random(shape) * rng.choice([1, 200, 5]), kind)
        for form in (values, torch.from_numpy(values) if kind in ("u1", "f4") else values):
            try:
                pixels = as_rgb(form)
            except ImageError as error:
                assert "\n" not in str(error)
                continue
            fine += 1
            assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and pixels.ndim == 3
    assert fine > 40


def test_find_inputs(tmp_path):
    for name in ("b.jpg", "a.PNG", "deep/c.jpg", "[x].jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = lambda words: [p.rsplit("/", 1)[1] for p in find_inputs(words)]
    assert names([tmp_path]) == ["[x].jpg", "a.PNG", "b.jpg"]
    assert names([f"{tmp_path}/**/*.jpg"]) == ["[x].jpg", "b.jpg", "c.jpg"]
    assert names([tmp_path / "[x].jpg"]) == ["[x].jpg"], "a file wins over a pattern"
    for word in ("gone.jpg", "*.none", "\0", "x" * 5000, tmp_path / "deep" / "c.jpg" / "d"):
        with pytest.raises(InputError):
            find_inputs([word])
    (tmp_path / "7").write_bytes(b"")
    assert is_video("7") and not is_video(str(tmp_path / "7"))


def test_a_picture_from_another_program(monkeypatch):
    monkeypatch.setattr("sys.stdin", type("In", (), {"buffer": io.BytesIO(stored("png"))}))
    assert np.array_equal(read_input("-"), PHOTO)


def test_all_forms_give_equal_keypoints(model, tmp_path):
    file = save_image(tmp_path / "x.png", PHOTO)
    chw = torch.from_numpy(PHOTO).permute(2, 0, 1)
    forms = [file, str(file), str(tmp_path), f"{tmp_path}/*.png", stored("png"), PHOTO, chw]
    forms += [Image.open(file), [file], chw[None], PHOTO[None], PHOTO / 255]
    answers = [predict(model, form, "whole", device="cpu") for form in forms]
    assert all(np.array_equal(a.keypoints, answers[0].keypoints) for a in answers)
    assert answers[0].image_files == (str(file),) and answers[5].image_files == ()


def test_one_bad_file_is_named_and_the_rest_done(model, tmp_path):
    good = [save_image(tmp_path / f"{n}.png", PHOTO) for n in "ac"]
    (tmp_path / "b.png").write_bytes(good[0].read_bytes()[:100])
    with pytest.warns(UserWarning, match="b.png"):
        poses = predict(model, tmp_path, "whole", device="cpu")
    assert poses.image_index.tolist() == [0, 2]
    with pytest.raises(ImageError, match="b.png"):
        predict(model, tmp_path / "b.png", "whole", device="cpu")


def test_a_box_outside_is_named_and_the_rest_done(model):
    told = []
    boxes = [[0, 0, 40, 50], [90, 0, 120, 50], [-30, -30, -2, -2], [70, 50, 95, 70]]
    poses = predict(model, PHOTO, boxes, device="cpu", problems=told)
    assert poses.boxes.tolist() == [boxes[0], boxes[3]] and len(told) == 2
    assert "box 1" in told[0] and "80 x 60" in told[0]


def test_a_network_that_learnt_nothing_is_refused():
    row = get_row("coco/shufflenet-v2")
    for fresh in (row.create(), row.create().to(memory_format=torch.channels_last).eval()):
        with pytest.raises(InputError, match="no weights yet"):
            predict(fresh, PHOTO, "whole", device="cpu")
    assert row_of(row.create("random")) is row
    changed = row.create()
    torch.optim.SGD(changed.parameters(), 0.1).step()  # no gradient, no change
    with pytest.raises(InputError, match="no weights yet"):
        predict(changed, PHOTO, "whole", device="cpu")
    changed.load_state_dict(changed.state_dict())
    assert len(predict(changed, PHOTO, "whole", flip=False, device="cpu")) == 1


def test_open_files_and_odd_tensors(model):
    """As an upload comes in a web server; a file counts as one picture, not as its lines."""
    data, chw = stored("png"), torch.from_numpy(PHOTO).permute(2, 0, 1)
    poses = predict(model, io.BytesIO(data), "whole", flip=False, device="cpu")
    assert len(poses) == 1 and poses.draw().shape == PHOTO.shape, "read once, drawn later"
    assert np.array_equal(as_rgb(memoryview(data)), PHOTO)
    low = as_rgb((chw / 255).bfloat16())
    assert np.abs(low.astype(int) - PHOTO).max() <= 1
    assert np.array_equal(as_rgb(chw.to_sparse()), PHOTO)
    closed = io.BytesIO(data)
    closed.close()
    for odd in (closed, io.StringIO("text"), None, 3, chw.to("meta")):
        with pytest.raises(ImageError, match="image 0"):
            predict(model, odd, "whole", device="cpu")


def test_wrong_arguments_are_told(model):
    for size in (0, -1, 1.5):
        with pytest.raises(InputError, match="batch_size"):
            predict(model, PHOTO, "whole", batch_size=size, device="cpu")
    with pytest.warns(UserWarning, match="gone.png"):
        assert len(predict(model, ["gone.png", PHOTO], "whole", flip=False, device="cpu")) == 1
    boxes = ([[1, 1, 40, 40]] for _ in range(2))
    assert len(predict(model, [PHOTO, PHOTO], boxes, flip=False, device="cpu")) == 2


def test_a_folder_tells_what_it_leaves_aside(tmp_path):
    for name in ("a.HEIC", "b.mov", "c.jpg", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match="2 of its files, such as a.HEIC"):
        assert [file.rsplit("/", 1)[1] for file in find_inputs([tmp_path])] == ["c.jpg"]
