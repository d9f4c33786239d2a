"""The pictures on the page about tuning can be drawn again, and show what the page says."""
import cv2
import numpy as np

from tests.scripts import load_script

tuning = load_script("benchmarks/tuning.py")


def white(frames, until, truth, **params):
    """Share of one object's pixels that the mask has."""
    result, _ = tuning.run(frames, until, **params)
    x, y, w, h = truth.x, truth.y, truth.width, truth.height
    part = np.s_[y : y + h, x : x + w]
    return (result.mask[part] > 0)[frames[until - 1].mask[part] > 0].mean()


def test_pictures_show_what_the_page_says(tmp_path):
    frames = list(tuning.scene())
    tuning.save(tmp_path / "views.jpg", tuning.run(frames, 46)[1])
    picture = cv2.imread(str(tmp_path / "views.jpg"))
    assert picture.shape[1] == 3 * tuning.WIDTH and (tmp_path / "views.jpg").stat().st_size < 200_000
    dim, thin, stopped = frames[45].truth[2], frames[45].truth[3], frames[-1].truth[3]
    assert white(frames, 46, thin, threshold=30) < 0.95 < white(frames, 46, thin, threshold=1) and white(frames, 46, dim, threshold=1) == 0
    assert len(tuning.run(frames, 46, closing=0)[0].boxes) > len(tuning.run(frames, 46)[0].boxes)
    assert white(frames, len(frames), stopped, max_age=10) < 0.6 and white(frames, len(frames), stopped) > 0.9
