"""Evaluation protocols and their files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from infoae_jax.errors import UserError

FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How much is measured. Figures of different protocols are not to be compared."""

    name: str
    train_codes: int  # most codes of training images
    test_images: int
    swaps: int  # most swaps that are judged
    probe_epochs: int


FULL = Protocol("full", train_codes=60_000, test_images=30_000, swaps=250_000, probe_epochs=30)
QUICK = Protocol("quick", train_codes=10_000, test_images=1_500, swaps=15_000, probe_epochs=12)
PROTOCOLS = {protocol.name: protocol for protocol in (FULL, QUICK)}


def file_name(protocol: Protocol) -> str:
    return "evaluation.json" if protocol.name == "full" else f"evaluation_{protocol.name}.json"


def read_evaluation(run: str | Path, protocol: Protocol | None = None) -> dict[str, Any] | None:
    """The run's evaluation by `protocol`, or None. By default the full one, or else the quick one."""
    for wanted in (protocol,) if protocol else PROTOCOLS.values():
        path = Path(run) / file_name(wanted)
        if path.exists():
            try:
                record = json.loads(path.read_text())
            except ValueError as error:
                raise UserError(f"{str(path)!r} is damaged ({error}). Evaluate the run again.") from error
            if record.get("format") != FORMAT:
                raise UserError(
                    f"{str(path)!r} has format {record.get('format')}, but this version reads format {FORMAT}. "
                    f"Evaluate the run again."
                )
            return record
    return None
