"""The board as a picture for the README: `python docs/made/picture.py` draws it with the Chromium of this machine.

The table of one track as readers see it, by day and by night, in few colours. It needs the extra `test`.
"""

import io
import shutil
import sys
from pathlib import Path
from typing import Literal

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from made import board

TRACK = "split-digits-class-"
WIDTH, HEIGHT, SCALE = 1080, 670, 1.5
LEFT_OUT = "header, .crumbs, details, h2, .note, .help, .js-only { display: none !important } h1 { margin: 12px 0 0 }"
COLOURS = 48


def draw(light: Literal["light", "dark"]) -> bytes:
    """A PNG of the table under one colour scheme."""
    from playwright.sync_api import sync_playwright

    (page,) = board.folder().glob(f"track/{TRACK}*.html")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as driver:
        window = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page(
            viewport={"width": WIDTH, "height": HEIGHT},
            device_scale_factor=SCALE,
            color_scheme=light,
            bypass_csp=True,
        )
        window.goto(page.as_uri())
        window.add_style_tag(content=LEFT_OUT)
        return window.screenshot()


def main() -> None:
    """Draw both."""
    for light in ("light", "dark"):
        picture = Image.open(io.BytesIO(draw(light))).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        path = Path(__file__).parents[1] / board.PICTURE.format(light)
        picture.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
