"""Stage II of DSEE: heads, neurons and single weights of the frozen base go, under a trained update."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel, Trainer

from ....options.errors import OptionError
from ....options.faults import naming
from ...dsee import dsee_of, mask_updates, prune_units, prune_weights
from ...dsee.layer import dsee_layers
from ..chassis.system import Setup
from .arguments import PruneArguments, StartArguments, UpdateArguments
from .stage import DseeStage


class PruneStage(DseeStage):
    """Prunes what --dsee_checkpoint has trained; writes and scores the file. It trains nothing."""

    number = "II"

    def __init__(self, setup: Setup, update: UpdateArguments, begin: StartArguments, pruning: PruneArguments):
        args = setup.args
        args.do_train = False
        super().__init__(setup, update, begin)
        self.pruning = pruning

    def check(self) -> None:
        super().check()
        check_begun(self.begin)
        pruning = self.pruning
        if not (pruning.unstructured or pruning.structured):
            others = ("ad_pruning_ratio", "prune_heads_num", "prune_neurons")
            raise OptionError("pruning_ratio", "or {}, {} or {} says what is to be pruned", *others)

    def load(self) -> PreTrainedModel:
        model = self.load_base()
        self.begin_update(model)
        check_trained(model, self.begin)
        pruning = self.pruning
        group = ("neuron_group", pruning.neuron_group)
        named = group if pruning.prune_neurons else ("model_name_or_path", self.setup.model.source)
        with naming(*named):
            if pruning.structured:
                heads = pruning.prune_heads_num or 0
                more = {"group": pruning.neuron_group, "mode": pruning.prune_mode}
                prune_units(model, heads, pruning.prune_neurons, **more)
            if pruning.unstructured:
                shares = (pruning.pruning_ratio, pruning.ad_pruning_ratio)
                prune_weights(model, *shares, pruning.prune_mode, self.setup.args.seed)
        if pruning.mask_update:
            mask_updates(model)
        return model

    def about(self, model: PreTrainedModel) -> dict[str, Any]:
        earlier = dsee_of(model).settings.get("pruning")
        earlier = earlier if isinstance(earlier, dict) else {}
        return {**super().about(model), "pruning": {**earlier, **self.pruning.figures()}}

    def trainer(self, model: PreTrainedModel) -> Trainer:
        """Write the file now that the data are read, and return a Trainer of what it says."""
        self.write(model, self.about(model))
        return self.stock_trainer(self.load_file(self.path, model))


def check_begun(begin: StartArguments) -> None:
    """Raise an OptionError without --dsee_checkpoint."""
    if not begin.dsee_checkpoint:
        raise OptionError("dsee_checkpoint", ": name what stage I has trained (run_glue.py --apply_lora)")


def check_trained(model: PreTrainedModel, begin: StartArguments) -> None:
    """Raise an OptionError for an update that was never trained: B and S2 are 0, no score by them."""
    layers = dsee_layers(model).values()
    if not any(bool(layer.up.any()) or bool(layer.dsee_values.any()) for layer in layers):
        raise OptionError("dsee_checkpoint", f"{begin.dsee_checkpoint} is not trained: its update is 0")


def with_heads(pruning: PruneArguments, heads: int | None) -> PruneArguments:
    """Return the options with a program's own number of heads, where the command line does not say any.

    Raises:
        OptionError: they do not go together then.
    """
    if pruning.prune_heads_num is None:
        pruning = replace(pruning, prune_heads_num=heads)
        pruning.check()
    return pruning
