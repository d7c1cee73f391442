"""CTranslate2 models of pruned translation models.

CTranslate2 knows one number of heads a stack. Every block is filled up with zero heads to the largest number
in its stack (the decoder's two kinds of blocks count together), and the size of a head is stated, because it
no longer follows from the model's width. A zero head adds nothing to the output, so a stack costs what its
fullest block costs. Feed-forward layers keep a number of neurons each; one without any gets a group of zeros.

Needs the package ctranslate2.
"""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from ...records.certificate import NAME, Certificate, write_certificate
from ...records.files.whole import new_folder
from ...surgery import KeptHeads, fill_block
from ..heads.gated_transformer import encode_kept_heads
from .equality import Pair, certificate_of, masked_model, model_of, target_log_probs, task_and_pairs
from .pruning import CheckpointModel, Pruned, head_dim_of, projections_of, put_block, remove_heads, take_block
from .stock_export import dense_shapes

_SIDES = ("encoder", "decoder")
_BEAM = 5


def export_ctranslate2(
    source: CheckpointModel,
    keep: Tensor,
    out: str,
    data: Optional[str] = None,
    subset: Optional[str] = None,
    limit: int = 100,
) -> tuple[Pruned, Certificate]:
    """Write a CTranslate2 folder: model.bin, config.json, vocabularies and a certificate.

    Args:
        source: the checkpoint, see `pruning.prepare`.
        keep: bool [heads it has now].
        out: folder to write; an earlier export is replaced.
        data: binarised folder with the dictionaries; None for the one the checkpoint was trained on.
        subset: its sentences that both models score and translate; None for `valid` where there is one, else
            random tokens.
        limit: how many sentences.

    Raises:
        FileNotFoundError: no such folder or subset.
        ValueError: the model has something that CTranslate2 has not, or the dictionaries are of another one.
        ExportError: CTranslate2's scores are not those of the masked model; nothing is written.
        FileExistsError: `out` holds other things.
        ImportError: ctranslate2 is missing.
    """
    import ctranslate2  # noqa: F401  (before any work)

    task, pairs, words = task_and_pairs(source.tensors, source.cfg, data, subset, limit, words_needed=True)
    pruned = remove_heads(source, keep)
    state, counts = even_heads(pruned)
    model = model_of(state, task)
    specification = spec_of(model, counts)
    specification.register_source_vocabulary(_vocabulary(task.source_dictionary))
    specification.register_target_vocabulary(_vocabulary(task.target_dictionary))
    specification.config.decoder_start_token = specification.config.eos_token
    specification.config.add_source_eos = True
    specification.validate()
    specification.optimize()
    with new_folder(out, NAME) as folder:
        specification.save(str(folder))
        certificate = certify(str(folder), masked_model(source, keep, task), task, pairs, words, counts)
        certificate.require("the CTranslate2 export")
        write_certificate(certificate, folder)
    return pruned, certificate


def even_heads(pruned: Pruned) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
    """Put zero heads behind the pruned checkpoint's, until all blocks of a stack have as many as the fullest.

    Returns:
        The checkpoint, and {"encoder": {"num_heads": ..., "head_dim": ...}, "decoder": ...}.
    """
    state, options = dict(pruned.state), dict(pruned.state["cfg"]["model"])
    tensors = dict(state["model"])
    counts: dict[str, dict[str, int]] = {}
    even: KeptHeads = {}
    for side in _SIDES:
        mine = [block for block in pruned.head_map.blocks if block.name.startswith(f"{side}.")]
        blocks = [block for block in mine if not block.neurons]
        fullest = max([1, *(len(pruned.record[block.name]) for block in blocks)])
        counts[side] = {"num_heads": fullest, "head_dim": head_dim_of(blocks[0], options)}
        for block in blocks:
            own, left = take_block(tensors, block), list(range(len(pruned.record[block.name])))
            shapes = dense_shapes(block, options, fullest)
            put_block(tensors, block, fill_block(own, left, head_dim_of(block, options), shapes))
            even[block.name] = list(range(fullest))
        for block in mine:
            if block.neurons:
                even[block.name] = pruned.record[block.name] or [0]
                if not pruned.record[block.name]:  # no layer is without any: one group of zeros
                    shapes, names = dense_shapes(block, options, 1), projections_of(block)
                    own = take_block(tensors, block)
                    put_block(tensors, block, fill_block(own, [], block.neurons, shapes, names))
    options["kept_heads"] = encode_kept_heads(even)
    return {**state, "model": tensors, "cfg": {**state["cfg"], "model": options}}, counts


def spec_of(model: nn.Module, counts: dict[str, dict[str, int]]):
    """Describe a model for CTranslate2, its weights in it.

    Args:
        model: of `even_heads`.
        counts: from there.

    Raises:
        ValueError: CTranslate2 has no such model; names the option.
    """
    from ctranslate2.converters import fairseq as converter
    from ctranslate2.specs import transformer_spec

    activations = converter._SUPPORTED_ACTIVATIONS
    cfg = model.encoder.cfg
    refused = {
        "--cross-self-attention": cfg.cross_self_attention,
        "--no-cross-attention": cfg.no_cross_attention,
        "--no-token-positional-embeddings": cfg.no_token_positional_embeddings,
        "--adaptive-softmax-cutoff": model.decoder.adaptive_softmax is not None,
        f"--activation-fn {cfg.activation_fn}": cfg.activation_fn not in activations,
        "--base-layers": cfg.base_layers > 0,
        "--decoder-input-dim without --decoder-output-dim": (model.decoder.project_in_dim is None)
        != (model.decoder.project_out_dim is None),
    }
    found = [option for option, there in refused.items() if there]
    if found:
        raise ValueError(f"CTranslate2 has no model with {', '.join(found)}: export to the format fairseq")

    def common(stack: nn.Module, side: str) -> dict[str, Any]:
        return dict(
            num_layers=len(stack.layers),
            pre_norm=stack.layers[0].normalize_before,
            no_final_norm=stack.layer_norm is None,
            activation=activations[cfg.activation_fn],
            layernorm_embedding=stack.layernorm_embedding is not None,
            **counts[side],
        )

    specification = transformer_spec.TransformerSpec(
        transformer_spec.TransformerEncoderSpec(**common(model.encoder, "encoder")),
        transformer_spec.TransformerDecoderSpec(
            **common(model.decoder, "decoder"), project_in_out=model.decoder.project_in_dim is not None
        ),
    )
    converter.set_transformer_encoder(specification.encoder, model.encoder)
    converter.set_transformer_decoder(specification.decoder, model.decoder)
    return specification


@torch.no_grad()
def certify(
    folder: str,
    masked: nn.Module,
    task: Any,
    pairs: Sequence[Pair],
    words: str,
    counts: dict[str, dict[str, int]],
) -> Certificate:
    """Compare scores of given translations, and beam search, of CTranslate2 and of the masked model.

    The scores decide. Beam search is told only: where two hypotheses tie, the last bit of a sum chooses.
    """
    import ctranslate2

    translator = ctranslate2.Translator(
        folder, device="cpu", compute_type="float32", intra_threads=torch.get_num_threads()
    )
    sources = [_words(task.source_dictionary, pair.source) for pair in pairs]
    targets = [_words(task.target_dictionary, pair.target) for pair in pairs]
    scored = translator.score_batch(sources, targets, max_batch_size=32)
    found = [torch.tensor(result.log_probs) for result in scored]
    # a model of random weights never ends by itself
    longest = 2 * max(len(pair.target) for pair in pairs) + 10
    theirs = translator.translate_batch(
        sources,
        beam_size=_BEAM,
        length_penalty=1,
        max_decoding_length=longest,
        return_scores=True,
        max_batch_size=32,
    )
    search = SequenceGenerator([masked], task.target_dictionary, beam_size=_BEAM, max_len_b=longest)
    same, difference = 0, 0.0
    for pair, other in zip(pairs, theirs):
        source = torch.tensor([pair.source])
        own = search.generate(
            [masked], {"net_input": {"src_tokens": source, "src_lengths": torch.tensor([source.shape[1]])}}
        )
        if _words(task.target_dictionary, own[0][0]["tokens"].tolist()) == other.hypotheses[0]:
            same += 1
            difference = max(difference, abs(float(own[0][0]["score"]) - other.scores[0]))
    translations = {
        "beam": _BEAM,
        "sentences": len(pairs),
        "same": same,
        "largest_score_difference_of_same": difference,
    }
    extra = {"stacks": counts, "translations": translations}
    return certificate_of(target_log_probs(masked, task, pairs), found, words, extra)


def _vocabulary(words) -> list[str]:
    return ["<blank>" if word == words.pad_word else word for word in words.symbols]


def _words(words, numbers: Sequence[int]) -> list[str]:
    """Return the words without the end mark, which CTranslate2 adds."""
    return [words[number] for number in numbers if number != words.eos()]
