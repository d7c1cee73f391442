"""The stages of diff pruning on fairseq, each in a folder of its own: what happens between the trainings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ....diffs import DiffPack
from ....diffs.packs.summary import pack_label, record_figures
from ....records.settings import other_settings, refusal
from ...diffs.base import BaseCheckpoint
from ...diffs.packs import Projection, read_trained, write_pack
from ..chassis.stages import Training, validation_of
from ..chassis.training_results import result_of

# of a mask's projection: part -> option
_PROJECTED_BY = {
    "density": "--target-sparsity",
    "per_layer": "--per-layer-projection",
    "sampled": "--sampled-diff",
}
# in a mask's configuration, the fingerprint of the training it was projected from
_STAGE1 = "stage1_settings"


@dataclass
class Share:
    """A share of the weights that may differ: projected out of stage 1, then finetuned.

    Attributes:
        text: the density as it was written, the name of its folder.
        projection: of stage 2. stage1, stage3: the trainings before and after it.
        mask, pack: the files that stages 2 and 3 end in.
    """

    text: str
    projection: Projection
    stage1: Training
    stage3: Training
    mask: str
    pack: str

    def check(self) -> None:
        """Look at the options of stage 3, and at the mask where there is one.

        Raises:
            ValueError: as `Training.check`; a mask that was projected with other options, or from a stage 1
                that had others.
        """
        self.stage3.check()
        if os.path.isfile(self.mask):
            self._check_mask()

    def _check_mask(self) -> None:
        made_by = DiffPack.load(self.mask).config
        there, here = made_by.get("projection") or {}, vars(self.projection)
        differing = other_settings(there, here, spelled=lambda part: _PROJECTED_BY.get(part, part))
        if differing:
            raise refusal(f"{self.mask} was projected", differing, "name another --save-dir")
        # it may have been removed, and trained once more
        if _STAGE1 in made_by and made_by[_STAGE1] != self.stage1.fingerprint():
            raise refusal(
                f"{self.mask} is of a stage 1",
                [],
                f"remove {os.path.dirname(self.mask)}, or name another --save-dir",
            )

    def project(self, base: BaseCheckpoint) -> None:
        """Run stage 2: write the mask, unless it is there. Errors as `check`."""
        if os.path.isfile(self.mask):
            self._check_mask()
            return
        trained = os.path.join(self.stage1.folder, "checkpoint_last.pt")
        made_by = {_STAGE1: self.stage1.fingerprint()}
        write_pack(self.mask, trained, base, self.projection, "float32", made_by)

    def finetune(self, base: BaseCheckpoint, name: str, dtype: str) -> DiffPack:
        """Run stage 3: train what the mask keeps, and write the task's pack, its values as `dtype`."""

        def finished() -> dict[str, Any]:
            written = write_pack(self.pack, result_of(self.stage3.folder), base, dtype=dtype)
            return {"diff": record_figures(*written)}

        self.stage3.run(pack_label(DiffPack.load(self.mask)), name, finished)
        return DiffPack.load(self.pack)

    def line(self, pack: DiffPack) -> str:
        """Say in a line what came of it."""
        changed = f"{pack.count:,} of {pack.base.total:,} weights"
        size = f"{os.path.getsize(self.pack):,} bytes in {self.pack}"
        return f"{self.text}: {changed}, {size}; {validation_of(self.stage3.folder)}"


def unprojected_figures(folder: str, base: BaseCheckpoint) -> dict[str, Any]:
    """Count the weights that differ from the base at the end of stage 1."""
    trained = read_trained(os.path.join(folder, "checkpoint_last.pt"), base.model())
    nonzeros = sum(int(trained.deltas[name].count_nonzero()) for name in trained.deltas)
    total = sum(trained.deltas[name].numel() for name in trained.deltas)
    return {
        "nonzeros": nonzeros,
        "total": total,
        "density": nonzeros / total,
        "method": trained.config["method"],
    }
