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
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
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


def by_keyboard(browser, wait, url: str):
    """Everything that a mouse can do is reached with the tab key, and the form is sent with Enter."""
    browser.get(url)
    wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#views input"))
    reached = []
    for _ in range(12):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        active = browser.switch_to.active_element
        outline = browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle + getComputedStyle(arguments[0].parentNode).borderColor", active)
        reached.append(active.get_attribute("id") or active.get_attribute("type"))
        assert "none" not in outline or active.get_attribute("type") == "file", f"{reached[-1]} shows no focus: {outline}"
        if reached[-1] == "run":
            break
    assert reached[:1] + reached[-1:] == ["file", "run"] and {"prompt", "state", "robot", "seed"} <= set(reached), reached
    browser.find_element(By.CSS_SELECTOR, "#prompt").send_keys("Open the drawer", Keys.ENTER)
    wait.until(lambda _: "at least one image" in browser.find_element(By.CSS_SELECTOR, "#error").text)


def narrow(browser, wait, url: str, screenshot: Path | None):
    """On a screen of 360 pixels nothing reaches over the edge."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(width=360, height=780, deviceScaleFactor=1, mobile=True))
    browser.get(url)
    wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#last-plot svg") and browser.find_elements(By.CSS_SELECTOR, "#chunks figure"))
    wide = browser.execute_script(
        "return [document.documentElement.scrollWidth, ...[...document.querySelectorAll('body *')]"
        ".filter(e => e.getBoundingClientRect().right > 361 && !e.closest('svg')).map(e => e.tagName + '#' + e.id)];"
    )
    assert wide == [360], f"too wide at 360 pixels: {wide}"
    if screenshot:
        browser.save_screenshot(str(screenshot.with_stem(screenshot.stem + "-narrow")))


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
        wait.until(lambda _: count("#views .view") == 2 and find("#state-of").text == "ready")
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

        # Chunks come as they are made, and failures by their kind.
        before = count("#chunks figure")
        robot_request(args.url)
        wait.until(lambda _: count("#chunks figure") == before + 1)
        assert count("#chunks figure:first-child path") == 4 and "from a robot" in find("#chunks figcaption").text
        numbers = find("#numbers").text
        assert "p99" in numbers and "ms" in numbers and "–" not in numbers, numbers
        assert "invalid_request: 1" in find("#failures").text, find("#failures").text

        foreign = browser.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith(location.origin));"
        )
        assert not foreign, f"the page loads {foreign}"
        problems = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and "favicon" not in entry["message"]]
        assert not problems, problems
        if args.screenshot:
            browser.save_screenshot(str(args.screenshot))
        by_keyboard(browser, wait, args.url)
        narrow(browser, wait, args.url, args.screenshot)
        print("the page does what it should")
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
