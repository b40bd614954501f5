"""The doctor: every fault is found by name, healthy sets are left in peace, nothing stops it."""

import json
import random

import cv2
import numpy as np
import pytest
from PIL import Image

from pose_nb.cli import main
from pose_nb.data.custom import to_coco
from pose_nb.doctor import Examination, examine
from pose_nb.files import InputError
from pose_nb.skeletons import COCO
from pose_nb.synth import make_dataset
from pose_nb.tables.sets import SETS

TRAIN, VAL = (f"annotations/person_keypoints_{split}2017.json" for split in ("train", "val"))


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A folder with 40 + 8 pictures of synthetic people."""
    folder = tmp_path_factory.mktemp("doctor") / "people"
    make_dataset(folder, train=40, val=8, workers=1, progress=False, facing=True)
    return folder


@pytest.fixture
def mine(people, tmp_path):
    """A copy whose pictures are links to the folder's files, inside a linked image folder."""
    (tmp_path / "annotations").mkdir()
    for name in (TRAIN, VAL):
        (tmp_path / name).write_bytes((people / name).read_bytes())
    for name in ("train2017", "val2017"):
        (tmp_path / name).symlink_to(people / name)
    return tmp_path


@pytest.fixture
def checked(mine):
    """A function that changes the training file and examines it alone; gives check -> level."""

    def run(edit, file=mine / TRAIN, **options):
        content = json.loads(file.read_text())
        content = edit(content) or content
        file.write_text(json.dumps(content))
        return levels(examine(file, **options))

    return run


def levels(exam: Examination):
    """check -> worst level of what was found."""
    order = ["note", "warning", "error"]
    found: dict[str, str] = {}
    for finding in exam.findings:
        known = found.get(finding.check, "note")
        found[finding.check] = max(known, finding.level, key=order.index)
        assert len(str(finding)) < 1500 and finding.remedy and finding.count > 0
    return found


def labelled(content):
    return [a for a in content["annotations"] if a["num_keypoints"] > 4]


def points(item):
    return np.array(item["keypoints"], float).reshape(-1, 3)


def put(item, values):
    item["keypoints"] = np.asarray(values, float).ravel().tolist()


# ---------------------------------------------------------------- healthy


def test_synthetic_people_are_healthy(people):
    exam = examine(people, decode=True, duplicates=True)
    assert not exam.errors and not exam.warnings, str(exam)
    assert len(exam.sheets) == 2 and "0 errors, 0 warnings" in str(exam)
    assert set(levels(examine(people, SETS["coco"]))) <= {"unlabelled"}


SAMPLES = """300w aflw aic coco coco_wholebody_face cofw crowdpose humanart jhmdb mpii posetrack18
wflw""".split()


@pytest.mark.parametrize("name", SAMPLES)
def test_no_false_alarm_on_real_samples(samples, name):
    exam = examine(samples / name)
    assert not exam.errors and not exam.warnings, str(exam)
    assert sum(labels.people.sum() for labels in exam.sheets) >= 2


@pytest.mark.parametrize("name", SAMPLES)
def test_no_false_alarm_on_real_samples_of_a_named_set(samples, name):
    file = next(
        f
        for f in sorted((samples / name).rglob("test_*.json"))
        if not any(word in f.name for word in ("det_", "detections"))
    )
    exam = examine(file, SETS[name])
    assert not exam.errors and not exam.warnings, str(exam)
    assert len(exam.sheets[0].skeleton) == len(SETS[name].skeleton)


@pytest.mark.parametrize("name", ["coco_mini", "tiny_coco"])
def test_no_false_alarm_on_real_folders(samples, name):
    folder = samples.parent / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    exam = examine(folder, decode=True, duplicates=True)
    assert not exam.errors and not exam.warnings, str(exam)


# ---------------------------------------------------------------- labels that cannot be right


def box_empty(content):
    labelled(content)[0]["bbox"][2] = 0


def box_outside(content):
    labelled(content)[0]["bbox"][0] = 5000


def box_large(content):
    item = labelled(content)[0]
    x, y, w, h = item["bbox"]
    item["bbox"] = [x - 6 * w, y - 6 * h, 13 * w, 13 * h]


def boxes_scaled(content):
    for item in content["annotations"]:
        x, y, w, h = item["bbox"]
        item["bbox"] = [x - w, y - h, 3 * w, 3 * h]


def box_small(content):
    item = labelled(content)[0]
    x, y, w, h = item["bbox"]
    item["bbox"] = [x + 0.4 * w, y + 0.4 * h, 0.1 * w, 0.1 * h]


def box_corners(content):
    for item in content["annotations"]:
        x, y, w, h = item["bbox"]
        item["bbox"] = [x, y, x + w, y + h]


def box_centres(content):
    for item in content["annotations"]:
        x, y, w, h = item["bbox"]
        item["bbox"] = [x + w / 2, y + h / 2, w, h]


def some_boxes_are_corners(content):
    for item in content["annotations"][::4]:
        x, y, w, h = item["bbox"]
        item["bbox"] = [x, y, x + w, y + h]


def box_missing(content):
    del labelled(content)[0]["bbox"]


def keypoint_outside(content):
    item = labelled(content)[0]
    xyv = points(item)
    xyv[xyv[:, 2] > 0, 0] += 3000
    put(item, xyv)


def keypoint_at_zero(content):
    item = labelled(content)[0]
    xyv = points(item)
    xyv[3] = 0, 0, 2
    put(item, xyv)


def collapsed(content):
    item = labelled(content)[0]
    xyv = points(item)
    xyv[:, :2] = xyv[xyv[:, 2] > 0][0, :2]
    put(item, xyv)


def area_zero(content):
    labelled(content)[0]["area"] = 0


def area_negative(content):
    labelled(content)[0]["area"] = -7.5


def area_absurd(content):
    labelled(content)[0]["area"] = 1e8


def all_invisible(content):
    item = labelled(content)[0]
    put(item, points(item) * [1, 1, 0])


def nobody_labelled(content):
    for item in content["annotations"]:
        put(item, 0 * points(item))
        item["num_keypoints"] = 0


def visibility_three(content):
    item = labelled(content)[0]
    item["keypoints"][2] = 3


def visibility_turned_round(content):
    for item in content["annotations"]:
        xyv = points(item)
        xyv[:, 2] = 2 - xyv[:, 2]
        put(item, xyv)


def hidden_and_visible_exchanged(content):
    for item in content["annotations"]:
        xyv = points(item)
        xyv[:, 2] = np.choose(xyv[:, 2].astype(int), [0, 2, 1])
        put(item, xyv)


def visibility_constant(content):
    content["annotations"] = labelled(content)
    for item in content["annotations"]:
        xyv = points(item)
        xyv[:, :2] = np.where(xyv[:, 2:] > 0, xyv[:, :2], xyv[xyv[:, 2] > 0, :2].mean(0))
        xyv[:, 2] = 2
        put(item, xyv)
        item["num_keypoints"] = 17


def not_a_number(content):
    labelled(content)[0]["keypoints"][0] = float("nan")


def infinite_box(content):
    labelled(content)[0]["bbox"][0] = float("inf")


def text_number(content):
    labelled(content)[0]["bbox"][0] = "12"


def true_number(content):
    labelled(content)[0]["area"] = True


def id_reused(content):
    content["annotations"][1]["id"] = content["annotations"][0]["id"]


def image_id_reused(content):
    content["images"][1]["id"] = content["images"][0]["id"]


def id_is_text(content):
    content["annotations"][0]["id"] = "one"


def unknown_image(content):
    content["annotations"][0]["image_id"] = 10**9


def unknown_category(content):
    content["annotations"][0]["category_id"] = 77


def category_without_keypoints(content):
    content["categories"].append({"id": 2, "name": "dog"})
    labelled(content)[0]["category_id"] = 2


def no_categories(content):
    del content["categories"]


def skeleton_length(content):
    item = labelled(content)[0]
    item["keypoints"] = item["keypoints"][:30]


def all_lengths(content):
    for item in content["annotations"]:
        item["keypoints"] = item["keypoints"][:42]


def names_twice(content):
    content["categories"][0]["keypoints"][1] = content["categories"][0]["keypoints"][0]


def sides_swapped(content):
    for item in content["annotations"]:
        put(item, points(item)[list(COCO.flip_indices)])


def half_of_the_sides_swapped(content):
    for item in content["annotations"][::2]:
        put(item, points(item)[list(COCO.flip_indices)])


def ankles_swapped(content):
    order = list(range(17))
    order[15], order[16] = 16, 15
    for item in content["annotations"]:
        put(item, points(item)[order])


def y_before_x(content):
    for item in content["annotations"]:
        put(item, points(item)[:, [1, 0, 2]])


def y_before_x_everywhere(content):
    for item in content["annotations"]:
        put(item, points(item)[:, [1, 0, 2]])
        x, y, w, h = item["bbox"]
        item["bbox"] = [y, x, h, w]


def normalised(content):
    size = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for item in content["annotations"][::3]:
        put(item, points(item) / [*size[item["image_id"]], 1])


def boxes_normalised(content):
    size = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for item in content["annotations"]:
        item["bbox"] = (np.array(item["bbox"]) / (size[item["image_id"]] * 2)).tolist()


def counted_from_one(content):
    size = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for item in labelled(content):
        w, h = size[item["image_id"]]
        xyv = points(item)
        on = xyv[:, 2] > 0
        xyv[on, :2] = np.maximum(np.ceil(xyv[on, :2]) + 1, 1)
        if item["id"] % 5 == 0:
            xyv[np.flatnonzero(on)[0], 0] = w
        put(item, xyv)


def halves(content):
    for number, item in enumerate(content["annotations"]):
        xyv = points(item).round()
        xyv[xyv[:, 2] > 0, :2] += 0.5 * (number % 2)
        put(item, xyv)


def a_keypoint_never_labelled(content):
    for item in content["annotations"]:
        xyv = points(item)
        xyv[4] = 0
        put(item, xyv)


def wrong_count(content):
    labelled(content)[0]["num_keypoints"] = 0


def person_twice(content):
    first = labelled(content)[0]
    content["annotations"].append(first | {"id": 10**6})


def image_twice(content):
    content["images"][1]["file_name"] = content["images"][0]["file_name"]


def no_size(content):
    del content["images"][0]["width"]


def no_file_name(content):
    content["images"][0]["file_name"] = None


def size_differs(content):
    content["images"][0]["width"] += 8


def sides_of_picture_exchanged(content):
    image = content["images"][0]
    image["width"], image["height"] = image["height"], image["width"]


def name_climbs(content):
    content["images"][0]["file_name"] = "../../" + content["images"][0]["file_name"]


def name_is_absolute(content):
    content["images"][0]["file_name"] = "/etc/passwd"


def picture_missing(content):
    content["images"][0]["file_name"] = "no_such.jpg"


def no_list(content):
    content["annotations"] = {"a": 1}


def odd_entries(content):
    content["annotations"][0] = 5
    content["images"].append(None)


FAULTS = [
    (box_empty, "box-empty"),
    (box_outside, "box-outside"),
    (box_large, "box-large"),
    (boxes_scaled, "box-scale"),
    (box_small, "box-elsewhere"),
    (box_corners, "box-form"),
    (box_centres, "box-form"),
    (some_boxes_are_corners, "box-form"),
    (box_missing, "box-missing"),
    (keypoint_outside, "keypoint-outside"),
    (keypoint_at_zero, "keypoint-at-zero"),
    (collapsed, "keypoints-collapsed"),
    (area_zero, "area-zero"),
    (area_negative, "area-zero"),
    (area_absurd, "area-absurd"),
    (all_invisible, "all-invisible"),
    (nobody_labelled, "all-invisible"),
    (visibility_three, "visibility"),
    (visibility_turned_round, "visibility-inverted"),
    (hidden_and_visible_exchanged, "visibility-inverted"),
    (visibility_constant, "visibility-constant"),
    (not_a_number, "nan"),
    (infinite_box, "nan"),
    (text_number, "type"),
    (true_number, "type"),
    (id_reused, "id-reused"),
    (image_id_reused, "id-reused"),
    (id_is_text, "id"),
    (unknown_image, "image-unknown"),
    (unknown_category, "category"),
    (category_without_keypoints, "category"),
    (no_categories, "category"),
    (names_twice, "category"),
    (skeleton_length, "skeleton-length"),
    (all_lengths, "skeleton-length"),
    (sides_swapped, "left-right"),
    (half_of_the_sides_swapped, "left-right"),
    (ankles_swapped, "left-right"),
    (y_before_x, "y-before-x"),
    (y_before_x_everywhere, "y-before-x"),
    (normalised, "normalised"),
    (boxes_normalised, "normalised"),
    (counted_from_one, "off-by-one"),
    (halves, "off-by-one"),
    (a_keypoint_never_labelled, "imbalance"),
    (wrong_count, "count-wrong"),
    (person_twice, "person-twice"),
    (image_twice, "image-twice"),
    (no_size, "image-size"),
    (no_file_name, "image-name"),
    (size_differs, "picture-size"),
    (sides_of_picture_exchanged, "picture-size"),
    (name_climbs, "path"),
    (name_is_absolute, "path"),
    (picture_missing, "picture-missing"),
    (no_list, "structure"),
    (odd_entries, "structure"),
]
WARNINGS = {"visibility-constant", "off-by-one", "imbalance", "person-twice"}


@pytest.mark.parametrize("fault, check", FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_fault_is_found_by_name(checked, fault, check):
    found = checked(fault)
    assert found.get(check) == ("warning" if check in WARNINGS else "error"), found


def test_many_faults_at_once_are_all_found(checked):
    def edit(content):
        for fault in (id_reused, unknown_image, not_a_number, name_climbs, size_differs):
            fault(content)
        labelled(content)[4]["bbox"][2] = 0
        labelled(content)[5]["area"] = 0

    found = checked(edit)
    wanted = {"id-reused", "image-unknown", "nan", "path", "box-empty", "area-zero"}
    assert wanted <= set(found)


def test_the_finding_names_count_ids_picture_and_remedy(mine):
    content = json.loads((mine / TRAIN).read_text())
    wrong = labelled(content)[3]
    wrong["bbox"][3] = -4
    (mine / TRAIN).write_text(json.dumps(content))
    (finding,) = examine(mine / TRAIN).errors
    assert (finding.check, finding.count) == ("box-empty", 1)
    assert finding.ids == (str(wrong["id"]),) and finding.examples[0].picture.endswith(".jpg")
    assert "box" in finding.remedy and finding.file.endswith(TRAIN)


def test_the_skeleton_of_another_row_is_an_error(mine):
    for name in ("mpii", "wflw", "crowdpose"):
        assert levels(examine(mine / TRAIN, SETS[name]))["skeleton-length"] == "error"


def test_five_people_give_no_verdict_about_sides(checked):
    def edit(content):
        sides_swapped(content)
        content["annotations"] = labelled(content)[:5]

    assert "left-right" not in checked(edit)


# ---------------------------------------------------------------- pictures


@pytest.fixture
def album(people, tmp_path):
    """The folder with pictures of its own, not links."""
    for name in ("train2017", "val2017", "annotations"):
        (tmp_path / name).mkdir()
        for file in (people / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    return tmp_path


def pictures(folder, split="train"):
    return sorted((folder / f"{split}2017").glob("*.jpg"))


def turned(file, orientation=6):
    """Store a picture so that EXIF turns it into what it was."""
    image = Image.open(file)
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {6: Image.Transpose.ROTATE_90, 2: Image.Transpose.FLIP_LEFT_RIGHT}[orientation]
    image.transpose(back).save(file, exif=exif)


def test_truncated_and_unreadable_pictures(album):
    files = pictures(album)
    files[0].write_bytes(files[0].read_bytes()[:2000])
    files[1].write_bytes(b"")
    files[2].write_text("<html>not found</html>")
    files[3].unlink()
    files[4].unlink()
    files[4].mkdir()
    exam = examine(album)
    assert exam.findings[0].level == "error"
    counts = {finding.check: finding.count for finding in exam.errors}
    assert counts == {"picture-truncated": 1, "picture-unreadable": 3, "picture-missing": 1}


def test_damage_in_the_middle_is_found_by_decoding(album):
    image = np.random.default_rng(0).integers(0, 255, (256, 320, 3), np.uint8)
    data = bytearray(cv2.imencode(".png", image)[1].tobytes())
    data[len(data) // 2] ^= 255
    content = json.loads((album / TRAIN).read_text())
    entry = content["images"][0]
    entry["file_name"] = "damaged.png"
    (album / "train2017/damaged.png").write_bytes(data)
    (album / TRAIN).write_text(json.dumps(content))
    assert "picture-unreadable" not in levels(examine(album / TRAIN))
    assert {"picture-unreadable", "picture-truncated"} & set(levels(examine(album, decode=True)))


def test_exif_turned_pictures(album):
    files = pictures(album)
    turned(files[0])
    exam = examine(album)
    assert levels(exam)["exif"] == "note" and not exam.errors  # the file has the turned size
    content = json.loads((album / TRAIN).read_text())
    entry = next(i for i in content["images"] if i["file_name"] == files[0].name)
    entry["width"], entry["height"] = entry["height"], entry["width"]
    (album / TRAIN).write_text(json.dumps(content))
    assert levels(examine(album))["exif"] == "error"
    turned(files[1], 2)
    warned = [f for f in examine(album).warnings if f.check == "exif"]
    assert len(warned) == 1 and warned[0].ids == (files[1].name,)


def test_the_same_picture_in_train_and_val(album):
    first, (other, *_) = pictures(album)[0], pictures(album, "val")
    other.write_bytes(first.read_bytes())
    exam = examine(album)
    (leak,) = [f for f in exam.findings if f.check == "leak"]
    assert leak.level == "error" and leak.count == 1 and other.name in leak.ids[0]


def test_a_picture_saved_again_in_val(album):
    first, (other, *_) = pictures(album)[0], pictures(album, "val")
    image = cv2.imread(str(first))
    small = cv2.resize(cv2.resize(image, None, fx=0.7, fy=0.7), image.shape[1::-1])
    cv2.imwrite(str(other), small, [cv2.IMWRITE_JPEG_QUALITY, 60])
    exam = examine(album)
    (leak,) = [f for f in exam.findings if f.check.startswith("leak")]
    assert (leak.check, leak.level, leak.count) == ("leak-near", "warning", 1)


def test_the_same_people_in_train_and_val_without_pictures(mine):
    train, val = (json.loads((mine / name).read_text()) for name in (TRAIN, VAL))
    target = val["annotations"][0]
    target["keypoints"] = labelled(train)[0]["keypoints"]
    (mine / VAL).write_text(json.dumps(val))
    assert levels(examine(mine, images=mine / "nowhere"))["leak-people"] == "error"


def test_a_file_that_joins_train_and_val_is_no_leak(mine):
    (mine / "annotations/person_keypoints_trainval2017.json").write_bytes((mine / VAL).read_bytes())
    assert not {check for check in levels(examine(mine)) if check.startswith("leak")}


def test_what_a_published_set_lacks_is_a_note(mine):
    content = json.loads((mine / TRAIN).read_text())
    a_keypoint_never_labelled(content)
    (mine / TRAIN).write_text(json.dumps(content))
    assert levels(examine(mine, SETS["coco"]))["imbalance"] == "note"
    assert levels(examine(mine))["imbalance"] == "warning"


def test_copies_within_a_split(album):
    files = pictures(album)
    files[1].write_bytes(files[0].read_bytes())
    assert levels(examine(album))["picture-twice"] == "warning"


def test_links_out_of_the_folder_are_not_opened(album, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.jpg"
    first = pictures(album)[0]
    secret.write_bytes(first.read_bytes())
    first.unlink()
    first.symlink_to(secret)
    exam = examine(album)
    (finding,) = [f for f in exam.findings if f.check == "picture-link"]
    assert finding.level == "warning" and finding.ids == (first.name,)
    assert exam.sheets[0].pictures[str(first)].size == (0, 0)


# ---------------------------------------------------------------- other forms


def test_own_data_as_csv(people, tmp_path):
    files = pictures(people)[:3]
    lines = ["image,x1,y1,x2,y2,tip_x,tip_y,base_x,base_y"]
    lines += [f"{file.name},10,10,90,90,20,30,70,80" for file in files]
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(lines))
    exam = examine(table, images=people / "train2017")
    assert not exam.findings and exam.sheets[0].sizes.tolist()[0] == [320, 256]
    broken = [*lines, f"{files[0].name},a,10,90,90,20,30,nan,80", f"{files[1].name},1,2",
              f"{files[2].name},10,10,90,90,900,30,70,80", "gone.jpg,1,1,9,9,2,2,3,3"]  # fmt: skip
    table.write_text("\n".join(broken))
    found = levels(examine(table, images=people / "train2017"))
    assert {"type", "nan", "csv", "keypoint-outside", "picture-missing"} <= set(found)


def test_any_skeleton(people, tmp_path):
    """A mug has no shoulders: checks that need a person say nothing."""
    names = ["rim", "handle", "bottom"]
    images = [
        {"id": n, "file_name": file.name, "width": 320, "height": 256}
        for n, file in enumerate(pictures(people)[:12], 1)
    ]
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [20, 30, 100, 120], "area": 9000}
        | {"num_keypoints": 3, "iscrowd": 0}
        | {"keypoints": [30 + n, 40, 2, 110 - n, 80 + n, 1 + n % 2, 70, 140 + n / 3, 2]}
        for n in range(1, 13)
    ]
    category = {"id": 1, "name": "mug", "keypoints": names, "skeleton": [[1, 2], [2, 3]]}
    file = tmp_path / "mugs.json"
    content = {"images": images, "annotations": annotations, "categories": [category]}
    file.write_text(json.dumps(content))
    exam = examine(file, images=people / "train2017")
    assert not exam.errors and not exam.warnings, str(exam)
    assert exam.sheets[0].skeleton.keypoints == tuple(names)


def test_labels_without_any_picture(mine, tmp_path_factory):
    alone = tmp_path_factory.mktemp("alone") / "labels.json"
    alone.write_bytes((mine / TRAIN).read_bytes())
    exam = examine(alone)
    assert not exam.errors and "none were found" in str(exam)
    found = levels(examine(alone, images=alone.parent / "nowhere"))
    assert found["picture-missing"] == "error"


def test_records_written_by_us_are_healthy(people, tmp_path):
    records = SETS["coco"].load(people, "train")
    file = tmp_path / "again.json"
    file.write_text(json.dumps(to_coco(records, people / "train2017")))
    exam = examine(file, images=people / "train2017")
    assert not exam.errors, str(exam)


# ---------------------------------------------------------------- hostile files


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b"null", b"<html></html>", b"\0\xff" * 9, b"[" * 10**5, b'{"images": 3}',
     b'{"annotations": [' + b"9" * 10**7 + b"]}", b'{"images": [], "annotations": []}',
     b'[{"file_name": "a.jpg", "bbox": 3}]', b'{"instances": [3, {"keypoints": {"a": 5}}]}',
     b'[{"joints": 5, "image": 3}]', b'{"images": [{"id": []}], "annotations": [{"id": {}}]}'],
    ids=range(14),
)  # fmt: skip
def test_files_that_are_no_annotations(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text)
    exam = examine(tmp_path / "x.json")
    assert len(str(exam)) < 5000
    assert exam.errors or b'"images": []' in text


def test_damaged_files_end_in_findings(mine, tmp_path_factory):
    """400 mutated files: never an exception, never a long report."""
    rng, place = random.Random(7), tmp_path_factory.mktemp("damaged")
    content = json.loads((mine / VAL).read_text())
    content["annotations"] = content["annotations"][:4]
    for item in content["annotations"]:
        item.pop("segmentation", None)
    texts = [json.dumps(content).encode(), b"image,x1,y1,x2,y2,a_x,a_y\nb.jpg,1,2,30,40,5,6\n" * 3]
    odd = [None, True, "x", "9", -1, 1e300, 10**400, [], {}, [[]], {"a": {}}, float("nan"), "{n}"]
    for number in range(400):
        if number % 2:
            data = bytearray(texts[number % 4 == 3])
            for _ in range(rng.randint(1, 6)):
                data[rng.randrange(len(data))] = rng.choice(b'0"[]{},:NnulxE-9\n\xff')
        else:
            broken = json.loads(texts[0])
            for _ in range(rng.randint(1, 3)):
                mutate(broken, rng, odd)
            data = json.dumps(broken).encode()
        path = place / ("x.csv" if number % 4 == 3 else "x.json")
        path.write_bytes(data)
        assert len(str(examine(path))) < 20_000


def mutate(value, rng, odd):
    """Replace something deep in a content."""
    while isinstance(value, (dict, list)) and value:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if not isinstance(value[key], (dict, list)) or not value[key] or rng.random() < 0.2:
            value[key] = rng.choice(odd)
            return
        value = value[key]


# ---------------------------------------------------------------- reports and the command line


def test_the_page_shows_the_worst(checked, mine):
    checked(box_small)
    exam = examine(mine)
    text = exam.to_html(mine / "report.html").read_text()
    assert text.count("data:image/jpeg") >= 8 and "box-elsewhere" in text
    assert "<script" not in text and "http" not in text.split("</style>")[1]


def test_hostile_names_are_escaped(mine):
    content = json.loads((mine / TRAIN).read_text())
    content["images"][0]["file_name"] = "<script>alert(1)</script>.jpg"
    content["categories"][0]["keypoints"][0] = "<b>nose</b>"
    (mine / TRAIN).write_text(json.dumps(content))
    text = examine(mine).to_html(mine / "report.html").read_text()
    assert "<script" not in text and "<b>nose" not in text


def test_the_command_line(mine, capsys):
    """Exit status 0 for a healthy set, 1 for errors, 2 for wrong usage."""

    def run(*words):
        with pytest.raises(SystemExit) as stopped:
            main(["doctor", *map(str, words)])
        return stopped.value.code or 0, *capsys.readouterr()

    status, out, err = run(mine, "--form", "coco", "--split", "val")
    assert status == 0 and "0 errors, 0 warnings" in out, err
    content = json.loads((mine / VAL).read_text())
    box_empty(content)
    (mine / VAL).write_text(json.dumps(content))
    page = mine / "out.html"
    status, out, err = run(mine, "--row", "coco/resnet-50", "--json", "--report", page)
    told = json.loads(out)
    assert status == 1 and told["errors"] == 1, err
    assert told["findings"][0]["check"] == "box-empty" and page.exists()
    for words in (["nowhere"], [mine, "--form", "cocoa"], [mine, "--form", "coco", "--split", "x"]):
        status, _, err = run(*words)
        assert status == 2 and err.count("\n") == 1, err


def test_nothing_to_examine_is_wrong_usage(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"no annotation files|does not exist"):
            examine(path)
