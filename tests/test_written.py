"""Results in each set's own form: what is written, read back, gives the figures again."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from pose_nb.files import read_json
from pose_nb.metrics.oks import coco_official
from pose_nb.metrics.pck import mpii_pckh
from pose_nb.metrics.posetrack import posetrack_ap
from pose_nb.tables import benchmarks as B
from test_benchmarks import ALL, load, perfect, write

FACES = [name for name, benchmark in ALL.items() if benchmark.what == "face"]


def noisy(benchmark, records, seed=0):
    """Answers that are somewhat off, each with scores of its own."""
    rng = np.random.default_rng(seed)
    poses = perfect(benchmark, records)
    off = 6 * rng.standard_normal(poses.keypoints.shape)
    scores = rng.uniform(0.3, 1, poses.scores.shape)
    return replace(
        poses,
        keypoints=(poses.keypoints + off).astype(np.float32),
        scores=scores.astype(np.float32),
    )


def answered(name, root, out):
    """Figures, truth, records and poses of a benchmark whose results were written to `out`."""
    benchmark = ALL[name]
    records = load(benchmark, write(benchmark, root))
    if name == "POSETRACK18":  # three frames of one video
        files = [f"{root}/images/val/street/{i:06d}.jpg" for i in records.image_ids.tolist()]
        records = replace(records, image_files=files, image_dir=str(root))
    poses, truth = noisy(benchmark, records), benchmark.truth(root)
    figures, results = benchmark.measure(records, poses, truth, 0.9)
    benchmark.measure.write(results, records, poses, out)
    return figures, truth, records, poses


@pytest.mark.parametrize("name", ALL)
def test_every_set_has_its_list(name, tmp_path):
    answered(name, tmp_path / "data", tmp_path / "out")
    assert len(read_json(tmp_path / "out" / "results.json", list)) == 6
    files = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    more = {"AIC": {"aic.json"}, "POSETRACK18": {"street.json"}, "MPII": {"pred.mat"}}
    more |= {name: {"landmarks.csv"} for name in FACES}
    assert files == {"results.json"} | more.get(name, set())


@pytest.mark.parametrize("name", ["COCO", "CROWDPOSE", "HUMANART_DET"])
def test_coco_form(name, tmp_path):
    figures, truth, records, _ = answered(name, tmp_path / "data", tmp_path)
    results = read_json(tmp_path / "results.json", list)
    assert {"image_id", "category_id", "keypoints", "score"} <= results[0].keys()
    again = ALL[name].measure.run.keywords["ap"] if name == "CROWDPOSE" else coco_official
    assert again(truth, results, records.skeleton.oks_sigmas()) == figures
    assert 0.05 < figures["AP"] < 0.999


def test_ai_challengers_form(tmp_path):
    figures, truth, records, _ = answered("AIC", tmp_path / "data", tmp_path)
    numbers = {Path(f).stem: i for f, i in zip(records.image_files, records.image_ids.tolist())}
    results = []
    for picture in read_json(tmp_path / "aic.json", list):
        assert list(picture["keypoint_annotations"]) == ["human1", "human2"]
        scores = [picture["scores"][human][0] for human in picture["keypoint_annotations"]]
        assert scores == sorted(scores, reverse=True)
        for (human, values), score in zip(picture["keypoint_annotations"].items(), scores):
            assert len(values) == 14 * 3 and set(values[2::3]) == {1}
            points = [list(p) for p in zip(values[::3], values[1::3], picture["scores"][human][1:])]
            results.append(
                dict(
                    image_id=numbers[picture["image_id"]],
                    category_id=1,
                    keypoints=sum(points, []),
                    score=score,
                )
            )
    sigmas = records.skeleton.oks_sigmas()
    again = coco_official(truth, results, sigmas, use_area=False)
    assert again == pytest.approx(figures) and 0.05 < figures["AP"] < 0.999


def test_posetracks_form(tmp_path):
    figures, truth, records, _ = answered("POSETRACK18", tmp_path / "data", tmp_path)
    video = read_json(tmp_path / "posetrack18" / "street.json")
    assert [image["file_name"] for image in video["images"]] == [
        f"images/val/street/{i:06d}.jpg" for i in (1, 2, 3)
    ]
    assert video["categories"][0]["keypoints"] == list(records.skeleton.keypoints)
    tracks = {}
    for person in video["annotations"]:
        assert person["scores"] == person["keypoints"][2::3] and len(person["scores"]) == 17
        tracks.setdefault(person["track_id"], []).append(person["bbox"][0])
    assert sorted(tracks) == [0, 1] and all(len(set(x)) == 1 for x in tracks.values())
    again = posetrack_ap(truth, video["annotations"])
    assert again == pytest.approx(figures, nan_ok=True)
    assert posetrack_ap(truth, video["annotations"][1:]) != pytest.approx(figures, nan_ok=True)


def test_mpiis_form(tmp_path):
    figures, _, records, _ = answered("MPII", tmp_path / "data", tmp_path)
    rows = read_json(tmp_path / "results.json", list)
    assert [row["image"] for row in rows] == [Path(file).name for file in records.image_files]
    joints = np.float32([row["joints"] for row in rows]) - 1  # MPII counts from 1
    heads = records.extra["head_sizes"]
    again = mpii_pckh(joints, records.keypoints, records.visible, heads)
    assert again == pytest.approx(figures, nan_ok=True) and figures["PCKh@0.5"] > 50
    preds = loadmat(tmp_path / "pred.mat")["preds"]
    assert preds.shape == joints.shape and np.allclose(preds - 1, joints)


def test_jhmdbs_form(tmp_path):
    figures, _, records, poses = answered("JHMDB", tmp_path / "data", tmp_path)
    rows = read_json(tmp_path / "results.json", list)
    assert [row["id"] for row in rows] == records.ids.tolist()
    points = np.float32([row["keypoints"] for row in rows]).reshape(len(rows), -1, 3)[..., :2] - 1
    again = B.JHMDB.measure(records, replace(poses, keypoints=points))[0]
    assert again == pytest.approx(figures, nan_ok=True)


@pytest.mark.parametrize("name", FACES)
def test_landmarks_as_a_table(name, tmp_path):
    figures, truth, records, poses = answered(name, tmp_path / "data", tmp_path)
    with open(tmp_path / "landmarks.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == records.ids.tolist()
    for row, path in zip(rows, records.image_files):
        assert Path(records.image_dir, row["image"]) == Path(path)
    ends, names = ("x", "y", "score"), records.skeleton.keypoints
    values = np.float32([[[row[f"{n}_{e}"] for e in ends] for n in names] for row in rows])
    assert np.array_equal(values[..., :2], poses.keypoints)
    assert np.array_equal(values[..., 2], poses.scores)
    again = ALL[name].measure(records, replace(poses, keypoints=values[..., :2]))[0]
    assert again == figures and figures["NME"] > 0


def test_json_is_plain(tmp_path):
    answered("AIC", tmp_path / "data", tmp_path)
    assert json.loads((tmp_path / "aic.json").read_text())[0]["image_id"] == "1"
