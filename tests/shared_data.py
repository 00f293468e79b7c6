"""Real data sets, if there are any in `shared/data` next to the checkout."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"there are no real data sets in {SHARED}")
