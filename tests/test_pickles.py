"""Checkpoints from strangers: what is read, what is refused, and that nothing in them ever runs."""

import io
import os
import pickle
import re
import struct
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

import pose_nb
from pose_nb.weights.checkpoints import read_checkpoint
from pose_nb.weights.pickles import Budget, Inert, run_pickle
from pose_nb.files import InputError

HARMLESS = []  # attack payloads append to this when they run


def boom(*_, **__):
    HARMLESS.append("ran")


class Evil:
    def __init__(self, *arguments):
        boom()

    def __setstate__(self, state):
        boom()

    def __call__(self, *arguments):
        boom()

    def append(self, value):
        boom()

    def extend(self, values):
        boom()

    def __setitem__(self, key, value):
        boom()


@pytest.fixture(autouse=True)
def nothing_ran():
    HARMLESS.clear()
    yield
    assert not HARMLESS


def text(word):
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def old_file(body, storages):
    """A checkpoint in the old format whose object is the pickle `body` (without PROTO and STOP)."""
    head = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    numbers = b"".join(struct.pack("<q", n) + raw for raw, n, _ in storages)
    return (
        b"".join(head)
        + b"\x80\x02"
        + body
        + b"."
        + pickle.dumps([k for _, _, k in storages], 2)
        + numbers
    )


def number(n):
    return b"\x8a\x09" + int(n).to_bytes(9, "little", signed=True)


def tensor(
    kind=b"ctorch\nFloatStorage\n", key="0", count=2, offset=0, size=(2,), stride=(1,), more=b""
):
    numbers = lambda values: b"(" + b"".join(map(number, values)) + b"t"
    storage = b"(" + text("storage") + kind + text(key) + text("cpu") + number(count) + b"NtQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + number(offset)
        + numbers(size)
        + numbers(stride)
        + b"\x89N"
        + more
        + b"tR"
    )


TWO = ((struct.pack("<2f", 1.5, 2.5), 2, "0"),)


def zip_file(entries, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


def zip_pickle(body):
    return b"\x80\x02" + body + b"."


def write(tmp_path, content, name="model.pth"):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    return path


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_torch_reads(tmp_path, zipped):
    big = torch.randn(10, 10)
    state = OrderedDict(
        a=torch.randn(3, 4),
        t=torch.randn(2, 5).T,
        s=big[2:5, 1:4],
        again=big,
        p=torch.nn.Parameter(torch.ones(3)),
        h=torch.randn(4).half(),
        b=torch.randn(4).bfloat16(),
        n=torch.tensor(7),
        yes=torch.tensor([True, False]),
        none=torch.empty(0, 3),
        d=torch.randn(2).double(),
        u=torch.arange(5, dtype=torch.uint8),
        i=torch.arange(3, dtype=torch.int32),
    )
    state._metadata = OrderedDict({"": {"version": 2}})
    meta = {
        "time": "now",
        "epoch": 3,
        "classes": {"person"},
        "sigmas": np.ones(3),
        "scalar": np.float64(2),
        "size": torch.Size([1, 2]),
    }
    path = tmp_path / "model.pth"
    torch.save(
        {"meta": meta, "state_dict": state, "optimizer": {"state": {0: {"step": torch.ones(3)}}}},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    tensors, rest = read_checkpoint(path)
    assert list(tensors) == list(state)
    for key, value in state.items():
        assert tensors[key].dtype == value.dtype and torch.equal(tensors[key], value), key
    assert (
        rest["meta"]["time"] == "now"
        and rest["meta"]["epoch"] == 3
        and isinstance(rest["meta"]["sigmas"], Inert)
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_bare_state_dict_and_model_key(tmp_path, zipped):
    for wrapped in (lambda s: s, lambda s: {"model": s, "epoch": 1}):
        path = tmp_path / "model.pth"
        torch.save(wrapped({"w": torch.ones(2)}), path, _use_new_zipfile_serialization=zipped)
        assert read_checkpoint(path)[0]["w"].tolist() == [1, 1]


def test_old_format_with_views(tmp_path):
    """Old files say for a view of a storage: (its key, offset, count)."""
    numbers = lambda values: b"(" + b"".join(map(number, values)) + b"t"
    storage = (
        b"("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text("0")
        + text("cpu")
        + number(4)
        + b"("
        + text("view")
        + number(1)
        + number(2)
        + b"t"
        + b"tQ"
    )
    described = storage + number(0) + numbers((2,)) + numbers((1,)) + b"\x89NtR"
    body = b"}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + described + b"s"
    four = ((struct.pack("<4f", 1, 2, 3, 4), 4, "0"),)
    assert read_checkpoint(write(tmp_path, old_file(body, four)))[0]["w"].tolist() == [2, 3]
    path = write(
        tmp_path,
        old_file(body.replace(number(1) + number(2) + b"t", number(3) + number(2) + b"t"), four),
    )
    with pytest.raises(InputError, match="has 4 numbers"):
        read_checkpoint(path)


@pytest.mark.parametrize("protocol", range(6))
def test_machine_agrees_with_pickle(protocol):
    value = {
        "a": [1, -2, 2**70, 1.5, "text", b"bytes", None, True, False],
        "b": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "c": {"d": {}},
        "é": ["x"] * 3,
    }
    if protocol < 3:
        value["a"].remove(b"bytes")  # written as a call of _codecs.encode
    assert run_pickle(io.BytesIO(pickle.dumps(value, protocol))) == value


def test_classes_of_other_tools_are_inert(tmp_path, monkeypatch):
    """A file that pickles objects of a package which is not installed here."""
    module = type(sys)("mmengine_like")
    module.Buffer = type(
        "Buffer", (), {"__module__": "mmengine_like", "__setstate__": lambda self, state: boom()}
    )
    monkeypatch.setitem(sys.modules, "mmengine_like", module)
    hub = module.Buffer()
    hub.log = np.ones(10)
    torch.save(
        {"state_dict": {"w": torch.ones(1)}, "message_hub": {"b": hub, "list": [hub] * 3}},
        tmp_path / "m.pth",
    )
    monkeypatch.delitem(sys.modules, "mmengine_like")
    tensors, rest = read_checkpoint(tmp_path / "m.pth")
    assert tensors["w"] == 1 and rest["message_hub"]["b"] == Inert("mmengine_like.Buffer")


# -- attacks ---------------------------------------------------------------------------------------

THIS = b"c" + __name__.encode() + b"\n"
FRIENDLY = {  # run nothing, and are read, since unknown names are ordinary
    "reduce": THIS + b"boom\n)R",
    "reduce with arguments": THIS + b"boom\n(" + text("x") + b"tR",
    "newobj": THIS + b"Evil\n)\x81",
    "newobj_ex": THIS + b"Evil\n)}\x92",
    "setstate": THIS + b"Evil\n)\x81}" + text("x") + b"Nsb",
    "setstate of the class": THIS + b"Evil\n}b",
    "inst": b"(i" + __name__.encode() + b"\nboom\n",
    "obj": b"(" + THIS + b"Evil\n" + text("x") + b"o",
    "append": THIS + b"Evil\n)\x81Na",
    "appends": THIS + b"Evil\n)\x81(NNe",
    "setitem": THIS + b"Evil\n)\x81NNs",
    "setitems": THIS + b"Evil\n)\x81(NNu",
    "call of a call": THIS + b"boom\n)R)R",
    "dict state": b"}}" + text("items") + THIS + b"boom\nsb",
    "getattr": b"c__builtin__\ngetattr\n(" + THIS + b"Evil\n" + text("append") + b"tR)R",
}
HOSTILE = {  # refused with a message that says attack
    "os.system": b"cos\nsystem\n(" + text("true") + b"tR",
    "posix.system": b"cposix\nsystem\n(" + text("true") + b"tR",
    "os.path": b"cos.path\njoin\n)R",
    "eval": b"cbuiltins\neval\n(" + text("1") + b"tR",
    "py2 eval": b"c__builtin__\neval\n(" + text("1") + b"tR",
    "dotted": b"\x8c\x08builtins\x8c\x0dexec.__call__\x93)R",
    "import": b"cbuiltins\n__import__\n(" + text("os") + b"tR",
    "subprocess": b"csubprocess\nPopen\n(" + text("true") + b"tR",
    "inst os": b"(" + text("true") + b"ios\nsystem\n",
    "obj os": b"(cos\nsystem\n" + text("true") + b"o",
    "only named": b"cos\nsystem\n",
    "runpy": b"crunpy\nrun_path\n)R",
}
BROKEN = {  # refused: no honest file has them
    "ext1": b"\x82\x01",
    "ext2": b"\x83\x01\x00",
    "ext4": b"\x84\x01\x00\x00\x00",
    "persid": b"P0\n",
    "buffer": b"\x97",
    "empty stack": b"R",
    "no mark": b"t",
    "memo": b"h\x07",
    "binpersid of text": text("x") + b"Q",
    "call of a number": b"K\x01)R",
    "unknown opcode": b"\xff",
    "name is a number": b"K\x01K\x02\x93",
    "long text": b"\x8d" + struct.pack("<Q", 2**40) + b"x",
    "long bytearray": b"\x96" + struct.pack("<Q", 2**40) + b"x",
    "long frame": b"\x95" + struct.pack("<Q", 2**62) + b"\x8d",
    "digits": b"L" + b"9" * 5000 + b"L\n",
}


def in_meta(payload):
    return (
        b"}"
        + text("meta")
        + b"]"
        + payload
        + b"as"
        + text("state_dict")
        + b"}"
        + text("w")
        + tensor()
        + b"ss"
    )


def with_weights(body):
    return [
        old_file(body, TWO if b"storage" in body else ()),
        zip_file([("m/data.pkl", zip_pickle(body)), ("m/data/0", TWO[0][0])]),
    ]


@pytest.mark.parametrize("name", FRIENDLY)
def test_unknown_classes_do_nothing(tmp_path, name):
    for content in with_weights(in_meta(FRIENDLY[name])):
        assert read_checkpoint(write(tmp_path, content))[0]["w"].tolist() == [1.5, 2.5]
    for content in with_weights(
        b"}" + text("state_dict") + b"}" + text("w") + FRIENDLY[name] + b"ss"
    ):
        with pytest.raises(InputError, match="under 'w'; only tensors"):
            read_checkpoint(write(tmp_path, content))
    for content in with_weights(FRIENDLY[name]):
        with pytest.raises(InputError):
            read_checkpoint(write(tmp_path, content))


@pytest.mark.parametrize("name", HOSTILE)
def test_attacks_are_called_attacks(tmp_path, name):
    for body in (
        in_meta(HOSTILE[name]),
        HOSTILE[name],
        b"}" + text("state_dict") + b"}" + text("w") + HOSTILE[name] + b"ss",
    ):
        for content in with_weights(body):
            with pytest.raises(InputError, match="attack"):
                read_checkpoint(write(tmp_path, content))
    with pytest.raises(InputError, match="attack"):  # in place of the magic number
        read_checkpoint(write(tmp_path, b"\x80\x02" + HOSTILE[name] + b"."))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_programs(tmp_path, name):
    for content in with_weights(in_meta(BROKEN[name])):
        with pytest.raises(InputError):
            read_checkpoint(write(tmp_path, content))


def test_the_payloads_are_real():
    """The same payloads do run in an ordinary unpickler, so that the tests above can fail."""
    for name in ("reduce", "setstate", "inst", "obj", "appends", "setitems", "newobj"):
        HARMLESS.clear()
        try:
            pickle.loads(zip_pickle(FRIENDLY[name]))
        except Exception:
            pass
        assert HARMLESS or name == "newobj", name
    HARMLESS.clear()


def test_registered_extension_codes(tmp_path):
    """EXT opcodes reach objects that a program has registered, without asking for their names."""
    import copyreg

    copyreg.add_extension(__name__, "boom", 0x7B)
    try:
        for content in with_weights(in_meta(b"\x82\x7b)R")):
            with pytest.raises(InputError, match="EXT1"):
                read_checkpoint(write(tmp_path, content))
    finally:
        copyreg.remove_extension(__name__, "boom", 0x7B)


def test_bad_storage_types(tmp_path):
    for kind in (
        b"cos\nsystem\n",
        THIS + b"Evil\n",
        b"ctorch\nComplexFloatStorage\n",
        b"ctorch\nEvil\n",
        b"cnumpy\nFloatStorage\n",
        b"N",
        text("torch.FloatStorage"),
    ):
        for content in with_weights(b"}" + text("w") + tensor(kind) + b"s"):
            with pytest.raises(InputError, match="attack|storage"):
                read_checkpoint(write(tmp_path, content))
    twice = b"}" + text("a") + tensor() + b"s" + text("b") + tensor(b"ctorch\nHalfStorage\n") + b"s"
    with pytest.raises(InputError, match="two kinds"):
        read_checkpoint(write(tmp_path, with_weights(twice)[1]))


@pytest.mark.parametrize(
    "wrong",
    [
        dict(size=(10**6, 10**6), stride=(0, 0)),
        dict(size=(3,)),
        dict(offset=1),
        dict(stride=(2,)),
        dict(size=(-2,)),
        dict(stride=(-1,), offset=1),
        dict(offset=-1),
        dict(size=(2, 1), stride=(1,)),
        dict(size=(2**63,), stride=(1,)),
        dict(size=(2**61, 2**61), stride=(0, 0)),
        dict(count=-2),
        dict(count=4),
        dict(count=2**62),
        dict(size=(1,) * 30, stride=(1,) * 30),
        dict(key="7"),
        dict(offset=2**62),
        dict(size=(0, 2**40), stride=(1, 1)),
        dict(size=(0, 2**62, 2**62), stride=(1, 1, 1)),
        dict(size=(2**31, 2**31, 2**31, 0), stride=(0, 0, 0, 0)),
        dict(size=(2,), stride=(2**62 - 1,)),
        dict(size=(2, 0), stride=(2**63 - 1, 2**63 - 1)),
        dict(count=1, size=(1,)),
        dict(count=True, size=(1,)),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, wrong):
    for content in with_weights(b"}" + text("w") + tensor(**wrong) + b"s"):
        with pytest.raises(InputError):
            read_checkpoint(write(tmp_path, content))


def test_strides_of_a_single_row(tmp_path):
    """The stride of a dimension of size 1 says nothing, and real files have odd ones."""
    wrong = dict(size=(1, 2), stride=(2**61, 1))
    for content in with_weights(b"}" + text("w") + tensor(**wrong) + b"s"):
        value = read_checkpoint(write(tmp_path, content))[0]["w"]
        assert value.tolist() == [[1.5, 2.5]] and value.stride() == (1, 1)


@pytest.mark.parametrize(
    "body",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR",
        b"ctorch._utils\n_rebuild_parameter\n(NNNtR",
        b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02K\x03K\x04tR",
        b"K\x01",
        b"]",
        b"}",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
    ],
)
def test_no_tensor_in_the_state_dict(tmp_path, body):
    for content in with_weights(b"}" + text("state_dict") + b"}" + text("w") + body + b"ss"):
        with pytest.raises(InputError, match="'w'"):
            read_checkpoint(write(tmp_path, content))


def test_keys_that_are_no_names(tmp_path):
    for content in with_weights(b"}" + text("state_dict") + b"}K\x05" + tensor() + b"ss"):
        with pytest.raises(InputError, match="no text"):
            read_checkpoint(write(tmp_path, content))
    for content in with_weights(b"}" + text("state_dict") + b"}s"):
        with pytest.raises(InputError, match="empty state dict"):
            read_checkpoint(write(tmp_path, content))


# -- what broke other readers of this kind ---------------------------------------------------------

STORES = {  # CVE-2026-24747: opcodes that fill a container, on top of something else
    "setitem": b"K\x00K\x07s",
    "setitems": b"(K\x00K\x07K\x01K\x07u",
    "append": b"K\x07a",
    "appends": b"(K\x07K\x07e",
    "additems": b"(K\x07\x90",
}
TARGETS = {
    "tensor": tensor(),
    "storage": tensor()[len(b"ctorch._utils\n_rebuild_tensor_v2\n(") :].split(b"Q")[0] + b"Q",
    "name": THIS + b"Evil\n",
    "number": b"K\x07",
    "text": text("x"),
    "bytes": b"C\x02ab",
    "tuple": b")",
    "none": b"N",
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("store", STORES)
def test_stores_into_the_wrong_type(tmp_path, store, target):
    for content in with_weights(in_meta(TARGETS[target] + STORES[store])):
        with pytest.raises(InputError, match="items are stored into"):
            read_checkpoint(write(tmp_path, content))


def test_lists_are_not_dictionaries(tmp_path):
    for wrong in (b"]K\x00K\x07s", b"](K\x00K\x07u", b"}K\x07a", b"}(K\x07e"):
        for content in with_weights(in_meta(wrong)):
            with pytest.raises(InputError, match="items are stored into"):
                read_checkpoint(write(tmp_path, content))


@pytest.mark.parametrize("declared", [0, 1, 3, 4, 2**20, 2**61, 2**62 - 1])
def test_declared_against_stored(tmp_path, declared):
    """CVE-2026-24747: the count in the program is not the number of elements that are there."""
    for size in ((1,), (2,)):
        body = b"}" + text("w") + tensor(count=declared, size=size) + b"s"
        for content in with_weights(body):
            with pytest.raises(InputError, match="has 2 numbers"):
                read_checkpoint(write(tmp_path, content))
    odd = zip_file(
        [
            ("m/data.pkl", zip_pickle(b"}" + text("w") + tensor() + b"s")),
            ("m/data/0", TWO[0][0] + b"\0"),
        ]
    )
    with pytest.raises(InputError, match="'w'"):
        read_checkpoint(write(tmp_path, odd))


def test_torchscript_archives_are_not_handed_on(tmp_path, monkeypatch):
    """CVE-2025-32434: a program in an archive reached a reader that runs programs."""
    monkeypatch.setattr(torch.jit, "load", boom)
    monkeypatch.setattr(torch, "load", boom)
    body = zip_pickle(b"}" + text("w") + tensor() + b"s")
    content = zip_file([("m/data.pkl", body), ("m/data/0", TWO[0][0]), ("m/constants.pkl", body)])
    with pytest.raises(InputError, match="TorchScript"):
        read_checkpoint(write(tmp_path, content))


def test_nothing_here_calls_torch_load():
    package = Path(pose_nb.__file__).parent
    for file in package.rglob("*.py"):
        code = "\n".join(line.split("#")[0] for line in file.read_text().splitlines())
        assert not re.search(r"torch\.(jit\.)?load\(|pickle\.loads?\(|Unpickler", code), file


@pytest.mark.parametrize("zipped", [True, False])
def test_negative_and_conjugated_views(tmp_path, zipped):
    """They carry a flag that changes the numbers; whoever ignores it loads wrong ones."""
    path = tmp_path / "model.pth"
    negative = {"w": torch._neg_view(torch.ones(2))}
    torch.save(negative, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="neg"):
        read_checkpoint(path)
    for content in with_weights(b"}" + text("w") + tensor(more=b"}") + b"s"):
        assert read_checkpoint(write(tmp_path, content))[0]["w"].tolist() == [1.5, 2.5]


# -- bombs -----------------------------------------------------------------------------------------


def quickly(content, tmp_path, message, name="bomb.pth"):
    """Refused with this message, in a sentence, and long before anybody would kill it."""
    path, start = write(tmp_path, content, name), time.perf_counter()
    with pytest.raises(InputError, match=message) as caught:
        read_checkpoint(path)
    assert time.perf_counter() - start < 10 and len(str(caught.value)) < 1000
    assert name in str(caught.value)


def test_depth_and_memo_bombs(tmp_path):
    deep = b"]" + b"\x85" * 50_000  # tuples in tuples
    lists = b"]" * 50_000 + b"a" * 49_999
    itself = b"]q\x00h\x00a"
    laughs = b"]q\x00" + b"0](".join(
        [b""] + [b"h\x00" * 50 + b"eq\x00"] * 50
    )  # 50 to the power of 50 entries, if unrolled
    memo = b"Nr" + struct.pack("<I", 2**31)
    as_key = b"}" + deep + b"Ns"
    for bomb in (deep, lists, itself, laughs, memo, as_key):
        for content in with_weights(in_meta(bomb)):
            assert len(read_checkpoint(write(tmp_path, content))[0]) == 1


def test_endless_programs():
    with pytest.raises(InputError, match="more steps"):
        run_pickle(io.BytesIO(b"N" * 1001 + b"."), budget=Budget(steps=1000))
    many = (
        b"]("
        + (b"X\x01\x00\x00\x00aN\x86") * 100
        + b"eq\x00"
        + b"ccollections\nOrderedDict\n(h\x00tR0" * 100
        + b"N."
    )
    with pytest.raises(InputError, match="more steps"):
        run_pickle(io.BytesIO(many), budget=Budget(steps=2000))


def test_the_budget_is_the_files(tmp_path):
    """Five long pickles in one old file: each alone would pass, together they do not."""
    head = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    most = Budget().steps
    long = b"\x80\x02]" + b"N0" * (most // 4) + b"."
    assert run_pickle(io.BytesIO(long)) == []
    quickly(head[0] + long * 4, tmp_path, "more steps")
    megabytes = b"\x80\x02X" + struct.pack("<I", 40_000_000) + b"x" * 40_000_000 + b"."
    assert len(run_pickle(io.BytesIO(megabytes))) == 40_000_000
    quickly(head[0] + megabytes * 4, tmp_path, "more bytes")


def test_programs_that_copy_long_tuples(tmp_path):
    """A tuple of 100,000 entries, remembered and used again and again."""
    long = b"(" + b"N" * 100_000 + b"tq\x000"
    for use in (
        b"h\x00Q0",  # as a persistent id
        b"ctorch._utils\n_rebuild_tensor_v2\nh\x00R0",  # as arguments
        b"ctorch._utils\n_rebuild_parameter\nh\x00R0",
        b"ccollections\nOrderedDict\n(h\x00tR0",
    ):
        body = b"\x80\x02" + long + use * 20_000 + b"N."
        start = time.perf_counter()
        try:
            run_pickle(io.BytesIO(body))
        except InputError:
            pass
        assert time.perf_counter() - start < 10, use


def test_names_cannot_fill_the_memory():
    """Two texts of a megabyte, joined to a name of two at every third step."""
    body = b"\x80\x02" + text("x" * 2**20) + b"q\x000" + b"h\x00h\x00\x930" * 1000 + b"N."
    with pytest.raises(InputError, match="no short text"):
        run_pickle(io.BytesIO(body))


def test_sizes_of_a_hundred_thousand_dimensions(tmp_path):
    spec = tensor(size=(1,) * 100_000, stride=(1,) * 100_000)
    body = (
        b"}"
        + text("w")
        + spec
        + b"q\x05s"
        + b"".join(text(f"w{i}") + b"h\x05s" for i in range(20_000))
    )
    quickly(old_file(body, TWO), tmp_path, "has the shape")


def test_too_many_tensors(tmp_path):
    names = b"".join(text(str(i)) + b"h\x05" for i in range(100_000))
    body = b"}" + tensor() + b"q\x050(" + names + b"u"
    for content in with_weights(body):
        quickly(content, tmp_path, "100,000 tensors")


def test_a_long_key_gives_a_short_message(tmp_path):
    name = "k" * 10_000_000
    for body in (
        b"}" + text(name) + b"K\x01s",
        b"}" + text(name) + tensor(size=(9,)) + b"s",
        b"}" + text("w") + tensor(key=name, size=(9,)) + b"s",
        b"}" + text("w") + b"c" + b"m" * 50_000 + b"\nn\n)Rs",
    ):
        for content in with_weights(body):
            quickly(content, tmp_path, "bomb.pth: .")


def test_a_table_of_contents_of_many_entries(tmp_path):
    entries = [(zipfile.ZipInfo(f"m/data/{i:06}" + "x" * 300), b"") for i in range(30_000)]
    quickly(zip_file(entries), tmp_path, "table of contents")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", "/dev/zero"):
        with pytest.raises(InputError, match="pipe or device"):
            read_checkpoint(path)


@pytest.mark.parametrize("start", [b"\x80\x02\x8d" + struct.pack("<Q", 2**39), b"PK\3\4", b"\0"])
def test_a_sparse_terabyte(tmp_path, start):
    path = write(tmp_path, start)
    try:
        os.truncate(path, 2**40)
    except OSError:
        pytest.skip("this file system has no sparse files of a terabyte")
    for size in (2**40, 2**35):
        os.truncate(path, size)
        started = time.perf_counter()
        with pytest.raises(InputError, match="model.pth"):
            read_checkpoint(path)
        assert time.perf_counter() - started < 10


@pytest.mark.parametrize("name", ["x" * 300, "zero\0byte", "\ud800", "a\nb", ""])
def test_paths_that_no_file_has(tmp_path, name):
    with pytest.raises(InputError) as caught:
        read_checkpoint(tmp_path / name / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_shared_storage_cannot_multiply(tmp_path):
    raw = np.ones(1000, np.float32).tobytes()
    one = tensor(count=1000, size=(999,))
    body = b"}" + b"".join(text(f"w{i}") + one + b"s" for i in range(100))
    for content in (
        old_file(body, ((raw, 1000, "0"),)),
        zip_file([("m/data.pkl", zip_pickle(body)), ("m/data/0", raw)]),
    ):
        with pytest.raises(InputError, match="four times"):
            read_checkpoint(write(tmp_path, content))


def test_zip_tricks(tmp_path):
    body = zip_pickle(b"}" + text("w") + tensor() + b"s")
    raw = TWO[0][0]
    cases = {
        "compressed": zip_file(
            [("m/data.pkl", body), ("m/data/0", b"\0" * 10_000)], zipfile.ZIP_DEFLATED
        ),
        "outside": zip_file([("m/data.pkl", body), ("m/data/0", raw), ("../../evil", b"x")]),
        r"outside ": zip_file([("m/data.pkl", body), ("m/data/0", raw), ("/evil", b"x")]),
        "no single": zip_file([("m/data/0", raw)]),
        "no single ": zip_file([("m/data.pkl", body), ("n/data.pkl", body)]),
        "no entry 'm/data/0'": zip_file([("m/data.pkl", body)]),
        "has 1 numbers": zip_file([("m/data.pkl", body), ("m/data/0", raw[:4])]),
        "TorchScript": zip_file(
            [("m/data.pkl", body), ("m/constants.pkl", b"x"), ("m/data/0", raw)]
        ),
        "byte order": zip_file([("m/data.pkl", body), ("m/data/0", raw), ("m/byteorder", b"big")]),
    }
    for message, content in cases.items():
        with pytest.raises(InputError, match=message.strip()):
            read_checkpoint(write(tmp_path, content))
    traversal = tensor(key="../../../etc/passwd")
    with pytest.raises(InputError, match="no entry"):
        read_checkpoint(
            write(
                tmp_path,
                zip_file(
                    [
                        ("m/data.pkl", zip_pickle(b"}" + text("w") + traversal + b"s")),
                        ("m/data/0", raw),
                    ]
                ),
            )
        )


def test_zip_lies(tmp_path):
    body = zip_pickle(b"}" + text("w") + tensor() + b"s")
    good = zip_file([("m/data.pkl", body), ("m/data/0", TWO[0][0])])
    assert read_checkpoint(write(tmp_path, good))[0]["w"].tolist() == [1.5, 2.5]
    at = good.rindex(b"PK\x01\x02")  # the directory entry of the storage
    lie = bytearray(good)
    lie[at + 20 : at + 28] = struct.pack("<II", 2**30, 2**30)  # both of its sizes
    with pytest.raises(InputError, match="more bytes than"):
        read_checkpoint(write(tmp_path, bytes(lie)))
    changed = bytearray(good)
    changed[good.index(TWO[0][0])] ^= 1  # a flipped bit among the numbers
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(write(tmp_path, bytes(changed)))


@pytest.mark.parametrize("entry", ["m/data.pkl", "m/byteorder"])
def test_a_long_program_is_not_read(tmp_path, monkeypatch, entry):
    """A program of gigabytes, which may be a hole in the file, is refused by its declared size."""
    entries = {"m/data.pkl": b"}.", "m/data/0": TWO[0][0], "m/byteorder": b"little"}
    monkeypatch.setattr(Budget.__init__, "__defaults__", (600_000, 1000))
    monkeypatch.setattr(zipfile.ZipFile, "read", None)  # nothing is read
    content = zip_file([*(entries | {entry: bytes(1001)}).items()])
    with pytest.raises(InputError, match="more bytes than any real"):
        read_checkpoint(write(tmp_path, content))


def test_an_attack_cannot_write_to_the_terminal(tmp_path):
    body = b"\x8c\x02os\x8c\x0a" + b"system\x1b[2J" + b"\x93"
    with pytest.raises(InputError, match=r"attack") as told:
        read_checkpoint(write(tmp_path, zip_file([("m/data.pkl", zip_pickle(body))])))
    assert "\x1b" not in str(told.value)


# -- not checkpoints, and damage -------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty"),
        (b"<html>404</html>", "web page"),
        (b"\n  <!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"\x89PNG\r\n", "no PyTorch"),
        (b"hello", "no PyTorch"),
        (pickle.dumps([1, 2], 2), "pickle of a list"),
        (b"PK\x03\x04", "zip"),
        (b"\x80\x02", "cut off"),
        (struct.pack("<Q", 20) + b'{"a":{}}' + b" " * 30, "safetensors"),
        (b"\0" * 257 + b"ustar" + b"\0" * 300, "tar"),
        (b"\x00" * 1000, "no PyTorch"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2), "cut off"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(7, 2) * 4, "version"),
    ],
)
def test_not_a_checkpoint(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read_checkpoint(write(tmp_path, content))
    assert "model.pth" in str(caught.value)


def test_other_objects(tmp_path):
    for thing in (
        torch.ones(3),
        [torch.ones(3)],
        torch.nn.Linear(2, 2),
        "text",
        None,
        {"state_dict": torch.nn.Linear(2, 2)},
        {"epoch": 3},
    ):
        with pytest.raises(InputError):
            read_checkpoint(write(tmp_path, thing))
    with pytest.raises(InputError, match="does not exist|cannot be read"):
        read_checkpoint(tmp_path / "nothing.pth")
    with pytest.raises(InputError, match="folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(InputError, match="ndarray|_reconstruct"):
        read_checkpoint(write(tmp_path, {"state_dict": {"w": np.ones(2)}}))
    with pytest.raises(InputError):
        read_checkpoint(write(tmp_path, {"w": torch.ones(2, dtype=torch.complex64)}))
    with pytest.raises(InputError):
        read_checkpoint(write(tmp_path, {"w": torch.eye(2).to_sparse()}))


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_anywhere(tmp_path, zipped):
    torch.save(
        {"state_dict": {"a": torch.randn(20), "b": torch.randn(3, 3)}, "meta": {"x": np.ones(2)}},
        tmp_path / "m.pth",
        _use_new_zipfile_serialization=zipped,
    )
    whole = (tmp_path / "m.pth").read_bytes()
    for length in range(0, len(whole) - 1, max(len(whole) // 60, 1)):
        with pytest.raises(InputError):
            read_checkpoint(write(tmp_path, whole[:length], "cut.pth"))


@pytest.mark.parametrize("zipped", [True, False])
def test_random_damage_gives_only_input_errors(tmp_path, zipped):
    torch.save(
        {"state_dict": {"a": torch.randn(5), "b": torch.randn(3, 3)}, "meta": {"x": np.ones(2)}},
        tmp_path / "m.pth",
        _use_new_zipfile_serialization=zipped,
    )
    whole, rng = (tmp_path / "m.pth").read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        bad = bytearray(whole)
        for at in rng.integers(0, len(bad), rng.integers(1, 6)):
            bad[at] = rng.integers(256)
        try:
            read_checkpoint(write(tmp_path, bytes(bad), "bad.pth"))
        except InputError:
            refused += 1
    assert refused > 50


def test_nothing_is_imported(tmp_path, monkeypatch):
    """Reading a file that names a module does not import it."""
    (tmp_path / "canary_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for content in with_weights(in_meta(b"ccanary_module\nthing\n)R")):
        read_checkpoint(write(tmp_path, content))
    assert "canary_module" not in sys.modules and os.path.exists(tmp_path / "canary_module.py")
