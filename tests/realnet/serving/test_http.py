"""The command as a process of its own, asked over HTTP."""

import contextlib
import importlib.util
import io
import os
import signal
import socket
import time
from pathlib import Path

import forks
import pytest
import tiny_detector
from conftest import load_script
from PIL import Image
from processes import held_port

from realnet import Detector

MISSING = [name for name in ("fastapi", "uvicorn", "httpx") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (the extra serve)")
PHOTOGRAPH = Path("data/tiny/images/weave/test/hole/000.png")
SECONDS = 60


def serve(folder: Path, detector: Path, port: int) -> None:
    os.chdir(folder)
    log = os.open("served.log", os.O_WRONLY | os.O_CREAT)
    for standard in (1, 2):
        os.dup2(log, standard)
    load_script("serve_realnet").main(["--detector", str(detector), "--device", "cpu", "--port", str(port)])


@pytest.fixture
def server(tiny):
    """A running server: its process and its port."""
    with held_port() as port:
        process = forks.start(serve, tiny, tiny_detector.save("weave"), port)
        until(lambda: listens(port))
        yield process, port
        process.kill()
        process.join()


def until(happens) -> None:
    for _ in range(SECONDS * 20):
        if happens():
            return
        time.sleep(0.05)
    raise AssertionError("it does not happen")


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def begin(port: int, body: bytes) -> socket.socket:
    """Send all of a photograph but its last byte."""
    connection = socket.create_connection(("127.0.0.1", port), SECONDS)
    head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body[:-1])
    return connection


def test_clients_that_hang_up_or_wait_and_bombs_keep_nobody_from_an_answer(server):
    import httpx

    _, port = server
    data, bomb = PHOTOGRAPH.read_bytes(), io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(bomb, "PNG")
    begin(port, data).close()
    with begin(port, data), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
        refused = client.post("/predict", content=bomb.getvalue(), headers={"Content-Type": "image/png"})
        assert refused.status_code == 413 and "200000000 pixels" in refused.text
        answer = client.post("/predict", files={"photo": ("a.png", data)})
        counted = client.get("/metrics").text
    expected = Detector.load(tiny_detector.save("weave"), device="cpu").predict(PHOTOGRAPH)
    assert answer.json()["image_score"] == pytest.approx(expected.image_score, abs=1e-6)
    assert answer.json()["verdict"] == expected.verdict
    assert 'realnet_requests_total{path="/predict",status="400"} 1' in counted  # the client that hung up
    assert "Traceback" not in Path("served.log").read_text()


def test_a_photograph_that_has_begun_to_come_is_judged_after_sigterm(server):
    process, port = server
    data = PHOTOGRAPH.read_bytes()
    with begin(port, data) as connection:
        begin(port, data).close()  # both have been accepted when this one is gone
        os.kill(process.pid, signal.SIGTERM)
        until(lambda: not listens(port))
        connection.sendall(data[-1:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200") and b'"verdict":"' in answer
    process.join(SECONDS)
    assert process.exitcode in {0, -signal.SIGTERM}
