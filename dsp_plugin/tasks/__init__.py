"""fairseq tasks. fairseq imports this package itself, so everything else is registered from here."""

from .. import criterions, models, optim  # noqa: F401
from ..mt.checkpoints.whole_files import save_atomically
from ..mt.heads.new_training import tell_loading_from_training
from ..mt.patches import guard_loading
from ..mt.training.one_training import one_training_a_folder

save_atomically()
one_training_a_folder()
tell_loading_from_training()
guard_loading()
