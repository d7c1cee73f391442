"""What the rules of `small_configs` cannot know: fields of single model types."""

from __future__ import annotations

from typing import Any, Dict

OVERRIDES: Dict[str, Dict[str, Any]] = {}
