"""Downloads from a server that misbehaves (on this machine), the cache, and offline imports."""

import hashlib
import http.server
import multiprocessing
import os
import random
import threading
import time
from types import SimpleNamespace

import pytest

from pose_nb.files import InputError
from pose_nb.weights.downloads import Limits, download
from pose_nb.weights.finding import cache_folder, find_weights, import_folder
from pose_nb.weights.hashes import check_hash, hash_prefix, sha256

CONTENT = random.Random(0).randbytes(300_000)
NAME = f"toy_coco_64x64-{hashlib.sha256(CONTENT).hexdigest()[:8]}_20200101.pth"


@pytest.fixture
def server():
    """A server whose behaviour a test sets: cuts (answers to break off), ranges, and the status of
    each path."""
    state = SimpleNamespace(
        files={NAME: CONTENT},
        cuts=0,
        cut_at=70_000,
        ranges=True,
        length=True,
        kind="application/octet-stream",
        raw=None,
        fail=0,
        log=[],
        wrong_range=False,
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.log.append(wanted)
            if state.raw:
                return state.raw(self)
            if state.fail:
                state.fail -= 1
                return self.send_error(503)
            body = state.files.get(self.path.lstrip("/"))
            if body is None:
                return self.send_error(404)
            start = int(wanted[6:-1]) if wanted and state.ranges else 0
            if start >= len(body) and wanted and state.ranges:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", state.kind)
            if start:
                first = start + 5 if state.wrong_range else start
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            if state.length:
                self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cut = state.cut_at if state.cuts else None
            state.cuts -= bool(state.cuts)
            self.wfile.write(body[start:][:cut])

        def log_message(self, *_):
            pass

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    state.base = f"http://127.0.0.1:{http_server.server_port}"
    yield state
    http_server.shutdown()
    http_server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSE_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("POSE_NB_MIRROR", raising=False)
    return tmp_path / "cache"


def fetch(server, tmp_path, name=NAME, **limits):
    limits = Limits(**{"silence": 5} | limits)
    return download(f"{server.base}/{name}", tmp_path / name, limits, progress=False)


def left(folder):
    """What a download leaves in a folder, beside the hidden locks."""
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def test_plain(server, tmp_path):
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert left(tmp_path) == [NAME] and server.log == [None]
    fetch(server, tmp_path)
    assert server.log == [None]  # it is there already


def test_resumes_after_breaks(server, tmp_path):
    server.cuts = 3
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.log == [None, "bytes=70000-", "bytes=140000-", "bytes=210000-"]


def test_server_that_ignores_ranges(server, tmp_path):
    server.cuts, server.ranges = 1, False
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_server_with_a_wrong_range(server, tmp_path):
    server.cuts, server.wrong_range = (
        1,
        True,
    )  # 206, but from another byte than asked: only its hash shows
    with pytest.raises(InputError, match="SHA-256"):
        fetch(server, tmp_path)
    assert not list(tmp_path.glob("toy*"))


def test_without_length(server, tmp_path):
    server.length = False
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    (tmp_path / NAME).unlink()
    server.cuts = 1  # cut short, and the server did not say how long
    with pytest.raises(InputError, match="SHA-256"):
        fetch(server, tmp_path)
    assert not list(tmp_path.glob("toy*"))


def test_goes_on_in_a_later_run(server, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:100_000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT and server.log == ["bytes=100000-"]


def test_part_that_is_complete_already(server, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("old", [b"other" * 1000, CONTENT + b"more"])
def test_part_of_another_file(server, tmp_path, old):
    (tmp_path / f"{NAME}.part").write_bytes(old)
    assert fetch(server, tmp_path).read_bytes() == CONTENT  # starts again, once


def test_busy_server(server, tmp_path):
    server.fail = 2
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_keeps_the_part_when_it_gives_up(server, tmp_path):
    server.cuts, server.cut_at = 100, 0
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:50])
    with pytest.raises(InputError, match="without a new byte"):
        fetch(server, tmp_path)
    assert left(tmp_path) == [f"{NAME}.part"]


def test_wrong_content(server, tmp_path):
    server.files[NAME] = CONTENT[:-2] + b"ok"
    with pytest.raises(InputError, match="nothing is kept"):
        fetch(server, tmp_path)
    assert not left(tmp_path)


def test_web_page_and_missing(server, tmp_path):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(InputError, match="web page"):
        fetch(server, tmp_path)
    with pytest.raises(InputError, match="404"):
        fetch(server, tmp_path, "other-00000000_20200101.pth")
    assert not left(tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://x/y", "/etc/hostname", "data:,x"])
def test_only_http(url, tmp_path):
    with pytest.raises(InputError, match="only http"):
        download(url, tmp_path / "x.pth")


def serve(head, block=b"", pause=0.0, times=10**9):
    """An answer of these bytes, then the block again and again."""

    def answer(handler):
        try:
            handler.wfile.write(head)
            for _ in range(times):
                handler.wfile.write(block)
                handler.wfile.flush()
                time.sleep(pause)
        except OSError:
            pass  # the other side has left

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
DRIP = dict(block=b"x", pause=0.02)
LENGTH = f"Content-Length: {len(CONTENT)}\r\n".encode()
HOSTILE = {
    "endless": (serve(OK + b"\r\n", bytes(2**16)), "sends more than 1,000,000 bytes"),
    "endless chunks": (
        serve(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"8000\r\n" + bytes(2**15) + b"\r\n"),
        "sends more than 1,000,000 bytes",
    ),
    "longer than declared": (
        serve(
            OK + b"Content-Length: 1000\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"100\r\n" + bytes(256) + b"\r\n",
        ),
        "sends more than 1,000 bytes",
    ),
    "declared too long": (serve(OK + b"Content-Length: 1000001\r\n\r\n"), "has 1,000,001 bytes"),
    "one byte at a time": (serve(OK + LENGTH + b"\r\n", **DRIP), "bytes came in"),
    "one chunk at a time": (
        serve(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.02),
        "bytes came in",
    ),
    "dripping status": (serve(b"HTTP/1.", **DRIP), "bytes came in"),
    "dripping header": (serve(OK + b"X-Long: ", **DRIP), "bytes came in"),
    "dripping chunk length": (
        serve(OK + b"Transfer-Encoding: chunked\r\n\r\n", block=b"0", pause=0.02),
        "bytes came in",
    ),
    "silence": (serve(b"", b"", 0.2, 20), "broke 2 times"),
    "silence after the headers": (serve(OK + LENGTH + b"\r\n", b"", 0.2, 20), "broke 2 times"),
    "endless headers": (serve(OK, b"X: y\r\n"), "web|more than a file|broke"),
    "endless continues": (serve(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "more than"),
    "endless redirect": (
        serve(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", bytes(2**16)),
        "more than a file",
    ),
    "no HTTP": (serve(b"SSH-2.0-OpenSSH_9.6\r\n", times=0), "broke 2 times"),
    "absurd length": (serve(OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"), "SHA-256|broke"),
    "strange length": (
        serve(OK + "Content-Length: ²\r\n\r\n".encode("latin-1"), times=0),
        "SHA-256|broke",
    ),
    "escape codes": (
        serve(b"HTTP/1.1 404 \x1b[2J" + b"gone " * 10_000 + b"\r\n\r\n", times=0),
        "404|broke",
    ),
    "redirect to a file": (
        serve(
            OK.replace(b"200 OK", b"302 Found") + b"Location: file:///etc/hostname\r\n\r\n", times=0
        ),
        "302",
    ),
    "redirect to ftp": (
        serve(
            OK.replace(b"200 OK", b"302 Found") + b"Location: ftp://127.0.0.1/x\r\n\r\n", times=0
        ),
        "unknown url type|302|broke",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_servers(server, tmp_path, name):
    server.raw, message = HOSTILE[name]
    start = time.perf_counter()
    with pytest.raises(InputError, match=message) as caught:
        fetch(server, tmp_path, tries=2, silence=0.4, seconds=5, size=1_000_000)
    assert time.perf_counter() - start < 15
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()
    assert not (tmp_path / NAME).exists()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_000_000


def test_a_deadline_over_all_attempts(server, tmp_path):
    """Each attempt brings new bytes fast enough, and there is no end to them."""
    server.raw = serve(OK + LENGTH + b"\r\n", bytes(1000), 0.05)
    start = time.perf_counter()
    with pytest.raises(InputError, match="took more than 1 s"):
        fetch(server, tmp_path, seconds=1)
    assert time.perf_counter() - start < 5 and left(tmp_path) == [f"{NAME}.part"]


def test_a_slow_but_steady_server(server, tmp_path):
    """Twice as fast as the slowest that is accepted."""

    def answer(handler):
        handler.wfile.write(OK + LENGTH + b"\r\n")
        for at in range(0, len(CONTENT), 10_000):
            handler.wfile.write(CONTENT[at : at + 10_000])
            handler.wfile.flush()
            time.sleep(0.03)

    server.raw = answer
    assert fetch(server, tmp_path, silence=0.2, slowest=50_000).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://[::1/x.pth",
        "http://😀.com/x.pth",
        "http://host:port/x.pth",
        "http://host:99999/x.pth",
        "http:///x.pth",
        "http://",
        "http:x.pth",
        "http://a b/x.pth",
        "http://a/x\n.pth",
        "http://a/ü.pth",
        "http://\0/x",
        "https://",
        "http://" + "a" * 10_000_000,
        "",
    ],
)
def test_addresses_that_are_none(url, tmp_path, monkeypatch):
    with pytest.raises(InputError) as caught:
        download(url, tmp_path / "x.pth", Limits(tries=1), progress=False)
    assert len(str(caught.value)) < 1000
    monkeypatch.setenv("POSE_NB_MIRROR", url.replace("\0", "") or "x")
    if len(url) < 1000:
        with pytest.raises(InputError, match="was not found"):
            find_weights(NAME)


@pytest.mark.parametrize("name", [f"{NAME}.part", f".{NAME}.lock"])
def test_links_in_the_cache_are_not_followed(server, tmp_path, name):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "disk").mkdir()
    for target in (tmp_path / "precious", tmp_path / "nothing"):
        (tmp_path / "disk" / name).symlink_to(target)
        with pytest.raises(InputError, match="link or no file|cannot be locked"):
            fetch(server, tmp_path / "disk")
        (tmp_path / "disk" / name).unlink()
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


def test_other_things_in_the_place_of_the_part(server, tmp_path):
    (tmp_path / f"{NAME}.part").mkdir()
    with pytest.raises(InputError, match="link or no file"):
        fetch(server, tmp_path)
    (tmp_path / f"{NAME}.part").rmdir()
    os.mkfifo(tmp_path / f"{NAME}.part")
    with pytest.raises(InputError, match="link or no file"):
        fetch(server, tmp_path)
    (tmp_path / f"{NAME}.part").unlink()
    (tmp_path / "precious").write_text("mine")
    os.link(tmp_path / "precious", tmp_path / f"{NAME}.part")
    with pytest.raises(InputError, match="link or no file"):
        fetch(server, tmp_path)
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", ["x" * 300 + ".pth", "zero\0.pth", "file/x.pth"])
def test_places_where_nothing_can_be_saved(server, tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be") as caught:
        download(f"{server.base}/{NAME}", tmp_path / name, progress=False)
    assert len(str(caught.value)) < 800


def test_a_lock_that_is_held(server, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / f".{NAME}.lock"):
        with pytest.raises(InputError, match="another process"):
            fetch(server, tmp_path, seconds=0.3)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_full_disk(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pose_nb.weights.downloads._append", full)
    with pytest.raises(InputError, match="No space left"):
        fetch(server, tmp_path)
    assert len(server.log) == 1


def test_nobody_there(tmp_path):
    with pytest.raises(InputError, match="broke 2 times"):
        download("http://127.0.0.1:9/x.pth", tmp_path / "x.pth", Limits(tries=2), progress=False)


def _child(url, path, queue):
    queue.put(download(url, path, progress=False).stat().st_size)


def test_processes_share_one_download(server, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [
        context.Process(target=_child, args=(f"{server.base}/{NAME}", tmp_path / NAME, queue))
        for _ in range(4)
    ]
    for child in children:
        child.start()
    sizes = [queue.get(timeout=30) for _ in children]
    for child in children:
        child.join(10)
    assert sizes == [len(CONTENT)] * 4 and len(server.log) == 1 and left(tmp_path) == [NAME]


def test_places_in_order(server, tmp_path, cache, monkeypatch):
    with pytest.raises(InputError, match="POSE_NB_MIRROR"):
        find_weights(NAME)
    monkeypatch.setenv("POSE_NB_MIRROR", f" {server.base}/nothing/, {server.base}/ ")
    assert find_weights(NAME, progress=False) == cache / NAME == cache_folder() / NAME
    monkeypatch.delenv("POSE_NB_MIRROR")
    assert find_weights(NAME) == cache / NAME
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / NAME).write_bytes(CONTENT)
    assert find_weights(NAME, tmp_path / "mine") == tmp_path / "mine" / NAME
    (cache / NAME).write_bytes(b"damaged")
    with pytest.raises(InputError, match="damaged or another one"):
        find_weights(NAME)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../x.pth",
        "a/b.pth",
        "/etc/x.pth",
        "x.exe",
        "C:\\x.pth",
        "-x.pth",
        ".x.pth",
        "x.pth\n",
        "x" * 300 + ".pth",
        "ｒｅｓ５０.pth",
        "😀.pth",
        "x\0.pth",
        "x" * 10_000_000,
    ],
)
def test_names_that_are_no_file_names(name):
    with pytest.raises(InputError, match="no name of a weight file") as caught:
        find_weights(name)
    assert len(str(caught.value)) < 300


def test_folders_that_cannot_be(tmp_path):
    for folder in ("x" * 300, "zero\0byte", tmp_path / "nothing"):
        with pytest.raises(InputError, match="was not found"):
            find_weights(NAME, folder)
        with pytest.raises(InputError, match="no folder"):
            import_folder(folder)


def test_import_folder(tmp_path, cache):
    disk = tmp_path / "disk" / "deep"
    disk.mkdir(parents=True)
    (disk / NAME).write_bytes(CONTENT)
    (disk / "bad-01234567_20200101.pth").write_bytes(CONTENT)
    (disk / "plain.pth").write_bytes(b"x")
    (disk / "readme.txt").write_bytes(b"x")
    answers = dict(import_folder(tmp_path / "disk"))
    assert (
        answers[NAME] == "imported"
        and "name says 01234567" in answers["bad-01234567_20200101.pth"]
        and "no hash" in answers["plain.pth"]
    )
    assert [p.name for p in cache.iterdir()] == [NAME] and find_weights(
        NAME
    ).read_bytes() == CONTENT
    assert dict(import_folder(tmp_path / "disk"))[NAME] == "was there already"
    with pytest.raises(InputError, match="no folder"):
        import_folder(tmp_path / "nowhere")
    assert import_folder(cache.parent / "disk" / "deep", tmp_path / "other")[0][1].startswith(
        "left out"
    )


def test_import_copies(tmp_path, cache):
    """Neither a link in the folder nor a later change of its files reaches the cache."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "blob").write_bytes(CONTENT)
    (disk / NAME).symlink_to(tmp_path / "blob")
    assert dict(import_folder(disk)) == {NAME: "imported"}
    (tmp_path / "blob").write_bytes(b"changed")
    assert not (cache / NAME).is_symlink() and (cache / NAME).stat().st_nlink == 1
    assert find_weights(NAME).read_bytes() == CONTENT
    (disk / NAME).unlink()
    (disk / NAME).write_bytes(CONTENT)
    (cache / NAME).write_bytes(b"damaged")
    assert dict(import_folder(disk)) == {NAME: "imported in place of a damaged one"}
    assert find_weights(NAME).stat().st_ino != (disk / NAME).stat().st_ino


def test_import_names_everything(tmp_path, cache):
    disk, safe = tmp_path / "disk", NAME.replace(".pth", ".safetensors")
    (disk / "deep" / "folder.pth").mkdir(parents=True)
    (disk / safe).write_bytes(CONTENT)
    (disk / NAME.replace(".pth", ".PTH")).write_bytes(CONTENT)
    (disk / "dangling.pth").symlink_to(tmp_path / "nothing")
    (disk / "around.pth").symlink_to(disk / "around.pth")
    os.mkfifo(disk / "pipe.PT")
    (disk / "line\nbreak.pth").write_bytes(b"x")
    (disk / os.fsdecode(b"odd-\xff.pth")).write_bytes(b"x")
    (disk / ".pth").write_bytes(b"x")
    (disk / "readme.md").write_bytes(b"x")
    answers = dict(import_folder(disk))
    assert {name: what.split(":")[0] for name, what in answers.items()} == {
        ".pth": "left out",
        "around.pth": "left out",
        "dangling.pth": "left out",
        "folder.pth": "left out",
        "line\\nbreak.pth": "left out",
        "odd-\\udcff.pth": "left out",
        "pipe.PT": "left out",
        safe: "imported",
        NAME.replace(".pth", ".PTH"): f"imported as {NAME}",
    }
    assert sorted(left(cache)) == sorted([NAME, safe])
    for name, what in answers.items():
        assert f"{name}: {what}".isprintable() and f"{name}: {what}".encode()


def test_hash_in_the_name(tmp_path):
    assert (
        hash_prefix("td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth") == "81c58e40"
    )
    assert (
        hash_prefix("hrnet_w32-36af842e.pth") == "36af842e"
        and hash_prefix("/a-b/pvt_small.pth") is None
    )
    (tmp_path / NAME).write_bytes(CONTENT)
    check_hash(tmp_path / NAME)
    assert sha256(tmp_path / NAME) == hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(InputError):
        check_hash(tmp_path / NAME, "x-00000000.pth")
