"""Damaged owners' files: one sentence or a result, never a traceback, and nothing half-written."""

import json
import random
import shutil

import numpy as np
import pytest
import raw_folders

from pose_nb.files import InputError
from pose_nb.sources.prepare import SOURCES, prepare
from pose_nb.sources.raw import place_files

POINTS = np.random.default_rng(0).uniform(20, 120, (98, 2)).round(3)
ODD = [None, True, -1, 1e308, 10**30, "x", [], {}, [1], "../../a.jpg", "\0", [[1, 2], [3]]]


def aflw(raw):
    names = [f"0/image{i:05d}.jpg" for i in range(4)]
    points, boxes = np.tile(POINTS[:19], (4, 1, 1)), np.tile([10.0, 110, 20, 120], (4, 1))
    raw_folders.aflw_info(raw / "AFLWinfo_release.mat", names, points, boxes)
    one = {k: (30.0 + k, 40.0 + k) for k in range(1, 22)}
    faces = {39341 + i: name for i, name in enumerate(names)}
    raw_folders.aflw_database(raw / "aflw.sqlite", faces, dict.fromkeys(faces, one))
    for name in names:
        raw_folders.write_picture(raw / name)


def cofw(raw):
    rng = np.random.default_rng(1)
    numbers = np.concatenate([POINTS[:29].T.ravel(), np.zeros(29)])[None]
    image = rng.integers(0, 255, (60, 50, 3), dtype=np.uint8)
    file = raw / "COFW_train_color.mat"
    raw_folders.cofw(file, "train", numbers, [[5.0, 5, 40, 40]], [image])


MAKERS = {
    **{n: getattr(raw_folders, n) for n in ("coco", "crowdpose", "aic", "posetrack18")},
    **{n: getattr(raw_folders, n) for n in ("mpii", "jhmdb")},
    "300w": lambda raw: raw_folders.faces_300w(raw, POINTS[:68]),
    "wflw": lambda raw: raw_folders.wflw(raw, POINTS),
    "aflw": aflw,
    "cofw": cofw,
}


def places(value):
    """Every (container, key) in a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def damage(file, rng):
    """An entry of a JSON file removed, doubled or replaced; or some bytes of another one."""
    if file.suffix == ".json" and rng.random() < 0.8:
        content = json.loads(file.read_text())
        owner, key = rng.choice(list(places(content)))
        if rng.random() < 0.3:
            del owner[key]
        elif isinstance(owner, list) and rng.random() < 0.2:
            owner.append(owner[key])
        else:
            owner[key] = rng.choice(ODD)
        file.write_text(json.dumps(content))
        return
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 1, 3, 20])):
        content[rng.randrange(len(content))] = rng.choice([rng.randrange(256), ord("7")])
    file.write_bytes(content[: rng.choice([len(content)] * 3 + [len(content) // 2])])


@pytest.mark.parametrize("name", MAKERS)
def test_damaged_files_are_refused_in_a_sentence(tmp_path, name, monkeypatch):
    if name == "cofw":
        pytest.importorskip("h5py")
    monkeypatch.setattr("pose_nb.sources.aflw.TRAINING", 2)
    MAKERS[name](tmp_path / "clean")
    place_files(tmp_path / "clean", tmp_path / "placed", SOURCES[name].rules)
    refused = 0
    for seed in range(4 if name in ("mpii", "jhmdb", "aflw", "cofw") else 10):
        rng, work, out = random.Random(f"{name} {seed}"), tmp_path / "work", tmp_path / "out"
        for folder in (work, out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / ("placed" if seed % 3 else "clean"), work)
        files = sorted(f for f in work.rglob("*") if f.suffix not in (".jpg", ".png", ""))
        damage(rng.choice(files), rng)
        try:
            prepare(name, work, out, say=lambda text: None)
        except InputError as error:
            refused += 1
            assert len(str(error)) < 1500
        assert not list(out.rglob("*.part"))
    assert refused


def test_a_reader_that_dies_takes_nobody_along(tmp_path, monkeypatch):
    """A damaged MATLAB file can end the process that reads it: that is another one."""
    raw_folders.mpii(tmp_path / "raw")
    deadly = "import os, sys; sys.stdin.read(); print('that.mat', flush=True); os.abort()"
    monkeypatch.setattr("pose_nb.sources.making._TRIAL", deadly)
    with pytest.raises(InputError, match="that.mat: a MATLAB file that is damaged"):
        prepare("mpii", tmp_path / "raw", tmp_path / "mpii")
