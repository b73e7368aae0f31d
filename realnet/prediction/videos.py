"""Read the frames of a video, one after another, as photographs."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from realnet.data.images import Image
from realnet.errors import UserError

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
LEAST_SHARE = 0.95
"""Some formats only estimate their number of frames; a video with less than this share of them is damaged."""


def is_video(path: Path | str) -> bool:
    """Tell whether a file is a video, by the ending of its name."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def frame_name(video: str, number: int) -> str:
    """Return the name of a video's frame, such as ``clip.mp4#000123``; the first is number 0."""
    return f"{video}#{number:06}"


def read_frames(path: Path, *, every: int = 1) -> Iterator[tuple[int, Image]]:
    """Yield the number and the image, uint8 RGB (H, W, 3), of every n-th frame, while a thread decodes the next one.

    Raises:
        UserError: if the file is not a video that OpenCV can read, or after the last frame of one that ends too early.
    """
    frames = _decode(path, every)
    with ThreadPoolExecutor(1) as decoder:
        coming = decoder.submit(next, frames, None)
        while (frame := coming.result()) is not None:
            coming = decoder.submit(next, frames, None)
            yield frame


def _decode(path: Path, every: int) -> Iterator[tuple[int, Image]]:
    video = cv2.VideoCapture(str(path))
    try:
        number = 0
        while video.grab():
            if number % every == 0 and (frame := video.retrieve())[0]:
                yield number, cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)
            number += 1
        stated = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        video.release()
    if number == 0:
        raise UserError(f"cannot read the video {path}: it is missing, damaged, or in a format that OpenCV cannot read")
    if number < LEAST_SHARE * stated:
        raise UserError(f"the video {path} is damaged: it ends after {number} of its {stated} frames")
