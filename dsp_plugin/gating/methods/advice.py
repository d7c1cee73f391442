"""Advice on a method's options, before a long training and after it, in the same words on every host.

Each function gives sentences, none where all is well; `spelling` says how users know the options.
"""

from __future__ import annotations

from ...options.errors import Spelling
from ..head_scores import HeadScores
from ..sampling.schedule import ExponentialCooling
from .almost_sure import AlmostSureGates
from .lagrangian import LagrangianGates
from .rounds import CLIP

# Below this temperature the sampler is a hard top-K to float64's precision, and has no gradient.
FROZEN = 1e-3


def frozen_scores(temperature: float, spelling: Spelling, init_scores: str = "random") -> list[str]:
    """Warn of a relaxed sampler without annealing that is too cold to learn.

    Args:
        init_scores: what the scores begin with, "random" or "importance".
    """
    if temperature >= FROZEN:
        return []
    kept = "that importance ranks first" if init_scores == "importance" else "of the random start"
    annealing, ste, final = map(spelling, ("annealing", "use_ste", "final_temperature"))
    return [
        f"THE SCORES WILL NOT LEARN: without {annealing} the temperature is {temperature:g} throughout, "
        f"where the sampler has no gradient, so the heads that are kept are those {kept}. Add "
        f"{annealing}, or {ste}, or a {final} of 0.01 or more."
    ]


def unfinished_cooldown(cooling: ExponentialCooling, updates: int, spelling: Spelling) -> list[str]:
    """Warn of a cool-down that is longer than a training of so many updates."""
    if cooling.start + cooling.steps <= updates:
        return []
    start = f" from update {cooling.start:,} on" if cooling.start else ""
    return [
        f"THE COOL-DOWN WILL NOT END: it takes {cooling.steps:,} updates{start}, the training has "
        f"{updates:,}. The temperature ends at {cooling(updates):.3g}, not at {cooling.final:g}: the model "
        f"is trained with soft gates and deployed with hard ones. Give {spelling('cooldown_steps')} that "
        "the training has room for."
    ]


def closed_heads(gates: HeadScores, spelling: Spelling) -> list[str]:
    """Say how many heads were closed, and what to change where those are none, all, or too few."""
    if isinstance(gates, LagrangianGates):
        return _held_heads(gates, spelling)
    if isinstance(gates, AlmostSureGates):
        return _sure_heads(gates, spelling)
    count, option = gates.num_heads, spelling("l0_penalty")
    by_penalty = int((gates.scores > 0).sum())
    said = f"{option} {gates.l0_penalty:g} kept {by_penalty} of {count} heads (log_a above 0)"
    if gates.budget is not None:
        deployed = int(gates.keep().sum())
        return [f"{said}; the budget deploys exactly {deployed}, those with the largest log_a"]
    if not count or 0 < by_penalty < count:
        return [said]
    problem = "EVERY HEAD IS CLOSED: lower" if by_penalty == 0 else "NO HEAD IS CLOSED: raise"
    return [said, f"{problem} {option}, or give {spelling('num_of_heads')} K to keep exactly K"]


# So far from its target, a share, a Lagrangian has not done its work.
_NEAR = 0.05


def _held_heads(gates: LagrangianGates, spelling: Spelling) -> list[str]:
    """Say how far the constraint has closed the gates, and what to do where that is not far enough."""
    if not gates.targets.numel():
        return []
    closed, wanted = gates.closed().detach(), gates.progress() * gates.targets
    shares = ", ".join(f"{float(a):.3f} of {float(b):.3f}" for a, b in zip(closed, gates.targets))
    said = f"{spelling('closing')} lagrangian has closed {shares} (shares); {int(gates.keep().sum())} of "
    said += f"{gates.num_heads} heads are deployed"
    if float((closed - wanted).abs().max()) <= _NEAR and gates.progress() == 1.0:
        return [said]
    names = spelling("closing_updates"), spelling("pruning_lr")
    cure = f"train longer, or give a smaller {names[0]} or a larger {names[1]}"
    return [said, f"THE GATES HAVE NOT SETTLED: {cure}"]


def _sure_heads(gates: AlmostSureGates, spelling: Spelling) -> list[str]:
    """Say how many gates are closed for good, and what to do where those are not the ones to close."""
    closed, wanted = int((gates.scores <= -CLIP).sum()), gates.num_heads - int(gates.keep().sum())
    said = (
        f"{spelling('closing')} pass has closed {closed} gates for good (scores of -5 or less) of {wanted} "
    )
    said += f"that are to close; {gates.num_heads - wanted} of {gates.num_heads} heads are deployed"
    if closed == wanted:
        return [said]
    names = spelling("pruning_lr"), spelling("round_updates")
    return [
        said,
        f"THE GATES HAVE NOT SETTLED: train longer, or give a larger {names[0]}, or other {names[1]}",
    ]
