"""Make docs/img/page.jpg, the picture of the page in README.md, from pictures that neocog draws itself.

    .venv/bin/python scripts/make_screenshots.py [FOLDER]

Needs chromium and playwright (tests/README.md). Trains a small net, indexes 600 drawn
pictures with it, and takes the page as a visitor sees it after a search. FOLDER keeps what was trained and indexed.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

import neocog
from neocog.library import Library
from neocog.web.app import make_app
from neocog.web.served import Served

OUT = Path(__file__).parents[1] / "docs" / "img" / "page.jpg"
LARGEST = 300_000  # bytes


def prepared(home: Path) -> Served:
    """A library of drawn pictures, and the net that indexed it."""
    photos, run = home / "shapes", home / "runs" / "shapes"
    if not (run / "net.json").exists():
        neocog.train("drawn:n=3000,size=32,task=shape", net="speednet", epochs=12, out=run)
    if not photos.exists():
        source = neocog.open_source("drawn:n=600,size=320,seed=5,task=shape")
        photos.mkdir()
        for i in range(len(source)):
            Image.fromarray(source.read(i)).save(photos / f"{i:04}.jpg", quality=92)
        Library.beside(photos).index(photos, net=run)
    return Served([photos], [run])


def main() -> None:
    """Train, index, serve, look."""
    with tempfile.TemporaryDirectory() as temporary:
        served = prepared(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
        config = uvicorn.Config(make_app(served), port=0, log_level="warning", lifespan="off", ws="none")
        socket = config.bind_socket()
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([socket],))
        thread.start()
        with sync_playwright() as playwright:
            chromium = os.environ.get("NEOCOG_CHROMIUM") or shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(f"http://127.0.0.1:{socket.getsockname()[1]}/#/search?q=star OR heart")
            page.locator("button.why").nth(1).click()
            page.get_by_role("button", name="What counted").click()
            page.wait_for_load_state("networkidle")
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            browser.close()
        server.should_exit = True
        thread.join()
    for quality in range(92, 60, -4):
        picture.save(OUT, quality=quality, optimize=True)
        if OUT.stat().st_size < LARGEST:
            break
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
