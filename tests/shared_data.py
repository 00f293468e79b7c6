"""Real data sets that may lie beside the checkout."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not beside this checkout")
