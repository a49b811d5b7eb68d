"""Take pictures of the report and the preview: light, dark, and on a phone.

    python scripts/page_pictures.py demo/videos/bigbuckbunny.mp4 docs/images

Needs Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.cli import main as letterset

DESK, PHONE = (1120, 860), (390, 844)  # CSS pixels, (width, height)
LOOKS = {"light": (DESK, "light", 1), "dark": (DESK, "dark", 1), "phone": (PHONE, "light", 2)}


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Start Chromium without a window."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars", "no-first-run"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def take(driver: Any, page: Path, picture: Path, look: str) -> None:
    """Write what is seen of a page without scrolling, as JPEG."""
    (width, height), scheme, scale = LOOKS[look]
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": look == "phone"}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    driver.get(page.resolve().as_uri())
    driver.execute_async_script(
        "const done = arguments[0], scrub = document.getElementById('scrub');"
        "if (scrub) { scrub.value = 14; scrub.dispatchEvent(new Event('input')); }"
        "Promise.all([...document.images].map((i) => i.decode().catch(() => 0)))"
        ".then(() => requestAnimationFrame(() => requestAnimationFrame(() => done())));"
    )
    if driver.execute_script("return document.documentElement.scrollWidth") > width:
        raise SystemExit(f"{page.name} is wider than the screen ({look})")
    taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "jpeg", "quality": 82})
    picture.write_bytes(base64.b64decode(taken["data"]))


def main() -> None:
    """Build, write both pages, and take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    out = args.out.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "videos").mkdir()
        shutil.copy(args.video, folder / "videos")
        os.chdir(folder)  # the pages show paths as they were given
        shape = ("--img-shape", "256", "256")
        pages = {name: folder / f"{name}.html" for name in ("report", "preview")}
        for argv in (
            ("build", "--source", "videos", "--out", "rabbit", *shape, "--quiet"),
            ("report", "rabbit", "--out", "report.html"),
            ("preview", "videos", "--out", "preview.html", *shape),
        ):
            if letterset(argv) != 0:
                raise SystemExit(1)
        with browser(folder / "profile") as driver:
            for name, page in pages.items():
                for look in LOOKS:
                    take(driver, page, out / f"{name}-{look}.jpg", look)


if __name__ == "__main__":
    main()
