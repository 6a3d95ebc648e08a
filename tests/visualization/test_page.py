"""The page in a real browser: it draws the voxels' colours, its controls work, nothing complains."""

import io
import json
import re
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from occdistill.data.occ3d import FREE, OCC3D, PALETTE, Grid
from occdistill.errors import UserError
from occdistill.visualization.live_view import LiveView
from occdistill.visualization.open3d_scene import CREASE, GRAIN, SHADE, surface
from occdistill.visualization.page import Panel, content, html, shares, write_page
from tests.browser import Browser, find_chromium

GRID = Grid((16, 16, 4), 1.0, (-8.0, -8.0, -1.0))
ROAD, CAR, TREE, BUS = 11, 4, 16, 3
LIGHT = np.array([s * c * g for s in SHADE.values() for c in CREASE for g in (1, GRAIN)])


@pytest.fixture(scope="module")
def browser():
    if find_chromium() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with Browser((800, 500)) as one:
        yield one


@pytest.fixture(autouse=True)
def nothing_complains(request):
    yield
    if "browser" in request.fixturenames:
        assert request.getfixturevalue("browser").errors == []


def street(car=None, tree=None):
    voxels = np.full(GRID.shape, FREE, np.uint8)
    voxels[..., 0] = ROAD
    for place, which in ((car, CAR), (tree, TREE)):
        if place is not None:
            x, y = place
            voxels[x : x + 3, y : y + 3, 1:3] = which
    return voxels


def clip():
    """Six frames: a car drives on at the right, a tree stands left; the forecast's car stands."""
    truth = np.stack([street((4 + i, 3), (9, 11)) for i in range(6)])
    forecast = np.stack([street((4, 3), (9, 11))] * 6)
    return truth, forecast


def picture(browser):
    shot = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    box = browser.run(
        "(() => { const b = document.querySelector('canvas').getBoundingClientRect();"
        " return [b.left, b.top, b.right, b.bottom] })()"
    )
    return np.asarray(shot.crop([round(x) for x in box])).astype(int)


def pixels(image, colour, within=3):
    """How many pixels have the colour in one of its shades, each channel within so many."""
    return int(looks(image, colour, within).sum())


def looks(image, colour, within=3):
    """Which pixels."""
    codes, where = np.unique(image @ (65536, 256, 1), return_inverse=True)
    found = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1)
    off = np.abs(found[:, None] - LIGHT[:, None] * np.asarray(colour)).max(-1).min(-1)
    return (off <= within)[where.reshape(image.shape[:2])]


def open_page(browser, tmp_path, panels, **more):
    write_page(tmp_path / "f.html", panels, GRID, **more)
    browser.open(tmp_path / "f.html")


def test_it_draws_every_panel_in_the_classes_colours(browser, tmp_path):
    truth, forecast = clip()
    forecast = np.where(forecast == TREE, BUS, forecast)
    panels = [Panel("truth", truth), Panel("student", forecast, notes=list("abcdef"))]
    open_page(browser, tmp_path, panels, title="a <b> & c")
    image = picture(browser)
    left, right = image[:, : image.shape[1] // 2], image[:, image.shape[1] // 2 :]
    assert pixels(left, PALETTE[TREE]) > 500 and pixels(right, PALETTE[TREE]) == 0
    assert pixels(right, PALETTE[BUS]) > 500 and pixels(left, PALETTE[BUS]) == 0
    for side in (left, right):
        assert pixels(side, PALETTE[ROAD]) > 5000 and pixels(side, PALETTE[CAR]) > 300
    text = browser.run("document.body.innerText")
    assert "a <b> & c" in text and "bus" in text and "trailer (absent)" in text
    assert "student" in text and "b" in text


def test_forward_is_away_and_left_is_left(browser, tmp_path):
    voxels = np.stack([street((1, 3), (12, 11))])  # the car behind to the right
    open_page(browser, tmp_path, [Panel("truth", voxels)])
    image = picture(browser)

    def middle(colour):
        return np.argwhere(looks(image, PALETTE[colour])).mean(0)

    (car_row, car_column), (tree_row, tree_column) = middle(CAR), middle(TREE)
    assert tree_row < car_row - 30 and tree_column < car_column - 30


def test_every_colour_of_the_palette_is_drawn_as_it_is(browser, tmp_path):
    voxels = np.full(GRID.shape, FREE, np.uint8)
    for c in range(FREE):
        voxels[3 * (c // 5) + 1 : 3 * (c // 5) + 3, 3 * (c % 5) + 1 : 3 * (c % 5) + 3, 0] = c
    open_page(browser, tmp_path, [Panel("truth", voxels[None])])
    image = picture(browser)
    tops = {c: (np.abs(image - PALETTE[c]).max(-1) <= 2).sum() for c in range(FREE)}
    assert min(tops.values()) > 100, tops
    boxes = browser.run(
        "[...document.querySelectorAll('#legend i')].map(i => getComputedStyle(i).backgroundColor)"
    )
    assert [[int(n) for n in re.findall(r"\d+", box)] for box in boxes] == PALETTE[:FREE].tolist()


def test_the_slider_and_the_clock_move_it(browser, tmp_path):
    truth, _ = clip()
    past = np.stack([street((i, 3), (9, 11)) for i in range(4)])
    open_page(browser, tmp_path, [Panel("truth", truth)], past=past)
    slider = "(() => { const t = document.querySelector('#time'); t.value = %d;"
    slider += " t.dispatchEvent(new Event('input')) })()"
    drawn, when = [], []
    for at in (0, 3, 9):
        browser.run(slider % at)
        drawn.append(picture(browser))
        when.append(browser.run("document.querySelector('#when').textContent"))
    assert when == ["−1.5 s", "now", "+3.0 s"]
    assert all((a != b).any() for a, b in zip(drawn, drawn[1:]))
    assert browser.run("document.querySelector('#time').max") == "9"
    browser.run("document.querySelector('#play').click()")
    browser.wait("document.body.dataset.frame == 1")  # after the last the first again, and on
    browser.run("document.querySelector('#play').click()")
    assert browser.run("document.querySelector('#play').textContent") == "play"


def test_classes_and_panels_are_switched_off_and_on(browser, tmp_path):
    truth, forecast = clip()
    open_page(browser, tmp_path, [Panel("truth", truth), Panel("student", forecast, shown=False)])
    press = "[...document.querySelectorAll('button')].find(b => b.textContent == %r).click()"
    assert pixels(picture(browser), PALETTE[CAR]) > 300
    browser.run(press % "car")
    without = picture(browser)
    assert pixels(without, PALETTE[CAR]) == 0 and pixels(without, PALETTE[TREE]) > 300
    browser.run(press % "car")
    one = pixels(picture(browser), PALETTE[CAR])
    assert one > 300
    browser.run(press % "student")
    assert browser.run("document.querySelectorAll('#captions div').length") == 2


def test_an_error_panel_shows_what_is_missed_invented_and_confused(browser, tmp_path):
    truth, forecast = clip()
    forecast = np.where(forecast == TREE, BUS, forecast)  # the tree is called a bus
    open_page(
        browser, tmp_path, [Panel("truth", truth, shown=False), Panel("e", forecast, "error")]
    )
    browser.run("show(5)")
    missed, invented, confused, right = (
        (214, 64, 60),
        (36, 104, 190),
        (240, 176, 32),
        (196, 200, 206),
    )
    image = picture(browser)
    assert all(pixels(image, c) > 200 for c in (missed, invented, confused, right))
    browser.run("show(0)")  # the cars are at one place
    image = picture(browser)
    assert pixels(image, missed) == pixels(image, invented) == 0 and pixels(image, confused) > 200
    extra = forecast.copy()
    extra[:, 12:15, 2:5, 1:3] = TREE  # one tree more than there is
    for one, other, colour, none in (
        (forecast, extra, invented, missed),
        (extra, forecast, missed, invented),
    ):
        open_page(browser, tmp_path, [Panel("truth", one, shown=False), Panel("e", other, "error")])
        image = picture(browser)
        assert pixels(image, colour) > 200 and pixels(image, none) == pixels(image, confused) == 0
    open_page(
        browser, tmp_path, [Panel("truth", truth, shown=False), Panel("e", forecast, "error")]
    )
    browser.run("show(0)")
    # what is switched off is no error
    browser.run("(hidden.add(3), hidden.add(16), forget(), show(0))")
    assert pixels(picture(browser), confused) == 0


def test_its_faces_are_those_of_the_other_pictures(browser, tmp_path):
    """Merged ones taken apart again: as many, as open at their corners, as Open3D is given."""
    rng = np.random.default_rng(0)
    voxels = np.where(rng.random(GRID.shape) < 0.35, TREE, FREE).astype(np.uint8)
    voxels[:8, :, 0] = TREE
    open_page(browser, tmp_path, [Panel("truth", voxels[None])])
    words = np.array(browser.run("[...faces(painted(scene.panels[0], 0))]"), np.int64).reshape(
        -1, 2
    )
    corners, lengths = words[:, 1] >> 8 & 255, words[:, 1] >> 16
    opened = np.sort(corners[:, None] >> np.array([0, 2, 4, 6]) & 3, axis=1).repeat(lengths, 0)
    known = (
        surface(voxels, GRID, ego=False).colours.reshape(-1, 4, 3)[..., 1] * 255 / PALETTE[TREE][1]
    )
    table = np.array([[s * c * g for c in CREASE for g in (1, GRAIN)] for s in SHADE.values()])
    per_direction = [len(np.argwhere(seen(voxels, *d))) for d in SHADE]
    light = table.repeat(per_direction, 0)  # faces come direction by direction
    nearest = np.abs(known[..., None] - light[:, None]).argmin(-1) // 2
    assert sorted(map(tuple, opened)) == sorted(map(tuple, np.sort(nearest, axis=1)))
    assert len(words) < len(opened)  # and some were merged


def seen(voxels, axis, side):
    """Filled voxels whose neighbour in a direction is free."""
    filled = np.pad(voxels != FREE, 1)
    return filled & ~np.roll(filled, -side, axis)


def test_a_probability_panel_shades_by_the_share(browser, tmp_path):
    share = np.zeros((1, *GRID.shape), np.float32)
    share[:, 4:8, 4:8, 0], share[:, 4:8, 9:13, 0] = 1.0, 0.25
    open_page(browser, tmp_path, [Panel("p", share, "probability")])
    image = picture(browser)
    certain, rare = browser.run("[ramp(7), ramp(2)]")
    assert pixels(image, certain) > 200 and pixels(image, rare) > 200
    assert browser.run("ramp(1).join() != ramp(2).join()")


def test_a_drag_turns_it(browser, tmp_path):
    open_page(browser, tmp_path, [Panel("truth", clip()[0])])
    before = picture(browser)
    drag = "canvas.dispatchEvent(new PointerEvent('pointermove', {buttons: 1, movementX: 80}))"
    browser.run(drag)
    assert (picture(browser) != before).any()


@pytest.mark.slow
def test_full_size_stays_small_and_quick(browser, tmp_path):
    rng = np.random.default_rng(0)
    truth = np.full((10, *OCC3D.shape), FREE, np.uint8)
    truth[..., 0] = ROAD
    for frame in truth:  # a street's faces: fifteen hundred posts beside a full ground
        x, y = rng.integers(0, 200, (2, 1500))
        frame[x, y, 1:6] = rng.integers(0, FREE, 1500)[:, None]
    panels = [Panel(name, truth[4:]) for name in ("truth", "teacher", "student")]
    path = tmp_path / "f.html"
    write_page(path, panels, OCC3D, truth[:4])
    assert path.stat().st_size < 15e6
    browser.open(path, timeout=120)
    once = "(() => { const t = performance.now(); %s; return performance.now() - t })()"
    ms = browser.run(once % "forget(); for (const p of panels()) meshOf(p, 9)")
    assert ms < 3000, f"{ms:.0f} ms for a frame's faces"
    again = browser.run(once % "for (const p of panels()) meshOf(p, 9)")
    assert again < 5  # kept


def test_the_payload_is_what_was_given():
    truth, forecast = clip()
    past = truth[:2]
    given = [Panel("truth", truth), Panel("e", forecast, "error", ["x"] * 6)]
    sent = content(given, GRID, past)
    assert sent["times"] == [-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    first, second = sent["panels"]
    assert first["frames"][:2] == second["frames"][:2] and second["truth"] == first["frames"]
    assert second["notes"] == ["", "", *"xxxxxx"] and first["notes"] is None
    assert len(sent["volumes"]) == 2 + 6 + 6
    assert content(given, GRID)["times"][0] == 0.5


def test_shares_never_vanish():
    assert shares(np.array([0, 1e-3, 0.5, 1])).tolist() == [0, 1, 128, 255]


def test_a_title_cannot_leave_the_payload():
    page = html(content([Panel("</script><b>", clip()[0])], GRID))
    assert "</script><b>" not in page


# ------------------------------------------------------------------ live


def runner(number):
    stages = {"total": {"count": 1, "p50_ms": 12.0, "p99_ms": 20.0}}
    frames = {"forecasts": number, "dropped": 1, "bad": 0}
    report = {"frames": frames, "stages": stages, "missed": 2, "deadline_ms": 500.0}
    newest = SimpleNamespace(voxels=torch.from_numpy(street((2, 3))))
    rolling = SimpleNamespace(frames=[newest])
    return SimpleNamespace(rolling=rolling, report=lambda: report)


@pytest.fixture
def view():
    one = LiveView(GRID, 0)
    yield one
    one.close()


def test_a_live_page_shows_the_newest_forecast(browser, view):
    truth, _ = clip()
    assert view(runner(1), torch.from_numpy(truth)) is True
    browser.open(view.address)
    assert pixels(picture(browser), PALETTE[TREE]) > 500
    said = browser.run("document.querySelector('#status').textContent")
    assert said.startswith("1 forecasts, p50 12 ms, p99 20 ms (deadline 500): 2 late; 1 frames")
    view(runner(7), torch.from_numpy(np.where(truth == TREE, BUS, truth)))
    browser.wait("document.querySelector('#status').textContent.startsWith('7 forecasts')")
    assert pixels(picture(browser), PALETTE[BUS]) > 500
    browser.run("window.stop()")


def test_a_live_page_is_asked_for_what_is_newer(view):
    assert view.after(-1, patience=0.01) is None
    view(runner(1), torch.from_numpy(clip()[0]))
    assert view.after(-1)["number"] == 0 and view.after(0, patience=0.01) is None
    with urllib.request.urlopen(f"{view.address}newest?after=-1") as reply:
        assert json.load(reply)["times"] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{view.address}etc/passwd")


def test_only_this_machine_may_ask_and_a_port_is_served_once(view):
    assert view.address.startswith("http://127.0.0.1:")
    port = int(view.address.split(":")[2].strip("/"))
    with pytest.raises(UserError, match=f"port {port} .*in use.*--view PORT"):
        LiveView(GRID, port)
    with pytest.raises(UserError, match="port 70000"):
        LiveView(GRID, 70000)
