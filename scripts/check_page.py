"""Uses the server's page in a headless Chromium as a person would, and checks what it shows.

    evo1 serve &
    python scripts/check_page.py --url http://127.0.0.1:9000 --screenshot page.png

Needs Chromium with its driver, and selenium and websockets. The policy must be one of 8 states and 4 actions, as the
embedded one is.
"""

import argparse
import json
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from websockets.sync.client import connect

ASSETS = Path(__file__).parent.parent / "evo1-cli/assets"
SIZE = 48


def robot_request(url: str):
    """What a robot sends: a red image, as BGR."""
    red = [[[0, 0, 255]] * SIZE] * SIZE
    message = {
        "image": [red, [[[0, 0, 0]]], [[[0, 0, 0]]]],
        "image_mask": [1, 0, 0],
        "action_mask": [int(i < 4) for i in range(24)],
        "state": [0.0, 0.6, 0.2, 1.0, 0.0, 0.7, 0.1, 1.0],
        "prompt": "from a robot",
    }
    with connect(url.replace("http", "ws", 1)) as socket:
        socket.send(json.dumps(message))
        socket.recv()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:9000")
    parser.add_argument("--screenshot", type=Path)
    args = parser.parse_args()
    options = webdriver.ChromeOptions()
    for flag in ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,1900"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options)
    wait = WebDriverWait(browser, 60)
    find = lambda selector: browser.find_element(By.CSS_SELECTOR, selector)
    count = lambda selector: len(browser.find_elements(By.CSS_SELECTOR, selector))
    try:
        browser.get(args.url)
        wait.until(lambda _: count("#views .view") == 1 and find("#state-of").text == "ready")
        assert "8 numbers" in find("#state-label").text, find("#state-label").text

        find("#prompt").send_keys("Open the drawer")
        find("#run").click()
        wait.until(lambda _: "at least one image" in find("#error").text)

        inputs = browser.find_elements(By.CSS_SELECTOR, "#views input")
        inputs[0].send_keys(str(ASSETS / "image.png"))
        wait.until(lambda _: count("#views canvas") == 1)
        find("#state").send_keys("1, 2")
        find("#run").click()
        wait.until(lambda _: "state has 2 values" in find("#error").text)

        find("#state").clear()
        find("#state").send_keys("0.002, 0.666, 0.288, 1, 0.009, 0.73, 0.09, 1")
        find("#seed").send_keys("3")
        find("#run").click()
        wait.until(lambda _: count("#plot svg path") == 4)
        assert find("#error").text == "", find("#error").text
        assert "in all" in find("#split").text and "vision" in find("#split").text, find("#split").text

        robot_request(args.url)
        wait.until(lambda _: count("#last-plot svg path") == 4)
        assert "from a robot" in find("#last-text").text
        pixel = browser.execute_script(
            "const c = document.querySelector('#last-views canvas');"
            "return [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, 1, 1).data];"
        )
        assert pixel[2:] == [255, 0, 0, 255], f"the robot's red is shown as {pixel}"

        foreign = browser.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith(location.origin));"
        )
        assert not foreign, f"the page loads {foreign}"
        problems = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and "favicon" not in entry["message"]]
        assert not problems, problems
        if args.screenshot:
            browser.save_screenshot(str(args.screenshot))
        print("the page does what it should")
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
