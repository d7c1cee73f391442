"""DSEE on fairseq: the live model, the file read back and the merged checkpoint are one model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("fairseq")

from dsee_mt import (
    ENTRIES,
    RANK,
    UPDATE,
    build_with,
    live_model,
    read_base,
    scores_of,
    scores_of_state,
    trained_file,
    write_base,
)

from dsp_plugin.dsee.artefact import DseeFile
from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dsp_plugin.mt.dsee.deployed import frozen_of, merged_state
from dsp_plugin.mt.dsee.files import file_of_checkpoint, noted, write_file
from dsp_plugin.mt.dsee.layer import place_updates, updated_layers
from dsp_plugin.mt.dsee.merging import merge_into, options_after
from dsp_plugin.mt.dsee.pruning import Pruning, prunable, prune_file, score_heads
from dsp_plugin.mt.surgery.pruning import prune_state
from dsp_plugin.options.errors import OptionError

HEADS = Pruning(prune_heads_num=2)
# what is pruned -> how
PRUNINGS = {
    "nothing": [],
    "heads": [HEADS],
    "neurons": [Pruning(prune_neurons=0.5, neurons=5)],
    "both": [Pruning(prune_heads_num=1, prune_neurons=0.25, neurons=5)],
    "weights": [Pruning(0.3, 0.4, "ABS")],
    "all": [Pruning(0.3, 0.4, "WABS", 1, 0.25, 5)],
    "weights, then heads": [Pruning(0.2, 0.0), HEADS],
    "heads, then neurons, then weights": [HEADS, Pruning(prune_neurons=0.5, neurons=5), Pruning(0.5, 0.5)],
}


@pytest.fixture(scope="module")
def path(tiny_data, tmp_path_factory):
    return write_base(tiny_data, tmp_path_factory.mktemp("base") / "base.pt")


@pytest.fixture(scope="module")
def smaller(path):
    """The same base with uneven heads, one block without any."""
    state = load_checkpoint(str(path))
    keep = torch.ones(24, dtype=torch.bool)
    keep[4:8] = False  # encoder layer 1
    keep[0] = keep[9] = keep[17] = False
    save_checkpoint(prune_state(state, mask=keep).state, str(path.parent / "smaller.pt"))
    return path.parent / "smaller.pt"


def pruned(base, name, targets="query,key,value,output") -> DseeFile:
    file = trained_file(base, targets)
    for pruning in PRUNINGS[name]:
        file = prune_file(base, file, pruning)
    return file


def dense_reference(base, file) -> torch.Tensor:
    """Scores by other means: updates written into the whole base, units closed by zeros in its outputs.

    For files that S1 has taken nothing from.
    """
    tensors = dict(base.source.tensors)
    whole = trained_file(base, "query,key,value,output").updates
    for name, update in whole.items():
        change = update.up @ update.down
        change.view(-1)[update.positions] += update.values
        tensors[name] = tensors[name] + update.scale * change
    for block, units in (file.kept or {}).items():
        if block.endswith("fc2"):
            weight = tensors[f"{block}.weight"].clone()
            groups = weight.shape[1] // file.groups[block]
            weight.view(len(weight), groups, -1)[:, [g for g in range(groups) if g not in units]] = 0
            tensors[f"{block}.weight"] = weight
        elif f"{block}.out_proj.weight" in tensors:
            weight = tensors[f"{block}.out_proj.weight"].clone()
            heads = weight.shape[1] // 4
            weight.view(len(weight), heads, 4)[:, [h for h in range(heads) if h not in units]] = 0
            tensors[f"{block}.out_proj.weight"] = weight
    return scores_of_state({"cfg": {"model": base.options}, "model": tensors})


@pytest.mark.parametrize("name", PRUNINGS)
def test_live_reloaded_and_merged_are_one_model(name, tiny_data, path, tmp_path):
    base = read_base(str(path))
    file = pruned(base, name)
    write_file(file, tmp_path / "task.dsee.safetensors")
    task, live = live_model(tiny_data, path, dsee_checkpoint=str(tmp_path / "task.dsee.safetensors"))
    found = scores_of(live)
    merged = merge_into(base, DseeFile.load(tmp_path / "task.dsee.safetensors"))
    torch.testing.assert_close(found, scores_of_state(merged), rtol=1e-5, atol=1e-4)
    assert (found - scores_of(base.model())).abs().max() > 0.01
    if "weights" not in name and name != "all":
        torch.testing.assert_close(found, dense_reference(base, file), rtol=1e-5, atol=1e-4)
    # and what a checkpoint of it says is the same file
    state = {**load_checkpoint(str(path)), "model": live.state_dict(), "task_state": task.state_dict()}
    save_checkpoint(state, str(tmp_path / "checkpoint.pt"))
    again = file_of_checkpoint(str(tmp_path / "checkpoint.pt"), base)
    assert (again.kept, again.groups, again.masks) == (file.kept, file.groups, file.masks)
    for key, update in file.updates.items():
        for part in ("down", "up", "positions", "values"):
            assert torch.equal(getattr(again.updates[key], part), getattr(update, part))
    # nothing but the update learns
    learns = {key for key, one in live.named_parameters() if one.requires_grad}
    assert learns and all(".update." in key for key in learns)
    assert sum(dict(live.named_parameters())[key].numel() for key in learns) == file.count


@pytest.mark.parametrize("name", ["nothing", "heads", "all"])
def test_a_base_that_has_lost_heads_already(name, tiny_data, smaller, tmp_path):
    base = read_base(str(smaller))
    file = trained_file(base)
    pruning = {"heads": Pruning(prune_heads_num=1), "all": Pruning(0.2, 0.2, "WABS", 1, 0.5, 5)}.get(name)
    if pruning:
        file = prune_file(base, file, pruning)
    write_file(file, tmp_path / "f.safetensors")
    _, live = live_model(tiny_data, smaller, dsee_checkpoint=str(tmp_path / "f.safetensors"))
    merged = merge_into(base, file)
    torch.testing.assert_close(scores_of(live), scores_of_state(merged), rtol=1e-5, atol=1e-4)
    # the options that are worked out without the weights are those of the merged checkpoint
    expected, found = merged["cfg"]["model"], options_after(base.options, file)
    assert {key: found[key] for key in ("kept_heads", "neurons")} == {
        key: expected.get(key) for key in ("kept_heads", "neurons")
    }


def test_a_new_update_changes_nothing_and_has_the_sizes_asked_for(tiny_data, path, tmp_path):
    _, live = live_model(tiny_data, path, **UPDATE)
    torch.testing.assert_close(scores_of(live), scores_of(read_base(str(path)).model()), rtol=0, atol=1e-5)
    layers = updated_layers(live)
    assert len(layers) == 2 * 6  # query and value of 2 + 2 self and 2 cross-attentions
    for layer in layers.values():
        assert layer.update.down.shape[0] == RANK and len(layer.update.values) == ENTRIES
        assert bool(layer.update.down.any()) and not bool(layer.update.up.any())
    again = live_model(tiny_data, path, **UPDATE)[1]
    for one, other in zip(live.parameters(), again.parameters()):
        assert torch.equal(one, other)


def test_the_heads_that_go_are_those_of_the_lowest_score(path):
    base = read_base(str(path))
    file = trained_file(base)
    scores = score_heads(frozen_of(base.source, file), file.updates, "WABS")
    kept = prune_file(base, file, HEADS).kept
    for block, found in scores.items():
        by_hand = []
        for head in range(4):
            total = 0.0
            for part in ("q_proj", "v_proj"):
                name = f"{block}.{part}.weight"
                one = file.updates[name]
                change = one.up @ one.down
                change.view(-1)[one.positions] += one.values
                rows = slice(4 * head, 4 * head + 4)
                total += float(change[rows].abs().sum() + base.tensors[name][rows].abs().sum())
            by_hand.append(total)
        assert found.tolist() == pytest.approx(by_hand, rel=1e-5)
        assert kept[block] == sorted(sorted(range(4), key=lambda head: by_hand[head])[2:])


def test_single_weights_go_in_two_groups_and_the_masked_merge_is_sparse(path):
    base = read_base(str(path))
    file = prune_file(base, trained_file(base), Pruning(0.3, 0.4, "ABS"))
    matrices = prunable(base.tensors)
    assert len(matrices) == 6 * 4 + 4 * 2
    gone = {name: mask.size - mask.kept for name, mask in file.masks.items()}
    for share, names in (
        (0.4, [name for name in matrices if name in file.updates]),
        (0.3, [name for name in matrices if name not in file.updates]),
    ):
        total = sum(base.tensors[name].numel() for name in names)
        assert sum(gone.get(name, 0) for name in names) == int(share * total + 0.5)
    sparse, live = merged_state(base.source, file, True)["model"], merged_state(base.source, file)["model"]
    for name, count in gone.items():
        assert int((sparse[name] == 0).sum()) >= count
        left = file.masks[name].mask()
        assert not bool(sparse[name][~left].any()) and torch.equal(sparse[name][left], live[name][left])
        if name in file.updates:
            assert bool(live[name][~left].any())  # the update fills it, as published
    # a larger share goes on, and nothing comes back; a smaller one is refused
    more = prune_file(base, file, Pruning(0.5, 0.4, "ABS"))
    for name, mask in file.masks.items():
        assert not bool((more.masks[name].mask() & ~mask.mask()).any())
    with pytest.raises(OptionError, match="^pruning_ratio is 0.1"):
        prune_file(base, file, Pruning(0.1, 0.4, "ABS"))


def test_what_a_checkpoint_says_is_looked_at(tiny_data, path, tmp_path):
    base = read_base(str(path))
    file = prune_file(base, trained_file(base), Pruning(0.3, 0.0))
    write_file(file, tmp_path / "f.safetensors")
    task, live = live_model(tiny_data, path, dsee_checkpoint=str(tmp_path / "f.safetensors"))
    good = {**load_checkpoint(str(path)), "model": live.state_dict(), "task_state": task.state_dict()}
    name = next(iter(file.masks))
    gone = (~file.masks[name].mask()).nonzero()[0].tolist()
    trained = {key: tensor.clone() for key, tensor in good["model"].items()}
    trained[name][tuple(gone)] = 1e-9
    part = {key: tensor for key, tensor in good["model"].items() if not key.endswith("q_proj.update.up")}
    wrong = {
        "something has trained what is frozen": {**good, "model": trained},
        "holds no update of DSEE's": {**good, "task_state": {}},
        "has no .*update.up": {**good, "model": part},
        "its note of DSEE is damaged": {**good, "task_state": {"dsee": {"base_hash": file.base.hash}}},
        "wrong base": {**good, "task_state": {"dsee": {**noted(file), "base_hash": "0" * 64}}},
    }
    for message, state in wrong.items():
        save_checkpoint(state, str(tmp_path / "c.pt"))
        with pytest.raises(ValueError, match=message):
            file_of_checkpoint(str(tmp_path / "c.pt"), base)
    save_checkpoint(good, str(tmp_path / "c.pt"))
    assert file_of_checkpoint(str(tmp_path / "c.pt"), base).masks == file.masks
    # entries outside their matrix, and a rank that would fill the memory
    outside = {key: tensor.clone() for key, tensor in good["model"].items()}
    outside["encoder.layers.0.self_attn.q_proj.update.rows"][0] = 16
    with pytest.raises(ValueError, match="q_proj.update.rows leave the matrix, which has 16"):
        live.load_state_dict(outside)
    with pytest.raises(OptionError, match="^lora_r is 1000000000000, above the width of encoder"):
        place_updates(base.model(), 10**12, 1.0, 10**12, ["query"])
    # nothing else takes the checkpoint for a plain model
    with pytest.raises(ValueError, match="holds an update of DSEE's or LoRA's beside its weights"):
        read_base(str(tmp_path / "c.pt"))


def test_another_base_is_refused(tiny_data, path, tmp_path):
    other = read_base(str(write_base(tiny_data, tmp_path / "other.pt", seed=2)))
    file = trained_file(read_base(str(path)))
    with pytest.raises(ValueError, match="wrong base: names and shapes fit, but the weights are others"):
        merge_into(other, file)
    with pytest.raises(ValueError, match="wrong base: the file was made on a Transformers model"):
        names = {f"bert.{name}": value for name, value in file.base.parameters.items()}
        merge_into(other, replace(file, base=replace(file.base, parameters=names)))


@pytest.mark.parametrize(
    "wanted, message",
    [
        ({"prune_heads_num": 4}, "^prune_heads_num 4|prune_heads_num: 4|leaves nothing of encoder"),
        ({"prune_neurons": 0.9, "neurons": 10}, "leaves nothing of encoder.layers.0.fc2"),
        ({"prune_neurons": 0.5, "neurons": 3}, "neurons 3|neurons: 3|must divide"),
        ({"prune_neurons": 0.5, "neurons": 0}, "neurons must be a whole number, 1 or more"),
        ({"pruning_ratio": 1.0}, "^pruning_ratio must be a share from 0 to below 1"),
        ({"ad_pruning_ratio": float("nan")}, "^ad_pruning_ratio must be a share"),
        ({"prune_neurons": -0.1}, "^prune_neurons must be a share"),
        ({"prune_mode": "BEST", "pruning_ratio": 0.1}, "^prune_mode must be one of"),
        ({"prune_mode": "AB", "prune_heads_num": 1}, "^prune_mode AB ranks no heads"),
        ({"prune_heads_num": 1.5}, "^prune_heads_num must be a whole number"),
        ({}, "^pruning_ratio or .* says what is to be pruned"),
    ],
)
def test_a_pruning_that_cannot_be(wanted, message, path):
    with pytest.raises(OptionError, match=message):
        Pruning(**wanted).check(read_base(str(path)), ["query", "value"])


def test_heads_are_ranked_by_query_and_value_that_something_has_trained(path):
    base = read_base(str(path))
    with pytest.raises(OptionError, match="^prune_heads_num ranks heads by what query and value"):
        HEADS.check(base, ["query"])
    with pytest.raises(ValueError, match="its value has no update"):
        prune_file(base, trained_file(base, "query"), HEADS)
    file = trained_file(base)
    zero = {name: replace(one, up=one.up * 0, values=one.values * 0) for name, one in file.updates.items()}
    with pytest.raises(ValueError, match="nothing has trained it"):
        prune_file(base, replace(file, updates=zero), replace(HEADS, prune_mode="ABS"))


# section of the configuration, option, value; what is said
REFUSED = [
    ("model", "lora_r", 17, "--lora-r is 17, above the width of a matrix of 16 x 16"),
    ("model", "lora_r", 0, "--lora-r 0: a whole number, 1 or more"),
    ("model", "lora_alpha", -1.0, "--lora-alpha -1.0: a finite number above 0"),
    ("model", "num_sparse", 257, "--num-sparse is 257 entries a matrix"),
    ("model", "sparse_method", "best", "--sparse-method must be one of grebsmo, omp, rp"),
    ("model", "dsee_targets", "query,gate", "--dsee-targets 'query,gate': some of query, key, value, output"),
    ("model", "quant_noise_pq", 0.1, "--quant-noise-pq writes into the weights"),
    ("task", "base_checkpoint", None, "--base-checkpoint FILE: name the trained model that is updated"),
    ("task", "base_checkpoint", "/nowhere.pt", "--base-checkpoint /nowhere.pt: no such file"),
    ("task", "dsee_checkpoint", "/nowhere", "--dsee-checkpoint: /nowhere|--dsee-checkpoint /nowhere"),
    ("task", "dsee_checkpoint", "OTHERS", "--dsee-checkpoint.*wrong base"),
    ("common", "fp16", True, "--fp16 and --bf16 round the frozen base"),
    ("common", "bf16", True, "--fp16 and --bf16 round the frozen base"),
    ("distributed_training", "ddp_backend", "fully_sharded", "--ddp-backend fully_sharded"),
    ("distributed_training", "zero_sharding", "os", "--ddp-backend fully_sharded and --zero-sharding"),
    ("ema", "store_ema", True, "--store-ema and --use-bmuf average weights"),
    ("optimization", "use_bmuf", True, "--store-ema and --use-bmuf average weights"),
    ("checkpoint", "finetune_from_model", "OTHER", "--finetune-from-model and --base-checkpoint name two"),
    ("checkpoint", "restore_file", "BASE", "holds no update: a training starts from --base-checkpoint"),
]


@pytest.fixture(scope="module")
def files(tiny_data, path):
    """What the table of refusals names."""
    folder = path.parent
    other = write_base(tiny_data, folder / "other.pt", seed=2)
    write_file(trained_file(read_base(str(path))), folder / "file.safetensors")
    write_file(trained_file(read_base(str(other))), folder / "others.safetensors")
    names = {
        "FILE": "file.safetensors",
        "OTHERS": "others.safetensors",
        "OTHER": "other.pt",
        "BASE": "base.pt",
    }
    return {name: str(folder / file) for name, file in names.items()}


@pytest.mark.parametrize("section, option, value, message", REFUSED)
def test_a_training_that_cannot_be(section, option, value, message, tiny_data, files, tmp_path):
    changes = [("task", "base_checkpoint", files["BASE"]), (section, option, files.get(value, value))]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build_with(tiny_data, changes)


def test_half_of_the_method(tiny_data, files):
    base = ("task", "base_checkpoint", files["BASE"])
    with pytest.raises(ValueError, match="--arch dsp_transformer: updates are trained on dsee_transformer"):
        build_with(tiny_data, [base], arch="dsp_transformer")
    for task in ("translation",):
        with pytest.raises(
            ValueError, match=f"--task {task} has no base .*--task dsee_translation and --base-c"
        ):
            build_with(tiny_data, [], task=task)
    with pytest.raises(ValueError, match="another architecture.*encoder_layers: 2 there, 6 here"):
        build_with(tiny_data, [base], arch="dsee_transformer_iwslt_de_en")


def test_options_of_a_new_update_beside_a_file(tiny_data, files):
    start = [("task", "base_checkpoint", files["BASE"]), ("task", "dsee_checkpoint", files["FILE"])]
    for option, same, other, message in (
        ("lora_r", RANK, 4, "--lora-r 4|--lora-r: 4"),
        ("num_sparse", ENTRIES, 6, "--num-sparse"),
        ("dsee_targets", "value,query", "key", "--dsee-targets"),
    ):
        _, model = build_with(tiny_data, [*start, ("model", option, same)])
        assert len(updated_layers(model)) == 12
        with pytest.raises(ValueError, match=message + ".*of --dsee-checkpoint, has"):
            build_with(tiny_data, [*start, ("model", option, other)])
