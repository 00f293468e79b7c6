import io

import numpy as np
import pytest
from PIL import Image

from tests import chromium
from tests.drawings import as_file, digit, from_data_url

pytestmark = pytest.mark.skipif(chromium.executable() is None, reason="Chromium is not installed")

TILES = "[...document.querySelectorAll('#tiles canvas')].map(c => c.toDataURL())"
STROKES = [(0.3, 0.3), (0.5, 0.2), (0.65, 0.35), (0.5, 0.5), (0.65, 0.7), (0.3, 0.75)]


@pytest.fixture(scope="module")
def browser(server):
    with chromium.Chromium() as found:
        found.open(server.url)
        found.wait("document.body.dataset.ready === 'yes' && slots.a.state && slots.b.state")
        settled(found)
        yield found
        assert found.errors == []


def settled(browser):
    """Waits until everything asked for has come, and returns the images of the tiles."""
    browser.wait("busy === 0")
    return browser.run(TILES)


def side_by_side(tiles):
    return np.concatenate([from_data_url(tile) for tile in tiles], axis=1)


def decoded(demo, z):
    return np.asarray(Image.open(io.BytesIO(demo.decode(z))))


def test_strokes_with_the_mouse_change_every_tile(browser, demo):
    before = settled(browser)
    browser.stroke("#a .pad canvas", STROKES)
    after = settled(browser)
    assert len(after) == 10
    assert all(a != b for a, b in zip(before, after, strict=True))
    np.testing.assert_array_equal(side_by_side(after), decoded(demo, browser.run("slots.a.state.z")))
    # Another stroke and back.
    browser.stroke("#a .pad canvas", [(0.2, 0.2), (0.8, 0.8)])
    assert settled(browser) != after
    browser.click("#a .undo")
    assert settled(browser) == after


def test_the_slider_leads_from_one_style_to_the_other(browser, demo):
    browser.run("slots.a.pick(1), slots.b.pick(11)")
    browser.wait("slots.a.source.example === 1 && slots.b.source.example === 11")
    at_a = settled(browser)

    def slide(value):
        browser.run(f"(() => {{ const s = $('share'); s.value = {value}; s.dispatchEvent(new Event('input')); }})()")
        return settled(browser)

    at_b = slide(100)
    halfway = slide(50)
    assert len({tuple(tiles) for tiles in (at_a, halfway, at_b)}) == 3
    np.testing.assert_array_equal(side_by_side(at_b), decoded(demo, browser.run("slots.b.state.z")))
    assert slide(0) == at_a


def test_the_content_of_b_is_shown_large_in_the_style_of_a(browser):
    browser.run("slots.b.pick(4)")
    browser.wait("slots.b.source.example === 4")
    settled(browser)
    label = browser.run("slots.b.state.label")
    assert browser.run("content") == label
    assert browser.run(f"$('result').toDataURL() === {TILES}[{label}]")
    other = (label + 1) % 10
    browser.click(f"#tiles button:nth-child({other + 1})")
    browser.wait(f"content === {other}")
    assert browser.run(f"$('result').toDataURL() === {TILES}[{other}]")


def test_the_result_is_saved_enlarged(browser):
    settled(browser)
    browser.run("HTMLAnchorElement.prototype.click = function() { window.saved = [this.download, this.href]; }")
    browser.click("#save")
    name, address = browser.wait("window.saved")
    assert name == f"a <b>model {browser.run('content')}.png"
    pixels = from_data_url(address)
    shown = from_data_url(browser.run("$('result').toDataURL()"))
    np.testing.assert_array_equal(pixels, shown.repeat(10, axis=0).repeat(10, axis=1))


def test_the_way_between_the_styles_is_shown_and_moves_the_slider(browser, demo):
    browser.run("slots.a.pick(1), slots.b.pick(10)")
    browser.wait("slots.a.source.example === 1 && slots.b.source.example === 10")
    settled(browser)
    labels = browser.run("[slots.a.state.label, content]")
    rows = sorted(set(labels), key=labels.index)
    way = browser.run("[...document.querySelectorAll('#way canvas')].map(c => c.toDataURL())")
    assert len(way) == 6 * len(rows)
    for slot, column in (("a", 0), ("b", 5)):
        sheet = decoded(demo, browser.run(f"slots.{slot}.state.z"))
        for row, label in enumerate(rows):
            np.testing.assert_array_equal(from_data_url(way[6 * row + column]), sheet[:, 28 * label : 28 * label + 28])
    browser.click("#way button:nth-child(3)")
    browser.wait(f"$('share-shown').textContent === '40%' && content === {rows[0]}")
    settled(browser)
    assert browser.run("$('result').toDataURL()") == way[2]


def test_uploads_work_and_broken_ones_are_explained(browser, tmp_path):
    before = settled(browser)
    (tmp_path / "good.png").write_bytes(as_file(digit(ink=0, ground=255)))
    (tmp_path / "broken.png").write_bytes(b"not an image")
    browser.upload("#a .file", tmp_path / "good.png")
    browser.wait("slots.a.source instanceof File && slots.a.state.seen === slots.a.shown?.src")
    after = settled(browser)
    assert after != before
    assert browser.run("document.querySelector('#a .error').textContent") == ""
    browser.upload("#a .file", tmp_path / "broken.png")
    browser.wait("document.querySelector('#a .error').textContent.includes('not an image')")
    assert settled(browser) == after
    browser.wait_for_refusal(400)
    browser.click("#a .clear")
    browser.wait("$('tiles').classList.contains('stale') && $('share').disabled && $('save').disabled")
    browser.wait("$('between').hidden")
    browser.stroke("#a .pad canvas", STROKES)
    browser.wait("!$('tiles').classList.contains('stale')")


def test_what_comes_for_an_image_that_was_cleared_meanwhile_is_not_shown(browser):
    browser.run("""(() => {
        const decode = Image.prototype.decode;
        Image.prototype.decode = function() {
            Image.prototype.decode = decode;
            slots.a.clear();
            return decode.call(this);
        };
        slots.a.pick(2);
    })()""")
    browser.wait("slots.a.source === null")
    settled(browser)
    assert browser.run("slots.a.state === null && slots.a.shown === null")


def test_a_phone_draws_with_a_finger_and_nothing_is_cut_off(server):
    with chromium.Chromium(390, 844, phone=True) as phone:
        phone.open(server.url)
        phone.wait("document.body.dataset.ready === 'yes' && slots.a.state && slots.b.state")
        before = settled(phone)
        phone.touch_stroke("#a .pad canvas", STROKES)
        assert settled(phone) != before
        assert phone.run("document.documentElement.scrollWidth") <= 390
        assert phone.errors == []
