"""Small made-up folders in the form in which the owners of the data sets publish them."""

import io
import json
import sqlite3
import tarfile
import zipfile

import numpy as np
from PIL import Image
from scipy.io import savemat


def picture_bytes(size=(200, 150), kind="JPEG"):
    out = io.BytesIO()
    Image.new("RGB", size, (90, 90, 90)).save(out, kind)
    return out.getvalue()


def write_picture(path, size=(200, 150)):
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    path.write_bytes(picture_bytes(size, kind))


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def pack(path, files):
    """A zip or tar.gz of {name in it: bytes or text}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {n: c.encode() if isinstance(c, str) else c for n, c in files.items()}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def coco_content(number, count=17, **more):
    """Annotations of one person at (20 + k, 30 + k) in picture `number`."""
    points = [x for k in range(count) for x in (20 + 2 * k, 30 + 2 * k, 2)]
    person = dict(id=number, image_id=number, category_id=1, iscrowd=0, bbox=[10, 20, 90, 110])
    person |= dict(keypoints=points, num_keypoints=count, area=4000) | more
    images = [dict(id=number, file_name=f"{number:012d}.jpg", width=200, height=150)]
    categories = [dict(id=1, name="person", keypoints=[], skeleton=[])]
    return dict(images=images, annotations=[person], categories=categories)


def coco(raw):
    notes = {}
    for number, split in ((1, "train2017"), (2, "val2017")):
        pack(raw / f"{split}.zip", {f"{split}/{number:012d}.jpg": picture_bytes()})
        content = json.dumps(coco_content(number))
        notes[f"annotations/person_keypoints_{split}.json"] = content
        notes[f"annotations/captions_{split}.json"] = "{}"
    pack(raw / "annotations_trainval2017.zip", notes)


def coco_wholebody_face(raw):
    flat = [x for k in range(68) for x in (30 + k / 2, 40 + k / 2, 1)]
    face = dict(face_box=[25, 35, 45, 45], face_kpts=flat, face_valid=True)
    for number, split in ((1, "train"), (2, "val")):
        pack(raw / f"{split}2017.zip", {f"{split}2017/{number:012d}.jpg": picture_bytes()})
        write_json(raw / f"coco_wholebody_{split}_v1.0.json", coco_content(number, **face))


def crowdpose(raw):
    pictures = {}
    for number, split in ((100000, "train"), (100001, "val"), (100002, "test")):
        content = coco_content(number, 14)
        content["images"][0] |= dict(file_name=f"{number}.jpg", crowdIndex=0.4)
        del content["annotations"][0]["area"]
        write_json(raw / "annotations" / f"crowdpose_{split}.json", content)
        pictures[f"images/{number}.jpg"] = picture_bytes()
    pack(raw / "images.zip", pictures)


def aic(raw):
    """As the owners pack it: the pictures are a zip inside the zip."""
    for stem, date, name in (
        ("keypoint_train", "20170902", "0a"),
        ("keypoint_validation", "20170911", "0b"),
    ):
        points = [
            x for k in range(14) for x in (20 + 2 * k, 30 + 2 * k, 1 + (k == 3) + 2 * (k == 5))
        ]
        row = dict(image_id=name, url="http://…", human_annotations=dict(human1=[10, 20, 90, 120]))
        row |= dict(keypoint_annotations=dict(human1=points))
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as archive:
            archive.writestr(f"{stem}_images_{date}/{name}.jpg", picture_bytes())
        outer = f"ai_challenger_{stem}_{date}"
        files = {f"{outer}/{stem}_annotations_{date}.json": json.dumps([row])}
        files[f"{outer}/{stem}_images_{date}.zip"] = inner.getvalue()
        pack(raw / f"{outer}.zip", files)


def posetrack18(raw):
    """Frames without sizes, people as the 2018 release has them, two videos in val."""
    for split, number in (("train", 1), ("val", 2), ("val", 3)):
        video = f"{number:06d}_mpii_test"
        frames, people = [], []
        for frame in range(2):
            image_id = 10**10 + number * 10**4 + frame
            name = f"images/{split}/{video}/{frame:06d}.jpg"
            more = dict(is_labeled=frame == 0, nframes=2, frame_id=image_id, vid_id=f"{number:06d}")
            frames.append(dict(id=image_id, file_name=name, has_no_densepose=True) | more)
            write_picture(raw / "posetrack_data" / name)
        points = [x for k in range(17) for x in (20 + 2 * k, 30 + 2 * k, int(k not in (3, 4)))]
        person = dict(id=number, image_id=frames[0]["id"], track_id=0, category_id=1, scores=[])
        person |= dict(bbox=[10, 20, 90, 110], bbox_head=[10, 20, 20, 20], keypoints=points)
        people.append(person)
        file = raw / "posetrack_data" / "annotations" / split / f"{video}.json"
        write_json(file, dict(images=frames, annotations=people, categories=[dict(id=1)]))


def humanart(raw):
    place = "2D_virtual_human/cartoon/000000000001.jpg"
    pack(raw / "HumanArt.zip", {f"HumanArt/images/{place}": picture_bytes()})
    for name in ("training_humanart_coco", "validation_humanart"):
        content = coco_content(1)
        content["images"][0]["file_name"] = f"HumanArt/images/{place}"
        write_json(raw / "annotations" / f"{name}.json", content)


def structs(items):
    """A MATLAB struct array (1, N) of dictionaries."""
    out = np.zeros((1, len(items)), [(name, object) for name in items[0]])
    for i, item in enumerate(items):
        out[0, i] = tuple(item.values())
    return out


def mpii_rect(points, scale=0.5, centre=(60.0, 70.0), head=(40.0, 20.0, 60.0, 50.0)):
    """A person of annorect; points (id, x, y)."""
    marks = [dict(x=x, y=y, id=float(k), is_visible=np.zeros((0, 0))) for k, x, y in points]
    rect = dict(zip(("x1", "y1", "x2", "y2"), head)) | dict(annopoints=dict(point=structs(marks)))
    return rect | dict(scale=scale, objpos=dict(x=centre[0], y=centre[1]))


def mpii_release(raw, pictures, in_train, val):
    """MPII's file and Tompson's: pictures {name: list of rects}; val: (picture, person), from 1."""
    raw.mkdir(parents=True, exist_ok=True)
    empty = np.zeros((0, 0))
    rows = [
        dict(image=dict(name=name), annorect=structs(rects) if rects else empty)
        for name, rects in pictures.items()
    ]
    release = dict(annolist=structs(rows), img_train=np.array([in_train], np.uint8), version="12")
    savemat(raw / "mpii_human_pose_v1_u12_1.mat", dict(RELEASE=release))
    index = np.array(val, np.uint16).T
    marks = dict(RELEASE_img_index=index[:1], RELEASE_person_index=index[1:])
    savemat(raw / "detections.mat", marks)


def mpii(raw):
    """Four pictures: two for training, one with a validation person and a bystander, one test."""
    whole = [(k, 21.0 + 2 * k, 31.0 + 2 * k) for k in range(16)]
    half = [(k, 41.0 + 2 * k, 51.0 + 2 * k) for k in range(8, 16)]
    pictures = {
        "000000001.jpg": [mpii_rect(whole), mpii_rect(half)],
        "000000002.jpg": [mpii_rect(half)],
        "000000003.jpg": [mpii_rect(half), mpii_rect(whole)],
        "000000004.jpg": [],
    }
    mpii_release(raw, pictures, (1, 1, 1, 0), [(3, 2)])
    for name in pictures:
        write_picture(raw / "images" / name)


def jhmdb(raw, clips=("catch/one", "golf/two")):
    """Three frames in each clip; the second clip's masks end after the second frame."""
    rng = np.random.default_rng(3)
    mask = np.zeros((150, 200), np.uint8)
    mask[30:120, 40:110] = 1
    frames = {}
    for number, clip in enumerate(clips):
        for folder, name, content in (
            ("joint_positions", "joint_positions", dict(pos_img=rng.uniform(45, 105, (2, 15, 3)))),
            ("puppet_mask", "puppet_mask", dict(part_mask=np.stack([mask] * (3 - number), 2))),
        ):
            path = raw / folder / clip / f"{name}.mat"
            path.parent.mkdir(parents=True)
            savemat(path, content)
        for frame in (1, 2, 3):
            frames[f"Rename_Images/{clip}/{frame:05d}.png"] = picture_bytes(kind="PNG")
    pack(raw / "Rename_Images.tar.gz", frames)
    lists = {}
    for split, flags in (("1", (1, 2)), ("2", (2, 1)), ("3", (1, 2))):
        for clip, flag in zip(clips, flags):
            action, name = clip.split("/")
            lists[f"sub_splits/{action}_test_split_{split}.txt"] = f"{name}.avi {flag}\n"
    pack(raw / "sub_splits.zip", lists)


def pts(points):
    rows = "\n".join(f"{x} {y}" for x, y in points)
    return f"version: 1\nn_points:  {len(points)}\n{{\n{rows}\n}}\n"


def faces_300w(raw, points):
    for archive, folder, name in (
        ("afw.zip", "afw", "1"),
        ("ibug.zip", "ibug", "image_003_1"),
        ("helen.zip", "helen/trainset", "10"),
        ("helen_test.zip", "helen/testset", "11"),
        ("lfpw.zip", "lfpw/trainset", "image_0001"),
        ("lfpw_test.zip", "lfpw/testset", "image_0002"),
        ("300w.zip", "300W/01_Indoor", "indoor_001"),
        ("300w_b.zip", "300W/02_Outdoor", "outdoor_001"),
    ):
        end = "jpg" if folder == "afw" or "helen" in folder else "png"
        image = picture_bytes(kind="JPEG" if end == "jpg" else "PNG")
        pack(raw / archive, {f"{folder}/{name}.{end}": image, f"{folder}/{name}.pts": pts(points)})


def wflw(raw, points):
    line = " ".join(f"{x:.6f}" for x in np.asarray(points).ravel())
    lists = {}
    for part in ("train", "test"):
        rows = [f"{line} 10 20 110 140 0 1 0 0 1 0 0--Parade/{part}.jpg"] * 2
        lists[f"list_98pt_rect_attr_train_test/list_98pt_rect_attr_{part}.txt"] = "\n".join(rows)
    for part in ("largepose", "expression", "illumination", "makeup", "occlusion", "blur"):
        lists[f"list_98pt_test/list_98pt_test_{part}.txt"] = f"{line} 0--Parade/test.jpg\n"
    pack(raw / "WFLW_annotations.tar.gz", {f"WFLW_annotations/{n}": t for n, t in lists.items()})
    pictures = {f"WFLW_images/0--Parade/{part}.jpg": picture_bytes() for part in ("train", "test")}
    pack(raw / "WFLW_images.tar.gz", pictures)


def cofw(path, part, numbers, boxes, images):
    """A MATLAB 7.3 file: HDF5 behind a header of 512 bytes, axes reversed, cells as references."""
    import h5py

    end = "Tr" if part == "train" else "T"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        stored = [file.create_dataset(f"#refs#/{i}", data=im.T) for i, im in enumerate(images)]
        cells = np.array([[s.ref for s in stored]], h5py.ref_dtype)
        file.create_dataset(f"Is{end}", data=cells, dtype=h5py.ref_dtype)
        file.create_dataset(f"phis{end}", data=np.asarray(numbers, float).T)
        file.create_dataset(f"bboxes{end}", data=np.asarray(boxes, float).T)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def aflw_info(path, names, points, boxes, visible=None, order=None):
    """AFLWinfo_release.mat: points (N, 19, 2), boxes (N, 4) as left, right, top, bottom."""
    N = len(names)
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.empty((N, 1), object)
    cells[:, 0] = names
    content = dict(
        nameList=cells,
        bbox=np.asarray(boxes, float),
        data=np.asarray(points, float).transpose(0, 2, 1).reshape(N, 38),
        mask_new=np.ones((N, 19)) if visible is None else np.asarray(visible, float),
        ra=np.arange(1, N + 1)[None] if order is None else np.asarray(order)[None],
    )
    savemat(path, content)


def aflw_database(path, faces, points):
    """aflw.sqlite: faces {face id: picture}, points {face id: {feature id: (x, y)}}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as db:
        for table, columns in (
            ("FaceImages", "image_id, db_id, file_id, filepath, bw, width, height"),
            ("Faces", "face_id, file_id, db_id"),
            ("FaceRect", "face_id, x, y, w, h, annot_type_id"),
            ("FeatureCoords", "face_id, feature_id, x, y, annot_type_id"),
        ):
            db.execute(f"CREATE TABLE {table} ({columns})")
        for n, (face, name) in enumerate(faces.items()):
            row = (n, "f", f"{n}.jpg", name, 0, 200, 150)
            db.execute("INSERT INTO FaceImages VALUES (?,?,?,?,?,?,?)", row)
            db.execute("INSERT INTO Faces VALUES (?,?,?)", (face, f"{n}.jpg", "f"))
            db.execute("INSERT INTO FaceRect VALUES (?,?,?,?,?,?)", (face, 10, 20, 90, 90, 1))
            for feature, (x, y) in points[face].items():
                db.execute("INSERT INTO FeatureCoords VALUES (?,?,?,?,?)", (face, feature, x, y, 1))
    db.close()
