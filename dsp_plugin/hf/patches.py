"""What this package changes in Transformers, each with its reason and the versions it is for.

`tests/unit/hf/test_patches.py` fails where a newer Transformers has changed what a patch is for.
"""

import sys
from importlib.util import find_spec


def hide_broken_torchaudio() -> None:
    """Hide a torchaudio that cannot be loaded, before Transformers meets it. Safe to call again.

    For Transformers 5: it imports torchaudio for every model wherever it is installed. fairseq-fixed asks for
    it without using it, and pip may bring one that was built for another torch, CUDA's beside a CPU build:
    then no model can be imported.
    """
    if "torchaudio" in sys.modules or find_spec("torchaudio") is None:
        return
    try:
        import torchaudio  # noqa: F401
    except Exception:  # the dynamic loader's OSError, or whatever a mismatched build runs into
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
        sys.modules["torchaudio"] = None  # how Python notes that there is no such module
        # Transformers, if it was imported before, remembers that there is one
        seen = getattr(sys.modules.get("transformers.utils.import_utils"), "is_torchaudio_available", None)
        if hasattr(seen, "cache_clear"):
            seen.cache_clear()
