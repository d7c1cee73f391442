"""Delta-Tuning on fairseq: the live model, the file read back, and what a merge leaves are one model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("fairseq")

from delta_mt import ARCH, TASK, given, live_model, trained_file
from dsee_mt import build_with, read_base, scores_of, scores_of_state, write_base
from omegaconf import OmegaConf

from dsp_plugin.delta.artefact import DeltaFile
from dsp_plugin.delta.labels import label_of
from dsp_plugin.delta.parts import Part
from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dsp_plugin.mt.delta.files import file_of_checkpoint, noted, write_file
from dsp_plugin.mt.delta.layer import owner_of
from dsp_plugin.mt.delta.merging import merge_into, options_after, put_when_loaded
from dsp_plugin.mt.delta.starting import check_methods
from dsp_plugin.mt.surgery.equality import placeholder_task
from dsp_plugin.mt.surgery.pruning import prune_state
from dsp_plugin.options.errors import OptionError

STAGES = {
    "bias": ["bias"],
    "adapter": ["adapter"],
    "lora": ["lora"],
    "all, jointly": ["bias,adapter,lora"],
    "all, one by one": ["adapter", "lora", "bias"],
    "lora, then two": ["lora", "adapter,bias"],
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


def deployed(base, file: DeltaFile, path: str = "FILE"):
    """The model that --delta makes while the base is loaded."""
    from dsp_plugin.mt.delta.translation import DeltaTransformerModel

    options = base.options
    config = OmegaConf.create(options_after(options, file))
    model = DeltaTransformerModel.build_model(config, placeholder_task(base.tensors))
    put_when_loaded(model, file, path, options)
    model.load_state_dict(dict(base.tensors), strict=True)
    return model


def by_hand(base, file: DeltaFile) -> torch.Tensor:
    """Scores by other means: LoRA and biases written into a plain model, adapters as hooks of the test's."""
    model = base.model()
    parameters = dict(model.named_parameters())
    adapters: dict[str, dict[str, torch.Tensor]] = {}
    with torch.no_grad():
        for method, part in file.parts.items():
            for name, tensor in part.tensors.items():
                if method == "bias":
                    parameters[name].copy_(tensor)
                elif method == "adapter":
                    place = ".".join(name.split(".")[:-2])
                    adapters.setdefault(place, {})[name[len(place) + 1 :]] = tensor
                elif name.endswith(".up"):
                    down = part.tensors[name.removesuffix("up") + "down"]
                    parameters[name.removesuffix(".up")].add_(2.0 * tensor @ down)  # alpha 6, r 3
    for place, one in adapters.items():

        def adapt(module, inputs, output, one=one):
            x = output[0] if isinstance(output, tuple) else output
            inner = x @ one["down.weight"].T + one["down.bias"]
            x = x + (inner * torch.sigmoid(inner)) @ one["up.weight"].T + one["up.bias"]
            return (x, *output[1:]) if isinstance(output, tuple) else x

        model.get_submodule(place).register_forward_hook(adapt)
    return scores_of(model)


@pytest.mark.parametrize("kind", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("name", STAGES)
def test_live_reloaded_and_deployed_are_one_model(name, kind, tiny_data, path, tmp_path):
    base, stages = read_base(str(path)), STAGES[name]
    if kind == "pfeiffer" and "adapter" not in ",".join(stages):
        pytest.skip("has no adapter")
    file = trained_file(base, *stages, adapter=kind)
    write_file(file, tmp_path / "task.delta.safetensors")
    again = DeltaFile.load(tmp_path / "task.delta.safetensors")
    found = scores_of(deployed(base, again))
    torch.testing.assert_close(found, by_hand(base, file), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found, scores_of_state(merge_into(base, again)), rtol=1e-5, atol=1e-4)
    assert (found - scores_of(base.model())).abs().max() > 0.01
    # as it was trained: with the last stage's tensors put in, the same numbers to the bit
    earlier = None
    if len(stages) > 1:
        earlier = str(tmp_path / "earlier.safetensors")
        write_file(trained_file(base, *stages[:-1], adapter=kind), earlier)
    options = given(stages[-1]) | ({"adapter": kind} if "adapter" in stages[-1] else {})
    task, live = live_model(tiny_data, path, earlier, **options)
    live.load_state_dict(deployed(base, again).state_dict(), strict=True)
    assert torch.equal(scores_of(live), found)
    # and what a checkpoint of it says is the same file
    state = {**load_checkpoint(str(path)), "model": live.state_dict(), "task_state": task.state_dict()}
    save_checkpoint(state, str(tmp_path / "checkpoint.pt"))
    packed = file_of_checkpoint(str(tmp_path / "checkpoint.pt"), base)
    for method, part in file.parts.items():
        assert packed.parts[method].stage == part.stage
        assert {*packed.parts[method].tensors} == {*part.tensors}
        assert all(torch.equal(packed.parts[method].tensors[key], one) for key, one in part.tensors.items())
    # exactly the last stage's parameters learn
    learns = {key: one for key, one in live.named_parameters() if one.requires_grad}
    last = stages[-1].split(",")
    assert {owner_of(key) for key in learns} == {*last}
    assert sum(one.numel() for one in learns.values()) == sum(file.parts[method].count for method in last)


@pytest.mark.parametrize("name", ["all, jointly", "all, one by one"])
def test_a_base_that_has_lost_heads(name, smaller):
    base = read_base(str(smaller))
    file = trained_file(base, *STAGES[name])
    found = scores_of(deployed(base, file))
    torch.testing.assert_close(found, by_hand(base, file), rtol=1e-5, atol=1e-4)
    merged = merge_into(base, file)
    torch.testing.assert_close(found, scores_of_state(merged), rtol=1e-5, atol=1e-4)
    assert merged["cfg"]["model"]["kept_heads"] == base.options["kept_heads"]


def test_a_merge_of_biases_and_lora_is_a_plain_model(path):
    base = read_base(str(path))
    merged = merge_into(base, trained_file(base, "bias,lora"))
    assert merged["cfg"]["model"]["_name"] == "dsp_transformer" and {*merged["model"]} == {*base.tensors}
    with_modules = merge_into(base, trained_file(base, "bias,lora,adapter"))
    assert with_modules["cfg"]["model"]["_name"] == ARCH
    more = {*with_modules["model"]} - {*base.tensors}
    assert more and all(".adapter." in name for name in more)


def test_a_new_delta_is_nearly_the_base(tiny_data, path):
    plain = scores_of(read_base(str(path)).model())
    for methods, distance in (("bias,lora", 0.0), ("bias,adapter,lora", 0.05)):
        _, live = live_model(tiny_data, path, **given(methods))
        torch.testing.assert_close(scores_of(live), plain, rtol=0, atol=1e-5 + distance)
    again = live_model(tiny_data, path, **given("bias,adapter,lora"))[1]
    for one, other in zip(live.parameters(), again.parameters()):
        assert torch.equal(one, other)
    # two adapters in an encoder's layer, three in a decoder's; its width is 16
    adapters = [name for name in again.state_dict() if name.endswith("adapter.down.weight")]
    assert len(adapters) == 2 * 2 + 2 * 3
    assert {tuple(again.state_dict()[name].shape) for name in adapters} == {(4, 16)}


def test_what_a_checkpoint_says_is_looked_at(tiny_data, path, tmp_path):
    base = read_base(str(path))
    write_file(trained_file(base, "bias"), tmp_path / "bias.safetensors")
    task, live = live_model(tiny_data, path, str(tmp_path / "bias.safetensors"), **given("adapter"))
    good = {**load_checkpoint(str(path)), "model": live.state_dict(), "task_state": task.state_dict()}
    note = good["task_state"]["delta"]

    def moved(name):
        model = {key: tensor.clone() for key, tensor in good["model"].items()}
        model[name].view(-1)[0] += 1e-3
        return {**good, "model": model}

    part = {key: one for key, one in good["model"].items() if not key.endswith("fc2.adapter.up.bias")}
    wrong = {
        "fc1.weight is not what base and file say.*something has trained": moved(
            "encoder.layers.0.fc1.weight"
        ),
        "has trained what an earlier stage has left": moved("encoder.layers.0.fc1.bias"),
        "holds no delta": {**good, "task_state": {}},
        "has no up.bias": {**good, "model": part},
        "its note of the delta is damaged": {
            **good,
            "task_state": {"delta": {"base_hash": note["base_hash"]}},
        },
        "wrong base": {**good, "task_state": {"delta": {**note, "base_hash": "0" * 64}}},
        "on fairseq there are bias": {
            **good,
            "task_state": {"delta": {**note, "parts": {**note["parts"], "diff": [2, {}]}}},
        },
    }
    for message, state in wrong.items():
        save_checkpoint(state, str(tmp_path / "c.pt"))
        with pytest.raises(ValueError, match=message):
            file_of_checkpoint(str(tmp_path / "c.pt"), base)
    save_checkpoint(good, str(tmp_path / "c.pt"))
    assert noted(file_of_checkpoint(str(tmp_path / "c.pt"), base))["earlier"] == note["earlier"]
    with pytest.raises(ValueError, match="holds adapters beside its weights"):
        read_base(str(tmp_path / "c.pt"))


def test_files_that_do_not_fit(tiny_data, path, tmp_path):
    base = read_base(str(path))
    other = read_base(str(write_base(tiny_data, tmp_path / "other.pt", seed=2)))
    file = trained_file(base, "bias,adapter,lora")
    with pytest.raises(ValueError, match="wrong base: names and shapes fit, but the weights are others"):
        merge_into(other, file)
    with pytest.raises(ValueError, match="--delta.*wrong base"):
        deployed(other, file)

    def with_part(method, **changes):
        part = file.parts[method]
        changed = Part(
            part.stage, {**part.settings, **changes.pop("settings", {})}, {**part.tensors, **changes}
        )
        return replace(file, parts={**file.parts, method: changed})

    fewer = file.parts["bias"].tensors.copy()
    fewer.pop(next(iter(fewer)))
    for broken, message in (
        (with_part("adapter", settings={"adapter": "pfeiffer"}), "its adapter has .* there is nothing"),
        (with_part("adapter", settings={"reduction": 2}), r"there is \[8"),
        (with_part("lora", settings={"targets": ["query"]}), "v_proj.weight.down, where .* nothing"),
        (with_part("lora", settings={"rank": 2}), "scale of its LoRA is not alpha / rank"),
        (with_part("lora", settings={"targets": None}), "do not say how it was made"),
        (replace(file, parts={"bias": Part(1, {}, fewer)}), "its bias has nothing for"),
    ):
        with pytest.raises(ValueError, match=message):
            merge_into(base, broken)


# section of the configuration, option, value; what is said
REFUSED = [
    ("model", "delta_methods", None, "--delta-methods names no method: give some of bias, adapter, lora"),
    ("model", "delta_methods", "bias,prompt", "--delta-methods prompt is of Transformers alone"),
    ("model", "delta_methods", "diff", "--delta-methods diff has a task of its own on fairseq"),
    ("model", "delta_methods", "dsee", "--delta-methods dsee has a task of its own on fairseq"),
    ("model", "delta_methods", "bias,prefix", "--delta-methods must be of bias, adapter, lora, got prefix"),
    ("model", "delta_methods", "bias,bias", "--delta-methods has bias twice"),
    ("model", "adapter", "parallel", "--adapter must be houlsby or pfeiffer, got 'parallel'"),
    ("model", "adapter_reduction", 17, "--adapter-reduction is 17, above the width 16"),
    ("model", "adapter_reduction", 0, "--adapter-reduction 0: a whole number, 1 or more"),
    ("model", "lora_r", 4, "--lora-r says nothing: --delta-methods has no lora"),
    ("model", "delta_before", "bias", "--delta-before is read from --delta"),
    ("model", "quant_noise_pq", 0.1, "--quant-noise-pq writes into the weights"),
    ("task", "base_checkpoint", None, "--base-checkpoint FILE: name the trained model that is tuned"),
    ("task", "base_checkpoint", "/nowhere.pt", "--base-checkpoint /nowhere.pt: no such file"),
    ("task", "delta", "/nowhere", "--delta: /nowhere|--delta /nowhere"),
    ("task", "delta", "OTHERS", "--delta.*wrong base"),
    ("task", "delta", "FILE", "--delta-methods has adapter, which an earlier stage has trained"),
    ("common", "fp16", True, "--fp16 and --bf16 round the frozen base"),
    ("distributed_training", "ddp_backend", "fully_sharded", "--ddp-backend fully_sharded"),
    ("ema", "store_ema", True, "--store-ema and --use-bmuf average weights"),
    ("checkpoint", "finetune_from_model", "OTHER", "--finetune-from-model and --base-checkpoint name two"),
    ("checkpoint", "restore_file", "BASE", "holds no delta: a training starts from --base-checkpoint"),
]


@pytest.fixture(scope="module")
def files(tiny_data, path):
    """What the table of refusals names."""
    folder = path.parent
    other = write_base(tiny_data, folder / "other.pt", seed=2)
    write_file(trained_file(read_base(str(path)), "adapter"), folder / "file.safetensors")
    write_file(trained_file(read_base(str(other)), "bias"), folder / "others.safetensors")
    names = {
        "FILE": "file.safetensors",
        "OTHERS": "others.safetensors",
        "OTHER": "other.pt",
        "BASE": "base.pt",
    }
    return {name: str(folder / file) for name, file in names.items()}


@pytest.mark.parametrize("section, option, value, message", REFUSED)
def test_a_training_that_cannot_be(section, option, value, message, tiny_data, files):
    changes = [("task", "base_checkpoint", files["BASE"]), ("model", "delta_methods", "adapter")]
    changes.append((section, option, files.get(value, value)))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build_with(tiny_data, changes, ARCH, TASK)


def test_options_beside_a_file(tiny_data, files):
    start = [("task", "base_checkpoint", files["BASE"]), ("task", "delta", files["FILE"])]
    start.append(("model", "delta_methods", "bias"))
    task, model = build_with(tiny_data, [*start, ("model", "adapter_reduction", 4)], ARCH, TASK)
    assert {owner_of(key) for key, one in model.named_parameters() if one.requires_grad} == {"bias"}
    with pytest.raises(ValueError, match="--adapter-reduction 8: .*, of --delta, has 4"):
        build_with(tiny_data, [*start, ("model", "adapter_reduction", 8)], ARCH, TASK)


@pytest.mark.parametrize(
    "arch, task, message",
    [
        ("dsp_transformer", TASK, "--arch dsp_transformer: deltas are trained on delta_transformer"),
        ("dsee_transformer", TASK, "--arch dsee_transformer: deltas are trained on delta_transformer"),
        (ARCH, "dsee_translation", f"--arch {ARCH}: updates are trained on dsee_transformer"),
        (ARCH, "translation", "--task translation has no base .*--task delta_translation and --base-c"),
        ("delta_transformer_iwslt_de_en", TASK, "another architecture.*encoder_layers: 2 there, 6 here"),
    ],
)
def test_half_of_the_method(arch, task, message, tiny_data, files):
    changes = [] if task == "translation" else [("task", "base_checkpoint", files["BASE"])]
    changes += [("model", "delta_methods", "bias")] if arch.startswith("delta") else []
    with pytest.raises(ValueError, match=message):
        build_with(tiny_data, changes, arch, task)


def test_the_names_of_methods():
    assert check_methods("lora, bias") == ("bias", "lora")
    with pytest.raises(OptionError, match="^delta_methods has bias, which an earlier stage has trained"):
        check_methods("bias", ("bias",))
    assert label_of({"adapter": 1, "bias": 1}) == "delta-bias+adapter"
    assert label_of({"adapter": 1, "bias": 2, "lora": 2}) == "delta-adapter-then-bias+lora"
