"""What the rules of `small_configs` cannot know: fields of single model types."""

from __future__ import annotations

from typing import Any, Dict

_STAGES = {"embed_dim": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 4, "image_size": 32, "patch_size": 4, "mlp_ratio": 2.0}
_RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1],
           "out_features": ["stage2", "stage3", "stage4"]}  # fmt: skip
_DETR = {"use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False, "backbone_config": _RESNET}
_SERIES = {"prediction_length": 3, "context_length": 6, "lags_sequence": [1, 2], "num_time_features": 2}
_GROUPS = {"hidden_size": 96, "d_model": 96}  # for norms of 32 groups
_MOE = {"num_experts": 4, "num_experts_per_tok": 2}

OVERRIDES: Dict[str, Dict[str, Any]] = {
    "swin": _STAGES,
    "swinv2": {**_STAGES, "pretrained_window_sizes": [0, 0]},
    "donut-swin": _STAGES,
    "maskformer-swin": _STAGES,
    "clap_audio_model": {"depths": [1, 1], "num_attention_heads": [2, 3], "patch_embeds_hidden_size": 12, "hidden_size": 24,
                         "num_hidden_layers": 2, "spec_size": 64, "window_size": 4, "num_mel_bins": 16, "patch_size": 4,
                         "patch_stride": [4, 4]},
    "helium": {"head_dim": 8},
    "esm": {"vocab_size": 56, "pad_token_id": 1, "mask_token_id": 4, "token_dropout": False},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "esmc": {"num_key_value_heads": 6},
    "glm5_next_text": {"num_key_value_heads": 6},
    "dots3_note_text": {"num_key_value_heads": 6},
    "mellum": {"num_mtp_layers": 1},
    "squeezebert": {"embedding_size": 48, "q_groups": 2, "k_groups": 2, "v_groups": 2, "post_attention_groups": 1,
                    "intermediate_groups": 2, "output_groups": 2},
    "mobilebert": {"intra_bottleneck_size": 48, "embedding_size": 20, "true_hidden_size": 48},
    "reformer": {"axial_pos_embds": False, "attention_head_size": 8, "lsh_attn_chunk_length": 4, "local_attn_chunk_length": 4,
                 "num_buckets": 2, "attn_layers": ["local", "lsh", "local"], "num_hidden_layers": 3, "is_decoder": False},
    "autoformer": {**_SERIES, "moving_average": 3},
    "informer": _SERIES,
    "time_series_transformer": _SERIES,
    "detr": _DETR,
    "conditional_detr": _DETR,
    "dab-detr": _DETR,
    "deformable_detr": {**_DETR, "d_model": 96, "num_feature_levels": 3},
    "table-transformer": _DETR,
    "grounding-dino": {"d_model": 96, "num_feature_levels": 3, "backbone_config": {"model_type": "swin", **_STAGES, "depths": [1, 1, 1], "num_heads": [2, 3, 4], "out_indices": [1, 2]}},
    "mm-grounding-dino": {"d_model": 96, "num_feature_levels": 3, "backbone_config": {"model_type": "swin", **_STAGES, "depths": [1, 1, 1], "num_heads": [2, 3, 4], "out_indices": [1, 2]}},
    "codegen": {"rotary_dim": 4, "n_head": 8, "n_embd": 64},
    "gptj": {"rotary_dim": 4},
    "minimax_m3_vl_text": {"rotary_dim": 8},
    "perceiver": {"d_latents": 48, "num_latents": 5, "d_model": 24, "num_self_attends_per_block": 2, "num_self_attention_heads": 6, "num_cross_attention_heads": 3},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_hidden_layers": 4, "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False,
              "mamba_dt_rank": 4, "num_experts": 4},
    "recurrent_gemma": {"num_hidden_layers": 3, "block_types": ["recurrent", "attention", "attention"], "lru_width": 48, "attention_window_size": 8},
    "bamba": {"mamba_n_heads": 6, "mamba_d_head": 16, "mamba_expand": 2, "attn_layer_indices": [1, 2], "num_hidden_layers": 3, "mamba_d_state": 8, "mamba_chunk_size": 8},
    "granitemoehybrid": {"mamba_n_heads": 6, "mamba_d_head": 16, "mamba_expand": 2, "mamba_d_state": 8, "mamba_chunk_size": 8,
                         "layer_types": ["mamba", "attention", "attention"], "num_hidden_layers": 3},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "mamba_d_state": 8, "n_mamba_heads": 6,
               "mamba_headdim": 16, "chunk_size": 8, "hybrid_layer_ids": [1, 3]},
    "mllama_text_model": {"cross_attention_layers": [1, 3], "num_hidden_layers": 4},
    "musicgen_decoder": {}, 
    "bloom": {"n_head": 6, "hidden_size": 48},
    "xlnet": {"d_head": 8, "d_model": 48, "n_head": 6},
    "funnel": {"d_model": 48, "n_head": 6, "d_head": 8, "block_sizes": [1, 1, 1], "num_decoder_layers": 1},
    "lightglue": {"descriptor_dim": 48},
    "fastspeech2_conformer": {"num_mel_bins": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "full_attention"], "num_hidden_layers": 3},
    "blip_2_qformer": {"encoder_hidden_size": 48, "cross_attention_frequency": 1},
    "instructblip_qformer": {"encoder_hidden_size": 48, "cross_attention_frequency": 1},
    "instructblipvideo_qformer": {"encoder_hidden_size": 48, "cross_attention_frequency": 1},
    "bros": {"dim_bbox_sinusoid_emb_2d": 16, "dim_bbox_projection": 8, "bbox_scale": 1.0},
}  # fmt: skip
