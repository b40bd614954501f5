"""Weights from a server that answers like the Hub (on this machine), and given back to it."""

import hashlib
import http.server
import json
import re
import threading
from types import SimpleNamespace

import pytest
import torch

from pose_nb import create_model
from pose_nb.cli import main
from pose_nb.files import InputError
from pose_nb.tables.definitions import row_of_weights
from pose_nb.weights import copies, hub
from pose_nb.weights.copies import COPIES, Copy, copies_of, what_there_is
from pose_nb.weights.finding import NotFound
from pose_nb.weights.hub import address, cached, from_hub, hub_file
from pose_nb.weights.tensors import read_safetensors, write_safetensors

DEMO = "nbs/demo_weights.safetensors"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Repositories as {name: {file: bytes}}; `cuts`: answers to break off; `log`: what came."""
    state = SimpleNamespace(repos={}, cuts=0, log=[], blobs={}, refuse=0)
    handler = type("Hub", (Hub,), {"state": state})
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{listening.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "library"))
    monkeypatch.setenv("POSE_NB_CACHE", str(tmp_path / "cache"))
    state.close = lambda: (listening.shutdown(), listening.server_close())
    yield state
    state.close()


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's protocol as a download and an upload of one folder need."""

    protocol_version = "HTTP/1.1"

    def answer(self, status=200, body=b"", headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def tell(self, value, status=200):
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def file(self):
        match = re.fullmatch(r"/((?:spaces/)?[^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        return self.state.repos.get(match[1], {}).get(match[2]) if match else None

    def do_HEAD(self):
        self.state.log.append(("HEAD", self.path, None))
        body = self.file()
        if body is None:
            return self.answer(404, headers={"X-Error-Code": "EntryNotFound"})
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        self.answer(200, body, {"ETag": etag, "X-Repo-Commit": "c" * 40})

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.state.log.append(("GET", self.path, wanted))
        if match := re.match(r"/api/models/([^/]+/[^/?]+)", self.path):
            files = self.state.repos.get(match[1])
            if files is None:
                return self.answer(404, headers={"X-Error-Code": "RepoNotFound"})
            return self.tell({"id": match[1], "siblings": [{"rfilename": f} for f in files]})
        body = self.file()
        if body is None:
            return self.answer(404)
        start = int(wanted[6:].split("-")[0]) if wanted else 0
        span = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if wanted else {}
        if self.state.cuts:
            self.state.cuts -= 1
            self.send_response(206 if wanted else 200)
            for name, value in {"Content-Length": str(len(body) - start), **span}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[start : start + 70_000])
            self.close_connection = True
            return None
        return self.answer(206 if wanted else 200, body[start:], span)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self):
        self.state.log.append(("PUT", self.path, None))
        self.state.blobs[self.path.rsplit("/", 1)[1]] = self.body()
        self.answer()

    def do_POST(self):
        body = self.body()
        self.state.log.append(("POST", self.path, self.headers.get("Authorization")))
        if self.state.refuse:
            return self.tell({"error": "no right to write"}, self.state.refuse)
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.state.repos.setdefault(name, {})
            return self.tell({"url": f"{self.state.url}/{name}"})
        if "/preupload/" in self.path:
            names = [entry["path"] for entry in json.loads(body)["files"]]
            mode = lambda name: "lfs" if name.endswith(".safetensors") else "regular"
            files = [{"path": n, "uploadMode": mode(n), "shouldIgnore": False} for n in names]
            return self.tell({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for entry in objects:
                upload = {"href": f"{self.state.url}/blob/{entry['oid']}"}
                entry["actions"] = {"upload": upload}
            return self.tell({"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            return self.commit(body)
        return self.tell({})

    def commit(self, body):
        from base64 import b64decode

        files = self.state.repos[re.match(r"/api/models/([^/]+/[^/]+)/", self.path)[1]]
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.state.blobs[value["oid"]]
        url = f"https://huggingface.co/me/demo/commit/{'1' * 40}"
        self.tell({"commitUrl": url, "commitOid": "1" * 40})

    def log_message(self, *_):
        pass


@pytest.fixture
def demo(request):
    return request.config.rootpath / DEMO


def run(*words):
    """A verb about weights, up to its end; SystemExit if that is no good one."""
    try:
        main(["weights", *map(str, words)])
    except SystemExit as stop:
        if stop.code:
            raise


# ---------------------------------------------------------------- fetching


def test_a_download_that_breaks_goes_on_in_another_attempt(server):
    content = bytes(range(256)) * 1000
    server.repos["me/mine"] = {"a/x.pth": content}
    server.cuts = 2
    path = hub_file("hf://me/mine/a/x.pth")
    assert path.read_bytes() == content and hashlib.sha256(content).hexdigest() in str(path)
    ranges = [span for verb, _, span in server.log if verb == "GET"]
    assert ranges == [None, "bytes=70000-", "bytes=140000-"]
    server.log.clear()
    assert hub_file("hf://me/mine/a/x.pth") == path and not server.log  # from the cache


def test_a_file_of_another_hash_is_refused(server, tmp_path):
    server.repos["me/mine"] = {"x.pth": b"abc", "toy-00000000.pth": b"abc"}
    with pytest.raises(InputError, match="list of public copies says abababab.*is not used"):
        hub_file("hf://me/mine/x.pth", "ab" * 32)
    with pytest.raises(InputError, match="the name says 00000000"):
        hub_file("hf://me/mine/toy-00000000.pth")
    path = hub_file("hf://me/mine/x.pth")
    path.write_bytes(b"abd")  # damaged on the disk
    with pytest.raises(InputError, match="the Hub says"):
        hub_file("hf://me/mine/x.pth")


def test_a_repository_stands_for_its_one_file_of_weights(server):
    server.repos["me/mine"] = {"README.md": b"#", "a.pth": b"1", "b.safetensors": b"22"}
    assert hub_file("hf://me/mine").read_bytes() == b"22"  # the safe one
    server.repos["me/two"] = {"a.pth": b"1", "b.pth": b"2"}
    with pytest.raises(InputError, match="2 files of weights; say which: hf://me/two/a.pth"):
        hub_file("hf://me/two")
    server.repos["me/none"] = {"README.md": b"#"}
    with pytest.raises(InputError, match="no file of weights in it"):
        hub_file("hf://me/none")
    with pytest.raises(NotFound, match="hf://me/other could not be fetched"):
        hub_file("hf://me/other")


def test_spaces_and_revisions_have_places_of_their_own(server):
    server.repos["spaces/me/mine"] = {"x.pth": b"space"}
    server.repos["me/mine"] = {"x.pth": b"model"}
    assert hub_file("hf://spaces/me/mine/x.pth").read_bytes() == b"space"
    assert hub_file("hf://me/mine/x.pth").read_bytes() == b"model"
    server.repos["me/mine"]["x.pth"] = b"newer"
    assert hub_file("hf://me/mine@v2/x.pth").read_bytes() == b"newer"
    assert hub_file("hf://me/mine/x.pth").read_bytes() == b"model"  # as fetched before


def test_what_the_library_has_is_used(server, tmp_path):
    from huggingface_hub import hf_hub_download

    server.repos["me/mine"] = {"x.pth": b"abc"}
    theirs = hf_hub_download(
        "me/mine", "x.pth", endpoint=server.url, cache_dir=tmp_path / "library"
    )
    server.log.clear()
    assert str(cached(address("hf://me/mine/x.pth"))) == theirs
    assert str(hub_file("hf://me/mine/x.pth")) == theirs and not server.log


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://a", "hf://a/b/../../c.pth", "hf://a/b c", "hf://a/b@x y/c.pth", "hf:/a/b"],
)
def test_what_is_no_address(text):
    with pytest.raises(InputError, match="is no address on the Hub"):
        address(text)


def test_without_a_connection_it_says_what_to_do(server):
    server.close()
    with pytest.raises(NotFound) as told:
        from_hub("coco/hrnet-w48")
    lines = str(told.value).splitlines()
    assert "none of its 6 public copies" in lines[0] and len(lines) == 3
    assert lines[-1].startswith("Without a connection: fetch it elsewhere (hf download Chris")
    assert "--repo-type space" in lines[-1] and "--weights FILE" in lines[-1]
    with pytest.raises(NotFound, match="no public copy of weights is known"):
        create_model("wflw/hrnetv2-w18", weights="hub")
    with pytest.raises(NotFound, match="hf download me/mine"):
        create_model("coco/resnet-50", weights="hf://me/mine")


# ---------------------------------------------------------------- rows


@pytest.fixture
def listed(monkeypatch, server, demo):
    """Two public copies of the demo's weights: a wrong file, then the right one."""
    content = demo.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    common = ("demo/shufflenet-v2",), ("10 MB", "pose_nb", "MIT", "a training of somebody", {}, "")
    made = tuple(
        Copy(*common[0], f"me/{name}/x.safetensors", digest, *common[1]) for name in ("bad", "good")
    )
    monkeypatch.setattr(copies, "COPIES", made)
    server.repos |= {"me/bad": {"x.safetensors": b"no"}, "me/good": {"x.safetensors": content}}
    return made


def test_hub_takes_the_first_copy_that_is_right(listed, server):
    path, copy = from_hub("demo/shufflenet-v2")
    assert copy == listed[1] and "good" in str(path)
    model = create_model("demo/shufflenet-v2", weights="hub")
    assert model.source == str(path)
    server.repos.clear()
    server.log.clear()
    assert from_hub("demo/shufflenet-v2")[0] == path  # the one in the cache comes first
    assert not server.log


def test_a_published_file_in_the_cache_is_the_best_copy(server, tmp_path):
    content = b"abc"
    name = f"toy-{hashlib.sha256(content).hexdigest()[:8]}_20200101.pth"
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / name).write_bytes(content)
    assert from_hub("coco/hrnet-w48", (name,)) == (tmp_path / "cache" / name, None)
    assert not server.log


def test_predict_finds_row_and_weights_by_an_address(server, demo):
    server.repos["me/demo"] = {"x.safetensors": demo.read_bytes()}
    from pose_nb.verbs.predict import row_and_inputs

    row, words = row_and_inputs(["photo.jpg"], "hf://me/demo")
    assert row.id == "demo/shufflenet-v2" and [str(word) for word in words] == ["photo.jpg"]
    state = create_model(row, weights="hf://me/demo").state_dict()
    expected = read_safetensors(demo)[0]
    assert all(torch.equal(state[key], value) for key, value in expected.items())


# ---------------------------------------------------------------- the list


def test_the_list_of_copies_is_sound():
    assert len({(copy.row, copy.address) for copy in COPIES}) == len(COPIES)
    for copy in COPIES:
        place = address(copy.url)
        assert place.file and re.fullmatch("([0-9a-f]{64})?", copy.sha256), copy
        assert copy.licence and copy.names and copy.source, copy
    for row in ("coco/hrnet-w48", "coco/resnet-50", "coco/vitpose-s", "coco/vitpose-h"):
        assert copies_of(row)
    assert "verified" not in " ".join(map(what_there_is, {copy.row for copy in COPIES}))


def test_the_command_lists_what_can_be_had(capsys, listed, server):
    run("list", "coco/resnet-5*")
    assert "not here" in capsys.readouterr().out
    from_hub("demo/shufflenet-v2")
    run("list", "demo/*", "--public", "--json")
    told = json.loads(capsys.readouterr().out)["demo/shufflenet-v2"]["copies"]
    assert [bool(copy["cached"]) for copy in told] == [True, True]  # both were fetched
    with pytest.raises(SystemExit) as stop:
        run("list", "nothing/*")
    assert stop.value.code == 2 and "no row matches" in capsys.readouterr().err


def test_import_names_what_it_leaves_out(tmp_path, capsys):
    (tmp_path / "pose_hrnet_w32.pth").write_bytes(b"x")
    with pytest.raises(SystemExit) as stop:
        run("import", tmp_path)
    assert stop.value.code == 1 and "left out: its name has no hash" in capsys.readouterr().out


# ---------------------------------------------------------------- giving back


def publish(*words):
    run("publish", *words)


def test_nothing_is_sent_unless_asked(server, demo, tmp_path, capsys):
    publish(demo, "--to", "me/demo", "--licence", "mit", "--out", tmp_path / "parcel")
    assert not server.log and "nothing was sent" in capsys.readouterr().out
    card = (tmp_path / "parcel" / "README.md").read_text()
    file = next((tmp_path / "parcel").glob("*.safetensors"))
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert hashlib.sha256(demo.read_bytes()).hexdigest() in card  # the file it was made from
    assert card.startswith("---\nlicense: mit\n") and "| row | demo/shufflenet-v2 |" in card
    assert 'create_model("demo/shufflenet-v2", weights="hf://me/demo")' in card
    assert "synthetic pictures, drawn" in card and "Flickr" not in card
    assert read_safetensors(file)[1]["data"] == "synthetic"


def test_what_was_given_back_can_be_had_by_everybody(server, demo, tmp_path, capsys):
    words = ("--licence", "apache-2.0", "--measured", "AP 0.5 on ten drawings", "--upload")
    publish(demo, "--to", "me/demo", "--out", tmp_path / "parcel", *words[:-1])
    (tmp_path / "parcel" / "an_older_one.safetensors").write_bytes(b"")
    capsys.readouterr()
    publish(demo, "--to", "me/demo", "--out", tmp_path / "parcel", *words)  # as the dry run says
    assert f"uploaded: {server.url}/me/demo" in capsys.readouterr().out
    assert set(server.repos["me/demo"]) == {p.name for p in (tmp_path / "parcel").iterdir()}
    assert "AP 0.5 on ten drawings, stated by who" in server.repos["me/demo"]["README.md"].decode()
    assert all(
        who == "Bearer hf_of_a_test" for verb, _, who in server.log if verb == "POST" and who
    )
    path = hub_file("hf://me/demo")
    assert row_of_weights(path).id == "demo/shufflenet-v2"
    state = create_model("demo/shufflenet-v2", weights="hf://me/demo").state_dict()
    expected = read_safetensors(demo)[0]
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_what_is_not_published(server, demo, tmp_path, capsys):
    def refused(*words):
        with pytest.raises(SystemExit) as stop:
            publish(*words)
        assert stop.value.code == 2
        return capsys.readouterr().err

    out = ("--out", tmp_path / "parcel")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "w.safetensors").write_bytes(b"")
    words = ("--licence", "mit", "--out", tmp_path / "mine")
    assert "is not empty" in refused(demo, "--to", "me/demo", *words)
    assert "under which licence" in refused(demo, "--to", "me/demo", *out)
    assert "write it as the Hub does" in refused(demo, "--to", "me/demo", "--licence", "MIT!", *out)
    assert not list((tmp_path / "parcel").iterdir()), "no weights without a card"
    assert "no address" in refused(demo, "--to", "demo", "--licence", "mit")
    assert "does not exist" in refused(tmp_path / "no.pth", "--to", "me/demo")
    assert "do not fit" in refused(
        demo,
        "--to",
        "me/demo",
        "--licence",
        "mit",
        "--row",
        "coco/alexnet",
        "--out",
        tmp_path / "b",
    )
    bare = tmp_path / "bare.safetensors"
    write_safetensors(bare, {"a": torch.zeros(1)})
    assert "does not say which row" in refused(bare, "--to", "me/demo", "--licence", "mit")
    server.refuse = 403
    words = ("--licence", "mit", "--out", tmp_path / "c", "--upload")
    told = refused(demo, "--to", "me/demo", *words)
    assert "could not be written" in told and "hf auth login" in told
    assert (tmp_path / "c" / "README.md").exists()  # the parcel is kept
    assert hub._endpoint() == server.url
