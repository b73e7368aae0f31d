"""Open the page of a prediction in Chromium: its size, and the time to open it, to move its slider, and to turn it.

Usage: python -m benchmarks.page [--images 10000]

A few photographs are drawn, and repeated under other names with other scores. "Opened" is when the cards on show are
painted. "Memory" is that of all of Chromium's processes beside what an empty page takes. Needs selenium, chromium and
chromedriver.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from selenium import webdriver

from benchmarks import drawn, measure
from benchmarks.predict import resident
from realnet.detection.detector import Prediction
from realnet.drawing.heatmaps import Display
from realnet.preparation.toy import draw_photographs
from realnet.reporting.predictions import entry_of_page, start_of_page

PAINTED = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
MOVE = """
const slider = document.querySelector('input[type=range]');
slider.value = arguments[0];
slider.dispatchEvent(new Event('input'));
"""
NEXT = "[...document.querySelectorAll('button')].find((button) => button.textContent === 'next').click()"
END = "scrollTo(0, document.body.scrollHeight)"


def write_page(path: Path, number: int) -> None:
    """Write the page of a number of photographs."""
    rng, entries = np.random.default_rng(0), list[tuple[str, str]]()
    for image in draw_photographs(min(number, drawn.NUM_DRAWN), drawn.SIZE):
        anomaly_map = np.full(drawn.SIZE, 0.1, np.float32)
        anomaly_map[200:260, 300:380] = 0.8
        start, _, end = entry_of_page("FILE", image, Prediction(0.125, anomaly_map, 0.5, 0.5)).partition("0.125")
        entries.append((start, end))
    with path.open("w", encoding="utf-8") as page:
        page.write(start_of_page("Benchmark", [], Display(0.5, 0.5, 1.0)))
        for place in range(number):
            start, end = entries[place % len(entries)]
            page.write(f"{start.replace('FILE', f'{place:05}.jpg')}{rng.random()!r}{end}")


def processes_below(parent: int) -> list[int]:
    """Return the numbers of a process's children, of theirs, and so on."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            above = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if above == parent:
            found += [int(folder.name), *processes_below(int(folder.name))]
    return found


def seconds_of(browser: Any, work: Callable[[], object]) -> float:
    """Return how long work takes until its result is painted."""
    start = time.perf_counter()
    work()
    browser.execute_async_script(PAINTED)
    return time.perf_counter() - start


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    flags = parser.parse_args()
    print(measure.header(torch.device("cpu")).splitlines()[0])
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "predictions.html")
        write_page(path, flags.images)
        browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver") or ""))
        browser.set_page_load_timeout(600)
        try:
            memory = [sum(map(resident, processes_below(os.getpid())))]
            opened = seconds_of(browser, lambda: browser.get(path.as_uri()))
            memory.append(sum(map(resident, processes_below(os.getpid()))))
            moved = [seconds_of(browser, partial(browser.execute_script, MOVE, at)) for at in (0.3, 0.7, 0.5)]
            turned = [seconds_of(browser, lambda: browser.execute_script(NEXT)) for _ in range(3)]
            scrolled = seconds_of(browser, lambda: browser.execute_script(END))
        finally:
            browser.quit()
        size = path.stat().st_size
    print(f"size      {size / 1e6:.0f} MB, {size / flags.images / 1e3:.1f} kB a photograph, {flags.images} photographs")
    print(f"opened    in {opened:.1f} s, with {memory[1] - memory[0]:.0f} MB")
    print(f"slider    {1e3 * max(moved):.0f} ms to move")
    print(f"cards     {1e3 * max(turned):.0f} ms to the next ones, {1e3 * scrolled:.0f} ms to the last of these")


if __name__ == "__main__":
    main()
