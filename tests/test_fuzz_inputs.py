"""Files that somebody spoiled: every reader answers with people or with one short sentence."""

import copy
import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from places import copy_and_places
from pose_nb.data.inputs import ImageError, read_image, read_image_size
from pose_nb.data.custom import load_custom
from pose_nb.data.mpii import load_mpii
from pose_nb.data.readers import load_coco, load_crowdpose, load_faces
from pose_nb.files import InputError
from pose_nb.prediction import check_boxes, read_boxes
from pose_nb.skeletons import AFLW, COCO_WHOLEBODY_FACE, CROWDPOSE, MPII, Skeleton

TINY = Skeleton("tiny", ("head", "left", "right"))
HUGE = "\x01" * 4  # stands for a number of ten million digits
VALUES = [
    *(None, True, False, -1, 0, 0.5, 3, 1e7, -1e7, 2**31, 2**63, 2**64, 10**200, -0.0, 1e-300),
    *("", " ", "5", "1e3", "text", "ä" * 2000, "x" * 10**5, "a\0b", "a.jpg", "../a.jpg", "²"),
    *("/etc/passwd", "..", "con", "a\nb", "\ud83d\ude00", "1", "9" * 30, HUGE),
    *([], [1], [[]], [[1, 2], [3, 4]], [1, 2, 3, 4], ["1", "2", "3", "4"], [None] * 4),
    *([[[[[[1]]]]]], list(range(5000)), {}, {"a": 1}, {"id": 1}, float("nan"), float("inf")),
]
WORDS = [b"NaN", b"1e999", b"[" * 3000, b"\xff", b"\0", b'"', b"{", b"9" * 400, b"-", b",,"]


def person(**changes):
    common = dict(id=7, image_id=1, category_id=1, bbox=[5.0, 2, 60, 70], iscrowd=0, area=2000.0)
    points = dict(num_keypoints=2, keypoints=[80.0, 30, 2, 70, 60, 1, 0, 0, 0])
    return common | points | changes


def face(points, **changes):
    return person(keypoints=[10.0, 9, 1] * points, num_keypoints=points, **changes)


IMAGES = [
    dict(id=1, file_name="a.jpg", width=100, height=80, crowdIndex=0.5),
    dict(id=2, file_name="b.jpg", width=50, height=40, crowdIndex=0),
]
CATEGORY = dict(id=1, name="person", keypoints=list(TINY.keypoints), skeleton=[[1, 2]])


def coco(*people):
    return dict(images=IMAGES, annotations=list(people), categories=[CATEGORY])


FACE_BOX = dict(face_valid=True, face_box=[5, 5, 40, 50], face_kpts=[10.0, 9, 1] * 68)
MPII_PERSON = dict(image="005808361.jpg", center=[966.0, 340.0], scale=4.5)
MPII_PERSON |= dict(joints=[[804.0, 711.0]] * 16, joints_vis=[1] * 16)
SIMPLE = dict(
    skeleton=dict(keypoints=["head", "left_hand", "right_hand"]),
    instances=[
        dict(image="a.jpg", box=[1, 2, 30, 40], keypoints=dict(head=[3, 4], left_hand=[5, 6, 1])),
        dict(image="b.jpg", keypoints=dict(head=[3, 4], right_hand=None)),
    ],
)
DETECTION = dict(image_id=1, category_id=1, bbox=[5, 20, 60, 70], score=0.9)
NAMED = [dict(file_name=name, bbox=[5, 2, 30, 20], score=0.5) for name in ("a.jpg", "b.jpg")]
PICTURES = [Path("x/a.jpg"), Path("b.jpg")]
FACE_FIELDS = dict(box_field="face_box", keypoints_field="face_kpts", valid_field="face_valid")

# what is spoiled, and who reads it: (path of the spoiled file, folder of pictures) -> anything
READERS = {
    "coco": (coco(person(), person(id=8, image_id=2)), lambda p, d: load_coco(p, d, TINY)),
    "from one": (coco(person()), lambda p, d: load_coco(p, d, TINY, origin=1, category_id=1)),
    "crowdpose": (
        coco(person(keypoints=[9.0, 9, 2] * 14), person(id=8, keypoints=[3.0, 3, 1] * 14)),
        lambda p, d: load_crowdpose(p, d, CROWDPOSE),
    ),
    "faces": (
        coco(face(19, center=[10.5, 9.0], scale=0.4, box_size=80.0)),
        lambda p, d: load_faces(p, d, AFLW),
    ),
    "faces of people": (
        coco(person(**FACE_BOX)),
        lambda p, d: load_coco(p, d, COCO_WHOLEBODY_FACE, **FACE_FIELDS),
    ),
    "mpii": ([MPII_PERSON, MPII_PERSON], lambda p, d: load_mpii(p, d, MPII)),
    "detections": ([DETECTION] * 2, lambda p, d: load_coco(d / "good.json", d, TINY, p, 0.1)),
    "own COCO": (coco(person()), lambda p, d: load_custom(p, d)),
    "own JSON": (SIMPLE, lambda p, d: load_custom(p, d)),
    "own list": (SIMPLE["instances"], lambda p, d: load_custom(p, d)),
    "boxes by name": (
        {"a.jpg": [[1, 2, 30, 40]], "b.jpg": [[1, 2.5, 3, 4], [5, 6, 7, 8]]},
        lambda p, d: read_boxes(p, PICTURES),
    ),
    "boxes by detection": (NAMED, lambda p, d: read_boxes(p, PICTURES)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoiled")
    for name, size in (("a.jpg", (100, 80)), ("b.jpg", (50, 40))):
        Image.new("RGB", size).save(folder / name)
    (folder / "good.json").write_text(json.dumps(coco(person())))
    return folder


def spoiled(rng, value):
    """A copy in which one place holds something else, is gone, is there twice, or is text."""
    value, places = copy_and_places(value)
    if not places or rng.random() < 0.02:
        return copy.deepcopy(rng.choice(VALUES))
    place, key = rng.choice(places)
    action = rng.random()
    if action < 0.7:
        place[key] = copy.deepcopy(rng.choice(VALUES))
    elif action < 0.8:
        del place[key]
    elif action < 0.9:
        place[key] = str(place[key])
    elif isinstance(place, list):
        place.append(copy.deepcopy(place[key]))
    else:
        place[rng.choice(["x" * 5000, "", key + " "])] = place.pop(key)
    return value


def written(rng, value):
    """The bytes of the JSON, sometimes cut, or with something in the middle."""
    data = json.dumps(value).encode()
    if rng.random() < 0.15:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + (rng.choice(WORDS) + data[at + 1 :] if rng.random() < 0.6 else b"")
    return data.replace(json.dumps(HUGE).encode(), b"7" * 10**5)


def outcome(read):
    """Whether a reader had an answer; an error that is no InputError, or a long one, is a fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        try:
            answer = read()
        except InputError as error:
            assert 10 < len(str(error)) < 4000, str(error)[:300]
            return False
    for values in answer if isinstance(answer, list) else (answer.boxes, answer.keypoints):
        assert np.isfinite(values).all() and (np.abs(values) < 1e7).all()
    return True


@pytest.mark.parametrize("name", READERS)
def test_a_spoiled_file_is_read_or_refused_in_words(folder, name):
    rng, (content, read) = random.Random(name), READERS[name]
    path = folder / "spoiled.json"
    path.write_text(json.dumps(content))
    assert outcome(lambda: read(path, folder)), "the file as it was"
    answers = []
    for _ in range(250):
        value = spoiled(rng, content)
        path.write_bytes(written(rng, spoiled(rng, value) if rng.random() < 0.2 else value))
        try:
            answers.append(outcome(lambda: read(path, folder)))
        except Exception as error:
            raise AssertionError(f"{path.read_bytes()[:1500]!r}") from error
    assert 0.01 < np.mean(answers) < 0.8, "some damage is harmless, and some is refused"


def test_a_spoiled_table(folder):
    rng, path = random.Random(0), folder / "spoiled.csv"
    header = "image,x1,y1,x2,y2,head_x,head_y,tail_x,tail_y"
    table = [*map(str.split, [header.replace(",", " "), "a.jpg 1 2 50 60 10 20 30 40"])]
    table.append(["b.jpg", "", "", "", "", "10", "20", "30", "40"])
    answers = []
    for _ in range(250):
        value = spoiled(rng, table)
        rows = [
            map(str, row) for row in (value if type(value) is list else []) if type(row) is list
        ]
        text = "\n".join(",".join(row) for row in rows).replace(HUGE, "7" * 10**5)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        answers.append(outcome(lambda: load_custom(path, folder)))
    assert 0.05 < np.mean(answers) < 0.8


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp", "bmp"])
def test_a_spoiled_picture(folder, ending):
    """Pixels and their size, or an ImageError."""
    rng, path = random.Random(ending), folder / f"spoiled.{ending}"
    pixels = np.random.default_rng(0).integers(0, 255, (24, 36, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)
    data = path.read_bytes()
    for _ in range(60):
        spoiled_data = bytearray(data)
        for _ in range(rng.choice([1, 1, 3])):
            spoiled_data[rng.randrange(min(len(data), rng.choice([60, 10**6])))] = rng.randrange(
                256
            )
        path.write_bytes(spoiled_data[: rng.choice([len(data), rng.randrange(len(data))])])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image = read_image(path)
            except ImageError as error:
                assert len(str(error)) < 4000
                continue
            try:
                # a spoiled orientation may be read in two ways
                assert sorted(read_image_size(path)) == sorted(image.shape[:2])
            except ImageError as error:
                assert len(str(error)) < 4000


# ---------------------------------------------------------------- what was found once


def boxes_of(folder, content, images=PICTURES):
    path = folder / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_boxes(path, images)


TEXT = ["1", "2", "30", "40"]


@pytest.mark.parametrize(
    "content, words",
    [
        ([{"file_name": "a.jpg", "bbox": TEXT}], "row 0: bbox holds '1'"),
        ({"a.jpg": [TEXT]}, "boxes are \\[\\['1'"),
        ([{"file_name": "a.jpg", "bbox": 3}], "row 0: bbox is 3"),
        ([{"file_name": "a.jpg", "bbox": [1, 2, 0, 4]}], "row 0: .* has no area"),
        ([{"file_name": "gone.jpg", "bbox": [1, 2, 3, 4]}], "row 0: boxes for 'gone.jpg'"),
        ({"gone.jpg": [[1, 2, 3, 4]]}, "boxes for 'gone.jpg'.*not among"),
        ('{"a.jpg": [[1, 2, 3, %s]]}' % ("7" * 10**7), "more than 300 digits"),
        ({"a.jpg": [[1, 2, 3, 10**200]]}, "boxes are"),
        ({"a.jpg": [[1, 2, 3, 1e20]]}, "more than 1e\\+06 pixels"),
        ({"a.jpg": "x" * 10**6}, "boxes are 'xx"),
        ({"x" * 10**6: [[1, 2, 3, 4]]}, "more characters"),
    ],
)
def test_box_files_that_once_passed_or_crashed(folder, content, words):
    with pytest.raises(InputError, match=words) as error:
        boxes_of(folder, content)
    assert len(str(error.value)) < 1000


def test_two_pictures_of_one_name(folder):
    images = [Path("monday/a.jpg"), Path("tuesday/a.jpg"), Path("b.jpg")]
    with pytest.raises(InputError, match="'a.jpg', which fits 2 of the images"):
        boxes_of(folder, {"a.jpg": [[1, 2, 3, 4]]}, images)
    read = boxes_of(folder, {"tuesday/a.jpg": [[1, 2, 3, 4]], "b.jpg": []}, images)
    assert [len(boxes) for boxes in read] == [0, 1, 0]
    twice = boxes_of(folder, {"a.jpg": [[1, 2, 3, 4]]}, [Path("a.jpg"), Path("a.jpg")])
    assert [len(boxes) for boxes in twice] == [1, 1]
    nested = boxes_of(folder, {"a.jpg": [[1, 2, 3, 4]]}, [Path("a.jpg"), Path("b/a.jpg")])
    assert [len(boxes) for boxes in nested] == [1, 0]


def test_detections_of_cats_are_left_out_with_a_word(folder):
    cat = NAMED[1] | dict(category_id=17)
    with pytest.warns(UserWarning, match="1 boxes of categories but 1"):
        assert [len(boxes) for boxes in boxes_of(folder, [NAMED[0], cat])] == [1, 0]


def test_text_is_no_number_anywhere(folder):
    path = folder / "text.json"
    for changes in (dict(bbox=TEXT), dict(keypoints=["9", "9", "2"] * 3), dict(area="5")):
        path.write_text(json.dumps(coco(person(**changes))))
        with pytest.raises(InputError, match="annotation 7: .* holds '"):
            load_coco(path, folder, TINY)
    with pytest.raises(InputError, match="numbers are needed"):
        check_boxes(np.array([TEXT]), "here")
