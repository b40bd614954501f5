"""Sets of faces from made-up folders in their owners' form, and from the real samples."""

import json
import shutil

import numpy as np
import pytest
import raw_folders
from PIL import Image
from test_prepare_people import prepared, unexpected

from pose_nb.data.inputs import read_image
from pose_nb.files import InputError
from pose_nb.sources.faces import SUBSETS_WFLW, read_pts, read_wflw
from pose_nb.sources.prepare import prepare
from pose_nb.tables.sets import SETS


def face(count, seed=0):
    """Landmarks (count, 2) as text files have them."""
    return np.random.default_rng(seed).uniform(20, 120, (count, 2)).round(3)


def annotations(folder, name):
    content = json.loads((folder / "annotations" / name).read_text())
    return content["annotations"]


def test_300w(tmp_path):
    points = face(68)
    raw_folders.faces_300w(tmp_path / "raw", points)
    out = tmp_path / "300w"
    assert not unexpected(prepared("300w", tmp_path / "raw", out))
    counts = {split: len(SETS["300w"].load(out, split)) for split in SETS["300w"].annotations}
    assert counts == dict(train=3, val=3, common=2, challenge=1, test=2)
    for split in counts:
        assert np.allclose(SETS["300w"].load(out, split).keypoints[0], points, atol=1e-3)
    prepare("300w", None, out, zero_based=True)
    assert np.allclose(SETS["300w"].load(out).keypoints[0], points - 1, atol=1e-3)


def test_wflw(tmp_path):
    points = face(98)
    raw_folders.wflw(tmp_path / "raw", points)
    out = tmp_path / "wflw"
    assert not unexpected(prepared("wflw", tmp_path / "raw", out))
    assert [len(SETS["wflw"].load(out, split)) for split in ("train", "val", "blur")] == [2, 2, 1]
    records = SETS["wflw"].load(out, "train")
    low, high = np.floor(points.min(0)), np.ceil(points.max(0))
    assert np.allclose(records.keypoints[1], points, atol=1e-3) and records.visible.min() == 1
    assert np.allclose(records.centers[0], (low + high) / 2)
    assert np.allclose(records.scales[0], (high - low).max())
    made = annotations(out, "face_landmarks_wflw_train.json")[0]
    assert made["occlusion"] == 1 and made["blur"] == 0 and made["face_rectangle"][0] == 10


def cofw_faces(count, seed=1):
    rng = np.random.default_rng(seed)
    numbers = np.concatenate(
        [rng.uniform(20, 120, (count, 58)), rng.integers(0, 2, (count, 29))], 1
    )
    images = [rng.integers(0, 255, (150, 140 + i, 3), dtype=np.uint8) for i in range(count)]
    return numbers, np.tile([15.0, 18, 110, 108], (count, 1)), images


def test_cofw(tmp_path):
    pytest.importorskip("h5py")
    train, test = cofw_faces(3), cofw_faces(2, 2)
    test[2][0] = test[2][0][..., 0]  # a grey picture
    raw_folders.cofw(tmp_path / "raw/COFW_train_color.mat", "train", *train)
    raw_folders.cofw(tmp_path / "raw/COFW_test_color.mat", "test", *test)
    out = tmp_path / "cofw"
    assert not unexpected(prepared("cofw", tmp_path / "raw", out))
    names = sorted(path.name for path in (out / "images").iterdir())
    assert names == [f"{i:06d}.jpg" for i in range(1, 6)]
    for split, (numbers, _, images) in (("train", train), ("val", test)):
        records = SETS["cofw"].load(out, split)
        expected = numbers[:, :58].reshape(-1, 2, 29).transpose(0, 2, 1) - 1
        assert np.allclose(records.keypoints, expected, atol=1e-4)
        assert records.extra["image_sizes"].tolist() == [[i.shape[1], i.shape[0]] for i in images]
        made = annotations(out, f"cofw_{'train' if split == 'train' else 'test'}.json")
        hidden = np.array([a["keypoints"] for a in made]).reshape(len(numbers), 29, 3)[..., 2]
        assert np.array_equal(hidden, 2 - numbers[:, 58:]) and made[0]["bbox"] == [15, 18, 110, 108]


def test_aflws_split_is_the_published_one():
    from pose_nb.sources.aflw import TRAINING, aflw_splits

    info = dict(order=np.arange(24_386), visible=np.ones((24_386, 19), bool))
    sizes = {name: len(rows) for name, rows in aflw_splits(info).items()}
    assert TRAINING == 20_000 == sizes["train"] and sizes["test"] == SETS["aflw"].counts["val"]


def test_cofw_colours_survive(tmp_path):
    pytest.importorskip("h5py")
    numbers, boxes, _ = cofw_faces(1)
    red = np.zeros((150, 140, 3), np.uint8)
    red[:75, :, 0] = 255  # red above
    raw_folders.cofw(tmp_path / "raw/COFW_test_color.mat", "test", numbers, boxes, [red])
    prepare("cofw", tmp_path / "raw", tmp_path / "cofw")
    image = read_image(tmp_path / "cofw/images/001346.jpg")  # test pictures follow 1,345
    assert image.shape == (150, 140, 3) and image[10, 70, 0] > 240 and image[140, 70].max() < 20


def test_cofw_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "raw").mkdir()
    for content in (b"", b"MATLAB 7.3 and nothing else" * 30, b"MATLAB 5.0 MAT-file" * 20):
        (tmp_path / "raw" / "COFW_train_color.mat").write_bytes(content)
        with pytest.raises(InputError, match="COFW_train_color.mat"):
            prepare("cofw", tmp_path / "raw", tmp_path / "cofw")


@pytest.fixture
def few(monkeypatch):
    """Twenty training faces instead of 20,000."""
    monkeypatch.setattr("pose_nb.sources.aflw.TRAINING", 20)


def aflw_raw(raw, N=24):
    """As Zhu et al. publish it: a random order, and hidden landmarks in one test face."""
    rng = np.random.default_rng(5)
    points = rng.uniform(20, 120, (N, 19, 2))
    names = [f"{(0, 2, 3)[i % 3]}/image{i % 4:05d}.jpg" for i in range(N)]
    order = rng.permutation(N) + 1
    visible = np.ones((N, 19))
    visible[order[21] - 1, 4] = 0
    boxes = np.tile([10.0, 110.0, 20.0, 120.0], (N, 1))
    raw_folders.aflw_info(raw / "AFLWinfo_release.mat", names, points, boxes, visible, order)
    for part in (0, 2, 3):
        files = {f"{part}/image{i:05d}.jpg": raw_folders.picture_bytes() for i in range(4)}
        raw_folders.pack(raw / f"aflw-images-{part}.tar.gz", files)
    return points, order


def test_aflw(tmp_path, few):
    points, order = aflw_raw(tmp_path / "raw")
    faces = {39341 + i: f"0/image{i:05d}.jpg" for i in range(4)}
    one = {feature: (30.0 + feature, 40.0 + feature) for feature in range(1, 22)}
    raw_folders.aflw_database(tmp_path / "raw/aflw.sqlite", faces, dict.fromkeys(faces, one))
    out = tmp_path / "aflw"
    verdict = prepare("aflw", tmp_path / "raw", out)
    assert not unexpected(verdict)
    assert len(SETS["aflw"].load(out, "train")) == 20
    records = SETS["aflw"].load(out)
    assert sorted(records.ids) == sorted(order[20:])  # numbered as in the authors' arrays
    assert np.allclose(records.keypoints, points[records.ids - 1], atol=1e-4)
    assert records.extra["box_size"].tolist() == [100] * 4 and records.centers[0].tolist() == [
        60,
        70,
    ]
    assert len(SETS["aflw"].load(out, "frontal")) == 3


def test_aflw_of_another_release_is_refused(tmp_path):
    aflw_raw(tmp_path / "raw")
    one = {39341: {1: (30.0, 40.0)}}
    raw_folders.aflw_database(tmp_path / "raw/aflw.sqlite", {39341: "0/image09999.jpg"}, one)
    with pytest.raises(InputError, match="lacks 4 of the 4 pictures"):
        prepare("aflw", tmp_path / "raw", tmp_path / "aflw")


def test_aflws_database_alone(tmp_path):
    """Visible landmarks only, without the ears; no published split."""
    faces = {39341: "0/image00000.jpg", 39342: "2/image00001.jpg"}
    points = {
        39341: {feature: (30.0 + feature, 40.0 + feature) for feature in range(1, 22)},
        39342: {1: (31.0, 41.0), 13: (5.0, 5.0), 21: (60.0, 70.0)},
    }
    raw = tmp_path / "raw"
    raw_folders.aflw_database(raw / "aflw.sqlite", faces, points)
    for name in faces.values():
        raw_folders.write_picture(raw / "data" / "flickr" / name)
    verdict = prepare("aflw", raw, tmp_path / "aflw")
    assert len(verdict.differences) == 3 and "is not there" in verdict.differences[0]
    made = annotations(tmp_path / "aflw", "face_landmarks_aflw_all.json")
    first, second = (np.array(a["keypoints"]).reshape(19, 3) for a in made)
    kept = [k for k in range(1, 22) if k not in (13, 17)]
    assert first[:, 0].tolist() == [30.0 + k for k in kept] and first[:, 2].all()
    assert second[:, 2].nonzero()[0].tolist() == [0, 18] and made[1]["num_keypoints"] == 2


# ---------------------------------------------------------------- real samples


def same(ours, theirs, fields, tolerance=1e-6):
    """Equal in some fields, number by number."""
    for a, b in zip(ours, theirs, strict=True):
        for name in fields:
            difference = np.abs(np.ravel(a[name]) - np.ravel(b[name])).max()
            assert difference < tolerance, (name, a[name], b[name])


def sample(samples, name, file):
    folder = samples / "samples" / name
    content = json.loads((folder / file).read_text())
    return folder, {i["id"]: i["file_name"] for i in content["images"]}, content["annotations"]


def test_real_wflw_faces(samples, tmp_path):
    """MMPose's sample as a list of the authors, and back: the same numbers in every field."""
    folder, names, faces = sample(samples, "wflw", "test_wflw.json")
    lists, lines = tmp_path / "raw/WFLW_annotations/list_98pt_rect_attr_train_test", []
    lists.mkdir(parents=True)
    for a in faces:
        points = np.array(a["keypoints"]).reshape(98, 3)[:, :2].ravel().tolist()
        lines.append(" ".join(map(repr, points)) + f" 1 2 3 4 0 0 0 0 0 0 x/{names[a['image_id']]}")
    (lists / "list_98pt_rect_attr_test.txt").write_text("\n".join(lines))
    images = tmp_path / "raw/WFLW_images/x"
    images.mkdir(parents=True)
    for name in names.values():
        shutil.copy(folder / name, images)
    assert not unexpected(prepare("wflw", tmp_path / "raw", tmp_path / "wflw", splits=["val"]))
    made = annotations(tmp_path / "wflw", "face_landmarks_wflw_test.json")
    same(made, faces, ("keypoints", "center", "scale"))
    # one of MMPose's boxes ends at 768 although its picture is 1,024 pixels high; nobody reads it
    boxes = [pair for pair in zip(made, faces) if sum(pair[1]["bbox"][1::2]) < 767]
    same(*zip(*boxes), ("bbox", "area"))
    assert len(boxes) == 3


def test_real_wflw_lists(samples):
    folder = samples / "wflw" / "WFLW_annotations" / "list_98pt_test"
    for name in SUBSETS_WFLW:
        assert len(read_wflw(folder / f"list_98pt_test_{name}.txt")) == SETS["wflw"].counts[name]


def test_real_300w_faces(samples, tmp_path):
    """MMPose's sample as .pts files, and back: the same centres, sizes and boxes."""
    folder, names, faces = sample(samples, "300w", "test_300w.json")
    place = tmp_path / "raw" / "300W" / "01_Indoor"
    place.mkdir(parents=True)
    for a in faces:
        shutil.copy(folder / names[a["image_id"]], place)
        points = np.array(a["keypoints"]).reshape(68, 3)[:, :2].tolist()
        (place / names[a["image_id"]]).with_suffix(".pts").write_text(raw_folders.pts(points))
    assert not unexpected(prepare("300w", tmp_path / "raw", tmp_path / "300w", splits=["test"]))
    made = annotations(tmp_path / "300w", "face_landmarks_300w_test.json")
    faces = sorted(faces, key=lambda a: names[a["image_id"]])
    same(made, faces, ("keypoints", "center", "scale", "bbox"))


def test_real_helen_and_afw_faces(samples, tmp_path):
    """Full-size photos with the authors' .pts files: landmarks fall into the pictures."""
    raw = tmp_path / "raw"
    originals = samples / "helen_afw_68pt" / "originals"
    for source, place in (
        ("afw", "afw"),
        ("helen_train", "helen/trainset"),
        ("helen_test", "helen/testset"),
    ):
        shutil.copytree(originals / source, raw / place)
    verdict = prepared("300w", raw, tmp_path / "300w", splits=["train", "val", "common"])
    assert not unexpected(verdict)
    assert sum("0 of" in line and "outside the picture" in line for line in verdict.lines) == 3
    assert len(SETS["300w"].load(tmp_path, "train")) == 16
    file = next((raw / "afw").glob("*.pts"))
    assert read_pts(file).shape == (68, 2)


def test_real_cofw_faces(samples, tmp_path):
    """MMPose's sample in a MATLAB 7.3 file, and back."""
    pytest.importorskip("h5py")
    folder, names, faces = sample(samples, "cofw", "test_cofw.json")
    numbers, boxes, images = [], [], []
    for a in faces:
        x, y, flag = np.array(a["keypoints"]).reshape(29, 3).T
        numbers.append(np.concatenate([x + 1, y + 1, 2 - flag]))
        boxes.append(a["bbox"])
        images.append(np.asarray(Image.open(folder / names[a["image_id"]]).convert("RGB")))
    raw_folders.cofw(tmp_path / "raw/COFW_test_color.mat", "test", numbers, boxes, images)
    verdict = prepare("cofw", tmp_path / "raw", tmp_path / "cofw", splits=["val"])
    assert not unexpected(verdict)
    made = annotations(tmp_path / "cofw", "cofw_test.json")
    same(made, faces, ("keypoints", "bbox", "area", "num_keypoints"))


def test_real_aflw_faces(samples, tmp_path, few):
    """MMPose's sample in the form of AFLWinfo_release.mat, and back."""
    folder, names, faces = sample(samples, "aflw", "test_aflw.json")
    N, last = 22, len(faces)
    points, boxes = np.tile(face(19), (N, 1, 1)), np.tile([20.0, 120, 20, 120], (N, 1))
    for row, a in enumerate(faces):
        (x, y), half = a["center"], a["box_size"] / 2
        points[row] = np.array(a["keypoints"]).reshape(19, 3)[:, :2]
        boxes[row] = [x - half, x + half, y - half, y + half]
    listed = [f"2/{names[a['image_id']]}" for a in faces]
    listed += [listed[0]] * (N - last)
    order = np.r_[last + 1 : N + 1, 1 : last + 1]
    raw_folders.aflw_info(tmp_path / "raw/AFLWinfo_release.mat", listed, points, boxes, order=order)
    for name in names.values():
        (tmp_path / "raw/2").mkdir(exist_ok=True)
        shutil.copy(folder / name, tmp_path / "raw/2")
    prepare("aflw", tmp_path / "raw", tmp_path / "aflw", splits=["val"])
    made = annotations(tmp_path / "aflw", "face_landmarks_aflw_test.json")
    same(made, faces, ("keypoints", "center", "scale", "box_size", "bbox", "area"))
