"""Evaluation protocols, and the files that hold their results."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

from infoae_jax.errors import UserError
from infoae_jax.types import Json

FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How much is measured. Figures of different protocols are not comparable."""

    name: Literal["full", "quick"]
    train_codes: int  # maximum number of training images whose codes are probed
    test_images: int  # maximum number
    swaps: int  # maximum number that are judged
    probe_epochs: int


FULL = Protocol("full", train_codes=60_000, test_images=30_000, swaps=250_000, probe_epochs=30)
QUICK = Protocol("quick", train_codes=10_000, test_images=1_500, swaps=15_000, probe_epochs=12)
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (FULL, QUICK)}


def file_name(protocol: Protocol) -> str:
    """The name of the file in a run's folder that holds its evaluation by `protocol`."""
    return "evaluation.json" if protocol.name == "full" else f"evaluation_{protocol.name}.json"


def read_evaluation(run: str | Path, protocol: Protocol | None = None) -> Json | None:
    """Reads what `measure.evaluate_run` wrote into the folder of a run, None if it wrote no such file.

    Args:
      protocol: the full one by default, or else the quick one.

    Raises:
      UserError: if the file is damaged or has another format.
    """
    names = [file_name(wanted) for wanted in ((protocol,) if protocol else PROTOCOLS.values())]
    path = next((Path(run) / name for name in names if (Path(run) / name).exists()), None)
    if path is None:
        return None
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{str(path)!r} is damaged ({error}). Evaluate the run again.") from error
    if (found := record.get("format")) != FORMAT:
        raise UserError(f"{str(path)!r} has format {found}, but only {FORMAT} can be read. Evaluate the run again.")
    return record
