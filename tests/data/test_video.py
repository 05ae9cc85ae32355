"""Videos and cameras: every frame once, in order and in RGB; what is broken ends with one line."""

import cv2
import numpy as np
import pytest

from cnn_jax.data.video import camera_frames, is_video, video_frames
from cnn_jax.errors import UserError


def write(path, frames=40, rate=25.0):
    """A video whose frame i is a red that grows with i, and blue elsewhere."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, (96, 64))
    for i in range(frames):
        frame = np.zeros((64, 96, 3), np.uint8)
        frame[..., 2] = 5 * i
        frame[32:, :, :] = (200, 0, 0)
        writer.write(frame)
    writer.release()
    return path


def test_frames_come_in_order_with_their_times_in_rgb(tmp_path):
    frames = list(video_frames(write(tmp_path / "a.avi")))
    assert [f.number for f in frames] == list(range(40))
    np.testing.assert_allclose([f.seconds for f in frames], np.arange(40) / 25, atol=1e-6)
    for frame in frames:
        assert frame.pixels.shape == (64, 96, 3) and frame.pixels.dtype == np.uint8
        np.testing.assert_allclose(frame.pixels[10, 10], [5 * frame.number, 0, 0], atol=12)
        np.testing.assert_allclose(frame.pixels[50, 50], [0, 0, 200], atol=12)


def test_every_third_frame(tmp_path):
    frames = list(video_frames(write(tmp_path / "a.avi", rate=10), every=3))
    assert [f.number for f in frames] == list(range(0, 40, 3))
    assert frames[-1].seconds == pytest.approx(3.9)
    assert frames[-1].pixels[10, 10, 0] == pytest.approx(195, abs=12)


def test_what_is_no_video_is_told(tmp_path, capfd):
    (tmp_path / "junk.avi").write_bytes(b"hello" * 100)
    write(tmp_path / "none.avi", frames=0)
    whole = write(tmp_path / "whole.avi").read_bytes()
    (tmp_path / "half.avi").write_bytes(whole[: len(whole) // 2])
    for name, message in (
        ("gone.avi", r"gone\.avi: cannot be read"),
        ("junk.avi", r"junk\.avi: not a video that OpenCV reads, or a broken one"),
        ("none.avi", r"none\.avi: no frames in this video"),
        ("half.avi", r"half\.avi: breaks off after \d+ of 40 frames; the file is not whole"),
    ):
        with pytest.raises(UserError, match=message):
            list(video_frames(tmp_path / name))
    # Nor do the libraries print lines of their own.
    assert capfd.readouterr() == ("", "")


def test_a_camera_that_is_not_there_is_told(capfd):
    with pytest.raises(UserError, match="camera 987: there is none of this number here"):
        list(camera_frames(987))
    assert capfd.readouterr().err == ""


class Camera:
    """A camera in the place of `cv2.VideoCapture`, with a number of frames."""

    frames, released = 0, False

    def __init__(self, number):
        assert number == 3
        self.left = Camera.frames

    def isOpened(self):
        return True

    def grab(self):
        self.left -= 1
        return self.left >= 0

    def retrieve(self):
        return True, np.full((4, 4, 3), (1, 2, 3), np.uint8)

    def release(self):
        Camera.released = True


def test_a_camera_is_read_until_it_is_ended_and_let_go(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(Camera, "frames", 100)
    seen = []
    for frame in camera_frames(3, every=2, ended=lambda: len(seen) == 5):
        seen.append(frame.number)
        assert frame.pixels[0, 0].tolist() == [3, 2, 1]
    assert seen == [0, 2, 4, 6, 8] and Camera.released
    assert len(list(camera_frames(3))) == 100
    monkeypatch.setattr(Camera, "frames", 0)
    with pytest.raises(UserError, match="camera 3: gives no frames"):
        list(camera_frames(3))


@pytest.mark.parametrize(
    ("name", "expected"), [("a.MP4", True), ("b/c.avi", True), ("a.gif", False), ("mp4", False)]
)
def test_videos_are_known_by_their_ending(name, expected):
    assert is_video(name) == expected
