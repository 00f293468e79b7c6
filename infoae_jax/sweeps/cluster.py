"""Sweeps over a cluster: each group of trials is a task of a job array, handed to Slurm by `submitit`.

A task runs the same command line as a person would, for its trials alone, and notes what becomes of them in their
folders, as ever; so the folder has to be one that all machines see. Submitting again does what is left.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infoae_jax.errors import UserError

CLUSTERS = ("slurm", "local")
_WEEK = 7 * 24 * 60  # minutes; submitit's own default is 5


def parse_options(text: str, cluster: str) -> dict[str, Any]:
    """Parameters of submitit's executor, written `slurm_partition=gpu,timeout_min=240`; whole numbers become numbers.

    Raises:
      UserError: if they cannot be read, or do not say how long a task may take.
    """
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = part.partition("=")
        if not sign or not name or not value:
            raise UserError(f"--sweep_cluster_options: {part!r} is not written name=value.")
        options[name.strip()] = int(value) if value.strip().lstrip("-").isdigit() else value.strip()
    if cluster == "local":
        options.setdefault("timeout_min", _WEEK)
    elif not {"timeout_min", "slurm_time"} & set(options):
        raise UserError(
            "Say for how many minutes a task may run (it takes its trials one group at a time, and what is left then "
            "is done when you submit again): --sweep_cluster_options=timeout_min=240"
        )
    return options


def submit(commands: Sequence[Sequence[str]], logs: Path, cluster: str, options: str = "") -> list[Any]:
    """Hands `commands`, each a task, to the cluster; returns submitit's jobs.

    Args:
      logs: folder for what they print, and for submitit's own files.
      cluster: 'slurm', or 'local': processes on this machine, all at once.
      options: see `parse_options`.

    Raises:
      UserError: if submitit is not installed, does not know an option, or the cluster does not take the jobs.
    """
    given = parse_options(options, cluster)
    try:
        import submitit
    except ImportError as error:
        raise UserError("--sweep_cluster needs submitit: pip install -e '.[cluster]'") from error
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        executor.update_parameters(**{"name": "infoae", **given})
        # Pickled for the task, in this folder: a function of the standard library, and strings.
        return executor.map_array(subprocess.call, [list(command) for command in commands])
    except NameError as error:  # what submitit raises for an unknown parameter
        raise UserError(f"--sweep_cluster_options: {error}") from error
    except (RuntimeError, OSError, ValueError, submitit.core.utils.FailedJobError) as error:
        raise UserError(f"The jobs could not be handed to {cluster!r}: {str(error).strip()}") from error


def wait(jobs: Sequence[Any]) -> list[str]:
    """Waits for the jobs; a line for each that did not end well."""
    wrong = []
    for job in jobs:
        try:
            code = job.result()
            reason = f"exit code {code}" if code else ""
        except Exception as error:  # whatever became of the task
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if reason:
            wrong.append(f"task {job.job_id}: {reason}; what it said is in {job.paths.stderr}")
    return wrong
