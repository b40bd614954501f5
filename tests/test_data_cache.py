"""What large annotation files hold is kept for the next start: right, or not used at all."""

import json
import os
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from pose_nb.data import cache
from pose_nb.data.cache import read_records
from pose_nb.data.mpii import load_mpii
from pose_nb.data.readers import load_coco, load_crowdpose
from pose_nb.skeletons import Skeleton
from pose_nb.tables import sets

TINY = Skeleton("tiny", ("head", "tail"))


def people(count, images):
    rng = np.random.default_rng(0)
    owners = rng.integers(0, images, count).tolist()
    boxes = rng.uniform(10, 200, (count, 4)).round(2).tolist()
    return dict(
        images=[
            dict(id=i, file_name=f"ä/{i:012d}.jpg", width=640, height=480) for i in range(images)
        ],
        annotations=[
            dict(id=i, image_id=owners[i], bbox=boxes[i], keypoints=[i % 300 + 1, 50, 2, 0, 0, 0])
            | (dict(iscrowd=1) if i % 7 == 0 else {})
            for i in range(count)
        ],
    )


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.delenv("POSE_NB_CACHE", raising=False)
    monkeypatch.setattr(cache, "SMALLEST", 1000)
    path = tmp_path / "people.json"
    path.write_text(json.dumps(people(200, 50)))
    return path


def same(a, b):
    arrays = [k for k, v in vars(a).items() if isinstance(v, np.ndarray)]
    for name in arrays:
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype and np.array_equal(x, y), name
    assert a.extra.keys() == b.extra.keys()
    assert all(np.array_equal(v, b.extra[k]) for k, v in a.extra.items())
    named = ("skeleton", "image_files", "skipped", "source", "image_dir")
    return len(arrays) == 9 and all(getattr(a, n) == getattr(b, n) for n in named)


def kept(folder):
    return sorted(folder.glob(".*.safetensors"))


def counted(read):
    """A reader that counts its calls, under the name of the real one."""

    def call(*args, **options):
        call.times += 1
        return read(*args, **options)

    call.times, call.__module__, call.__qualname__ = 0, read.__module__, read.__qualname__
    return call


@pytest.mark.parametrize("read", [load_coco, load_crowdpose, partial(load_coco, origin=1)])
def test_the_second_start_gives_the_same(file, read):
    fresh = read(file, "pictures", TINY)
    assert same(fresh, read_records(read, file, "pictures", TINY)) and len(kept(file.parent)) == 1
    again = read_records(read, file, "pictures", TINY)
    assert same(fresh, again)
    assert len({id(name) for name in again.image_files}) == len(set(again.image_files))


def test_the_file_is_parsed_once_for_each_question(file):
    read = counted(load_coco)
    detections = [dict(image_id=i, category_id=1, bbox=[5, 5, 9, 9], score=0.5) for i in range(9)]
    (file.parent / "det.json").write_text(json.dumps(detections))
    questions = [
        {},
        dict(origin=1),
        dict(boxes=file.parent / "det.json", min_score=0.1),
        dict(boxes=file.parent / "det.json", min_score=0.2),
    ]
    for number, options in enumerate(questions, 1):
        for _ in range(3):
            read_records(read, file, "pictures", TINY, **options)
        assert read.times == number
    read_records(read, file, "elsewhere", TINY)
    read_records(read, file, "pictures", replace(TINY, name="other"))
    assert read.times == len(questions) + 2


def test_changes_are_seen(file):
    read, text = counted(load_coco), file.read_text()
    read_records(read, file, "", TINY)
    times = file.stat()
    file.write_text(text.replace("50, 2, 0", "51, 2, 0", 30))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time
    changed = read_records(read, file, "", TINY)
    assert read.times == 2 and (changed.keypoints[:, 0, 1] == 51).any()
    file.write_text(text)
    os.utime(file, (1, 1))
    read_records(read, file, "", TINY)
    read_records(read, file, "", TINY)
    assert read.times == 3
    boxes = file.parent / "det.json"
    for score in (0.5, 0.7):
        boxes.write_text(json.dumps([dict(image_id=1, bbox=[5, 5, 9, 9], score=score)]))
        found = read_records(read, file, "", TINY, boxes=boxes)
        assert found.box_scores.tolist() == [np.float32(score)]


def test_a_damaged_file_is_as_good_as_none(file):
    fresh, rng = load_coco(file, "", TINY), np.random.default_rng(0)
    read_records(load_coco, file, "", TINY)
    path = kept(file.parent)[0]
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(min(len(whole), rng.choice([300, 3000])))] = rng.integers(256)
        path.write_bytes(damaged[: rng.choice([len(whole), rng.integers(len(whole))])])
        found = read_records(load_coco, file, "", TINY)
        assert found.keypoints.shape == fresh.keypoints.shape and np.isfinite(found.boxes).all()
        path.write_bytes(b"")
    assert same(fresh, read_records(load_coco, file, "", TINY)) and path.read_bytes() == whole


def test_names_in_a_kept_file_stay_in_the_folder(file):
    read_records(load_coco, file, "pictures", TINY)
    path = kept(file.parent)[0]
    name = "ä/000000000001.jpg".encode()
    path.write_bytes(path.read_bytes().replace(name, b"../" + name[3:]))
    assert not any(
        ".." in name for name in read_records(load_coco, file, "pictures", TINY).image_files
    )


def test_a_folder_that_cannot_be_written_to(file, monkeypatch):
    """Root may write anywhere, so the cache's folder is a file here."""
    (file.parent / "cache").write_text("not a folder")
    monkeypatch.setenv("POSE_NB_CACHE", str(file.parent / "cache"))
    for _ in range(2):
        assert same(load_coco(file, "", TINY), read_records(load_coco, file, "", TINY))
    monkeypatch.setenv("POSE_NB_CACHE", str(file.parent / "other"))
    read_records(load_coco, file, "", TINY)
    assert len(kept(file.parent / "other" / "records")) == 1 and not kept(file.parent)
    monkeypatch.setattr(cache, "save_file", lambda *args: 1 / 0)
    monkeypatch.setenv("POSE_NB_CACHE", str(file.parent / "third"))
    assert same(load_coco(file, "", TINY), read_records(load_coco, file, "", TINY))
    assert not [p for p in (file.parent / "third").rglob("*") if p.is_file()]


def test_small_files_and_foreign_readers_are_not_kept(file, monkeypatch):
    read_records(lambda *args: load_coco(*args), file, "", TINY)
    monkeypatch.setattr(cache, "SMALLEST", 2**22)
    read_records(load_coco, file, "", TINY)
    assert not kept(file.parent)


def test_sets_use_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SMALLEST", 10)
    monkeypatch.delenv("POSE_NB_CACHE", raising=False)
    (tmp_path / "annotations").mkdir()
    person = dict(image="005808361.jpg", center=[966.0, 340.0], scale=4.5, joints_vis=[1] * 16)
    rows = [person | dict(joints=[[804.0, 711.0]] * 16)] * 3
    (tmp_path / "annotations" / "mpii_train.json").write_text(json.dumps(rows))
    first = sets.SETS["mpii"].load(tmp_path, "train")
    assert len(kept(tmp_path / "annotations")) == 1
    again = sets.SETS["mpii"].load(tmp_path, "train")
    assert same(first, again) and len({id(name) for name in first.image_files}) == 1
    assert same(first, load_mpii(*_mpii(tmp_path), subtract_one=True))


def _mpii(root):
    return root / "annotations" / "mpii_train.json", root / "images"


def test_a_warm_start_is_quick(tmp_path, monkeypatch):
    monkeypatch.delenv("POSE_NB_CACHE", raising=False)
    monkeypatch.setattr(cache, "SMALLEST", 1000)
    path = tmp_path / "large.json"
    path.write_text(json.dumps(people(30000, 10000)))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        read_records(load_coco, path, "pictures", TINY)
        seconds.append(time.process_time() - start)
    assert min(seconds[1:]) < seconds[0] / 2
