"""The command line: light to start, and with wrong input one clear line, status 2, nothing left.

No traceback, and nothing half written.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_images import picture

from pose_nb.cli import main
from pose_nb.synth import make_dataset

ANNOTATIONS = "annotations/person_keypoints_val2017.json"
ROW = "coco/litehrnet-18"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return make_dataset(
        tmp_path_factory.mktemp("cli") / "people", train=2, val=3, seed=1, workers=0, progress=False
    )


@pytest.fixture
def mine(people, tmp_path):
    """A copy of the data set that a test may damage."""
    return shutil.copytree(people, tmp_path / "mine")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(w) for w in words])
        said = capsys.readouterr()
        return stop.value.code or 0, said.out, said.err

    return call


@pytest.fixture
def refused(run):
    """Run a line that must be refused; returns the message."""

    def call(*words, lines=1):
        status, _, err = run(*words)
        ours = [line for line in err.splitlines() if line.startswith("pose-nb: ")]
        assert status == 2, err
        assert "Traceback" not in err and len(ours) == 1, err
        message = err[err.index("pose-nb: ") :].strip()
        assert len(message.splitlines()) <= lines, message
        return message

    return call


def change(folder, edit):
    """Edit the annotation file of split val; `edit` changes the content in place or returns
    another."""
    file = folder / ANNOTATIONS
    content = json.loads(file.read_text())
    content = edit(content) or content
    file.write_text(json.dumps(content))
    return content


def person(content):
    """The first usable annotation."""
    return next(a for a in content["annotations"] if a["num_keypoints"] and not a["iscrowd"])


ORACLE = ("evaluate", ROW, "--oracle", "--device", "cpu", "--data")


# ---------------------------------------------------------------- names, folders and values


@pytest.mark.parametrize(
    "words",
    [
        ("info", "coco/resnet50"),
        ("train", "coco/resnet50", "--data", ".", "--out", "run"),
        ("evaluate", "coco/resnet50", "--data", "."),
        ("predict", "coco/resnet50", "{image}"),
        ("doctor", ".", "--row", "coco/resnet50"),
    ],
    ids=lambda w: w[0],
)
def test_unknown_row(refused, people, words):
    message = refused(
        *(w.replace("{image}", str(next(people.glob("val2017/*.jpg")))) for w in words)
    )
    assert "coco/resnet50" in message and "did you mean coco/resnet-50" in message


@pytest.mark.parametrize("form", ["text", "md", "csv", "json", "html"])
def test_a_table_in_each_form(run, form):
    status, out, _ = run("table", "jhmdb", "--format", form)
    assert status == 0 and "jhmdb/cpm" in out and "65.7" in out
    if form == "json":
        assert json.loads(out)[1]["published"] == {"PCK": 89.8, "tPCK": 65.7}


def test_what_was_measured_is_told(run):
    """`info` ends with the record of the row, or says that there is none."""
    status, out, _ = run("info", "coco/shufflenet-v2")
    assert status == 0 and "measured" in out.splitlines()[-1]


def test_the_environment(run):
    status, out, _ = run("env", "--device", "cpu")
    assert status == 0 and {"code", "hardware", "libraries"} <= json.loads(out).keys()


@pytest.mark.parametrize(
    "typed",
    ["info", "train", "train --finetune", "evaluate", "reproduce", "predict", "track", "export"]
    + ["doctor --row", "weights list", "weights publish --row"],
)
def test_rows_are_completed(run, monkeypatch, typed):
    words = f"pose-nb {typed} coco/hr"
    monkeypatch.setenv("_POSE_NB_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    status, out, _ = run()
    assert status == 0 and "coco/hrnet-w32" in out.split()
    assert all(line.startswith("coco/hr") for line in out.split())


def test_files_are_left_to_the_shell(run, monkeypatch):
    """Where nothing is typed yet, or no row begins so, the answer is empty."""
    monkeypatch.setenv("_POSE_NB_COMPLETE", "complete_bash")
    for typed, number in (("pose-nb predict ", 2), ("pose-nb predict phot", 2)):
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(number))
        assert run()[1].strip() == ""


def test_unknown_table_and_pattern(refused):
    assert "known are text, md" in refused("table", "coco", "--format", "xls")
    assert "crowdpose" in refused("table", "crowdpoes")
    assert "coco-*" in refused("list", "coco-*")


def test_every_row_that_can_be_named_is_listed(run):
    """Also those of no table: with public weights, and those that only the list of rows has."""
    for pattern in ("coco/vitpose-b", "demo/*"):
        assert run("list", pattern)[1].split(maxsplit=1)[1] == "in no table\n"
    assert "mpii/vitpose-h" in run("list")[1]


@pytest.mark.parametrize(
    "words",
    [
        ("train", ROW, "--out", "run", "--device", "cpu", "--data"),
        ORACLE,
        ("evaluate", ROW, "--data"),
    ],
    ids=["train", "oracle", "evaluate"],
)
def test_missing_data_folder(refused, words):
    message = refused(*words, "nowhere")
    assert (
        "nowhere" in message and "expected the file" in message and "person_keypoints_" in message
    )
    assert not Path("run").exists()


def test_unknown_split_and_boxes(refused, people):
    assert "no split 'tets'" in refused(*ORACLE, people, "--split", "tets")
    assert "nothing.json" in refused(
        "evaluate", ROW, "--data", people, "--boxes", "nothing.json", "--device", "cpu"
    )
    assert "use boxes='gt'" in refused(*ORACLE, people, "--boxes", "det")


@pytest.mark.parametrize(
    "words",
    [
        ("train", ROW, "--out", "run", "--data"),
        ("evaluate", ROW, "--data"),
        ("evaluate", ROW, "--oracle", "--data"),
    ],
)
@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_unknown_device(refused, people, words, device):
    assert f"device '{device}'" in refused(*words, people, "--device", device)


def test_unknown_device_of_predict(refused, people):
    assert "device 'gpu'" in refused(
        "predict", ROW, next(people.glob("val2017/*.jpg")), "--device", "gpu"
    )


def test_unknown_precision(refused, people):
    message = refused(
        "train", ROW, "--data", people, "--out", "run", "--precision", "fp8", "--device", "cpu"
    )
    assert "'fp8'" in message and "bf16" in message and not Path("run").exists()


@pytest.mark.parametrize(
    "words", [("--epochs", "0"), ("--batch-size", "-1"), ("--epochs", "many"), ("--splt", "val")]
)
def test_wrong_options_are_shown_as_typer_does(run, words):
    status, _, err = run("train", ROW, "--data", ".", "--out", "run", *words)
    assert status == 2 and words[0] in err and "Traceback" not in err


@pytest.mark.parametrize(
    "words",
    [
        ("train", ROW, "--data", "{data}"),
        ("evaluate", ROW, "--oracle", "--data", "{data}"),
        ("predict", ROW, "{image}"),
        ("demo", "--quick"),
    ],
    ids=lambda w: w[0],
)
@pytest.mark.parametrize("out", ["file", "file/below"])
def test_out_is_a_file(refused, people, words, out):
    Path("file").write_text("mine")
    words = [w.format(data=people, image=next(people.glob("val2017/*.jpg"))) for w in words]
    assert "file is a file" in refused(*words, "--out", out)
    assert Path("file").read_text() == "mine"


def test_synth_into_something_else(refused):
    Path("file").write_text("mine")
    assert "file" in refused("data", "synth", "file", "--train", 1, "--val", 1)
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    assert "synthpose.json" in refused("data", "synth", "full", "--train", 1, "--val", 1)
    assert Path("file").read_text() == Path("full/notes.txt").read_text() == "mine"


# ---------------------------------------------------------------- damaged data sets


def test_truncated_jpeg(refused, mine):
    bad = sorted(mine.glob("val2017/*.jpg"))[0]
    bad.write_bytes(bad.read_bytes()[:1500])
    assert bad.name in refused(*ORACLE, mine) and bad.name in refused(*ORACLE, mine, "--workers", 1)


def test_missing_image(refused, mine):
    gone = sorted(mine.glob("val2017/*.jpg"))[1]
    gone.unlink()
    message = refused(*ORACLE, mine, lines=2)
    assert "1 of 3 image files" in message and gone.name in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_keypoints_that_are_no_numbers(refused, mine, value):
    def edit(content):
        person(content)["keypoints"][3] = value

    wrong = person(change(mine, edit))
    message = refused(*ORACLE, mine)
    assert (
        ANNOTATIONS in message and f"annotation {wrong['id']}" in message and "keypoints" in message
    )


def test_box_without_area_is_counted(run, mine):
    def edit(content):
        person(content)["bbox"][2] = 0

    wrong = person(change(mine, edit))
    status, out, err = run(*ORACLE, mine)
    assert status == 0, err
    assert f"1 with a box of no area inside the image ({wrong['id']})" in out


@pytest.mark.parametrize(
    "words",
    [ORACLE, ("evaluate", ROW, "--data")],
    ids=["oracle", "evaluate"],
)
def test_no_annotations(refused, mine, words):
    change(mine, lambda content: content | {"annotations": []})
    assert "the list of annotations is empty" in refused(*words, mine)


def test_no_training_annotations(refused, mine):
    file = mine / ANNOTATIONS.replace("val", "train")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    assert "the list of annotations is empty" in refused(
        "train", ROW, "--data", mine, "--out", "run", "--device", "cpu"
    )
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", "<html></html>", '{"images": 3, "annotations": []}', "\0\xff" * 9],
)
def test_annotations_that_are_none(refused, mine, text):
    (mine / ANNOTATIONS).write_text(text, encoding="latin-1")
    assert ANNOTATIONS in refused(*ORACLE, mine)


# ---------------------------------------------------------------- boxes and images of predict


@pytest.mark.parametrize("box", ["1,2,3", "1,2,3,4,5", "a,b,c,d", "", "1 2 3 4"])
def test_box_is_not_four_numbers(refused, people, box):
    message = refused("predict", ROW, next(people.glob("val2017/*.jpg")), "--box", box)
    assert (
        f"--box {box}" in message
        and "30,20,180,400" in message
        and not Path("predictions").exists()
    )


@pytest.mark.parametrize("box", ["50,50,50,90", "60,60,10,10", "nan,0,5,5", "0,0,inf,5"])
def test_box_without_area(refused, people, box):
    assert "no area" in refused(
        "predict", ROW, next(people.glob("val2017/*.jpg")), "--box", box, "--device", "cpu"
    )
    assert not Path("predictions").exists()


def test_threshold_that_is_no_number(refused, people):
    words = ("predict", ROW, next(people.glob("val2017/*.jpg")), "--box", "9,9,99,99")
    assert "--threshold nan" in refused(*words, "--threshold", "nan", "--weights", "random")
    assert not Path("predictions").exists()


def test_boxes_that_belong_to_no_image(refused, people):
    images = sorted(people.glob("val2017/*.jpg"))
    Path("boxes.json").write_text('{"other.jpg": [[1, 2, 30, 40]]}')
    assert "other.jpg" in refused("predict", ROW, images[0], "--boxes", "boxes.json")
    Path("boxes.json").write_text('{"%s": [[1, 2, NaN, 40]]}' % images[0].name)
    assert "boxes.json, line 1" in refused("predict", ROW, images[0], "--boxes", "boxes.json")
    assert "2" in refused("predict", ROW, *images[:2], "--box", "1,2,30,40")
    assert "one of them" in refused(
        "predict", ROW, images[0], "--box", "1,2,30,40", "--boxes", "boxes.json"
    )


def test_images_that_are_none(refused, people):
    assert "gone.jpg" in refused("predict", ROW, "gone.jpg")
    Path("empty").mkdir()
    assert "no images in this folder" in refused("predict", ROW, "empty")
    Path("cut.jpg").write_bytes(next(people.glob("val2017/*.jpg")).read_bytes()[:1500])
    how = ("--weights", "random", "--boxes", "whole", "--device", "cpu")
    assert "cut.jpg" in refused("predict", ROW, "cut.jpg", *how)
    Path("text.png").write_text("no picture")
    assert "text.png" in refused("predict", ROW, "text.png", *how)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", ROW, "--data", "{data}"),
        ("train", ROW, "--out", "run", "--data", "{data}"),
        ("predict", ROW, "{image}"),
    ],
    ids=lambda w: w[0],
)
@pytest.mark.parametrize("name", ["page.pth", "page.safetensors"])
def test_weights_that_are_a_web_page(refused, people, words, name):
    Path(name).write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    words = [w.format(data=people, image=next(people.glob("val2017/*.jpg"))) for w in words]
    assert name in refused(*words, "--weights", name, "--device", "cpu", lines=2)


def test_weights_that_are_not_there(refused, people, monkeypatch, tmp_path):
    monkeypatch.setenv("POSE_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("POSE_NB_MIRROR", raising=False)
    words = ("evaluate", ROW, "--data", people, "--device", "cpu", "--weights")
    assert "gone.pth" in refused(*words, "gone.pth")
    assert "was not found" in refused(*words, "published", lines=5)
    assert "gone.pth" in refused(
        "train", ROW, "--data", people, "--out", "run", "--start", "gone.pth", "--device", "cpu"
    )
    assert "one of them" in refused(
        "train", ROW, "--data", people, "--out", "run", "--start", "a.pth", "--weights", "b.pth"
    )


def test_convert_and_import(refused):
    Path("page.pth").write_text("<html></html>")
    assert "page.pth" in refused("weights", "convert", "page.pth")
    assert "gone.pth" in refused("weights", "convert", "gone.pth")
    assert "gone" in refused("weights", "import", "gone")
    Path("empty").mkdir()
    assert "no .pth files" in refused("weights", "import", "empty")


# ---------------------------------------------------------------- what works


def test_predict_leaves_a_drawing_for_each_image(run):
    import cv2

    for folder, seed in (("a", 1), ("b", 2)):
        Path(folder).mkdir()
        cv2.imwrite(f"{folder}/x.png", picture(seed, 60, 80)[..., ::-1])
    status, out, err = run(
        "predict",
        "coco/mobilenet-v2",
        "a",
        "b/x.png",
        "--weights",
        "random",
        "--boxes",
        "whole",
        "--threshold",
        -1,
        "--device",
        "cpu",
        "--no-flip",
        "--out",
        "new/folder",
    )
    assert status == 0 and "2 people in 2 images" in out, err
    result = json.loads(Path("new/folder/keypoints.json").read_text())
    assert [e["drawing"] for e in result["images"]] == ["x.jpg", "x-2.jpg"] and result[
        "row"
    ] == "coco/mobilenet-v2"
    assert result["weights"] == "random"
    left = {name for name in os.listdir("new/folder") if not name.startswith(".")}
    assert left == {"answers-0.jsonl", "keypoints.json", "run.json", "x-2.jpg", "x.jpg"}
    for entry, seed in zip(result["images"], (1, 2)):
        assert np.shape(entry["people"][0]["keypoints"]) == (17, 3) and entry["people"][0][
            "box"
        ] == [0, 0, 80, 60]
        drawing = cv2.imread(f"new/folder/{entry['drawing']}")[..., ::-1].astype(float)
        assert (
            np.median(abs(drawing - picture(seed, 60, 80)))
            < 20
            < np.median(abs(drawing - picture(3 - seed, 60, 80)))
        )


def test_boxes_file_and_box_agree(run, people):
    image = sorted(people.glob("val2017/*.jpg"))[0]
    Path("boxes.json").write_text(
        json.dumps({image.name: [[10, 20, 90, 150], [100, 20, 190, 150]]})
    )
    for out, words in (
        ("one", ("--boxes", "boxes.json")),
        ("two", ("--box", "10,20,90,150", "--box", "100,20,190,150")),
    ):
        assert (
            run(
                "predict",
                "coco/mobilenet-v2",
                image,
                *words,
                "--weights",
                "random",
                "--out",
                out,
                "--device",
                "cpu",
                "--no-flip",
            )[0]
            == 0
        )
    boxes = [
        [
            p["box"]
            for p in json.loads(Path(out, "keypoints.json").read_text())["images"][0]["people"]
        ]
        for out in ("one", "two")
    ]
    assert boxes[0] == boxes[1] == [[10, 20, 90, 150], [100, 20, 190, 150]]


def test_train_stop_continue_evaluate(run, people):
    """The README's steps, on a listed row: train, the same command again, evaluate the result."""
    words = (
        "train",
        "coco/shufflenet-v2",
        "--data",
        people,
        "--out",
        "new/run",
        "--batch-size",
        2,
        "--limit",
        2,
        "--val-limit",
        1,
        "--workers",
        0,
        "--eval-every",
        9,
        "--device",
        "cpu",
        "--start",
        "random",
        "--epochs",
    )
    status, out, err = run(*words, 1)
    assert status == 0, err
    assert "start: random weights" in out and "linear scaling rule" in out
    status, out, err = run(*words, 1)
    assert status == 0 and "this run is complete: epoch 1" in out and "start:" not in out, err
    assert "epochs: '1' then, '2' now" in refused_line(run(*words, 2))
    status, out, err = run(
        "evaluate",
        "coco/shufflenet-v2",
        "--data",
        people,
        "--weights",
        "new/run/best.safetensors",
        "--boxes",
        "det",
        "--device",
        "cpu",
        "--no-flip",
    )
    assert status == 0 and "coco/shufflenet-v2, flip test off" in out, err
    assert "published 0.602" in out and "difference" not in out and "random" not in out
    assert "row: 'coco/shufflenet-v2' then, 'coco/mobilenet-v2' now" in refused_line(
        run(*("train", "coco/mobilenet-v2", *words[2:]), 1)
    )


def refused_line(answer):
    status, _, err = answer
    assert status == 2 and "Traceback" not in err and err.startswith("pose-nb: "), err
    return err


def test_start_of_the_backbone(run, people):
    from safetensors.torch import load_file, save_file
    from pose_nb.tables.zoo import create_model

    given = {
        k: v.clone()
        for k, v in create_model("coco/shufflenet-v2").state_dict().items()
        if k.startswith("backbone.")
    }
    save_file(given, "classifier.safetensors")
    words = (
        "train",
        "coco/shufflenet-v2",
        "--data",
        people,
        "--batch-size",
        2,
        "--limit",
        2,
        "--val-limit",
        1,
        "--workers",
        0,
        "--epochs",
        1,
        "--device",
        "cpu",
        "--lr",
        1e-9,
        "--out",
    )
    status, out, err = run(*words, "started", "--start", "classifier.safetensors")
    assert status == 0 and "start: classifier.safetensors:" in out, err
    run(*words, "random", "--start", "random")
    far = [
        max(
            (load_file(f"{name}/best.safetensors")[k] - v).abs().max().item()
            for k, v in given.items()
            if v.ndim == 4
        )
        for name in ("started", "random")
    ]
    assert far[0] < 1e-6 < 1e-3 < far[1]
    Path("page.pth").write_text("<html></html>")
    assert "page.pth" in refused_line(run(*words, "third", "--start", "page.pth"))
    assert not Path("third").exists()


def test_oracle_writes_its_figures(run, people):
    status, out, err = run(*ORACLE, people, "--limit", 2, "--out", "figures")
    assert status == 0, err
    record = json.loads(Path("figures/figures.json").read_text())
    assert record["images"] == 2 and record["figures"]["AP"] > 0.9 and '"AP":' in out


@pytest.mark.parametrize(
    "verb",
    [
        (),
        ("list",),
        ("info",),
        ("table",),
        ("demo",),
        ("train",),
        ("evaluate",),
        ("reproduce",),
        ("env",),
        ("predict",),
        ("doctor",),
        ("data",),
        ("data", "synth"),
        ("weights",),
        ("weights", "convert"),
        ("weights", "import"),
    ],
    ids=lambda v: " ".join(v) or "pose-nb",
)
def test_help(run, verb):
    status, out, _ = run(*verb, "--help")
    assert status == 0 and out.startswith(" ".join(["Usage: pose-nb", *verb]))


@pytest.mark.parametrize("words", [["--help"], ["list", "aic/*"], ["table", "aic"]], ids=str)
def test_lists_and_help_load_nothing_heavy(words):
    code = (
        "import sys; from pose_nb.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print({'torch', 'cv2', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.endswith("set()\n"), done


def test_as_a_module_and_with_a_closed_pipe():
    """`python -m pose_nb.cli` is what launchers call; `... | head` closes the pipe early."""
    command = f"{sys.executable} -m pose_nb.cli"
    done = subprocess.run(
        ["bash", "-c", f"{command} list | head -n 1; {command} table cocoa; echo status $?"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("coco/") and done.stdout.endswith("status 2\n"), done
    assert done.stderr.startswith("pose-nb: no table 'cocoa'") and done.stderr.count("\n") == 1, (
        done.stderr
    )


def test_interrupted(monkeypatch, run):
    def interrupted(pattern):
        raise KeyboardInterrupt

    monkeypatch.setattr("pose_nb.tables.facts.list_models", interrupted)
    status, _, err = run("list")
    assert status == 130 and "Traceback" not in err


def test_an_error_of_the_file_system_is_one_line(monkeypatch, refused):
    def full(pattern):
        raise OSError(28, "No space left on device", "run/state.safetensors")

    monkeypatch.setattr("pose_nb.tables.facts.list_models", full)
    told = "pose-nb: run/state.safetensors: No space left on device"
    assert refused("list") == f"{told}; make room, and the same command goes on"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(pattern):
        raise ZeroDivisionError

    monkeypatch.setattr("pose_nb.tables.facts.list_models", broken)
    with pytest.raises(ZeroDivisionError):
        main(["list"])
