"""Sweeps on a cluster: each group of trials is a task of a job array, which `submitit` hands to Slurm.

A task runs the command line that a person would run for its trials alone. What becomes of them is recorded in their
folders, so all machines must see these. Submitting again does what is left.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infoae_jax.errors import UserError

CLUSTERS = ("slurm", "local")  # local: processes on this machine, all at once
_WEEK_MINUTES = 7 * 24 * 60  # submitit's own default is five minutes


def parse_options(text: str, cluster: str) -> dict[str, int | str]:
    """Parameters of submitit's executor, from 'slurm_partition=gpu,timeout_min=240'; whole numbers become numbers.

    Raises:
      UserError: if they cannot be read, or do not say how long a task may take.
    """
    options: dict[str, int | str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        if not name or not value:
            raise UserError(f"--sweep_cluster_options: {part!r} is not written name=value.")
        if re.fullmatch(r"-?[0-9]{10,}", value):
            raise UserError(f"--sweep_cluster_options: {name} has {len(value)} digits, but at most 9 make sense.")
        options[name] = int(value) if re.fullmatch("-?[0-9]+", value) else value
    if cluster == "local":
        return {"timeout_min": _WEEK_MINUTES, **options}
    if not {"timeout_min", "slurm_time"} & set(options):
        raise UserError(
            "A task needs a time limit; what is left after it is done when you submit again. Set one in minutes: "
            "--sweep_cluster_options=timeout_min=240."
        )
    return options


def submit(commands: Sequence[Sequence[str]], logs: Path, cluster: str, options: str = "") -> list[Any]:
    """Hands each of `commands` (as words) to one of `CLUSTERS`, as a task, and returns submitit's jobs.

    Args:
      logs: folder for what they print, and for submitit's own files.
      options: see `parse_options`.

    Raises:
      UserError: if submitit is not installed, does not know an option, or the cluster does not take the jobs.
    """
    parameters = parse_options(options, cluster)
    try:
        import submitit  # an extra
    except ImportError as error:
        raise UserError("--sweep_cluster needs submitit: pip install -e '.[cluster]'") from error
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        executor.update_parameters(**{"name": "infoae", **parameters})
        # What is pickled for a task is a function of the standard library, and strings.
        return executor.map_array(subprocess.call, [list(command) for command in commands])
    except NameError as error:  # what submitit raises for an unknown parameter
        raise UserError(f"--sweep_cluster_options: {error}") from error
    except (RuntimeError, OSError, ValueError, submitit.core.utils.FailedJobError) as error:
        raise UserError(f"The jobs could not be handed to {cluster!r}: {str(error).strip()}") from error


def wait(jobs: Sequence[Any]) -> list[str]:
    """Waits for submitit's jobs; returns a line for each that did not end well."""
    failures = []
    for job in jobs:
        try:
            code = job.result()
            reason = f"exit code {code}" if code else ""
        except Exception as error:  # whatever became of the task
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if reason:
            failures.append(f"task {job.job_id}: {reason}; its messages are in {job.paths.stderr}")
    return failures
