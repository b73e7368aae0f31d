"""The web application: photographs in, verdicts and regions out; a page for people, numbers for Prometheus."""

import asyncio
import base64
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.requests import ClientDisconnect

import realnet
from realnet.detection.detector import Detector, Prediction
from realnet.errors import UserError
from realnet.serving.counters import Counters
from realnet.serving.uploads import TooLarge, decode, require_image, unwrap

ResultT = TypeVar("ResultT")
PAGE = Path(__file__).with_name("page.html")
MAP_SIDE = 512
"""Longest side of the anomaly map that the page gets, in pixels."""


@dataclass(frozen=True)
class Limits:
    """What the server accepts.

    Attributes:
        num_bytes: of a request's body.
        num_pixels: of a photograph.
        seconds: until a request's body must have come.
        waiting: requests that may wait while the network computes.
    """

    num_bytes: int = 32 * 2**20
    num_pixels: int = 50_000_000
    seconds: float = 30.0
    waiting: int = 16


def create_app(detectors: Mapping[str, Detector], limits: Limits | None = None) -> FastAPI:
    """Return the application that serves detectors by name; the first answers requests that name none."""
    limit = limits or Limits()
    app = FastAPI(title="RealNet", version=realnet.__version__, description=__doc__)
    counters, queue = Counters(), _Queue(limit.waiting)

    @app.middleware("http")
    async def count(request: Request, answer: Any) -> Any:
        response = await answer(request)
        counters.count(request.url.path if request.url.path in KNOWN else "other", response.status_code)
        return response

    @app.post("/predict", summary="Judge a photograph: its bytes as the body, or a form with one file")
    async def predict(request: Request, detector: str | None = None, picture: bool = False) -> dict[str, Any]:
        chosen = next(iter(detectors)) if detector is None else detector
        if chosen not in detectors:
            raise HTTPException(404, f"there is no detector {chosen!r}; there are {', '.join(detectors)}")
        content_type = request.headers.get("content-type", "")
        try:
            require_image(content_type)
            body = await asyncio.wait_for(_read(request, limit.num_bytes), limit.seconds)
            with counters.timed():
                return await queue.run(_judge, detectors[chosen], body, content_type, limit.num_pixels, picture)
        except TooLarge as error:
            raise HTTPException(413, str(error)) from error
        except UserError as error:
            raise HTTPException(415, str(error)) from error
        except ClientDisconnect as error:  # nobody reads the answer; it is counted
            raise HTTPException(400, "the connection ended before the photograph had come") from error
        except TimeoutError as error:
            raise HTTPException(408, f"the photograph did not come within {limit.seconds:g} seconds") from error

    @app.get("/health", summary="Tell that the server answers, and with which detectors")
    async def health() -> dict[str, Any]:
        described = {
            name: {"dataset": one.dataset, "class_name": one.class_name, "runtime": one.runtime.name}
            for name, one in detectors.items()
        }
        return {"status": "ok", "realnet": realnet.__version__, "detectors": described}

    @app.get("/metrics", response_class=PlainTextResponse, summary="Give the counters in Prometheus's format")
    async def metrics() -> str:
        return counters.text(waiting=queue.waiting)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return PAGE.read_text(encoding="utf-8")

    return app


KNOWN = {"/", "/predict", "/health", "/metrics"}


class _Queue:
    """Lets one photograph at a time through the network, and a bounded number wait."""

    def __init__(self, longest: int) -> None:
        self._jobs: set[Future[Any]] = set()
        self._longest = longest
        self._worker = ThreadPoolExecutor(1)

    @property
    def waiting(self) -> int:
        """Return how many photographs wait or are computed, also those that nobody waits for any more."""
        return len(self._jobs)

    async def run(self, function: Callable[..., ResultT], *arguments: Any) -> ResultT:
        """Return the function's result once its turn has come; refuse it where the queue is full."""
        if self.waiting > self._longest:
            raise HTTPException(503, "too many photographs are waiting; try again", {"Retry-After": "1"})
        job = self._worker.submit(function, *arguments)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return await asyncio.wrap_future(job)


async def _read(request: Request, limit: int) -> bytes:
    """Read a request's body, but no more than the limit."""
    parts, number = [], 0
    async for part in request.stream():
        number += len(part)
        if number > limit:
            raise TooLarge(f"the body has more than {limit} bytes; send a smaller photograph")
        parts.append(part)
    return b"".join(parts)


def _judge(detector: Detector, body: bytes, content_type: str, num_pixels: int, picture: bool) -> dict[str, Any]:
    name, data = unwrap(body, content_type)
    found = detector.predict(decode(data, num_pixels, bits=detector.image_bits))
    return {"file": name, **found.as_dict(), **({"map": _map(found)} if picture else {})}


def _map(found: Prediction) -> str:
    """Return the anomaly map as a data URI: PNG, one byte a pixel, 255 for 1."""
    height, width = found.anomaly_map.shape
    factor = min(1.0, MAP_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = np.asarray(cv2.resize(found.anomaly_map, size, interpolation=cv2.INTER_AREA))
    encoded = cv2.imencode(".png", np.rint(small * 255).astype(np.uint8))[1]
    return f"data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode()}"
