"""The bounds within which the relaxed top-K is computed, on a CPU and on a GPU alike."""

from __future__ import annotations

import numpy as np

EPS = float(np.finfo(np.float64).tiny)
MAX_GAIN = 1e6
"""The largest ||R^j|| / ||dL/dz||; a larger R^j is scaled down to it (see `relaxed_topk.py`)."""
MIN_TEMPERATURE = 1e-30
"""Two scores this close are equal in float64; below it 1 / T has no room left to be multiplied in."""
SMALLEST_GATE = 2.0**-30
"""A relaxed gate below this is an exact zero: its context is below float32's rounding beside an open head's.

Else the gradients of its head's projections are so small that their squares, in Adam's second moment, are
denormal numbers, of which a CPU takes the root five times slower."""
