"""dsp_plugin: prune attention heads and learn sparse task diffs, on fairseq and on Transformers.

This file imports neither host: fairseq opens it through `--user-dir dsp_plugin`, others through
`import dsp_plugin`.
"""

__version__ = "0.1.0"
__all__ = ["__version__", "register"]


def register() -> None:
    """Register the plugin's fairseq tasks, models, criterions and optimizers. Safe to call again.

    For programs that use fairseq as a library; `--user-dir dsp_plugin` does the same by itself.

    Raises:
        ImportError: fairseq is not installed.
    """
    from importlib import import_module
    from pkgutil import iter_modules

    from . import models, tasks

    for package in (tasks, models):
        for module in iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")
