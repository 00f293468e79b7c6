"""The figures of a sweep as a table: means over seeds, the lowest leakage first.

pip install pandas
python examples/read_sweep.py runs/mnist/sweep/sweep.jsonl
"""

import sys
from pathlib import Path

import pandas as pd


def read(path: str | Path) -> pd.DataFrame:
    """A row for each setting; what it changes is in the index, figures are in the columns."""
    trials = pd.read_json(path, lines=True)
    trials = trials[trials["figures"].astype(bool)].reset_index(drop=True)  # without those that failed or are not done
    values, figures = (pd.json_normalize(trials[name].tolist(), max_level=0) for name in ("values", "figures"))
    settings = [name for name in values if name != "train.seed"]
    return pd.concat([values, figures], axis=1).groupby(settings)[list(figures)].mean().sort_values("probe_accuracy")


if __name__ == "__main__":
    print(read(sys.argv[1]).to_string(float_format="{:.4f}".format))
