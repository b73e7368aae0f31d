"""The server, asked by a real client in the same process."""

import asyncio
import importlib.util
import io
import json
import threading

import numpy as np
import pytest
import tiny_detector
from conftest import load_script
from PIL import Image

from realnet import Detector, UserError

MISSING = [name for name in ("fastapi", "uvicorn", "httpx") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (the extra serve)")
PNG = {"Content-Type": "image/png"}


@pytest.fixture
def detector(tiny):
    return Detector.load(tiny_detector.save("weave"), device="cpu")


def asking(detector, **limits):
    """Return how to send requests, each (method, path, further arguments), all at once; gives the answers in order."""
    import httpx

    from realnet.serving.app import Limits, create_app

    app = create_app({"weave": detector}, Limits(num_bytes=200_000, num_pixels=10_000, waiting=2, **limits))

    def ask(*requests):
        async def all_at_once():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await asyncio.gather(*(client.request(how, path, **more) for how, path, more in requests))

        return asyncio.run(all_at_once())

    return ask


@pytest.fixture
def ask(detector):
    return asking(detector)


def encoded(height: int = 40, width: int = 70, kind: str = "PNG") -> tuple[bytes, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue(), pixels


def test_a_photograph_gets_the_prediction_of_the_detector(ask, detector):
    data, pixels = encoded()
    expected = detector.predict(pixels).as_dict()
    as_body, as_form, with_map = ask(
        ("POST", "/predict", {"content": data, "headers": PNG}),
        ("POST", "/predict?detector=weave", {"files": {"photo": ("day/été.png", data, "image/png")}}),
        ("POST", "/predict?picture=true", {"content": data, "headers": PNG}),
    )
    assert as_body.json() == json.loads(json.dumps({"file": "", **expected}))
    assert as_form.json() == {**as_body.json(), "file": "day/été.png"}
    assert with_map.json()["map"].startswith("data:image/png;base64,")


def test_what_is_no_photograph_within_the_limits_is_refused(ask):
    data, _ = encoded()
    bomb = encoded(200, 200)[0]
    cases = [
        (415, {"content": b"{}", "headers": {"Content-Type": "application/json"}}),
        (415, {"content": b"no image", "headers": PNG}),
        (415, {"content": b"", "headers": PNG}),
        (415, {"content": data[:500], "headers": PNG}),
        (415, {"files": [("a", ("a.png", data)), ("b", ("b.png", data))]}),
        (415, {"content": b"junk", "headers": {"Content-Type": "multipart/form-data"}}),
        (413, {"content": b"x" * 200_001, "headers": PNG}),
        (413, {"content": bomb, "headers": PNG}),
        (200, {"files": {"a": ("n" * 10_000 + ".png", data)}}),
    ]
    for expected, more in cases:
        (answer,) = ask(("POST", "/predict", more))
        assert answer.status_code == expected, answer.text
        assert "/tmp" not in answer.text
    (missing,) = ask(("POST", "/predict?detector=other", {"content": data}))
    assert missing.status_code == 404 and "there are weave" in missing.text


def test_a_client_that_is_too_slow_is_dropped_and_others_are_served(detector):
    async def slowly():
        yield b"\x89PNG"
        await asyncio.sleep(60)
        yield b""

    data, _ = encoded()
    slow, quick = asking(detector, seconds=2)(
        ("POST", "/predict", {"content": slowly(), "headers": PNG}),
        ("POST", "/predict", {"content": data, "headers": PNG}),
    )
    assert (slow.status_code, quick.status_code) == (408, 200)


def test_a_full_queue_says_when_to_come_again(ask, detector, monkeypatch):
    data, _ = encoded()
    begun = threading.Event()
    whole = type(detector).predict

    def slow(self, image):
        begun.wait(0.3)
        return whole(self, image)

    monkeypatch.setattr(type(detector), "predict", slow)
    answers = ask(*[("POST", "/predict", {"content": data, "headers": PNG})] * 6)
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200, 200, 200, 503, 503, 503]
    assert {answer.headers.get("Retry-After") for answer in answers if answer.status_code == 503} == {"1"}


def test_a_photograph_that_nobody_waits_for_keeps_its_place_until_it_is_judged(detector, monkeypatch):
    import httpx

    from realnet.serving.app import create_app

    begun, go_on = threading.Event(), threading.Event()
    whole = type(detector).predict

    def slow(self, image):
        begun.set()
        go_on.wait(5)
        return whole(self, image)

    monkeypatch.setattr(type(detector), "predict", slow)

    async def hang_up_and_count():
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app({"weave": detector})), base_url="http://t"
        ) as client:
            asking = asyncio.create_task(client.post("/predict", content=encoded()[0], headers=PNG))
            await asyncio.to_thread(begun.wait, 5)
            asking.cancel()
            await asyncio.wait([asking])
            meanwhile = (await client.get("/metrics")).text
            go_on.set()
            await client.post("/predict", content=encoded()[0], headers=PNG)  # its turn comes after the first
            return meanwhile, (await client.get("/metrics")).text

    meanwhile, afterwards = asyncio.run(hang_up_and_count())
    assert "realnet_waiting 1\n" in meanwhile and "realnet_waiting 0\n" in afterwards


def test_an_upload_touches_no_file_and_each_is_named_alike(ask, monkeypatch, caplog):
    pages = [Image.fromarray(encoded()[1])] * 2
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    for _ in range(2):
        whole, cut = ask(
            ("POST", "/predict", {"content": file.getvalue(), "headers": PNG}),
            ("POST", "/predict", {"content": encoded()[0][:500], "headers": PNG}),
        )
        assert whole.status_code == 200 and cut.json()["detail"].startswith("the photograph (500 bytes) is truncated")
    assert not caplog.messages


def test_health_numbers_page_and_description(ask, detector):
    data, _ = encoded()
    ask(("POST", "/predict", {"content": data, "headers": PNG}))
    health, numbers, page, described = ask(
        *(("GET", path, {}) for path in ("/health", "/metrics", "/", "/openapi.json"))
    )
    assert health.json()["detectors"]["weave"]["runtime"] == detector.runtime.name
    assert 'realnet_requests_total{path="/predict",status="200"} 1\n' in numbers.text
    assert "realnet_prediction_seconds_count 1\n" in numbers.text and "realnet_waiting 0\n" in numbers.text
    assert "Drop a photograph" in page.text and "http" not in page.text.replace('http-equiv="', "")
    assert "/predict" in described.json()["paths"]


def test_the_command_loads_detectors_by_name(detector, monkeypatch, capsys):
    import uvicorn

    served = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **how: served.append((app.title, how["host"], how["port"])))
    path = "experiments/tiny/realnet_checkpoints/weave/ckpt_last.pth"
    main = load_script("serve_realnet").main
    main(["--detector", path, "--port", "8123", "--device", "cpu"])
    assert served == [("RealNet", "127.0.0.1", 8123)] and "detector   ckpt_last, in torch" in capsys.readouterr().out
    with pytest.raises(UserError, match="the same name"):
        main(["--detector", path, path, "--device", "cpu"])
    with pytest.raises(UserError, match="--runtime openvino reads exported detectors"):
        main(["--detector", path, "--runtime", "openvino"])
