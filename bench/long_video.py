"""Whether memory stays flat over an hour-long video: decode, detect, pose, track, smooth, write.

    python bench/long_video.py [--minutes 60] [--draw] [--out bench/records/long_video.json]

The video is made here: 64 x 48 pixels, 25 frames a second, a bright square that wanders, and is
away for a second out of every twenty, so that people come and go. Detector and network are
stand-ins that look for bright pixels, since neither keeps anything from frame to frame; all the
rest is what `pose-nb track` runs. Resident memory is read after every thousandth frame. --draw
also draws and writes the new video, which takes longer.
"""

import argparse
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pose_nb.demo import demo_row
from pose_nb.environment import code_version, hardware
from pose_nb.files import write_json
from pose_nb.video import track_video, video_writer

W, H, FPS, SIDE, CYCLE = 64, 48, 25, 12, 20 * 25


class Bright(nn.Module):
    """The keypoints are the ends of the bright square in seventeen directions."""

    def forward(self, crops):
        bright = nn.functional.avg_pool2d(crops.mean(1, keepdim=True), 5, 4, 2)
        bright = bright / bright.amax((2, 3), keepdim=True)
        angle = torch.arange(17)[:, None, None] * (2 * torch.pi / 17)
        y, x = (torch.linspace(-0.3, 0.3, n) for n in bright.shape[2:])
        return bright + angle.cos() * x + angle.sin() * y[:, None]


def bright_box(pictures):
    """The box around the bright pixels of each picture; none where there are none."""
    boxes = []
    for picture in pictures:
        y, x = np.nonzero(picture[..., 0] > 128)
        box = [[x.min() - 4, y.min() - 4, x.max() + 5, y.max() + 5]] if len(x) else []
        boxes.append(np.array(box, np.float32).reshape(-1, 4))
    return boxes


def make(path, frames):
    """The video; the square moves on two waves whose lengths do not divide each other."""
    with video_writer(path, FPS, (W, H)) as write:
        for number in range(frames):
            picture = np.full((H, W, 3), 20, np.uint8)
            if number % CYCLE >= FPS:
                x = int((W - SIDE) * (0.5 + 0.5 * np.sin(number / 40)))
                y = int((H - SIDE) * (0.5 + 0.5 * np.cos(number / 67)))
                picture[y : y + SIDE, x : x + SIDE] = 235
            write(picture)


def resident():
    """Memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def measure(folder, frames, draw):
    """Look at the whole video; memory by frame, and what came out."""
    source, marks, seen = folder / "long.mp4", {}, 0
    make(source, frames)

    def look():
        nonlocal seen
        seen += 1
        if seen % 1000 == 0:
            marks[seen] = round(resident(), 1)
        return False

    how = dict(row=demo_row(), device="cpu", flip=False, progress=None, stop=look)
    began = time.process_time()
    done = track_video(
        Bright(), source, folder / "out", bright_box, ending=".mp4" if draw else "", **how
    )
    answer = folder / "out" / "long.json"
    return dict(
        frames=done.frames,
        people=done.people,
        cpu_seconds=round(time.process_time() - began),
        video_bytes=source.stat().st_size,
        json_bytes=answer.stat().st_size,
        after_writing_mb=round(resident(), 1),
        resident_mb=marks,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Path(folder), int(given.minutes * 60 * FPS), given.draw)
    memory = list(facts["resident_mb"].values())
    settled = memory[len(memory) // 10 :]  # libraries load and caches fill before
    grown = round(max(settled) - settled[0], 1)
    print(f"{facts['frames']:,} frames, {facts['people']} people, {facts['cpu_seconds']} s of CPU")
    print(f"resident: {memory[0]} MB first, {settled[0]} after a tenth, at most {grown} MB more")
    if given.out:
        head = dict(date=str(date.today()), code=code_version(), hardware=hardware("cpu"))
        command = f"python bench/long_video.py --minutes {given.minutes:g}"
        head |= dict(command=command + " --draw" * given.draw, grown_mb=grown)
        write_json(given.out, head | facts)


if __name__ == "__main__":
    main()
