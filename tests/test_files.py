"""Wrong files become one sentence, and written files are whole."""

import json
import os
import pickle
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pose_nb.files import (
    InputError,
    atomic_path,
    existing_file,
    file_lock,
    read_json,
    shown,
    write_json,
)

# -- messages --------------------------------------------------------------------------------------


def deep(levels):
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**7,
        b"x" * 10**7,
        "a\nb\r\x1b[2J\u2028\u202e",
        "\ud800",
        10**100_000,
        -(10**100_000),
        deep(100_000),
        {"a": deep(100_000)},
        [1] * 10**6,
        {i: i for i in range(10**5)},
        {1, 2, 3},
        np.arange(10**6),
        np.ones((3, 3)),
        Path("x" * 10**6),
        Path("a\nb"),
        float("nan"),
        None,
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_shown_is_one_short_line(value):
    start = time.perf_counter()
    text = shown(value)
    assert len(text) < 130 and text.isprintable() and text.encode()
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("value", [7, -1.5, "a'b", b"x", (1,), [1, "a"], {"a": None}, True])
def test_short_values_are_shown_as_they_are(value):
    assert shown(value) == repr(value)


def test_an_error_survives_other_processes():
    error = pickle.loads(pickle.dumps(InputError("wrong")))
    assert type(error) is InputError and str(error) == "wrong" and isinstance(error, ValueError)
    assert len(str(InputError("x" * 10**6))) < 4010


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "x" * 300, "zero\0byte", "\ud800", "a\nb", "file/x", "."])
@pytest.mark.parametrize("read", [existing_file, read_json])
def test_paths_that_are_no_files(tmp_path, name, read):
    (tmp_path / "file").write_text("{}")
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(InputError, match="pipe or device"):
            read_json(path)


def test_a_hint_of_what_is_there(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}\n.json").write_text("{}")
    with pytest.raises(InputError, match=r"does, and holds 0\\n.json, .* …$"):
        read_json(tmp_path / "x" / "y" / "z.json")


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": NaN}', "line 1: holds NaN"),
        ('{"a":\n-Infinity}', "line 2: holds -Infinity"),
        ('{"a":\n\n1e999}', "line 3: holds 1e999"),
        ('{"a": -1e400}', "holds -1e400"),
        ("1" * 10_000_000, "more than 300 digits"),
        ('{"a": [\n1.' + "1" * 10_000_000 + "]}", "line 2: holds a number of more"),
        ('{"a": ' + "1" * 10_000_000 + ".5e9}", "more than 300 digits"),
        ('{"a": "cut', "line 1, column 7: not valid JSON"),
        ("", "not valid JSON"),
        ("[]", "holds a list at the top; expected a dict"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("\0" * 100, "not a text file"),
        ("{}" + "\xff", "not a text file"),
    ],
)
def test_wrong_json(tmp_path, text, message):
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    start = time.perf_counter()
    with pytest.raises(InputError, match=message) as caught:
        read_json(tmp_path / "x.json")
    assert "x.json" in str(caught.value) and len(str(caught.value)) < 500
    assert time.perf_counter() - start < 5


def test_right_json(tmp_path):
    value = {"id": 10**299, "points": [1.5, -2e300, 0.0], "é": "\u2028", "1" * 250: None}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "x.json") == read_json(str(tmp_path / "x.json")) == value
    (tmp_path / "x.json").write_text("[1]")
    assert read_json(tmp_path / "x.json", (dict, list)) == [1]


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".", "x" * 300, "zero\0byte", "file/x", "folder"])
def test_places_where_nothing_can_be_written(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_json(tmp_path / name, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_name_as_long_as_can_be(tmp_path):
    write_json(tmp_path / ("é" * 127), {})
    assert [len(p.name) for p in tmp_path.iterdir()] == [127]


def test_permissions_are_those_of_any_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_json(tmp_path / "mine", {})
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "mine")]
    assert modes[0] == modes[1]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    write_json(tmp_path / "link", {"a": 1})
    assert (tmp_path / "precious").read_text() == "mine"
    assert read_json(tmp_path / "link") == {"a": 1} and not (tmp_path / "link").is_symlink()


def test_readers_see_the_old_or_the_new_file(tmp_path):
    path, seen = tmp_path / "x.json", set()
    write_json(path, {"all": [0] * 10_000})

    def write():
        for number in range(100):
            write_json(path, {"all": [number] * 10_000})

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        seen.add(len(read_json(path)["all"]))
    assert seen == {10_000} and [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_failed_block_leaves_everything_as_it_was(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(KeyError):
        with atomic_path(tmp_path / "x.json") as temporary:
            temporary.write_text("half")
            raise KeyError
    assert read_json(tmp_path / "x.json") == {"a": 1} and len(list(tmp_path.iterdir())) == 1


def test_numbers_of_numpy_and_none_for_nan(tmp_path):
    value = {
        1: np.float32(0.5),
        "n": np.int64(3),
        "a": np.array([[1.0, np.nan], [np.inf, 2.0]]),
        "t": (1, float("-inf")),
    }
    write_json(tmp_path / "x.json", value)
    expected = {"1": 0.5, "n": 3, "a": [[1.0, None], [None, 2.0]], "t": [1, None]}
    assert read_json(tmp_path / "x.json") == expected


def test_a_lock_keeps_others_out_also_where_a_file_system_cannot_lock(tmp_path, monkeypatch):
    import filelock

    def cannot(self, *_):
        raise NotImplementedError("FileSystem does not appear to support flock")

    for step in range(2):
        place = tmp_path / str(step) / ".lock"
        with file_lock(place, "busy"), pytest.raises(InputError, match="^busy$"):
            with file_lock(place, "busy", seconds=0.05):
                pass
        with file_lock(place, "busy"):
            pass  # free again
        monkeypatch.setattr(filelock.FileLock, "_acquire", cannot)


def test_a_lock_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be locked"):
        with file_lock(tmp_path / "file" / ".lock", "busy"):
            pass
