"""The names that command lines give groupings mean the same on both hosts."""

from __future__ import annotations

import pytest
from diff_models import HEAD, tiny

from dsp_plugin.diffs import DiffVector
from dsp_plugin.diffs.training.groups import group_function, grouping_name, method_name


@pytest.mark.parametrize(
    "switches, name, method",
    [
        ((1, 0, 0), "tensor", "diff-structured"),
        ((0, 0, 0), "none", "diff-unstructured"),
        ((1, 1, 0), "neuron", "diff-neuron"),
        ((1, 0, 1), "layer", "diff-layer"),
    ],
)
def test_switches_name_a_grouping(switches, name, method):
    assert grouping_name(*switches) == name and method_name(name) == method


@pytest.mark.parametrize("switches", [(0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_switches_that_exclude_each_other(switches):
    with pytest.raises(ValueError, match="exclude each other"):
        grouping_name(*switches)


def test_a_switch_is_0_or_1():
    with pytest.raises(ValueError, match="per_neuron_alpha must be 0 or 1, got 2"):
        grouping_name(1, 2, 0)


def test_groups_of_each():
    """The tiny classifier's body: an embedding of 7 rows (layer 0), a 6 x 6 matrix and its bias (layer 1),
    a norm (layer 2).
    """

    def groups(grouping):
        model = tiny()
        names = [name for name, _ in model.named_parameters()]
        return DiffVector(model, task_head=HEAD, grouping=group_function(grouping, names)).layout.groups

    assert groups("tensor") == 5 and groups("neuron") == 7 + 6 + 3 and groups("layer") == 3
    assert group_function("none", []) is None
    with pytest.raises(ValueError, match="must be one of tensor, neuron, layer, none"):
        group_function("row", [])
