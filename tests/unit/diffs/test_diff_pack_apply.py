"""Packs in models: applied in the base's dtype, reverted bit for bit, merged, and refused on any other
base.
"""

from __future__ import annotations

import pytest
import torch
from diff_packs import SmallModel, random_pack, same, snapshot
from safetensors.torch import load_file, save_file
from torch import nn

from dsp_plugin.artefacts.base import Base, base_hash, find_names
from dsp_plugin.diffs.packs.pack import DiffPack
from dsp_plugin.diffs.packs.undo_file import UndoRecord
from dsp_plugin.diffs.sparse import SparseDiff

IDS = torch.arange(12).view(2, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("values", ["float16", "bfloat16", "float32"])
def test_apply_is_the_dense_sum_and_revert_is_exact(dtype, values):
    model = SmallModel(dtype=dtype)
    pack = random_pack(model, 1, dtype=values)
    before = snapshot(model)
    undo = pack.apply(model)
    wide = torch.promote_types(dtype, torch.float32)
    after = dict(model.named_parameters())
    dense = dict(pack.diff.dense())
    assert len(dense) == len(pack.base.parameters) == 7
    for name, delta in dense.items():
        assert torch.equal(after[name], (before[name].to(wide) + delta.to(wide)).to(dtype)), name
    assert torch.equal(model.classifier.weight, pack.task_head["classifier.weight"])
    assert model.out.weight is model.body["words"].weight
    undo.revert(model)
    assert same(snapshot(model), before)


def test_revert_is_exact_where_subtracting_is_not():
    model = SmallModel()
    pack = random_pack(model, 1, dtype="float32")
    before = snapshot(model)
    undo = pack.apply(model)
    subtracted = {name: dict(model.named_parameters())[name] - delta for name, delta in pack.diff.dense()}
    assert not all(torch.equal(subtracted[name], before[name]) for name in subtracted)
    undo.revert(model)
    assert same(snapshot(model), before)


def test_two_packs_applied_and_reverted_in_turn():
    model = SmallModel()
    first, second = random_pack(model, 1), random_pack(model, 2)
    before = snapshot(model)
    outer = first.apply(model)
    with pytest.raises(ValueError, match="wrong base.*weights are others"):
        second.apply(model)
    inner = second.apply(model, check=False)
    with pytest.raises(ValueError, match="cannot revert"):
        outer.revert(model)
    inner.revert(model)
    outer.revert(model)
    assert same(snapshot(model), before)


@pytest.mark.parametrize(
    "trained, message",
    [
        ("body.0.weight", "body.0.weight is not as the diff left it"),
        ("classifier.bias", "the task head's classifier.bias is not as the diff left it"),
    ],
)
def test_a_revert_after_further_training_is_refused_and_changes_nothing(trained, message):
    model = SmallModel()
    undo = random_pack(model, 1).apply(model)
    place = undo.changes[trained].positions[3] if trained in undo.changes else 0  # the head is written whole
    with torch.no_grad():
        dict(model.named_parameters())[trained].view(-1)[place] += 1
    now = snapshot(model)
    with pytest.raises(ValueError, match=message):
        undo.revert(model)
    assert same(snapshot(model), now)


def test_a_revert_tells_zero_from_minus_zero():
    model = SmallModel()
    name, weight = "body.1.bias", model.body["1"].bias
    diff = SparseDiff({name: (torch.tensor([2]), -weight.detach()[2:3].clone())}, {name: tuple(weight.shape)})
    undo = DiffPack.create(diff, Base.of(model, ["classifier"]), dtype="float32").apply(model)
    assert weight[2] == 0
    with torch.no_grad():
        weight[2] = -weight[2]
    with pytest.raises(ValueError, match="body.1.bias is not as the diff left it"):
        undo.revert(model)


def test_the_head_can_be_left_alone():
    model = SmallModel(labels=5)
    before = snapshot(model)
    random_pack(model, 1, labels=2).apply(model, task_head=False)
    assert torch.equal(model.classifier.weight, before["classifier.weight"])
    assert not torch.equal(model.body["0"].weight, before["body.0.weight"])


def one_bit(model):
    with torch.no_grad():
        model.body["1"].bias.view(torch.int32)[2] ^= 1


def another_shape(model):
    model.body["1"] = nn.Linear(24, 17)


def renamed(model):
    model.body["2"] = model.body.pop("1")


def untied(model):
    model.out.weight = nn.Parameter(model.out.weight + 1)


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (one_bit, "wrong base: names and shapes fit, but the weights are others"),
        (another_shape, r"wrong base: body.1.bias has the shape \[17\], the diff was made on \[16\]"),
        (renamed, "wrong base: it lacks 2 of the diff's 7 parameters: body.1.bias"),
        (untied, "out.weight and body.words.weight differ"),
        (lambda model: model.half(), "wrong base: .* is float16, the diff was made on float32"),
        (
            lambda model: delattr(model, "classifier"),
            "no place for the pack's task head: it lacks classifier.bias",
        ),
        (
            lambda model: setattr(model, "classifier", nn.Linear(16, 3)),
            "classifier.bias has the shape .3.*as many labels",
        ),
    ],
)
def test_a_wrong_base_is_refused_before_any_weight_changes(spoil, reason):
    pack = random_pack(SmallModel(), 1)
    model = SmallModel()
    spoil(model)
    before = snapshot(model)
    with pytest.raises(ValueError, match=reason):
        pack.apply(model)
    assert same(snapshot(model), before)


def test_a_base_in_another_dtype_is_taken_unchecked():
    pack = random_pack(SmallModel(), 1)
    model = SmallModel(dtype=torch.bfloat16)
    before = snapshot(model)
    pack.apply(model, check=False).revert(model)
    assert same(snapshot(model), before)


def test_weights_that_are_not_contiguous():
    model = SmallModel()
    pack = random_pack(model, 4)
    expected = SmallModel()
    pack.apply(expected)
    model.body["0"].weight.data = model.body["0"].weight.data.t().contiguous().t()
    assert not model.body["0"].weight.is_contiguous()
    undo = pack.apply(model)
    assert same(snapshot(model), snapshot(expected))
    undo.revert(model)
    assert same(snapshot(model), snapshot(SmallModel()))


class TestDictionaries:
    """Weights that were read from a file, where tied weights are one tensor, two equal ones, or under one
    name only.
    """

    @pytest.fixture(params=["shared", "copied", "first name", "second name"])
    def state(self, request):
        state = snapshot(SmallModel())
        words, out = "body.words.weight", "out.weight"
        if request.param == "shared":
            state[out] = state[words]
        elif request.param == "first name":
            del state[out]
        elif request.param == "second name":
            del state[words]
        return {name: tensor for name, tensor in state.items() if not name.startswith("classifier")}

    def test_apply_and_revert(self, state):
        pack = random_pack(SmallModel(), 6)
        model = SmallModel()
        pack.apply(model)
        before = {name: tensor.clone() for name, tensor in state.items()}
        undo = pack.apply(state)
        expected = snapshot(model)
        assert same(
            state, {name: expected[name] for name in [*before, "classifier.weight", "classifier.bias"]}
        )
        undo.revert(state)
        assert same(state, before)

    def test_merge_leaves_the_base_alone(self, state):
        pack = random_pack(SmallModel(), 6)
        before = {name: tensor.clone() for name, tensor in state.items()}
        merged = pack.merge(state)
        assert same(state, before)
        model = SmallModel()
        model.load_state_dict(
            {"body.words.weight": merged.get("out.weight"), "out.weight": merged.get("body.words.weight")}
            | merged,
            strict=True,
        )
        reference = SmallModel()
        pack.apply(reference)
        assert torch.equal(model(IDS)["logits"], reference(IDS)["logits"])

    def test_the_undo_record_in_a_file(self, state, tmp_path):
        pack = random_pack(SmallModel(), 6)
        before = {name: tensor.clone() for name, tensor in state.items()}
        UndoRecord.of(pack.apply(state), pack.base, '{"a": 1}').save(tmp_path / "undo")
        record = UndoRecord.load(tmp_path / "undo")
        assert record.config == '{"a": 1}'
        once_more = {name: tensor.clone() for name, tensor in before.items()}
        record.restore(once_more)  # a kill between record and weights: nothing was applied yet
        assert same(once_more, before)
        assert record.restore(state) >= {"body.0.weight", "classifier.bias"}
        assert same(state, before)

    def test_the_record_made_from_the_base(self, state):
        pack = random_pack(SmallModel(), 6)
        before = {name: tensor.clone() for name, tensor in state.items()}
        pack.apply(state)
        UndoRecord.from_base(pack, before, state).restore(state)
        assert same(state, before)


def test_an_undo_record_of_another_model_is_refused(tmp_path):
    pack = random_pack(SmallModel(), 6)
    state = snapshot(SmallModel())
    UndoRecord.of(pack.apply(state), pack.base).save(tmp_path / "undo")
    other = snapshot(SmallModel())
    other["body.1.bias"] += 1
    with pytest.raises(ValueError, match="cannot revert: the model was changed since"):
        UndoRecord.load(tmp_path / "undo").restore(other)
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    (tmp_path / "damaged").write_bytes((tmp_path / "undo").read_bytes()[:-5])
    for name in ("other", "damaged"):
        with pytest.raises(ValueError, match=f"{name} is not an undo record"):
            UndoRecord.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no undo record at"):
        UndoRecord.load(tmp_path / "none")


class TestLeadingNames:
    """A pack made on a model with a head, for the bare base; and the other way round."""

    def test_merged_weights_have_the_packs_names(self):
        whole = SmallModel()
        pack = random_pack(whole, 3)
        bare = {
            name[len("body.") :]: tensor
            for name, tensor in snapshot(whole).items()
            if name.startswith("body.")
        }
        pack = without_output(pack)
        merged = pack.merge(bare)
        assert set(merged) == {f"body.{name}" for name in bare} | {"classifier.weight", "classifier.bias"}
        whole_after = SmallModel()
        pack.apply(whole_after)
        assert all(torch.equal(tensor, whole_after.state_dict()[name]) for name, tensor in merged.items())

    def test_apply_to_the_bare_base_and_to_one_wrapped_in_more(self):
        whole = SmallModel()
        pack = without_output(random_pack(whole, 3))
        before = snapshot(whole)
        undo = pack.apply(whole.body, task_head=False)
        assert not same(snapshot(whole), before)
        undo.revert(whole.body)
        wrapped = nn.ModuleDict({"model": whole})
        pack.apply(wrapped).revert(wrapped)
        assert same(snapshot(whole), before)

    def test_old_names_of_layer_norms(self):
        found = find_names(["x.LayerNorm.weight", "x.y"], {"a.x.LayerNorm.gamma": 0, "a.x.y": 0})
        assert found.called == {"x.LayerNorm.weight": "a.x.LayerNorm.gamma", "x.y": "a.x.y"}


def without_output(pack: DiffPack) -> DiffPack:
    """The pack as a model without the tied output would have made it."""
    return DiffPack(pack.diff, Base(pack.base.parameters, pack.base.hash, {}), pack.task_head, pack.config)


class TestBase:
    def test_the_hash_counts_every_name_type_shape_and_byte(self):
        state = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}
        changed = [
            {"a": state["a"], "c": state["b"]},
            {"a": state["a"].double(), "b": state["b"]},
            {"a": state["a"].view(2, 3), "b": state["b"]},
            {"a": state["a"] + torch.tensor([0, 0, 0, 0, 0, 1e-6]), "b": state["b"]},
            {"a": state["a"].view(torch.int32), "b": state["b"]},
            {"a": -state["a"], "b": state["b"]},
            {"a": state["a"]},
        ]
        hashes = {base_hash(other) for other in [state, *changed]}
        assert len(hashes) == 1 + len(changed)
        assert base_hash(dict(reversed(state.items()))) == base_hash(state)
        assert base_hash({"a": state["a"], "b": torch.ones(3, 2).t()}) == base_hash(state)

    def test_a_module_and_its_file_are_the_same_base(self, tmp_path):
        model = SmallModel()
        save_file(
            {n: t for n, t in snapshot(model).items() if n not in ("out.weight", "steps")}, tmp_path / "model"
        )
        here, there = Base.of(model, ["classifier"]), Base.of(load_file(tmp_path / "model"), ["classifier"])
        assert (here.hash, here.parameters) == (there.hash, there.parameters)
        assert here.tied == {"body.words.weight": ("out.weight",)} and there.tied == {}
        assert here.total == sum(p.numel() for p in model.parameters()) - 2 * 17

    def test_a_head_that_cannot_be_found(self):
        with pytest.raises(ValueError, match="the task head cannot be found: .*'qa_outputs'"):
            Base.of(SmallModel(), ["classifier", "qa_outputs"])
        with pytest.raises(ValueError, match="no parameters beside its task head"):
            Base.of(nn.ModuleDict({"classifier": nn.Linear(2, 2)}), ["classifier"])


def test_a_diff_of_the_whole_model_can_be_packed():
    """Density 1: every weight has a position."""
    model = SmallModel()
    pack = random_pack(model, 1, density=1.1)
    assert pack.density == 1.0
    assert isinstance(pack.diff, SparseDiff)
    before = snapshot(model)
    pack.apply(model).revert(model)
    assert same(snapshot(model), before)
