"""The page in a browser, on a library of drawn pictures that a net trained here has indexed."""

from __future__ import annotations

import base64
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import scene, write
from library.tiny import Tiny, fill
from PIL import Image

import neocog
from neocog.library import Library
from neocog.library.indexing import index
from neocog.tasks.detect import Detections

CHROMIUM = os.environ.get("NEOCOG_CHROMIUM") or shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no chromium here; 'apt-get install chromium' (tests/README.md)", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
expect.set_options(timeout=60_000)

EVIL = "<img src=x onerror=document.title='owned'>.jpg"
AXE = Path(__file__).parent / "axe" / "axe.min.js"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with a library of 80 pictures, one of them with an evil name, and a run."""
    from neocog.web.served import Served

    home = tmp_path_factory.mktemp("page")
    photos = home / "photos"
    photos.mkdir()
    source = neocog.open_source("drawn:n=80,size=48,seed=5,task=shape")
    for i in range(len(source)):
        picture = Image.fromarray(source.read(i))
        exif = picture.getexif()
        exif.get_ifd(0x8769)[0x9003] = f"2023:{1 + i % 12:02}:10 12:00:00"
        picture.save(photos / (EVIL if i == 0 else f"{source.sample(i).label} {i:03}.jpg"), exif=exif, quality=95)
    Image.fromarray(source.read(1)).save(photos / "copy.png")
    run = neocog.train("drawn:n=160,size=32,task=shape", net="lenet5", epochs=2, out=home / "runs" / "shapes")
    library = Library.beside(photos)
    library.index(photos, net=run.folder)
    with serving(Served([photos], [run.folder], home / "runs")) as address:
        yield address


@contextmanager
def serving(served: Any) -> Iterator[str]:
    """The address of a server, as long as it is needed."""
    import uvicorn

    from neocog.web.app import make_app

    config = uvicorn.Config(make_app(served), port=0, log_level="warning", lifespan="off", ws="none")
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{socket.getsockname()[1]}/"
    server.should_exit = True
    thread.join(20)
    socket.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def visit(browser: Any, site: str) -> Iterator[Callable[..., Any]]:
    """Open an address of the page; at the end, nothing may have been said on the console."""
    opened, said = [], []

    def visit(where: str = "", *, width: int = 1200, dark: bool = False) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: message.type in ("error", "warning") and said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(site + where)
        return page

    yield visit
    for context in opened:
        context.close()
    assert not said


def serious(page: Any) -> list[str]:
    """What axe finds that hinders somebody, as one line each."""
    page.evaluate(AXE.read_text("utf-8"))  # as a script of the page, its own policy would refuse it
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def hits(page: Any) -> Any:
    return page.locator(".hit")


def ask(page: Any, text: str) -> None:
    page.get_by_label("Search for").fill(text)
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")


def test_all_pictures_are_there_and_only_those_seen_are_in_the_page(visit):
    page = visit(width=500)
    expect(page.get_by_text("81 pictures")).to_be_visible()
    assert 0 < hits(page).count() < 30
    first = hits(page).first.get_by_role("link").get_attribute("aria-label")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(page.locator('[data-at="80"] img')).to_be_visible()
    assert hits(page).first.get_by_role("link").get_attribute("aria-label") != first


def test_a_hundred_thousand_hits_leave_the_page_small(visit, site):
    page = visit("#/play")
    row = page.request.get(site + "api/libraries/photos/search?limit=1").json()["hits"][0]

    def many(route: Any) -> None:
        start = int(re.search(r"offset=(\d+)", route.request.url)[1])
        found = [{**row, "name": f"{start + i}.jpg"} for i in range(60)]
        route.fulfill(json={"total": 100_000, "hits": found, "notes": []})

    page.route("**/search?*", many)
    page.get_by_role("link", name="Search").click()
    expect(page.get_by_role("link", name="0.jpg", exact=True)).to_be_visible()
    small = page.evaluate("document.querySelectorAll('*').length")
    page.get_by_role("link", name="0.jpg", exact=True).focus()
    page.keyboard.press("End")
    expect(page.get_by_role("link", name="99999.jpg")).to_be_visible()
    assert page.evaluate("document.querySelectorAll('*').length") < 2 * small


def test_a_word_finds_and_every_hit_says_why(visit):
    page = visit()
    ask(page, "star")
    expect(page.get_by_text(re.compile(r"\d+ hits? in 81 pictures"))).to_be_visible()
    page.locator("button.why").first.click()
    panel = page.get_by_role("complementary")
    expect(panel.locator("dd").first).to_contain_text("star")
    panel.get_by_role("button", name="What counted").click()
    expect(panel.get_by_alt_text(re.compile("What counted"))).to_be_visible()
    assert panel.locator("img.heat").evaluate("i => i.decode().then(() => i.naturalWidth)") > 0


def test_nothing_found_is_said(visit):
    page = visit("#/search?q=zeppelin")
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    expect(hits(page)).to_have_count(0)


def test_what_is_typed_is_completed(visit):
    page = visit()
    page.get_by_label("Search for").press_sequentially("taken:20")
    expect(page.get_by_role("option")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.get_by_text("80 hits in 81 pictures")).to_be_visible()


def test_a_month_of_the_timeline_filters(visit):
    page = visit()
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("button", name="2023-05: 7 pictures").click()
    expect(page.get_by_text("7 hits in 81 pictures")).to_be_visible()
    assert page.get_by_label("Search for").input_value() == "taken:2023-05"


def test_a_dropped_picture_finds_itself_and_a_region_of_it_is_searched(visit, tmp_path):
    page = visit()
    expect(hits(page).first).to_be_visible()
    pixels = neocog.open_source("drawn:n=80,size=48,seed=5,task=shape").read(7)
    Image.fromarray(np.asarray(pixels)).save(tmp_path / "x.png")
    page.evaluate(
        """data => { const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), all = new DataTransfer();
        all.items.add(new File([bytes], "x.png", {type: "image/png"}));
        dispatchEvent(new DragEvent("drop", {dataTransfer: all, bubbles: true})); }""",
        base64.b64encode((tmp_path / "x.png").read_bytes()).decode(),
    )
    expect(hits(page).first.locator("a")).to_have_attribute("aria-label", re.compile("007.jpg"))
    page.get_by_role("button", name="Mark a region of the example").click()
    page.get_by_role("group", name="Mark a region").press("ArrowRight")
    page.get_by_role("button", name="Use this region").click()
    expect(page.get_by_role("button", name="Mark a region of the example")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("the marked region")).to_be_attached()


def test_labels_captions_and_boxes_are_corrected_and_undone(visit):
    page = visit("#/search?q=star")
    hits(page).first.get_by_role("link").click()
    page.get_by_label("Add a label").fill("my star")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Remove the label my star")).to_be_visible()
    page.keyboard.press("Tab")  # letters go into the field otherwise
    page.keyboard.press("z")
    expect(page.get_by_role("button", name="Remove the label my star")).to_have_count(0)
    page.get_by_role("button", name="Write a caption").click()
    page.get_by_label("Caption", exact=True).fill("a <b>fine</b> star")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("a <b>fine</b> star")).to_be_visible()
    page.get_by_role("button", name="Mark a region").click()
    page.get_by_role("group", name="Mark a region").press("ArrowDown")
    page.get_by_label("What is in the box").fill("point")
    page.get_by_role("button", name="Add box").click()
    expect(page.locator(".found")).to_have_text("point")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".found")).to_have_count(0)


def test_boxes_that_a_run_finds_are_shown_and_kept(visit, monkeypatch):
    found = Detections("x", ("point",), np.float32([[8, 8, 24, 40]]), np.float32([0.9]), np.array([0]))
    monkeypatch.setattr("neocog.fit.predict", lambda run, pictures: [found])
    page = visit("#/search?q=star")
    hits(page).nth(1).get_by_role("link").click()
    page.get_by_role("button", name="shapes").click()
    expect(page.get_by_alt_text(re.compile("shapes on .* point 0.90"))).to_be_visible()
    page.get_by_role("button", name="Keep its 1 box").click()
    expect(page.locator(".found")).to_have_text("point")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".found")).to_have_count(0)


def test_the_next_hit_is_one_key_away(visit):
    page = visit("#/search?q=star")
    second = hits(page).nth(1).locator("a").get_attribute("aria-label")
    hits(page).first.get_by_role("link").click()
    expect(page.get_by_role("heading", name="What the net sees")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("h1")).to_have_text(second.rsplit(", ", 1)[0])


def test_duplicates_stand_beside_one_another(visit):
    page = visit("#/search?lens=duplicates")
    expect(page.get_by_text("copy.png")).to_be_visible()


def test_a_lasso_on_the_map_chooses_pictures(visit):
    page = visit("#/search?lens=map")
    page.get_by_role("button", name="Lasso").click()
    box = page.locator(".plane canvas").bounding_box()
    corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99)]
    page.mouse.move(box["x"] + box["width"] * 0.01, box["y"] + box["height"] * 0.01)
    page.mouse.down()
    for x, y in corners:
        page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y, steps=3)
    page.mouse.up()
    expect(page.get_by_role("heading", name="81 pictures chosen")).to_be_visible()


def test_an_evil_name_is_only_a_name(visit):
    page = visit(f'#/search?q="{EVIL[:-4]}"')
    ask(page, "taken:2023-01")
    expect(page.get_by_text("7 hits")).to_be_visible()
    hits(page).filter(has_text="onerror").or_(page.locator(".hit:has(a[aria-label*=onerror])")).first.locator(
        "a"
    ).click()
    expect(page.locator("h1")).to_have_text(EVIL)
    assert "owned" not in page.title()


def test_the_keyboard_is_enough(visit):
    page = visit()
    expect(hits(page).first).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("star")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile(r"hits? in 81"))).to_be_visible()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.hit') !== null"):
            break
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    expect(page.locator(".picked")).to_contain_text("1 chosen")
    page.keyboard.press("w")
    expect(page.get_by_role("complementary")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Resembles")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text(re.compile(r"hits? in 81"))).to_be_visible()


def test_an_answer_that_is_awaited_takes_nothing_away(visit):
    """Until it comes, the old hits stay (so does the focus), nothing says that they answer, and keys leave them be."""
    page = visit("#/search?q=star")
    expect(hits(page).first).to_be_visible()
    hits(page).nth(1).locator("a").focus()
    held = []
    page.route("**/search?**", lambda route: held.append(route))
    page.evaluate("location.hash = '#/search?q=heart'")
    expect(page.get_by_label("Search for")).to_have_value("heart")
    expect(page.get_by_text("Searching …")).to_be_visible()
    page.keyboard.press("x")
    assert page.evaluate("document.activeElement.closest('.hit') !== null")
    for route in held:
        route.continue_()
    expect(page.get_by_text(re.compile(r"hits? in 81"))).to_be_visible()
    expect(page.locator(".picked")).to_have_count(0)
    assert page.evaluate("document.activeElement.closest('.hit') !== null")


VIEWS = [
    "#/search?q=star", "#/search?lens=map", "#/search?lens=duplicates", "#/teach", "#/training", "#/training/shapes",
    "#/network/shapes", "#/play", "#/jobs",
]  # fmt: skip


@pytest.mark.parametrize("where", VIEWS)
def test_every_view_fits_a_phone_in_the_dark_and_hinders_nobody(visit, where):
    page = visit(where, width=390, dark=True)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert serious(page) == []
    assert page.evaluate("getComputedStyle(document.body).color") != "rgb(29, 27, 24)"


def test_the_closed_loop(visit, site):
    """Search, teach, answer, train on it, watch the training to its end, look inside, search with it."""
    page = visit("#/search?q=star")
    for n in range(3):
        hits(page).nth(n).get_by_role("checkbox").check()
    page.get_by_role("button", name="Teach a word").click()
    page.get_by_label("The word").fill("my star")
    page.get_by_role("button", name="Teach", exact=True).click()
    expect(page.get_by_role("heading", name="Is this my star?")).to_be_visible()
    for key in "ynnynn":
        page.keyboard.press(key)
    expect(page.locator(".big-facts")).to_contain_text("5")  # 3 examples and two times yes
    page.get_by_role("button", name="Train a network on this").click()
    page.get_by_role("textbox", name="Net").fill("lenet5")
    page.get_by_role("spinbutton", name="Minutes").fill("0.02")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator("[data-run]")).to_be_visible()
    expect(page.locator('[data-run="done"]')).to_be_visible(timeout=120_000)
    expect(page.locator(".curve").first).to_be_visible()
    page.get_by_role("button", name="Search with it").click()
    page.get_by_role("dialog").get_by_role("button", name="Search with it").click()
    page.get_by_role("link", name="Look inside").click()
    expect(page.locator(".skyline button").first).to_be_visible()
    page.get_by_role("link", name="Search", exact=True).click()
    ask(page, "my star")
    expect(page.get_by_text("the concept my star")).to_be_visible(timeout=120_000)  # asked again when it is indexed
    page.get_by_role("button", name="Filters").click()  # and back to the net before
    nets = page.get_by_role("heading", name="Seen by").locator("..").get_by_role("button")
    expect(nets).to_have_count(2)
    before = page.locator(".filters button[aria-pressed=false]", has_text="shapes")
    before.click()
    expect(page.locator(".filters button[aria-pressed=true]", has_text="shapes")).to_be_visible()
    expect(page.get_by_text("the concept my star")).to_have_count(0)


@pytest.fixture
def tapes(tmp_path) -> Iterator[str]:
    """The address of a server with a library of a picture, a video and two recordings."""
    from neocog.web.served import Served

    folder, tones = tmp_path / "tapes", neocog.open_source("drawn:n=2,kind=sound,seed=5")
    fill(folder, 1)
    for i in range(2):
        (folder / f"{i}.wav").write_bytes(tones.read(i))
    write(folder / "film.mp4", [*scene(1, 20), *scene(2, 20)], rate=10)
    index(Library.beside(folder).store, [folder], Tiny(), threads=1)
    with serving(Served([folder], jobs=tmp_path / "jobs")) as address:
        yield address


def test_recordings_are_examples_and_ask_their_own_net_and_videos_play_from_there(visit, tapes):
    page = visit()
    page.goto(tapes)
    expect(page.get_by_text("1 picture, 2 frames of 1 video and 2 parts of 2 recordings")).to_be_visible()
    tone = neocog.open_source("drawn:n=2,kind=sound,seed=5").read(1)
    page.locator("input[type=file]").set_input_files({"name": "tone.wav", "mimeType": "audio/wav", "buffer": tone})
    expect(hits(page).first).to_contain_text("like tone.wav: cosine 1.000")
    page.get_by_label("Remove the example").click()
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("heading", name="Heard by").locator("..").get_by_role("button").click()
    expect(page.locator(".filters button[aria-pressed=true]", has_text="mfcc_statistics")).to_be_visible()
    assert "net=mfcc_statistics" in page.url
    page.get_by_role("heading", name="Seen by").locator("..").get_by_role("button").click()
    expect(page.locator(".filters button[aria-pressed=true]", has_text=Tiny().name)).to_be_visible()
    page.get_by_role("link", name=re.compile("^film.mp4 at 00:0[23]")).click()
    film = page.locator("video")
    seconds = float((film.get_attribute("src") or "").partition("#t=")[2])
    assert seconds >= 2
    expect(film).to_have_js_property("currentTime", seconds)


def test_vendored_files_are_those_that_are_listed():
    import hashlib

    folder = Path(neocog.__file__).parent / "web" / "static" / "vendor"
    listed = dict(re.findall(r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|$", (folder / "VENDORED.md").read_text(), re.M))
    there = {path.name for path in folder.iterdir()} - {"VENDORED.md"}
    assert there == set(listed)
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == listed[name] for name in listed)
