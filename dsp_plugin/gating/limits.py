"""The bounds within which the relaxed top-K is computed, on a CPU and on a GPU alike."""

from __future__ import annotations

import numpy as np

EPS = float(np.finfo(np.float64).tiny)
MAX_GAIN = 1e6
"""The largest ||R^j|| / ||dL/dz||; a larger R^j is scaled down to it (see `relaxed_topk.py`)."""
MIN_TEMPERATURE = 1e-30
"""Two scores this close are equal in float64; below it 1 / T has no room left to be multiplied in."""
