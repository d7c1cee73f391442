"""DiffBank: switching is bit for bit, and a mixed batch gives the answers of its tasks one by one."""

from __future__ import annotations

import pytest
import torch
from diff_packs import SmallModel, random_pack, same, snapshot, take_way
from torch import nn

from dsp_plugin.diffs.packs.pack import DiffPack
from dsp_plugin.diffs.serving.bank import DiffBank

LABELS = {"a": 2, "b": 3, "c": 1, "d": 2}


def bank_of(model: nn.Module, **kwargs) -> DiffBank:
    bank = DiffBank(model)
    for seed, (name, labels) in enumerate(LABELS.items()):
        bank.add(name, random_pack(model, seed, labels=labels, **kwargs))
    return bank


@pytest.fixture
def model() -> SmallModel:
    return SmallModel(dtype=torch.float64)


def one_by_one(bank: DiffBank, tasks, **batch) -> list:
    answers = []
    for row, name in enumerate(tasks):
        bank.switch(name)
        with torch.no_grad():
            answers.append(bank.model(**{key: value[row : row + 1] for key, value in batch.items()}))
    bank.switch(None)
    return answers


def ids(rows: int, length: int = 5) -> torch.Tensor:
    return torch.randint(40, (rows, length), generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_switching_gives_each_tasks_weights_and_the_base_bit_for_bit(dtype):
    model = SmallModel(dtype=dtype)
    base = snapshot(model)
    bank = bank_of(model)
    expected = {None: base}
    for seed, (name, labels) in enumerate(LABELS.items()):
        alone = SmallModel(labels, dtype)
        reference = SmallModel(dtype=dtype)
        random_pack(reference, seed, labels=labels).apply(alone)
        expected[name] = snapshot(alone)
    for name in ["a", "c", "b", None, "d", "d", "a", None, "b", "c", None]:
        bank.switch(name)
        assert bank.task == name
        assert same(snapshot(model), expected[name]), name


@pytest.mark.parametrize("way", ["whole", "sparse", "compiled"])
@pytest.mark.parametrize(
    "tasks", [["a", "b", "c", "d"], list("bbaadd"), list("cabacabd"), ["b"], ["d", "d", "d"]]
)
def test_a_mixed_batch_gives_the_answers_one_by_one(model, tasks, way, monkeypatch):
    take_way(way, monkeypatch)
    bank = bank_of(model)
    base = snapshot(model)
    batch = {"ids": ids(len(tasks))}
    expected = one_by_one(bank, tasks, **batch)
    with bank.mixed(tasks):
        mixed = model(**batch)
    for found in (
        mixed,
        bank.run(tasks, **batch),
        bank.grouped(tasks, **batch),
        bank.run(tasks, batch["ids"]),
    ):
        for row, (name, answer) in enumerate(zip(tasks, expected)):
            assert torch.allclose(found["words"][row], answer["words"][0], atol=1e-12)
            logits = found["logits"][row]
            assert torch.allclose(logits[: LABELS[name]], answer["logits"][0], atol=1e-12)
            assert bool((logits[LABELS[name] :] == -torch.inf).all())
        assert found["logits"].shape[1] == max(LABELS[name] for name in tasks)
    assert same(snapshot(model), base)
    assert not any("forward" in vars(module) for module in model.modules())


def test_mixing_goes_back_to_the_task_that_was_there(model):
    bank = bank_of(model)
    bank.switch("c")
    before = snapshot(model)
    bank.run(["a", "b"], ids(2))
    bank.grouped(["a", "b"], ids(2))
    assert bank.task == "c" and same(snapshot(model), before)


def test_an_error_inside_a_mixed_forward_leaves_the_base(model):
    bank = bank_of(model)
    base = snapshot(model)
    with pytest.raises(IndexError):
        bank.run(["a", "b"], torch.full((2, 5), 40))
    assert same(snapshot(model), base) and not any("forward" in vars(module) for module in model.modules())
    bank.run(["a", "b"], ids(2))


class Awkward(nn.Module):
    """Modules of kinds that nobody planned for: a parameter beside children, an RMS norm, a scaled
    embedding.
    """

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(8))
            self.inner = nn.Linear(8, 8)

        def forward(self, x, shift):
            return self.inner(x) * self.scale + shift

    class Scaled(nn.Embedding):
        def forward(self, ids):
            return 3 * super().forward(ids)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = self.Scaled(40, 8), nn.Embedding(5, 8)
        self.norm, self.scale = nn.RMSNorm(8), self.Scale()
        self.convolution = nn.Conv1d(8, 8, 3, padding=1)
        self.double()

    def forward(self, ids, shift):
        x = self.words(ids) + self.places(torch.arange(ids.shape[1])[None])
        x = self.norm(self.scale(x, shift=shift))
        return self.convolution(x.transpose(1, 2)), x[:, 0]


def test_modules_of_any_kind_follow_their_rows():
    model = Awkward().eval()
    bank = DiffBank(model)
    for seed, name in enumerate("abc"):
        bank.add(name, random_pack(model, seed, task_head=(), density=0.3))
    tasks = ["c", "a", "a", "b", "c", "b", "a"]
    batch = {"ids": ids(7), "shift": torch.randn(7, 1, 8, dtype=torch.float64)}
    expected = one_by_one(bank, tasks, **batch)
    first, second = bank.run(tasks, **batch)
    for row, answer in enumerate(expected):
        assert torch.allclose(first[row], answer[0][0], atol=1e-12)
        assert torch.allclose(second[row], answer[1][0], atol=1e-12)


class Flat(nn.Module):
    """Rows and tokens in one dimension; and a weight that is used without calling its module."""

    def __init__(self, bypass: bool):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.layer, self.bypass = nn.Embedding(40, 8), nn.Linear(8, 8), bypass

    def forward(self, ids):
        x = self.words(ids).flatten(0, 1)
        x = nn.functional.linear(x, self.layer.weight) if self.bypass else self.layer(x)
        return x.view(*ids.shape, -1)


@pytest.mark.parametrize(
    "bypass, reason",
    [(True, "layer changed, but was not called"), (False, r"layer \(Linear\) gets \[15, 8\]")],
)
def test_what_cannot_be_mixed_is_refused_by_name_and_grouped_serves_it(bypass, reason):
    model = Flat(bypass).eval()
    bank = DiffBank(model)
    for seed, name in enumerate("ab"):
        bank.add(name, random_pack(model, seed, task_head=(), density=0.3))
    tasks = ["a", "b", "a"]
    with pytest.raises(ValueError, match=f"tasks cannot be mixed.*{reason}.*use grouped"):
        bank.run(tasks, ids(3))
    found = bank.grouped(tasks, ids(3))
    for row, answer in enumerate(one_by_one(bank, tasks, ids=ids(3))):
        assert torch.allclose(found[row], answer[0])


class TimeMajor(nn.Module):
    """[rows, length] ids, turned to [length, rows, 8] inside, as fairseq's models do; `longer` adds tokens
    inside.
    """

    def __init__(self, longer: int = 0):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.layer, self.longer = nn.Embedding(40, 8), nn.Linear(8, 8), longer
        self.double()

    def forward(self, ids):
        x = nn.functional.pad(self.words(ids), (0, 0, self.longer, 0))
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


def bank_of_two(model: nn.Module, **options) -> DiffBank:
    bank = DiffBank(model.eval(), **options)
    for seed, name in enumerate("ab"):
        bank.add(name, random_pack(model, seed, task_head=(), density=0.3))
    return bank


def test_a_batch_as_long_as_it_has_rows_is_not_taken_for_its_transpose():
    """Of a model whose rows come second inside, every length is refused; of others, every length is
    served.
    """
    tasks = list("ababb")
    for model, length in [
        (TimeMajor(), 5),
        (TimeMajor(), 6),
        (TimeMajor(longer=1), 4),
        (TimeMajor(longer=1), 5),
    ]:
        bank = bank_of_two(model)
        with pytest.raises(ValueError, match="tasks cannot be mixed.*use grouped"):
            bank.run(tasks, ids(5, length))
    model = SmallModel(dtype=torch.float64)
    bank, batch = bank_of_two(model), {"ids": ids(5, 5)}
    calls = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs["ids"])), with_kwargs=True
    )
    found = bank.run(tasks, **batch)
    hook.remove()
    for row, answer in enumerate(one_by_one(bank, tasks, **batch)):
        assert torch.allclose(found["logits"][row], answer["logits"][0], atol=1e-12)
    assert calls == [6] and len(found["logits"]) == len(found["words"]) == 5
    with (
        pytest.raises(ValueError, match="5 rows that has another size of 5.*use run or grouped"),
        bank.mixed(tasks),
    ):
        model(**batch)
    assert not model._forward_pre_hooks
    vouched = bank_of_two(SmallModel(dtype=torch.float64), rows_first=True)
    with vouched.mixed(tasks):
        assert torch.allclose(vouched.model(**batch)["logits"], found["logits"], atol=1e-12)


def test_an_output_that_counts_a_repeated_row_in_is_refused():
    class Mean(SmallModel):
        def forward(self, ids):
            return super().forward(ids)["logits"].mean()

    bank = bank_of_two(Mean(dtype=torch.float64))
    with pytest.raises(ValueError, match=r"an output is \[\].*use grouped"):
        bank.run(list("ababb"), ids(5, 5))


def test_an_unknown_task_is_refused_by_name(model):
    bank = bank_of(model)
    for call in (
        bank.switch,
        bank.remove,
        lambda name: bank.run([name], ids(1)),
        lambda name: bank.grouped([name], ids(1)),
    ):
        with pytest.raises(ValueError, match="no task 'x'; it has a, b, c, d"):
            call("x")


def test_a_pack_that_does_not_fit_is_refused(model):
    bank = bank_of(model)
    base = snapshot(model)
    bank.switch("b")
    other = SmallModel(dtype=torch.float64)
    with torch.no_grad():
        other.body["0"].bias[0] += 1
    cases = [
        ("a", random_pack(SmallModel(dtype=torch.float64), 0), "a task 'a' already"),
        ("x", random_pack(other, 0), "wrong base"),
        ("x", random_pack(SmallModel(), 0), "is float64, the diff was made on float32"),
        ("x", wide_head(model), "only the number of labels may differ"),
        ("x", foreign_head(model), "lacks scorer.bias"),
    ]
    for name, pack, reason in cases:
        with pytest.raises(ValueError, match=reason):
            bank.add(name, pack)
    bank.switch(None)
    assert bank.tasks == list(LABELS) and same(snapshot(model), base)


def wide_head(model: nn.Module) -> DiffPack:
    pack = random_pack(SmallModel(dtype=torch.float64), 0)
    return DiffPack.create(pack.diff, pack.base, {"classifier.weight": torch.zeros(2, 17)})


def foreign_head(model: nn.Module) -> DiffPack:
    pack = random_pack(SmallModel(dtype=torch.float64), 0)
    return DiffPack.create(pack.diff, pack.base, {"scorer.bias": torch.zeros(2)})


def test_a_removed_task_is_gone(model):
    bank = bank_of(model)
    base = SmallModel(dtype=torch.float64)
    bank.switch("b")
    bank.remove("b")
    assert bank.task is None and bank.tasks == ["a", "c", "d"] and same(snapshot(model), snapshot(base))
    bank.add("b", random_pack(model, 9))
    bank.run(["a", "b"], ids(2))


@pytest.mark.parametrize(
    "tasks, words",
    [
        (None, "a list with the name of a task"),
        ("ab", "a list with the name of a task"),
        ([], "there is none"),
        ([None, "a"], r"tasks\[0\] is None.*switch\(None\)"),
        (["a", 1], r"tasks\[1\] is 1"),
        (["a"], "1 tasks for a batch of 2 rows"),
        (["a", "b", "a"], "3 tasks for a batch of 2 rows"),
        (["a"] * 4, "4 tasks for a batch of 2 rows"),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", ["run", "grouped"])
def test_tasks_that_do_not_fit_the_rows_are_refused(model, tasks, words, way):
    bank = bank_of(model)
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(ValueError, match=words):
        getattr(bank, way)(tasks, ids(2))
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters()))
