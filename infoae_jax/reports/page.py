"""HTML pages: one self-contained file each, laid out by the templates beside this module."""

import base64
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from infoae_jax.errors import UserError
from infoae_jax.files import read_regular, write_atomically
from infoae_jax.images.read import open_image, reading, to_array
from infoae_jax.reports.charts import COLOURS

GENERATOR = 'name="generator" content="infoae_jax report"'  # marks every page as ours


def render_page(template: str, filters: Iterable[Callable[..., object]] = (), **page: object) -> bytes:
    """A page, laid out by a file in the folder `templates`, where `filters` write values; all texts are escaped."""
    environment = Environment(
        loader=PackageLoader("infoae_jax.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update({function.__name__: function for function in filters})
    environment.globals.update(colours=COLOURS, generator=GENERATOR, arrows={"lower": "↓", "higher": "↑", "": ""})
    return environment.get_template(template).render(page=page).encode()


def replace_own(path: Path, content: bytes, mark: str, advice: str) -> None:
    """Writes a file, unless that would replace one that does not hold `mark`.

    Raises:
      UserError: if such a file is there, or the new one cannot be written; with `advice`.
    """
    try:
        if path.exists() and (not path.is_file() or mark.encode() not in path.read_bytes()):
            raise UserError(f"{str(path)!r} exists and is not part of a report. {advice}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be written ({error}). {advice}") from error


def read_sheets(run: Path) -> Iterator[tuple[int, bytes]]:
    """Epochs and sheets of swaps in a run folder, newest first; damaged ones are left out, which is a warning."""
    for path in sorted((run / "samples").glob("epoch_*.png"), reverse=True):
        if number := re.fullmatch(r"epoch_(\d{1,9})", path.stem):
            try:
                with reading(f"The image {path}"):
                    data = read_regular(path)
                to_array(open_image(data, path), path)
                yield int(number[1]), data
            except UserError as error:
                warnings.warn(str(error), stacklevel=2)


def data_uri(image: bytes, kind: Literal["png", "webp"]) -> str:
    """An encoded image as an address that holds all of it."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
