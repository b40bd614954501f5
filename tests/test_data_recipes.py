"""The pages about data sets, the check of a data set, and their verbs on the command line."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import raw_folders

from pose_nb import cli
from pose_nb.files import InputError
from pose_nb.sources.making import read_record
from pose_nb.sources.prepare import SOURCES, page, prepare
from pose_nb.sources.raw import place_files, raw_files, safe_name
from pose_nb.sources.verify import verify
from pose_nb.tables.sets import SETS

RECIPES = Path(__file__).parent.parent / "data_recipes"


def run(*words):
    """Exit status of the command line."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return stop.value.code


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("name", SETS)
def test_a_page_says_everything(name):
    text = page(name)
    assert text == (RECIPES / name / "README.md").read_text(encoding="utf-8")
    points = ("- **Licence**", "- **Where**", "- **If the link is dead**", "- **Disk and time**")
    sections = ("## Layout", "## Counts", "## Commands", "## What the conversion does")
    for part in points + sections:
        assert f"\n{part}" in text, part
    assert f"pose-nb data prepare {name} --raw" in text and f"pose-nb data verify {name}" in text


@pytest.mark.parametrize("name", SETS)
def test_a_page_has_a_line_for_every_split(name):
    """With the number that the check compares with, or the word unknown."""
    data, text = SETS[name], page(name)
    counts = text[text.index("## Counts") : text.index("## Commands")]
    rows = {line.split("|")[1].strip(" `"): line for line in counts.splitlines() if "|" in line}
    for split in data.annotations:
        line = rows[split]
        for known in (data.counts, data.image_counts):
            if split in known:
                assert f"{known[split]:,}" in line, line
        if split not in data.counts:
            assert "unknown" in line or "as " in line, line


def test_every_set_is_in_the_overview():
    text = (RECIPES / "README.md").read_text(encoding="utf-8")
    assert all(f"]({name}/README.md)" in text for name in SETS) and set(SOURCES) == set(SETS)


# ---------------------------------------------------------------- hostile and broken archives


@pytest.mark.parametrize(
    "name", ["../out.json", "/tmp/out.json", "a/../../out.json", "C:\\out.json"]
)
def test_an_archive_cannot_write_outside(tmp_path, name):
    raw = tmp_path / "raw"
    raw_folders.pack(raw / "annotations.zip", {name: "{}"})
    raw_folders.pack(raw / "annotations.tar.gz", {name: "{}"})
    for archive in sorted(raw.iterdir()):
        with pytest.raises(InputError, match="leads out of its folder"):
            place_files(archive, tmp_path / "deep" / "folder", [(r"out\.json$", "out.json")])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_links_in_an_archive_are_left_alone(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind, name in ((tarfile.SYMTYPE, "val2017/1.jpg"), (tarfile.LNKTYPE, "val2017/2.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert not list(raw_files(tmp_path))


def test_broken_archives_are_refused(tmp_path):
    raw_folders.coco(tmp_path / "raw")
    whole = (tmp_path / "raw" / "val2017.zip").read_bytes()
    damaged = bytearray(whole)
    damaged[60] ^= 255
    for name, content in (("cut.zip", whole[:-30]), ("damaged.zip", damaged), ("a.tar.gz", b"no")):
        (tmp_path / "broken").mkdir(exist_ok=True)
        file = tmp_path / "broken" / name
        file.write_bytes(content)
        with pytest.raises(InputError, match=name):
            place_files(tmp_path / "broken", tmp_path / "out", SOURCES["coco"].rules)
        file.unlink()
    assert not list((tmp_path / "out").rglob("*.jpg")) + list((tmp_path / "out").rglob("*.part"))


def test_an_archive_with_a_password_says_so(tmp_path):
    raw_folders.pack(tmp_path / "a.zip", {"val2017/1.jpg": b"x"})
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="password"):
        list(raw_files(tmp_path))


def test_a_placed_file_is_the_published_one(tmp_path):
    """Linked or copied, a second run changes nothing, and a stopped one goes on."""
    raw_folders.coco(tmp_path / "raw")
    out, rules = tmp_path / "out", SOURCES["coco"].rules
    assert place_files(tmp_path / "raw", out, rules).new == 4
    picture = out / "val2017" / "000000000002.jpg"
    before = hashlib.sha256(picture.read_bytes()).hexdigest()
    picture.unlink()
    placed = place_files(tmp_path / "raw", out, rules)
    assert (placed.new, placed.there) == (1, 3)
    assert hashlib.sha256(picture.read_bytes()).hexdigest() == before


def test_names_from_lists_stay_inside():
    assert safe_name("0--Parade/a.jpg", "list") == "0--Parade/a.jpg"
    for name in ("..", "a/..", "", "/", "\\\\server\\a", "a\0b"):
        with pytest.raises(InputError):
            safe_name(name, "list")


# ---------------------------------------------------------------- the check


@pytest.fixture
def coco(tmp_path):
    raw_folders.coco(tmp_path / "raw")
    prepare("coco", tmp_path / "raw", tmp_path / "coco", say=lambda text: None)
    return tmp_path / "coco"


def differences(root, **more):
    return [d for d in verify("coco", root, **more).differences if "complete set" not in d]


def edit(root, change):
    path = root / "annotations" / "person_keypoints_val2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_whole_set_has_no_difference(coco):
    assert not differences(coco) and not differences(coco.parent, decode=True)


def test_counts_are_compared(coco):
    found = verify("coco", coco, ["val"]).differences
    assert found == [
        "val: 1 instances; the complete set has 6,352",
        "val: lists 1 pictures; the complete set has 5,000",
    ]


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda c: c["images"][0].update(width=150, height=200), "the annotations say 150 x 200"),
        (lambda c: c["annotations"][0].update(bbox=[150, 100, 40, 40]), "beside their boxes"),
        (lambda c: c["annotations"][0].update(keypoints=[500, 9, 2] * 17), "outside the picture"),
        (lambda c: c["annotations"][0].update(keypoints=[20, 30, 2] * 14), "expected 51"),
        (lambda c: c["annotations"][0].update(keypoints=[20, 30, 3] * 17), "visibility"),
        (lambda c: c["images"][0].update(file_name="gone.jpg"), "gone.jpg is not there"),
        (lambda c: c.update(annotations=[]), "no usable instance"),
    ],
)
def test_a_damage_is_named(coco, change, text):
    edit(coco, change)
    assert any(text in d for d in differences(coco)), differences(coco)


def test_a_damaged_picture_is_named(coco):
    picture = coco / "val2017" / "000000000002.jpg"
    whole = picture.read_bytes()
    picture.unlink()  # it is linked with nothing, but the archive stays as it is
    picture.write_bytes(whole[:-20])
    assert not differences(coco) and "cut short" in differences(coco, decode=True)[0]
    picture.write_bytes(b"no picture")
    assert "000000000002.jpg" in differences(coco)[0]


def test_missing_splits_are_named(coco):
    (coco / "annotations" / "person_keypoints_train2017.json").unlink()
    assert differences(coco) == ["train: annotations/person_keypoints_train2017.json is not there"]
    assert not differences(coco, splits=["val"])


def test_a_prepared_file_is_known_by_its_checksum(tmp_path):
    raw_folders.posetrack18(tmp_path / "raw")
    out = tmp_path / "posetrack18"
    prepare("posetrack18", tmp_path / "raw", out, say=lambda text: None)
    made = out / "annotations" / "posetrack18_val.json"
    record = read_record("posetrack18", out)["annotations/posetrack18_val.json"]
    assert record["sha256"] == hashlib.sha256(made.read_bytes()).hexdigest()
    made.write_text(made.read_text().replace("200", "201"))
    assert any("SHA-256 differs" in d for d in verify("posetrack18", out).differences)
    made.unlink()
    assert any("not there any more" in d for d in verify("posetrack18", out).differences)


def test_a_file_from_elsewhere_is_not_overwritten(tmp_path):
    raw_folders.posetrack18(tmp_path / "raw")
    out, said = tmp_path / "posetrack18", []
    own = raw_folders.coco_content(1)
    raw_folders.write_json(out / "annotations" / "posetrack18_val.json", own)
    prepare("posetrack18", tmp_path / "raw", out, say=said.append)
    assert json.loads((out / "annotations/posetrack18_val.json").read_text()) == own
    assert any("from elsewhere" in line for line in said)


def test_the_sheet_shows_the_people(coco):
    from pose_nb.data.inputs import read_image

    sheet = read_image(coco / "contact_sheet.png")
    assert sheet.shape[0] > 100 and np.ptp(sheet.astype(int)) > 60


# ---------------------------------------------------------------- the verbs


def test_list_and_recipe(capsys):
    assert run("data", "list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SETS)
    assert run("data", "recipe", "cofw") == 0 and "# COFW" in capsys.readouterr().out
    assert run("data", "recipe", "cofv") == 2 and "no data set 'cofv'" in capsys.readouterr().err


def test_prepare_and_verify(tmp_path, capsys):
    raw_folders.aic(tmp_path / "raw")
    raw, out = tmp_path / "raw", tmp_path / "data" / "aic"
    assert run("data", "prepare", "aic", "--raw", raw, "--out", out) == 1
    said = capsys.readouterr().out
    assert "4 files put in place" in said and "the complete set has 30,000" in said
    assert run("data", "verify", "aic", tmp_path / "data", "--split", "val") == 1
    said = capsys.readouterr().out
    assert "1 difference" in said and "lists 1 pictures" in said
    assert run("data", "verify", "aic", tmp_path / "nowhere") == 2
    assert run("data", "prepare", "wflw", "--raw", raw, "--out", tmp_path / "w") == 2
    assert "nothing of wflw" in capsys.readouterr().err


def test_verify_ends_with_0_where_nothing_differs(tmp_path, capsys):
    raw_folders.posetrack18(tmp_path / "raw")
    out = tmp_path / "posetrack18"
    assert run("data", "prepare", "posetrack18", "--raw", tmp_path / "raw", "--out", out) == 0
    assert run("data", "verify", "posetrack18", out) == 0
    assert "no difference" in capsys.readouterr().out


def test_the_names_of_the_rules_are_regular_expressions_that_fit_the_pages():
    """Every file that a rule knows by its whole name is named in the page."""
    for name, source in SOURCES.items():
        for _, place in source.rules:
            if "\\" not in place:
                assert Path(place).name in page(name), (name, place)
        assert all(re.compile(pattern) for pattern, _ in source.rules)
