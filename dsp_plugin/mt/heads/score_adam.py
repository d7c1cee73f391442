"""Adam whose head scores keep a learning rate of their own."""

from dataclasses import dataclass
from typing import Optional

import torch
from fairseq import utils
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig

from ...gating import ScoreRate

SCORE_GROUP = "dsp_scores"
_CLEARED_EVERY = 256  # updates
_TINY = torch.finfo(torch.float32).tiny
_SMALLEST_EPS = 1e-11  # beside which the root of `_TINY`, 1e-19, is rounded away in float32


def mark_scores(parameter, rate: Optional[ScoreRate]) -> None:
    """Tag a parameter as head scores with a rate of their own; None: the model's rate and schedule.

    fairseq copies both attributes to the float32 master copies it makes under --fp16 and --bf16.
    """
    parameter.param_group = SCORE_GROUP
    parameter.optim_overrides = (
        {"optimizer": {}} if rate is None else {"optimizer": {"lr": [rate.peak]}, "score_rate": rate}
    )


@dataclass
class DSPAdamConfig(FairseqAdamConfig):
    pass


class DSPAdam(FairseqAdam):
    """fairseq's Adam (same options) with two parameter groups: the model and the head scores.

    The scheduler moves the model's learning rate only; scores (see `mark_scores`) have their own, which is
    constant, as in DSP's own MT program, unless it is to fall, and no weight decay, as in its BERT program.
    Schedulers, checkpoints and overrides may all write into the groups, so the scores' own settings
    are put back before every step.
    """

    def __init__(self, cfg: DSPAdamConfig, params):
        params = list(params)
        scores = [p for p in params if getattr(p, "param_group", None) == SCORE_GROUP]
        others = [p for p in params if getattr(p, "param_group", None) != SCORE_GROUP]
        groups = [{"params": others}] if others else []
        by_rate: dict[int, tuple[Optional[ScoreRate], list]] = {}
        for p in scores:
            rate = p.optim_overrides.get("score_rate")
            by_rate.setdefault(id(rate), (rate, []))[1].append(p)
        self._rates: list[Optional[ScoreRate]] = [None] * len(groups)
        for rate, group in by_rate.values():
            own = {} if rate is None else {"lr": rate(), "constant_lr": rate()}
            groups.append({"params": group, "weight_decay": 0.0, **own})
            self._rates.append(rate)
        # what every group keeps, whoever writes into it
        self._own = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        super().__init__(cfg, groups)

    @property
    def supports_flat_params(self) -> bool:
        # one flat fp16 parameter could not tell scores from weights: fairseq then names
        # --fp16-no-flatten-grads itself
        return False

    def get_lr(self) -> float:
        """Return the scheduled rate; in pipelined mode, where only scores learn, theirs."""
        rate = self._rates[0]
        return self.param_groups[0]["lr"] if rate is None else rate()

    def set_lr(self, lr: float) -> None:
        for group in self.param_groups:
            group["lr"] = lr
        self._put_back()

    def step(self, *args, **kwargs):
        self._put_back()
        super().step(*args, **kwargs)
        self._clear_denormals()

    def state_dict(self):
        self._put_back()
        return super().state_dict()

    @torch.no_grad()
    def _clear_denormals(self) -> None:
        """Now and then make second moments that are denormal numbers zeros, on a CPU.

        The projections of a closed head get no gradient any more. Their second moments decay until rounding
        stops them among the denormal numbers, of which a CPU takes the root five times slower, for the rest
        of the training. Beside Adam's epsilon their roots are below float32's rounding, so no weight learns
        anything else.
        """
        for group in self.param_groups:
            if group["eps"] < _SMALLEST_EPS:
                continue
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter, {})
                moments = state.get("exp_avg_sq")
                if (
                    moments is not None
                    and moments.device.type == "cpu"
                    and state["step"] % _CLEARED_EVERY == 0
                ):
                    moments.masked_fill_(moments < _TINY, 0.0)

    def _put_back(self) -> None:
        for group, own, rate in zip(self.param_groups, self._own, self._rates):
            if rate is not None:
                own["lr"] = own["constant_lr"] = rate()
            group.update(own)

    def clip_grad_norm(self, max_norm, aggregate_norm_fn=None):
        """Clip the model's gradient and the scores' each by itself; returns the norm of both together.

        Half-way through annealing the scores' gradient is a thousand times the model's: clipped as one, it
        would leave the model none. (Under --fp16 fairseq clips by itself, as one.)
        """
        groups = [group["params"] for group in self.param_groups]
        norms = [utils.clip_grad_norm_(group, max_norm, aggregate_norm_fn) for group in groups]
        return torch.linalg.vector_norm(torch.stack([norm.float() for norm in norms]))

    def load_state_dict(self, state_dict, optimizer_overrides=None) -> None:
        # today's command line wins over the checkpoint's options, as in fairseq; the scheduled rate goes on
        # from the checkpoint's, because some schedules (reduce_lr_on_plateau) keep theirs nowhere else
        mine = [{name: group[name] for name in ("lr", "weight_decay")} for group in self.param_groups]
        try:
            super().load_state_dict(state_dict)
        except ValueError as error:
            raise ValueError(
                "the checkpoint's optimizer state is of another kind of training (unpruned, joint or "
                f"pipelined): add --reset-optimizer to start from its weights alone ({error})"
            ) from error
        for group, given in zip(self.param_groups, mine):
            group["weight_decay"] = given["weight_decay"]
            if group.pop("constant_lr", None) is not None:  # no schedule's: the model's, where there is one
                group["lr"] = given["lr"] if group is self.param_groups[0] else self.param_groups[0]["lr"]
            group.update(optimizer_overrides or {})
        self._put_back()
