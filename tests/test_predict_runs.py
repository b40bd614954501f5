"""Runs of `pose-nb predict` and `track`: stopped, killed, shared, repeated; nothing is lost."""

import contextlib
import csv
import errno
import json
from pathlib import Path

import cv2
import pytest
import torch
from data_images import picture
from safetensors.torch import save_file

from pose_nb import pictures
from pose_nb.cli import main
from pose_nb.files import LineFile
from pose_nb.runs import state
from pose_nb.runs.state import locked
from pose_nb.tables.zoo import get_row
from pose_nb.video import Frames, video_writer
from pose_nb.viz import save_image

ROW = get_row("coco/shufflenet-v2")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network with random weights, and a file of them that names its row."""
    torch.manual_seed(0)
    model = ROW.create("random").eval()
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(model.state_dict(), file, {"names": "pose_nb", "row": ROW.id})
    return model, file


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(10):
        save_image(tmp_path / "in" / f"{number}.png", picture(number, 60, 80))
    return [f"in/{number}.png" for number in range(10)]


@pytest.fixture
def run(capsys, network):
    def call(*words):
        usual = ("--weights", network[1], "--boxes", "whole", "--device", "cpu", "--no-flip")
        status = 0
        try:
            main([str(word) for word in (*words, *usual)])
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capsys.readouterr()

    return call


def asked_by(model, photos, out, part=0, parts=1):
    asked = pictures.Asked(model, ROW, "whole", dict(flip=False, device="cpu"))
    answers = pictures.Answers(out, photos, {}, part, parts, drawings=False)
    if part == 0:
        answers.begin()
    answers.look()
    with LineFile(out / f"answers-{part}.jsonl", fresh=False) as lines:
        for group in answers.groups():
            pictures.answer_group(asked, answers, group, lines)
    return answers


def content(answers):
    pictures.finish(answers, {"keypoints": ROW.skeleton.keypoints})
    return (answers.out / "keypoints.json").read_bytes()


def test_shared_and_interrupted_runs_answer_the_same(network, photos, tmp_path):
    """Bit for bit: one process, two that share, and one that was killed within a group."""
    whole = content(asked_by(network[0], photos, tmp_path / "one"))
    for part in (0, 1):
        shared = asked_by(network[0], photos, tmp_path / "two", part, 2)
    assert content(shared) == whole
    lines = (tmp_path / "one" / "answers-0.jsonl").read_bytes().splitlines(keepends=True)
    for cut in (b"".join(lines[:3]) + lines[3][:40], lines[9]):
        out = tmp_path / "killed"
        out.mkdir(exist_ok=True)
        (out / "answers-0.jsonl").write_bytes(cut)
        pictures.write_json(out / "run.json", {"settings": {}})
        assert content(asked_by(network[0], photos, out)) == whole


def test_stopped_and_gone_on(run, photos, monkeypatch):
    @contextlib.contextmanager
    def at_once():
        yield lambda: True

    with monkeypatch.context() as patch:
        patch.setattr(state, "stop_requests", at_once)
        status, _, err = run("predict", "in")
    assert status == 130 and "same command goes on" in err
    status, out, err = run("predict", "in", "--json")
    assert status == 0 and [json.loads(line)["file"] for line in out.splitlines()] == photos
    assert "10 people in 10 images" in err
    monkeypatch.setattr(pictures, "answer_group", None)  # nothing is asked again
    assert "this run is complete" in run("predict", "in")[1]
    assert run("predict", "in", "--json")[1] == out


def test_one_bad_file_then_mended(run, photos):
    good = open(photos[3], "rb").read()
    open(photos[3], "wb").write(good[:50])
    status, out, err = run("predict", "in", "--save-csv", "--no-save-images")
    assert status == 1 and "3.png" in err and "1 could not be used" in out
    assert len(open("predictions/keypoints.csv").readlines()) == 10
    open(photos[3], "wb").write(good)
    assert run("predict", "in", "--save-csv", "--no-save-images")[0] == 0
    images = json.load(open("predictions/keypoints.json"))["images"]
    assert [image["file"] for image in images] == photos


def test_a_file_that_goes_bad_or_away(run, photos):
    """An answer of before does not stand for a picture that cannot be used now."""
    assert run("predict", photos[0], photos[1])[0] == 0
    open(photos[0], "wb").write(b"text")
    status, out, err = run("predict", photos[0], photos[1], "in/gone.png")
    assert status == 1 and "1 person in 1 image; 2 could not be used" in out
    assert "left out: in/0.png: not an image" in err and "left out: in/gone.png: this image" in err
    status, out, err = run("predict", photos[0])
    assert status == 2 and err.startswith("pose-nb: in/0.png: not an image") and not out
    assert run("predict", "in/gone.png")[0] == 2


def test_names_that_are_hard_to_write(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = cv2.imencode(".png", picture(1, 60, 80))[1].tobytes()
    for name in (b"\xff.png", b"a" * 251 + b".png", b"new\nline.png"):
        open(b"in-" + name if len(name) < 9 else name, "wb").write(data)
    status, out, err = run("predict", "*.png", "--save-csv")
    assert status == 0 and "3 people in 3 images" in out, err
    assert len(list(csv.reader(open("predictions/keypoints.csv", errors="replace")))) == 4
    long = "https://a.org/photo.jpg?token=" + "x" * 400
    assert pictures.drawing_names([long, "a" * 300, "https://a.org/", "http://[::1"]) == [
        "photo.jpg", "a" * 200 + ".jpg", "picture.jpg", "picture-2.jpg",
    ]  # fmt: skip
    for odd in ("http://[::1", "HTTP://127.0.0.1:1/x.png", "ftp://a.org/b.png"):
        status, _, err = run("predict", odd)
        assert status == 2 and err.startswith("pose-nb: 'http".replace("http", odd[:4])), err


def test_closed_streams(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    status, _, err = run("predict", "-", "--out", tmp_path / "o")
    assert status == 2 and "standard input is closed" in err
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(SystemExit, match="0"):
        main(["list", "coco/resnet-50"])


def test_a_full_disk_and_warnings_in_one_line(run, photos, monkeypatch, capsys):
    def full(*words):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "write_json_list", full)
        status, _, err = run("predict", photos[0])
    assert status == 2 and err == (
        "pose-nb: No space left on device; make room, and the same command goes on\n"
    )
    boxes = [{"file_name": "0.png", "bbox": [1, 2, 30, 40], "category_id": 3}]
    open("b.json", "w").write(json.dumps(boxes))
    with pytest.raises(SystemExit):
        main(["predict", ROW.id, photos[0], "--weights=random", "--boxes=b.json", "--out=o"])
    err = capsys.readouterr().err
    assert err == "pose-nb: b.json: 1 boxes of categories but 1 left out\n"


def test_other_settings_and_another_run(run, photos, tmp_path):
    assert run("predict", photos[0])[0] == 0
    status, _, err = run("predict", photos[0], "--threshold", "0.9")
    assert status == 2 and "- threshold: '0.2' then, '0.9' now" in err and "--overwrite" in err
    assert run("predict", photos[0], "--threshold", "0.9", "--overwrite")[0] == 0
    assert run("predict", photos[1], "--threshold", "0.9")[0] == 0, "other pictures are welcome"
    with locked(tmp_path / "predictions"):
        status, _, err = run("predict", photos[0])
        assert status == 2 and "another run is writing there" in err


def test_leftovers_and_same_names(run, photos, tmp_path):
    save_image(tmp_path / "other" / "0.png", picture(50, 60, 80))
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / ".0.jpg.abc.part").write_text("left by a killed run")
    assert run("predict", photos[0])[0] == 0
    assert run("predict", "other/0.png")[0] == 0  # takes the name of the drawing
    left = {path.name for path in (tmp_path / "predictions").iterdir()} - {".lock"}
    assert left == {"0.jpg", "answers-0.jsonl", "keypoints.json", "run.json"}
    status, out, _ = run("predict", photos[0], "--json")
    assert status == 0 and len(out.splitlines()) == 1, "its drawing was gone: asked again"


def test_a_video_from_the_shell(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with video_writer("v.mp4", 10, (80, 60)) as write:
        for _ in range(7):
            write(picture(1, 60, 80))
    status, out, err = run("track", "v.mp4", "--match", "hungarian", "--by", "iou", "--json")
    assert status == 0 and json.loads(out)["frames"] == 7, err
    assert Frames("predictions/v.mp4").count == 7
    frames = json.load(open("predictions/v.json"))["frames"]
    assert {person["id"] for frame in frames for person in frame["people"]} == {1}
    assert run("predict", "v.mp4", "--out", "again", "--no-save-images")[0] == 0
    assert [path.name for path in (tmp_path / "again").glob("v*")] == ["v.json"]
    assert run("track", "v.mp4", "--match", "best")[0] == 2


def test_nothing_replaces_what_is_looked_at(run, photos, tmp_path):
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    status, _, err = run("predict", "in", "--out", "in")
    assert status == 2 and "--out in: in/0.png lies there" in err and "--no-save-images" in err
    assert run("predict", photos[0], "--out", "in", "--no-save-images")[0] == 0
    assert {path: path.read_bytes() for path in before} == before
    with video_writer("v.mp4", 10, (80, 60)) as write:
        write(picture(1, 60, 80))
    film = (tmp_path / "v.mp4").read_bytes()
    status, _, err = run("track", "v.mp4", "--out", ".")
    assert status == 2 and "would replace" in err and (tmp_path / "v.mp4").read_bytes() == film
    assert run("track", "v.mp4")[0] == 0 and run("track", tmp_path / "v.mp4")[0] == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "v.mp4").write_bytes(film)
    made = Path("predictions/v.json").read_bytes()
    for place, kept in (("other/v.mp4", "predictions/v.mp4"), ("v.mp4", "other/v.mp4")):
        status, _, err = run("track", place, "--out", Path(kept).parent)
        assert status == 2 and f"{kept} is there already, and was not made from '{place}'" in err
    assert Path("predictions/v.json").read_bytes() == made
    (tmp_path / "mine").mkdir()
    for name in ("0.jpg", "keypoints.csv"):
        (tmp_path / "mine" / name).write_bytes(b"mine")
        status, _, err = run("predict", photos[0], "--out", "mine")
        assert status == 2 and f"mine/{name} is there already" in err and "--overwrite" in err
        assert (tmp_path / "mine" / name).read_bytes() == b"mine"
        (tmp_path / "mine" / name).unlink()
    assert "looked at alone" in run("predict", "v.mp4", photos[0])[2]
    assert "1 person in 1 frame," in run("track", "v.mp4", "--out", ".", "--ending", "")[1]
    assert "an empty name" in run("predict", "")[2]
