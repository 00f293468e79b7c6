import pytest
from jinja2 import UndefinedError

from infoae_jax.errors import UserError
from infoae_jax.reports.charts import COLOURS
from infoae_jax.reports.page import GENERATOR, data_uri, render_page, replace_own
from tests.html_page import Page


def test_frame_escapes_and_fetches_nothing():
    text = render_page("base.html", title="<script>alert('&')</script>").decode()
    page = Page(text)
    assert "script" not in page.tags
    assert "<script>alert('&')</script> · infoae_jax" in page.text
    assert page.addresses == []
    assert "@import" not in text
    assert "url(" not in text
    assert text.count(GENERATOR) == 1


def test_every_colour_of_charts_becomes_one_of_the_page():
    text = render_page("base.html", title="").decode()
    dark = text[text.index("prefers-color-scheme: dark") :]
    for name, colour in COLOURS.items():
        assert f"--{name}: {colour};" in text
        assert f"--{name}: #" in dark
        for what in ("fill", "stroke"):
            assert f'[style*="{what}: {colour}"] {{ {what}: var(--{name}) !important; }}' in text


def test_template_that_asks_for_what_is_not_there_fails():
    with pytest.raises(UndefinedError, match="title"):
        render_page("base.html")


def test_only_files_with_the_mark_are_replaced(tmp_path):
    path = tmp_path / "new" / "page.html"
    for content in (b"<mark> 1", b"<mark> 2"):
        replace_own(path, content, "<mark>", "Go away.")
        assert path.read_bytes() == content
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"page.html' exists and is not part of a report. Go away."):
        replace_own(path, b"<mark> 3", "<mark>", "Go away.")
    assert path.read_bytes() == b"mine"
    with pytest.raises(UserError, match=r"x' cannot be written \(.*\). Go away."):
        replace_own(path / "x", b"<mark>", "<mark>", "Go away.")


def test_images_are_part_of_their_address():
    assert data_uri(b"abc", "webp") == "data:image/webp;base64,YWJj"
