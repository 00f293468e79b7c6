"""Measures the overhead of a sweep: 8 trials with one bottleneck as a sweep, against the same 8 runs one by one.

    python benchmarks/sweep_cost.py --config.data.dir=path/to/tfds --config.data.num_train=20000     # 25 minutes

A run before both fills the cache of compiled programs, so neither compiles. The time of the trials' evaluation is
subtracted from that of the sweep. Prints the ratio of wall times, each from the start of the first process to the end
of the last one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAMBDAS = tuple(0.001 * i for i in range(1, 9))
SHORT = ("--config.train.epochs=2", "--config.alignment.epochs=4", "--config.refine.epochs=1")


def launch(folder: Path, arguments: list[str], *more: str) -> float:
    """Runs a training or a sweep in `folder`, and returns how many seconds the command took."""
    begin = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled")}
    command = [sys.executable, str(ROOT / "launch.py"), *arguments, f"--workdir={folder}", *more]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - begin


def evaluation_seconds(sweep: Path) -> float:
    """Seconds that the evaluations of all trials took."""
    costs = [json.loads(path.read_text())["cost"] for path in sweep.glob("*/evaluation_quick.json")]
    return sum(cost["preparation_s"] + cost["evaluation_s"] for cost in costs)


def main() -> None:
    arguments = sys.argv[1:]
    name = next((a.removeprefix("--config=") for a in arguments if a.startswith("--config=")), "configs/mnist.py")
    arguments = [a for a in arguments if not a.startswith("--config=")]
    file, _, variant = name.partition(":")
    with tempfile.TemporaryDirectory() as temporary:
        sweep_file = Path(temporary) / "eight.py"
        sweep_file.write_text(
            f"from configs import {Path(file).stem} as base\n\nget_config = base.get_config\n\n\n"
            f"def sweep(add):\n    for lam in {LAMBDAS}:\n        add(**{{'train.lambda_adv': lam}})\n"
        )
        arguments = [f"--config={sweep_file}" + (f":{variant}" if variant else ""), *SHORT, *arguments]
        launch(Path(temporary) / "before", arguments)
        alone = sum(
            launch(Path(temporary) / f"alone-{lam}", arguments, f"--config.train.lambda_adv={lam}") for lam in LAMBDAS
        )
        whole = launch(Path(temporary) / "together", arguments, "--sweep")
        evaluation = evaluation_seconds(Path(temporary) / "together" / "sweep")
    print(f"{len(LAMBDAS)} runs alone {alone:.1f} s; sweep {whole:.1f} s, of which {evaluation:.1f} s evaluation")
    print(f"ratio without evaluation {(whole - evaluation) / alone:.3f}")


if __name__ == "__main__":
    main()
