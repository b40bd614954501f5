"""Safetensors: what a hostile header can claim, and what is written."""

import json
import os
import struct
import time

import pytest
import torch

from pose_nb.files import InputError
from pose_nb.weights.tensors import read_safetensors, write_safetensors


def forged(header, numbers=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def claim(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


EIGHT = struct.pack("<2f", 1.5, 2.5)
GOOD = forged({"__metadata__": {"row": "toy"}, "w": claim()}, EIGHT)
EMPTY = dict(offsets=(0, 0))
HOSTILE = {
    "empty": b"",
    "seven bytes": b"1234567",
    "web page": b"<!DOCTYPE html><html></html>",
    "cut": GOOD[:-1],
    "longer": GOOD + b"x",
    "long header": struct.pack("<Q", 2**63) + GOOD[8:],
    "header of 90 MB": forged(b" " * 90_000_000),
    "no JSON": forged(b"{'w': 1}"),
    "not UTF-8": forged(b'{"\xff": 1}'),
    "a list": forged([1]),
    "deep": forged(b"[" * 100_000),
    "digits": forged(b'{"w": ' + b"9" * 10_000_000 + b"}"),
    "entry": forged({"w": 7}),
    "metadata": forged({"__metadata__": {"a": 1}, "w": claim()}, EIGHT),
    "no shape": forged({"w": {"dtype": "F32", "data_offsets": [0, 8]}}, EIGHT),
    "no offsets": forged({"w": {"dtype": "F32", "shape": [2]}}, EIGHT),
    "overflow": forged({"w": claim(shape=(0, 2**62, 2**62), **EMPTY)}),
    "beyond a long": forged({"w": claim(shape=(0, 2**63), **EMPTY)}),
    "product": forged({"w": claim(shape=(2**31, 2**31, 2**31, 0), **EMPTY)}),
    "dimensions": forged({"w": claim(shape=(1,) * 100_000, offsets=(0, 4))}, EIGHT[:4]),
    "negative": forged({"w": claim(shape=(-2,))}, EIGHT),
    "fraction": forged({"w": claim(shape=(2.0,))}, EIGHT),
    "more than stored": forged({"w": claim(shape=(3,), offsets=(0, 12))}, EIGHT),
    "less than stored": forged({"w": claim(shape=(1,), offsets=(0, 4))}, EIGHT),
    "overlap": forged({"v": claim(), "w": claim()}, EIGHT),
    "complex": forged({"w": claim("C64", (1,))}, EIGHT),
    "eight bits": forged({"w": claim("F8_E4M3", (8,))}, EIGHT),
    "list for a type": forged({"w": claim(["F32"])}, EIGHT),
    "many": forged({str(i): claim(shape=(0,), **EMPTY) for i in range(100_000)}),
    "long name": forged({"w" * 10_000_000: claim(shape=(3,))}, EIGHT),
}


def test_a_good_file(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(GOOD)
    tensors, metadata = read_safetensors(tmp_path / "a.safetensors")
    assert tensors["w"].tolist() == [1.5, 2.5] and metadata == {"row": "toy"}


def test_a_header_whose_length_looks_like_text(tmp_path):
    header = json.dumps({"w": claim()})
    header += " " * (0x13C - len(header))  # the file begins with the byte 0x3C, which is "<"
    (tmp_path / "a.safetensors").write_bytes(forged(header.encode(), EIGHT))
    assert (tmp_path / "a.safetensors").read_bytes()[:1] == b"<"
    assert read_safetensors(tmp_path / "a.safetensors")[0]["w"].tolist() == [1.5, 2.5]
    for text, told in ((HOSTILE["web page"], "web page"), (b"version https://git-lfs", "pointer")):
        (tmp_path / "a.safetensors").write_bytes(text)
        with pytest.raises(InputError, match=told):
            read_safetensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(tmp_path, name):
    (tmp_path / "a.safetensors").write_bytes(HOSTILE[name])
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"a\.safetensors is no sound safetensors") as caught:
        read_safetensors(tmp_path / "a.safetensors")
    assert time.perf_counter() - start < 10 and len(str(caught.value)) < 700


def test_every_cut_and_every_changed_byte_of_the_header(tmp_path):
    path = tmp_path / "a.safetensors"
    for length in range(len(GOOD)):
        path.write_bytes(GOOD[:length])
        with pytest.raises(InputError):
            read_safetensors(path)
    for at in range(len(GOOD) - 8):
        for value in (0, 1, 0x22, 0x39, 0x5B, 0x7D, 0xFF):
            path.write_bytes(GOOD[:at] + bytes([value]) + GOOD[at + 1 :])
            try:
                read_safetensors(path)
            except InputError as error:
                assert "a.safetensors" in str(error)


@pytest.mark.parametrize("name", ["", "none", "x" * 300, "zero\0byte", "\ud800", "a\nb"])
def test_paths_that_no_file_has(tmp_path, name):
    with pytest.raises(InputError) as caught:
        read_safetensors(tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        write_safetensors(tmp_path / f"{name}.safetensors" / f"{name}.pth", {})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_sparse_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(InputError, match="pipe or device"):
        read_safetensors(tmp_path / "pipe.safetensors")
    path = tmp_path / "a.safetensors"
    path.write_bytes(forged({"w": claim(shape=(2**36,), offsets=(0, 2**38))}))
    try:
        os.truncate(path, 2**40)
    except OSError:
        pytest.skip("this file system has no sparse files of a terabyte")
    with pytest.raises(InputError, match="1,099,511,627,776 bytes"):
        read_safetensors(path)


def test_what_is_written_is_read(tmp_path):
    weight = torch.randn(3, 4, requires_grad=True)
    given = {
        "w": weight,
        "tied": weight,
        "turned": weight.T,
        "row": weight[1],
        "none": torch.empty(0, 3),
        "number": torch.tensor(7),
        "yes": torch.tensor([True, False]),
        "half": weight.bfloat16(),
    }
    path = tmp_path / "new" / "folder" / "a.safetensors"
    write_safetensors(path, given, {"epoch": 3, "loss": 0.5})
    tensors, metadata = read_safetensors(path)
    assert metadata == {"epoch": "3", "loss": "0.5"} and set(tensors) == set(given)
    for name, tensor in given.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"w": torch.ones(2)})
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pose_nb.weights.tensors.save_file", full)
    with pytest.raises(InputError, match="No space"):
        write_safetensors(path, {"w": torch.zeros(2)})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(InputError, match="saved as .safetensors"):
        write_safetensors(tmp_path / "a.pth", {})
