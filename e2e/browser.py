"""A headless Chromium, and the parts of the page by their names."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from images import SEVEN
from services import ROOT, wait_until

SCREENSHOTS = ROOT / ".mlserve" / "screenshots"

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --no-proxy-server"
)


class Browser:
    """One window on one web_api."""

    def __init__(self, chromium: str, chromedriver: str, profile: Path):
        options = ChromeOptions()
        options.binary_location = chromium
        for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.chrome = Chrome(options=options, service=ChromeService(chromedriver))

    def close(self) -> None:
        self.chrome.quit()

    # ---- How it looks ----

    def look(self, width: int = 1280, height: int = 900, scheme: str = "light", scripts: bool = True) -> None:
        """The window's size in CSS pixels, light or dark, with or without JavaScript."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})

    def screenshot(self, name: str) -> None:
        image = self.chrome.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(image["data"]))

    def leave(self) -> None:
        """The page polls its server, which ends with its test: what it complains about then belongs to no test."""
        self.open("about:blank")
        self.complaints()

    def complaints(self) -> list[str]:
        """The browser's errors since the last call."""
        return [f"{entry['source']}: {entry['message']}" for entry in self.chrome.get_log("browser") if entry["level"] != "INFO"]

    # ---- The page's parts ----

    def open(self, url: str) -> None:
        self.chrome.get(url)

    def part(self, selector: str) -> WebElement:
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def parts(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def slot(self, name: str) -> str:
        """A text of the answer that is shown."""
        return self.part(f"#answer [data-slot={name}]").get_attribute("textContent").strip()

    def choose(self, *images: bytes) -> None:
        """Puts images into the file field, as its dialog would."""
        self.choose_files({f"image-{number}.png": image for number, image in enumerate(images)})

    def choose_files(self, files: dict[str, bytes]) -> None:
        """The same with names of one's own."""
        folder = self.folder(files)
        self.run("arguments[0].value = ''", self.part("#file"))  # else the driver adds to what is chosen already
        self.part("#file").send_keys("\n".join(str(folder / name) for name in files))

    def choose_folder(self, files: dict[str, bytes]) -> None:
        self.part("#folder").send_keys(str(self.folder(files)))

    def drop_folder(self, files: dict[str, bytes]) -> None:
        """As from a file manager: a script alone cannot make a folder to drop."""
        data = {"items": [], "files": [str(self.folder(files))], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.chrome.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 400, "data": data})

    def folder(self, files: dict[str, bytes]) -> Path:
        """A new folder `images` of these files."""
        folder = Path(tempfile.mkdtemp(dir=self.chrome.capabilities["chrome"]["userDataDir"])) / "images"
        for name, content in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return folder

    def predict(self) -> None:
        self.part("#predict").click()

    def wait_for(self, state: str) -> None:
        wait_until(lambda: self.part("#result").get_attribute("data-state") == state, f"the panel shows: {state}")

    def draw_seven(self) -> None:
        """With the mouse, in two straight strokes that hang together."""
        canvas = self.part("#canvas")
        self.chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        side = canvas.size["width"]
        hand = ActionChains(self.chrome, duration=20)
        places = [(round((x - 0.5) * side), round((y - 0.5) * side)) for x, y in SEVEN]
        hand.move_to_element_with_offset(canvas, *places[0]).click_and_hold()
        for (x, y), (to_x, to_y) in zip(places, places[1:]):
            for step in range(1, 9):
                hand.move_to_element_with_offset(canvas, round(x + (to_x - x) * step / 8), round(y + (to_y - y) * step / 8))
        hand.release().perform()

    def press(self, *keys: str) -> None:
        ActionChains(self.chrome).send_keys(*keys).perform()

    def focused(self) -> WebElement:
        return self.chrome.switch_to.active_element

    def run(self, script: str, *arguments: object) -> object:
        return self.chrome.execute_script(script, *arguments)


def drop(browser: Browser, *images: bytes, how: str = "drop") -> None:
    """Drops or pastes images on the page."""
    files = [base64.b64encode(image).decode() for image in images]
    browser.run(
        """
        const transfer = new DataTransfer();
        arguments[0].forEach((file, i) => {
          const bytes = Uint8Array.from(atob(file), (c) => c.charCodeAt(0));
          transfer.items.add(new File([bytes], `dropped-${i}.png`, {type: "image/png"}));
        });
        const event = arguments[1] === "drop"
          ? new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true})
          : new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true});
        document.body.dispatchEvent(event);
        """,
        files,
        how,
    )


def job_shows(page: Browser, slot: str) -> str:
    return page.part(f"#job [data-slot={slot}]").get_attribute("textContent")


def wait_for_job(page: Browser, status: str) -> None:
    page.wait_for("job")
    wait_until(lambda: job_shows(page, "status") == status, f"the job is: {status}", 30)
