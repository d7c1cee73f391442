"""fairseq tasks. fairseq imports this package itself, so everything else is registered from here."""

from .. import criterions, models, optim  # noqa: F401
from ..mt.patches import patch_fairseq

patch_fairseq()
