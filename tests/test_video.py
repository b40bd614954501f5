"""Videos: flat memory, identities, a detector now and then, and what is left when one stops."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pose_nb.demo import demo_row
from pose_nb.files import InputError
from pose_nb.tracking import OneEuro, SmoothTracks, Tracker, box_iou, match_best_sum
from pose_nb.video import Frames, track, track_video, video_writer

ROW = demo_row()


class Dots(nn.Module):
    """Every keypoint is where the crop is brightest."""

    def forward(self, crops):
        bright = nn.functional.avg_pool2d(crops.mean(1, keepdim=True), 5, 4, 2)
        return bright.repeat(1, 17, 1, 1) / bright.amax((2, 3), keepdim=True)


def dots(frames, count=2):
    """Frames with white dots that pass each other, and their places (frames, count, 2)."""
    time = np.arange(frames)[:, None]
    x = np.concatenate([30 + 3 * time, 210 - 3 * time], 1)[:, :count]
    places = np.stack([x, np.broadcast_to([[50, 110]], (frames, 2))[:, :count]], -1)
    pictures = np.zeros((frames, 160, 240, 3), np.uint8)
    for picture, centres in zip(pictures, places):
        for cx, cy in centres:
            picture[cy - 3 : cy + 4, cx - 3 : cx + 4] = 255
    return pictures, places


class Boxes:
    """A detector that knows the dots, and counts how often it is asked."""

    def __init__(self, places):
        self.places, self.asked = places, []

    def __call__(self, pictures):
        bright = np.argwhere(pictures[0][..., 0] > 128)
        frame = int(np.abs(self.places[:, 0, 0] - bright[bright[:, 0] < 80, 1].mean()).argmin())
        self.asked.append(frame)
        near = self.places[frame]
        return [np.concatenate([near - 20, near + 20], 1).astype(np.float32)]


@pytest.mark.parametrize(
    "tracker", [Tracker(), Tracker(box_iou, match_best_sum)], ids=["oks", "iou"]
)
def test_two_dots_keep_their_numbers(tracker):
    frames, places = dots(30)
    motmetrics = pytest.importorskip("motmetrics")
    find, events = Boxes(places), motmetrics.MOTAccumulator(auto_id=True)
    tracks = SmoothTracks(tracker, None)
    for number, (_, poses) in enumerate(
        track(Dots(), frames, find, row=ROW, every=1, tracks=tracks, device="cpu", flip=False)
    ):
        away = np.linalg.norm(places[number][:, None] - poses.keypoints[None, :, 0], axis=-1)
        events.update([0, 1], poses.track_ids.tolist(), np.where(away < 6, away, np.nan))
    figures = motmetrics.metrics.create().compute(events, metrics=["mota", "num_switches"])
    assert figures["mota"].item() == 1 and figures["num_switches"].item() == 0
    assert find.asked == list(range(30))


def test_the_detector_is_asked_every_nth_frame():
    """In between, boxes are widened keypoints; who has no sure keypoint waits for the next look."""
    frames, places = dots(20)
    find = Boxes(places)
    list(track(Dots(), frames, find, row=ROW, every=6, device="cpu", flip=False))
    assert set(find.asked) >= {0, 6, 12, 18}
    with pytest.raises(InputError, match="every 0"):
        next(track(Dots(), frames, find, row=ROW, every=0, device="cpu"))
    with pytest.raises(InputError, match="detector"):
        next(track(Dots(), frames, [[[0, 0, 5, 5]]], row=ROW, device="cpu"))


def written(path, frames):
    with video_writer(path, 10, (240, 160)) as write:
        for frame in frames:
            write(frame)
    return path


@pytest.mark.parametrize("ending", [".mp4", ".webm", ".avi"])
def test_a_video_and_its_keypoints(tmp_path, ending):
    frames, places = dots(12)
    source, out = written(tmp_path / f"v{ending}", frames), tmp_path / "out"
    how = dict(row=ROW, device="cpu", flip=False, progress=False, ending=ending)
    done = track_video(Dots(), source, out, Boxes(places), facts={"row": "x"}, every=1, **how)
    content = json.loads((out / "v.json").read_text())
    assert done.frames == len(content["frames"]) == 12 and not done.stopped and done.people == 2
    assert content["fps"] == 10 and content["frames"][3]["time"] == 0.3
    assert {p["id"] for f in content["frames"] for p in f["people"]} == {1, 2}
    assert Frames(out / f"v{ending}").count == 12
    assert sorted(p.name for p in out.iterdir()) == sorted(["v.json", f"v{ending}"])


def test_times_of_an_uneven_video_are_the_files(tmp_path):
    """golden/uneven.mp4: 5 frames 1/30 s apart, then every fourth (by FFmpeg, grey pictures)."""
    source = Path(__file__).parent / "golden" / "uneven.mp4"
    track_video(Dots(), source, tmp_path, "whole", row=ROW, device="cpu", flip=False, ending="")
    frames = json.loads((tmp_path / "uneven.json").read_text())["frames"]
    wanted = [n for n in range(60) if n < 5 or n % 4 == 0]
    assert [round(frame["time"] * 30) for frame in frames] == wanted


def test_stopped_before_the_end(tmp_path):
    source = written(tmp_path / "v.mp4", dots(12)[0])
    asked = iter([False, False, True])
    how = dict(row=ROW, device="cpu", flip=False, progress=False)
    done = track_video(
        Dots(), source, tmp_path, "whole", stop=lambda: next(asked), ending="", **how
    )
    assert done.stopped and done.frames == 3
    assert len(json.loads((tmp_path / "v.json").read_text())["frames"]) == 3


def test_what_goes_wrong_leaves_no_video(tmp_path):
    frames, _ = dots(4)
    with (
        pytest.raises(ZeroDivisionError),
        video_writer(tmp_path / "v.mp4", 10, (240, 160)) as write,
    ):
        write(frames[0])
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="mp4"), video_writer(tmp_path / "v.gif", 10, (240, 160)):
        pass
    (tmp_path / "page.mp4").write_text("<html>")
    for wrong in (tmp_path / "page.mp4", "gone.mp4", tmp_path):
        with pytest.raises(InputError):
            Frames(wrong)


class Blank(nn.Module):
    def forward(self, crops):
        return torch.zeros(len(crops), 17, 32, 24)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_stays_flat(tmp_path):
    """480 x 360, 300 frames: after the first fifty, not even twenty frames' worth is added."""
    frames = np.random.default_rng(0).integers(0, 255, (5, 360, 480, 3), np.uint8)
    with video_writer(tmp_path / "long.avi", 10, (480, 360)) as write:
        for number in range(300):
            write(frames[number % 5])
    marks = []
    reader = Frames(tmp_path / "long.avi")
    for number, _ in enumerate(track(Blank(), reader, "whole", row=ROW, flip=False, device="cpu")):
        if number % 60 == 50:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            marks.append(pages * 4096 / 1e6)
    assert number == 299 and max(marks) - marks[0] < 10, marks  # MB; a frame has 0.52


def test_each_person_is_smoothed_apart():
    frames, places = dots(20)
    tracks = SmoothTracks(make_filter=partial(OneEuro, rate=10, lowest=0.5, slope=0.0))
    how = dict(row=ROW, every=1, device="cpu", flip=False)
    found = [p for _, p in track(Dots(), frames, Boxes(places), tracks=tracks, **how)]
    for i in (0, 1):
        lag = places[-1, i, 0] - found[-1].keypoints[found[-1].track_ids == i + 1][0, 0, 0]
        assert 3 < abs(lag) < 20, "a slow filter trails behind, and stays with its own person"


def test_what_predict_says_about_a_video_is_there(tmp_path):
    """`predict` sends whoever hands it a video to `pose_nb.track`, which takes the same words."""
    import pose_nb

    clip = tmp_path / "walk.mp4"
    clip.write_bytes(b"")
    with pytest.raises(InputError, match="pose_nb.track takes it"):
        pose_nb.predict(pose_nb.create_model("demo/shufflenet-v2", "random"), clip)
    with video_writer(clip, 10, (80, 60)) as write:
        for _ in range(3):
            write(np.zeros((60, 80, 3), np.uint8))
    answers = list(pose_nb.track(Dots(), str(clip), "whole", row=ROW, flip=False, device="cpu"))
    assert [poses.track_ids.tolist() for _, poses in answers] == [[1]] * 3
    for odd in (np.zeros((60, 80, 3), np.uint8), None):
        with pytest.raises(InputError, match="a video's path or pictures"):
            next(pose_nb.track(Dots(), odd, "whole", row=ROW, device="cpu"))


def test_a_video_that_was_cut_short(tmp_path):
    """An AVI says its length at its beginning."""
    with video_writer(tmp_path / "v.avi", 10, (80, 60)) as write:
        for number in range(30):
            write(np.full((60, 80, 3), number, np.uint8))
    how = dict(row=ROW, flip=False, device="cpu", progress=False, ending="")
    done = track_video(Dots(), tmp_path / "v.avi", tmp_path / "whole", "whole", **how)
    assert (done.frames, done.missing) == (30, 0)
    data = (tmp_path / "v.avi").read_bytes()
    (tmp_path / "v.avi").write_bytes(data[: len(data) // 2])
    done = track_video(Dots(), tmp_path / "v.avi", tmp_path / "half", "whole", **how)
    assert done.frames < 20 and abs(done.missing - (3 - done.frames / 10)) < 0.02
    done = track_video(Dots(), tmp_path / "v.avi", tmp_path / "few", "whole", limit=2, **how)
    assert (done.frames, done.missing) == (2, 0)
