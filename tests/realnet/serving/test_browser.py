"""The server's page and the prediction's, in a real browser."""

import base64
import importlib.util
import shutil
import threading
from pathlib import Path

import pytest
import tiny_detector
from conftest import load_script

from realnet import Detector

MISSING = [name for name in ("selenium", "fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
MISSING += [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
PHOTOGRAPH = Path("data/tiny/images/weave/test/hole/000.png")
GOOD = Path("data/tiny/images/weave/test/good/000.png")
DROP = """
const bytes = Uint8Array.from(atob(arguments[1]), (letter) => letter.charCodeAt(0));
const dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([bytes], "000.png", {type: "image/png"}));
arguments[0].dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
"""
MOVE = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'));"


@pytest.fixture
def browser(tiny):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    assert not [line for line in driver.get_log("browser") if "favicon" not in line["message"]]
    driver.quit()


def test_a_dropped_photograph_gets_verdict_regions_and_a_new_verdict_from_the_slider(browser):
    import uvicorn
    from selenium.webdriver.support.ui import WebDriverWait

    from realnet.serving.app import create_app

    detector = Detector.load(tiny_detector.save("weave"), device="cpu")
    server = uvicorn.Server(uvicorn.Config(create_app({"weave": detector}), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait = WebDriverWait(browser, 60)
    try:
        wait.until(lambda _: server.started)
        browser.get(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/")
        photograph = base64.b64encode(PHOTOGRAPH.read_bytes()).decode()
        browser.execute_script(DROP, browser.find_element("id", "drop"), photograph)
        expected = detector.predict(PHOTOGRAPH)
        wait.until(lambda driver: driver.find_element("id", "verdict").text in {"defect", "normal"})
        assert browser.find_element("id", "verdict").text == expected.verdict
        assert len(browser.find_elements("css selector", "#regions li")) == len(expected.regions) > 0
        for threshold, verdict in ((1, "normal"), (0, "defect")):
            browser.execute_script(MOVE, browser.find_element("id", "threshold"), threshold)
            assert browser.find_element("id", "verdict").text == verdict
        browser.find_element("id", "file").send_keys(str(GOOD.resolve()))
        shown = f"score {detector.predict(GOOD).image_score:.4f}"
        wait.until(lambda driver: driver.find_element("id", "score").text == shown)
    finally:
        server.should_exit = True
        thread.join()


def test_the_page_of_a_prediction_judges_again(browser):
    from selenium.webdriver.support.ui import WebDriverWait

    path = tiny_detector.save("weave")
    flags = ["--detector", str(path), "--input", str(PHOTOGRAPH.parents[1]), "--output", "found", "--device", "cpu"]
    load_script("predict_realnet").main(flags)
    browser.get(Path("found/predictions.html").resolve().as_uri())
    scores = [float(card.text.split()[0]) for card in browser.find_elements("css selector", ".card i")]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    slider = browser.find_element("css selector", "input[type=range]")
    for threshold, said in ((scores[1] - 1e-4, "2 defect, 3 normal"), (scores[4] - 1e-4, "5 defect, 0 normal")):
        browser.execute_script(MOVE, slider, threshold)
        WebDriverWait(browser, 60).until(lambda driver, said=said: driver.find_element("id", "counts").text == said)
