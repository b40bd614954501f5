"""Annotation files, right and wrong: records of every kind of set.

Each mistake is one InputError, and no instance is lost without being named."""

import copy
import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from places import copy_and_places
from pose_nb.tables import sets
from pose_nb.data.custom import load_custom, split_records, to_coco
from pose_nb.data.mpii import load_mpii
from pose_nb.data.readers import load_coco, load_crowdpose, load_faces
from pose_nb.data.records import Records
from pose_nb.files import InputError
from pose_nb.skeletons import AFLW, COCO, MPII, Skeleton

TINY = Skeleton("tiny", ("head", "left", "right"))
PERSON = dict(
    id=7,
    image_id=1,
    category_id=1,
    bbox=[60.0, 20.0, 60.0, 70.0],
    iscrowd=0,
    num_keypoints=2,
    area=2000.0,
    keypoints=[80.0, 30.0, 2, 70.0, 60.0, 1, 0, 0, 0],
)
CONTENT = dict(
    images=[
        dict(id=1, file_name="yard.jpg", width=100, height=80),
        dict(id=2, file_name="b.jpg", width=50, height=40),
    ],
    annotations=[PERSON, PERSON | dict(id=8, image_id=2, bbox=[1.0, 2.0, 30.0, 20.0])],
    categories=[dict(id=1, name="person", keypoints=list(TINY.keypoints))],
)
WRONG_VALUES = [
    None,
    True,
    -1,
    0,
    3,
    1e7,
    1e400,
    -1e400,
    10**30,
    "",
    "text",
    "5",
    [],
    [1],
    [[1, 2], [3, 4]],
    {},
    {"a": 1},
    float("nan"),
    2.5,
    "ä" * 50,
]


def write(tmp_path, content, name="a.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def with_person(**changes):
    return CONTENT | {"annotations": [PERSON | changes]}


def test_fields(tmp_path):
    records = load_coco(write(tmp_path, CONTENT), "images", TINY)
    assert len(records) == 2 and records.image_files == [
        str(Path("images") / "yard.jpg"),
        str(Path("images") / "b.jpg"),
    ]
    assert records.boxes.tolist() == [[60, 20, 99, 79], [1, 2, 31, 22]] and records.centers[
        0
    ].tolist() == [79.5, 49.5]
    assert (
        records.visible.tolist() == [[1, 1, 0]] * 2
        and records.areas.tolist() == [2000, 2000]
        and records.ids.tolist() == [7, 8]
    )
    for name in ("boxes", "centers", "scales", "keypoints", "visible", "areas", "box_scores"):
        assert getattr(records, name).dtype == np.float32, name
    assert records.ids.dtype == records.image_ids.dtype == np.int64


def test_order_is_that_of_the_images(tmp_path):
    content = CONTENT | {
        "annotations": [
            PERSON | dict(id=i, image_id=image, bbox=[5, 5, 20, 20])
            for i, image in enumerate([2, 1, 2, 1])
        ]
    }
    assert load_coco(write(tmp_path, content), "", TINY).ids.tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize(
    "changes, word",
    [
        (dict(bbox=[1, 2, 3]), "annotation 7.*bbox has 3 numbers.*4"),
        (dict(bbox="1,2,3,4"), "bbox is '1,2,3,4'"),
        (dict(keypoints=[1, 2, 2] * 17), "51 numbers.*9.*skeleton"),
        (dict(keypoints=[80, 30, 3] + [0] * 6), "visibility 3"),
        (dict(keypoints=[80, 30, -1] + [0] * 6), "visibility -1"),
        (dict(bbox=[1e9, 1, 2, 3]), "holds 1000000000.0"),
        (dict(bbox=[float("nan"), 1, 2, 3]), "annotation 7.*bbox holds NaN"),
        (dict(keypoints=[float("inf")] * 9), "annotation 7.*keypoints holds NaN or an infinite"),
        (dict(image_id=99), "annotation 7.*image_id is 99"),
        (dict(image_id="1"), "image_id is '1'"),
        (dict(id="x"), "row 0: id is 'x'"),
        (dict(id=2**64), "64 bits"),
        (dict(area="big"), "area holds 'big'"),
        (dict(num_keypoints=None), "num_keypoints holds None"),
    ],
)
def test_one_clear_sentence(tmp_path, changes, word):
    path = write(tmp_path, with_person(**changes))
    with pytest.raises(InputError, match=word) as error:
        load_coco(path, "", TINY)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, word",
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "list at the top"),
        ("{}", "no list 'images'"),
        ('{"images": [], "annotations": 3}', "no list 'annotations'"),
        (CONTENT | {"annotations": []}, "list of annotations is empty"),
        (CONTENT | {"annotations": [PERSON, PERSON]}, "id 7 is used twice"),
        (CONTENT | {"images": [CONTENT["images"][0]] * 2}, "images, row 1: id 1 is used twice"),
        (CONTENT | {"images": [dict(id=1, file_name="a.jpg")]}, "width is None"),
        (CONTENT | {"images": [dict(id=1, width=3, height=3)]}, "file_name is None"),
        (with_person(iscrowd=1), "no usable instance.*1 marked as a crowd"),
        ('{"images": [], "annotations": [], "x": ' + "9" * 5000 + "}", "a.json"),
    ],
)
def test_structure(tmp_path, content, word):
    with pytest.raises(InputError, match=word):
        load_coco(write(tmp_path, content), "", TINY)


def test_paths(tmp_path):
    for path in (tmp_path, tmp_path / "none.json", tmp_path / "a\0b"):
        with pytest.raises((InputError, ValueError)):
            load_coco(path, "", TINY)
    (tmp_path / "binary.json").write_bytes(bytes(range(256)))
    with pytest.raises(InputError):
        load_coco(tmp_path / "binary.json", "", TINY)


def test_nothing_is_lost_silently(tmp_path):
    kinds = [
        {},
        dict(iscrowd=1),
        dict(num_keypoints=0),
        dict(bbox=[60, 20, 0, 70]),
        dict(bbox=[60, 20, -5, 70]),
        dict(bbox=[160, 20, 30, 30]),
        dict(keypoints=[0] * 9),
        dict(bbox=None),
        dict(keypoints=None),
        dict(keypoints=[-5, -5, 2] * 3),
    ]
    content = CONTENT | {"annotations": [PERSON | {"id": i} | kind for i, kind in enumerate(kinds)]}
    records = load_coco(write(tmp_path, content), "", TINY)
    named = sorted(i for ids in records.skipped.values() for i in ids)
    assert records.ids.tolist() == [0] and named == list(range(1, len(kinds)))
    line = records.summary()
    assert (
        "1 instance in 1 image; 9 left out" in line
        and "2 without box or keypoints (7, 8)" in line
        and "\n" not in line
    )


def test_detections(tmp_path):
    ok = dict(image_id=1, category_id=1, bbox=[-5, 20, 60, 70], score=0.9)
    rows = [
        ok,
        ok | dict(category_id=2),
        ok | dict(score=0.1),
        ok | dict(image_id=5),
        ok | dict(bbox=[1, 2, 0, 4]),
        ok | dict(score=0.4),
    ]
    records = load_coco(write(tmp_path, CONTENT), "", TINY, write(tmp_path, rows, "d.json"), 0.4)
    assert (
        records.boxes[0].tolist() == [-5, 20, 55, 90]
        and records.ids.tolist() == [0, 4]
        and sum(map(len, records.skipped.values())) == 4
    )
    assert (
        records.keypoints.shape == (2, 3, 2)
        and not records.visible.any()
        and records.box_scores.tolist() == pytest.approx([0.9, 0.4])
    )
    for wrong in (
        {},
        [3],
        [ok | dict(bbox=None)],
        [ok | dict(score="high")],
        [ok | dict(image_id=5)],
        [],
        [{"image_id": 1, "bbox": [1, 2, 3, 4]}],
    ):
        with pytest.raises(InputError):
            load_coco(tmp_path / "a.json", "", TINY, write(tmp_path, wrong, "d.json"))
    with pytest.raises(InputError, match="min_score"):
        load_coco(tmp_path / "a.json", "", TINY, min_score=0.4)


def mutate(rng, value, wrong=WRONG_VALUES):
    """A copy in which one random place is replaced, removed, or doubled."""
    value, places = copy_and_places(value)
    place, key = rng.choice(places)
    action = rng.random()
    if action < 0.75:
        place[key] = copy.deepcopy(rng.choice(wrong))
    elif action < 0.9:
        del place[key]
    elif isinstance(place, list):
        place.append(copy.deepcopy(place[key]))
    return value


def survives(load):
    """Whether a loader answers with Records or an InputError of one line; anything else is a
    failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        try:
            records = load()
        except InputError as error:
            assert str(error) and "Traceback" not in str(error)
            return False
    assert (
        isinstance(records, Records)
        and len(records)
        and np.isfinite(records.keypoints).all()
        and np.isfinite(records.boxes).all()
    )
    assert (
        (records.scales > 0).all()
        and records.visible.min() >= 0
        and records.visible.max() <= 1
        and np.isfinite(records.areas).all()
    )
    return True


@pytest.mark.parametrize("seed", range(4))
def test_random_damage(tmp_path, seed):
    """Files that are wrong in one or two random places, for every reader."""
    rng = random.Random(seed)
    image = Image.new("RGB", (100, 80))
    image.save(tmp_path / "yard.jpg")
    image.save(tmp_path / "b.jpg")
    face = dict(
        id=5,
        image_id=1,
        keypoints=[10.0, 9.0, 1] * 19,
        num_keypoints=19,
        center=[10.5, 9.0],
        scale=0.4,
        box_size=80.0,
        iscrowd=0,
    )
    mpii = [
        dict(
            image="005808361.jpg",
            center=[966.0, 340.0],
            scale=4.5,
            joints=[[804.0, 711.0]] * 16,
            joints_vis=[1] * 16,
        )
    ]
    simple = dict(
        skeleton=dict(keypoints=["head", "left_hand", "right_hand"]),
        instances=[
            dict(
                image="yard.jpg",
                box=[1, 2, 30, 40],
                keypoints=dict(head=[3, 4], left_hand=[5, 6, 1], right_hand=None),
            )
        ]
        * 2,
    )
    good = write(tmp_path, CONTENT, "good.json")
    detections = [dict(image_id=1, category_id=1, bbox=[5, 20, 60, 70], score=0.9)] * 2
    path = tmp_path / "wrong.json"
    readers = [
        (CONTENT, lambda: load_coco(path, tmp_path, TINY)),
        (CONTENT, lambda: load_custom(path, tmp_path)),
        (simple, lambda: load_custom(path, tmp_path)),
        (detections, lambda: load_coco(good, tmp_path, TINY, path)),
        (mpii, lambda: load_mpii(path, tmp_path)),
        (CONTENT | {"annotations": [face]}, lambda: load_faces(path, tmp_path, AFLW)),
        (CONTENT, lambda: load_crowdpose(path, tmp_path, TINY)),
    ]
    outcomes = []
    for content, load in readers:
        write(tmp_path, content, "wrong.json")
        assert survives(load)
        for _ in range(120):
            damaged = mutate(rng, content)
            if rng.random() < 0.3:
                damaged = mutate(rng, damaged) if damaged else damaged
            write(tmp_path, damaged, "wrong.json")
            outcomes.append(survives(load))
    assert 0.1 < np.mean(outcomes) < 0.9, "some damage must be harmless, and some must be refused"


def test_random_damage_of_tables(tmp_path):
    rng = random.Random(0)
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    table = [
        ["image", "x1", "y1", "x2", "y2", "head_x", "head_y", "tail_x", "tail_y"],
        ["a.png", "1", "2", "50", "60", "10", "20", "30", "40"],
        ["a.png", "", "", "", "", "10", "20", "30", "40"],
    ]
    for _ in range(300):
        damaged = mutate(
            rng, table, ["", "nan", "1e999", "text", "-5", "b.png", "image", '"', "0", "\n"]
        )
        text = "\n".join(
            ",".join(map(str, row)) if isinstance(row, list) else str(row) for row in damaged
        )
        (tmp_path / "t.csv").write_text(text)
        survives(lambda: load_custom(tmp_path / "t.csv", tmp_path))


def test_custom_formats_agree(tmp_path):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    Image.new("RGB", (100, 80)).save(tmp_path / "b.png")
    (tmp_path / "t.csv").write_text(
        "image,left_ear_x,left_ear_y,right_ear_x,right_ear_y,nose_x,nose_y\na.png,10,20,30,20,20,40\nb.png,40,20,60,22,,\n"
    )
    table = load_custom(tmp_path / "t.csv", tmp_path)
    simple = load_custom(
        write(
            tmp_path,
            [
                dict(
                    image="a.png",
                    keypoints=dict(left_ear=[10, 20], right_ear=[30, 20], nose=[20, 40]),
                ),
                dict(
                    image="b.png", keypoints=dict(left_ear=[40, 20], right_ear=[60, 22], nose=None)
                ),
            ],
        ),
        tmp_path,
    )
    coco = load_custom(write(tmp_path, to_coco(table, tmp_path), "c.json"), tmp_path)
    for other in (simple, coco):
        assert (
            np.allclose(other.keypoints, table.keypoints)
            and np.array_equal(other.visible, table.visible)
            and np.allclose(other.boxes, table.boxes)
        )
        assert (
            other.skeleton.flip_pairs == (("left_ear", "right_ear"),)
            and other.image_files == table.image_files
        )
    train, val = split_records(table, 0.5)
    assert len(train) == len(val) == 1 and train.image_ids[0] != val.image_ids[0]


def test_entries_name_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="person_keypoints_val2017.json.*data recipe coco"):
        sets.SETS["coco"].load(tmp_path)
    with pytest.raises(InputError, match="no split 'dev'"):
        sets.SETS["wflw"].load(tmp_path, "dev")
    write_to = tmp_path / "coco" / "annotations"
    write_to.mkdir(parents=True)
    person = PERSON | dict(keypoints=[80, 30, 2] * 17)
    write(write_to, CONTENT | {"annotations": [person]}, "person_keypoints_val2017.json")
    for root in (tmp_path, tmp_path / "coco", str(tmp_path)):
        assert len(sets.SETS["coco"].load(root)) == 1
    with pytest.raises(InputError, match="AP_H_56.*do not exist.*boxes='gt'"):
        sets.SETS["coco"].load(tmp_path, boxes="det")


def test_small_print_of_the_sets(tmp_path):
    """Numbers worked by hand: JHMDB counts from 1, MPII moves the centre and counts from 1, faces
    are squares of 200 * scale."""
    s = sets.SETS["jhmdb"]
    write(
        tmp_path,
        CONTENT
        | {"annotations": [PERSON | dict(bbox=[61, 21, 30, 40], keypoints=[71, 31, 2] * 15)]},
    )
    records = s.read(tmp_path / "a.json", "", s.skeleton)
    assert records.keypoints[0, 0].tolist() == [70, 30] and records.boxes[0].tolist() == [
        60,
        20,
        90,
        60,
    ]
    row = dict(
        image="005808361.jpg",
        center=[966.0, 340.0],
        scale=4.5,
        joints=[[804.0, 711.0]] * 15 + [[-1.0, -1.0]],
        joints_vis=[1] * 15 + [0],
    )
    unmarked = row | dict(center=[-1.0, 340.0])
    records = load_mpii(write(tmp_path, [row, unmarked], "m.json"), "")
    assert (
        records.centers.tolist() == [[965, 406.5], [-2, 339]]
        and records.scales[0].tolist() == [900, 900]
        and records.visible[0].sum() == 15
    )
    assert (
        records.boxes[0].tolist() == [515, -43.5, 1415, 856.5]
        and records.keypoints[0, 0].tolist() == [804, 711]
        and records.image_ids[0] == 5808361
    )
    assert load_mpii(tmp_path / "m.json", "", subtract_one=True).keypoints[0, 0].tolist() == [
        803,
        710,
    ]
    face = dict(
        id=5,
        image_id=1,
        keypoints=[10.0, 9.0, 1] * 19,
        center=[10.5, 9.0],
        scale=0.4,
        box_size=80.0,
    )
    records = load_faces(write(tmp_path, CONTENT | {"annotations": [face]}), "", AFLW)
    assert (
        records.boxes[0].tolist() == [-29.5, -31, 50.5, 49]
        and records.centers[0].tolist() == [10.5, 9]
        and records.extra["box_size"].tolist() == [80]
    )
    s = sets.SETS["coco_wholebody_face"]
    person = PERSON | dict(face_box=[5, 6, 20, 21], face_kpts=[9, 8, 1.0] * 68, face_valid=True)
    records = s.read(
        write(tmp_path, CONTENT | {"annotations": [person, person | dict(id=8, face_valid=False)]}),
        "",
        s.skeleton,
    )
    assert (
        records.boxes.tolist() == [[5, 6, 25, 27]]
        and records.extra["num_keypoints"].tolist() == [68]
        and records.skipped == {"without face_valid": [8]}
    )


def test_custom_visibility(tmp_path):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(
        "image,a_x,a_y,a_v,b_x,b_y,b_v\na.png,10,20,0,30,40,1\na.png,1,2,2,30,40,\n"
    )
    records = load_custom(tmp_path / "t.csv", tmp_path)
    assert records.visible.tolist() == [[1, 1]] and records.skipped == {
        "with a box of no area inside the image": [1]
    }
    (tmp_path / "t.csv").write_text(
        "image,x1,y1,x2,y2,a_x,a_y,a_v,b_x,b_y,b_v\na.png,1,2,50,60,10,20,0,30,40,1\n"
    )
    records = load_custom(tmp_path / "t.csv", tmp_path)
    assert records.visible.tolist() == [[0, 1]] and records.keypoints[0].tolist() == [
        [0, 0],
        [30, 40],
    ]


def test_skeletons_of_entries():
    assert (
        sets.SETS["coco"].skeleton is COCO
        and sets.SETS["mpii"].skeleton is MPII
        and len(sets.SETS) == 12
    )
