"""Downloads from a server that misbehaves (on this machine), the cache, and offline imports."""

import hashlib
import http.server
import multiprocessing
import random
import threading
from types import SimpleNamespace

import pytest

from pose_nb.weights.finding import (
    cache_folder,
    check_hash,
    download,
    find_weights,
    hash_prefix,
    import_folder,
    sha256,
)
from pose_nb.files import InputError

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
        fail=0,
        log=[],
        wrong_range=False,
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.log.append(wanted)
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
                self.send_header(
                    "Content-Range",
                    f"bytes {start + 5 if state.wrong_range else start}-{len(body) - 1}/{len(body)}",
                )
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


def fetch(server, tmp_path, name=NAME):
    return download(f"{server.base}/{name}", tmp_path / name, timeout=5, progress=False)


def test_plain(server, tmp_path):
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == [NAME] and server.log == [None]
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
    assert [p.name for p in tmp_path.iterdir()] == [f"{NAME}.part"]


def test_wrong_content(server, tmp_path):
    server.files[NAME] = CONTENT[:-2] + b"ok"
    with pytest.raises(InputError, match="nothing is kept"):
        fetch(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_web_page_and_missing(server, tmp_path):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(InputError, match="web page"):
        fetch(server, tmp_path)
    with pytest.raises(InputError, match="404"):
        fetch(server, tmp_path, "other-00000000_20200101.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://x/y", "/etc/hostname", "data:,x"])
def test_only_http(url, tmp_path):
    with pytest.raises(InputError, match="only http"):
        download(url, tmp_path / "x.pth")


def test_nobody_there(tmp_path):
    with pytest.raises(InputError, match="broke 2 times"):
        download("http://127.0.0.1:9/x.pth", tmp_path / "x.pth", tries=2, progress=False)


def _child(url, path, queue):
    queue.put(download(url, path, timeout=10, progress=False).stat().st_size)


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
    assert (
        sizes == [len(CONTENT)] * 4
        and len(server.log) == 1
        and [p.name for p in tmp_path.iterdir()] == [NAME]
    )


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
    ],
)
def test_names_that_are_no_file_names(name):
    with pytest.raises(InputError, match="no name of a weight file"):
        find_weights(name)


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
