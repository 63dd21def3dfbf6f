"""The fields of a config.json that a block reads, of all families together."""

from __future__ import annotations

from pymoe.hf.blocks.family import SYNONYMS

FIELDS = {name for names in SYNONYMS.values() for name in names} | set(
    (
        "intermediate_size norm_topk_prob shared_expert_intermediate_size shared_intermediate_size "
        "ffn_hidden_size d_ff moe_shared_expert_intermediate_size share_expert_dim "
        "shared_experts_intermediate_size mlp_bias use_bias topk_group topk_method swiglu_limit swiglu_alpha "
        "swiglu_limits swiglu_limits_shared rms_norm_eps post_norm_eps ffn_act_fn moe_normalize_expert_weights "
        "expert_selection_fn shared_expert_combination_strategy output_multiplier moe_norm_min use_bias "
        "moe_token_dropout moe_hidden_size moe_latent_size moe_router_logit_softcapping use_expert_bias "
        "scoring_func zero_expert_num mlp_gate_softcap mlp_up_softcap expert_capacity router_bias encoder_ffn_dim "
        "decoder_ffn_dim part_features mlp_ratio second_expert_policy normalize_router_prob_before_dropping "
        "batch_prioritized_routing router_hidden_size moe_eval_capacity_token_fraction router_jitter_noise "
    ).split()
)
