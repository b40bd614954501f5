"""Drawing: arrays in, arrays out, nothing changed on the way, and errors that say what is wrong."""

import matplotlib

matplotlib.use("Agg")

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest
from pose_nb import viz
from pose_nb.files import InputError
from pose_nb.skeletons import ALL, COCO, FACE_300W, Skeleton

PAIR = Skeleton("pair", ("left_hand", "right_hand"), links=(("left_hand", "right_hand"),))
BLACK = np.zeros((60, 80, 3), np.uint8)


def test_colours_tell_sides():
    drawn = viz.draw_pose(BLACK, [[20, 30], [60, 30]], None, PAIR, color=None)
    assert drawn[30, 20].tolist() == [0, 255, 0] and drawn[30, 60].tolist() == [255, 128, 0]
    assert (BLACK == 0).all(), "the input is never changed"


def test_threshold_flags_and_nan():
    points = [[20, 30], [60, 30]]
    assert (viz.draw_pose(BLACK, points, [0.2, 0.2], PAIR) == 0).all()
    assert (viz.draw_pose(BLACK, points, [0, 0], PAIR, flags=True) == 0).all()
    one = viz.draw_pose(BLACK, points, [0.9, 0.2], PAIR)
    assert one[:, :40].any() and not one[:, 40:].any(), "no limb to a point below the threshold"
    assert not viz.draw_pose(BLACK, [[np.nan, 1], [np.nan, np.nan]], None, PAIR).any()
    ring, dot = (viz.draw_pose(BLACK, points, [v, v], PAIR, flags=True) for v in (1, 2))
    assert ring[30, 20].tolist() == [255, 255, 255] and dot[30, 20].tolist() == [0, 255, 0]


@pytest.mark.parametrize("far", [1e4, -1e9, 1e300, np.inf])
def test_a_far_point_is_left_out_with_its_limb(far):
    beam = viz.draw_pose(BLACK, [[20, 30], [far, -far]], None, PAIR)
    alone = viz.draw_pose(BLACK, [[20, 30], [np.nan, 0]], None, PAIR)
    assert beam.any() and (beam == alone).all()
    assert viz.draw_boxes(BLACK, [[far, 5, 30, 40], [10, 10, 30, 40]], [0.5, 0.6]).any()


def test_a_limb_goes_on_to_a_point_just_outside():
    drawn = viz.draw_pose(BLACK, [[40, 30], [100, 30]], None, PAIR)
    assert drawn[30, 42:].any(-1).all(), "up to the border"


def test_error_lines_leave_out_far_points():
    near, far = [[20, 30], [60, 30]], [[20, 30], [1e7, -1e7]]
    lines, none = (viz.side_by_side(BLACK, near, far, PAIR, errors=e) for e in (True, False))
    assert (lines != none).any(-1).sum() < 10, "a dot on the point that is right, and no beam"


def test_a_distant_outlier_does_not_thicken_the_lines():
    near = viz.draw_pose(BLACK, [[20, 30], [60, 30]], None, PAIR)
    out = viz.draw_pose(BLACK, [[20, 30], [6000, 30]], None, PAIR)
    assert (out[:, 20] > 0).any(-1).sum() <= (near[:, 20] > 0).any(-1).sum() + 4


@pytest.mark.parametrize("skeleton", ALL, ids=lambda s: s.name)
def test_every_skeleton(skeleton):
    points = np.random.default_rng(0).uniform(0, 60, (2, len(skeleton), 2))
    assert viz.draw_pose(BLACK, points, None, skeleton).any()


def test_shapes_are_checked():
    zeros = np.zeros((17, 2))
    for call, text in (
        (lambda: viz.draw_pose(BLACK, zeros[:5], None, COCO), "17"),
        (lambda: viz.draw_pose(BLACK / 255, zeros, None, COCO), "uint8"),
        (lambda: viz.draw_pose(BLACK, zeros, np.zeros(3), COCO), "one per keypoint"),
        (lambda: viz.draw_pose(BLACK, zeros), "skeleton"),
        (lambda: viz.grid([]), "no images"),
        (lambda: viz.draw_boxes(BLACK, [[0, 0, 1, 1]], [0.1, 0.2]), "2 labels"),
        (lambda: viz.show_heatmaps(np.zeros((2, 3, 4, 5))), r"\(K, h, w\)"),
        (lambda: viz.draw_pose(np.zeros((4, 4, 4), np.uint8), [], None, COCO), "RGB"),
    ):
        with pytest.raises(InputError, match=text):
            call()


def test_boxes():
    drawn = viz.draw_boxes(BLACK, [[10, 10, 50, 40]])
    assert drawn[25, 10].any() and drawn[25, 50].any() and not drawn[25, 30].any()
    assert (viz.draw_boxes(BLACK, np.zeros((0, 4))) == BLACK).all() and (
        viz.draw_boxes(BLACK, [[np.nan] * 4]) == BLACK
    ).all()
    assert viz.draw_boxes(BLACK[..., 0], [[10, 10, 50, 40]]).shape == (60, 80, 3), (
        "grey images are welcome"
    )


def test_grid_and_side_by_side():
    assert viz.grid([BLACK] * 5, columns=3).shape == (2 * 60 + 4, 3 * 80 + 8, 3)
    assert viz.grid([BLACK], columns=4).shape == (60, 80, 3)
    sheet = viz.grid([BLACK, BLACK[:30, :40]], columns=2)
    assert (sheet[:10, 84:] == 255).all() and (sheet[20:40, 110:120] == 0).all()
    both = viz.side_by_side(BLACK, [[20, 30], [60, 30]], [[20, 30], [60, 50]], PAIR)
    assert both.shape == (60, 164, 3) and (both[40, 84 + 60] > 200).all(), (
        "a white line from truth to prediction"
    )


def test_close_up_moves_points_with_pixels():
    image = BLACK.copy()
    image[30, 50] = 255
    part, moved = viz.close_up(image, [50, 30], (48, 28), extent=11, size=33)
    y, x = np.unravel_index(part[..., 0].argmax(), part.shape[:2])
    assert (x, y) == tuple(moved.round()) == (22, 22)
    outside, _ = viz.close_up(image, [0, 0], (-100, -100), 10, 20)
    assert (outside == 90).all(), "grey where there is no picture"


def test_pairs_show_every_person_whole():
    truth = np.array([[[20, 30, 2], [60, 30, 2]], [[5, 5, 2], [5, 5, 0]]], float)
    pairs = viz.pose_pairs([BLACK, BLACK], truth, truth[..., :2], PAIR, size=60)
    assert [p.shape for p in pairs] == [(60, 124, 3)] * 2
    assert (pairs[0][:, :60] == pairs[0][:, 64:]).mean() > 0.98, "an exact prediction looks alike"
    assert (pairs[1] != 90).any()


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_saved_pictures_can_be_read(tmp_path, ending):
    picture = np.full((32, 48, 3), (200, 40, 40), np.uint8)
    path = viz.save_image(tmp_path / f"a.{ending}", picture)
    again = cv2.imread(str(path))[..., ::-1]
    assert again.shape == picture.shape and np.abs(again.astype(int) - picture).max() < 12
    assert [p.name for p in tmp_path.iterdir()] == [f"a.{ending}"]
    with pytest.raises(InputError, match="bmp"):
        viz.save_image(tmp_path / "a.bmp", picture)


def test_a_heatmap_is_laid_over_its_picture():
    heat = np.zeros((6, 8))
    heat[2, 4] = 1
    over = viz.heatmap_over(BLACK, heat)
    y, x = np.unravel_index(over.sum(-1).argmax(), over.shape[:2])
    assert over.shape == BLACK.shape and (x // 10, y // 10) == (4, 2) and not over[50:].any()
    assert (viz.heatmap_over(BLACK, np.full((6, 8), np.nan)) == BLACK).all()


def test_figures():
    maps = np.zeros((3, 8, 6))
    maps[0, 2, 4] = 1
    figure = viz.show_heatmaps(maps, names=["a", "b", "c"], columns=2)
    assert len(figure.axes) == 4 and figure.axes[0].lines[0].get_xydata().tolist() == [[4, 2]]
    viz.show_heatmaps(np.full((1, 4, 4), np.nan), image=BLACK)
    figure = viz.curve({"a": [3, 2, np.nan], "b": ([0, 5], [1, 2])}, "step", "loss", log=True)
    assert figure.axes[0].get_yscale() == "log" and len(figure.axes[0].lines) == 2
    assert figure.legends and not figure.axes[0].get_legend(), "a legend stands beside the data"
    named = viz.curve({"UDP": [1, 2], "AP": [2, 3]})
    colors = [line.get_color() for line in named.axes[0].lines]
    assert colors == [viz.COLORS["UDP"], viz.COLORS["AP"]]
    plt.close("all")


def test_torch_heatmaps():
    torch = pytest.importorskip("torch")
    viz.show_heatmaps(torch.zeros(2, 4, 4, requires_grad=True))
    plt.close("all")


def test_faces_have_no_links_but_dots():
    assert (
        FACE_300W.links == ()
        and viz.draw_pose(
            BLACK, np.random.default_rng(0).uniform(10, 50, (68, 2)), None, FACE_300W
        ).any()
    )
