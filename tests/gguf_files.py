"""A GGUF file of a tiny Llama, written by the gguf package as llama.cpp's converter lays one out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
HEADS, KV_HEADS = 4, 2
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_gguf(file: Path, tokenizer: Any, kind: str = "F32") -> dict[str, Any]:
    """Write the model, its matrices in this kind of quantisation; returns its state dict as they are after it."""
    import gguf
    import torch
    from gguf import GGMLQuantizationType
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    weights = LlamaForCausalLM(config).state_dict()
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokenizer))
    _add_tokenizer(writer, tokenizer)
    for name, weight in weights.items():
        if name == "lm_head.weight":  # tied
            continue
        array = weight.numpy()
        to_store = _interleaved(array, name)
        qtype = GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        if kind == "Q8_1" and array.ndim == 2:  # no library quantises to it: bytes of the right number
            block, size = gguf.GGML_QUANT_SIZES[qtype]
            stored = np.zeros((array.shape[0], array.shape[1] // block * size), dtype=np.uint8)
        else:
            stored = gguf.quants.quantize(to_store, qtype)
            # Quantisation is by blocks of a row, and the interleaving only moves rows.
            weights[name] = torch.tensor(gguf.quants.dequantize(gguf.quants.quantize(array, qtype), qtype))
        writer.add_tensor(_gguf_name(name), stored, raw_dtype=qtype)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {"config": config, "weights": weights}


def _add_tokenizer(writer: Any, tokenizer: Any) -> None:
    import json

    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<pad>", "<eos>") else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in raw["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_unk_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT)


def _interleaved(array: Any, name: str) -> Any:
    """Rows of a query or key matrix in the order in which llama.cpp rotates them: halves become pairs."""
    heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else None
    if heads is None:
        return array
    rows = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(array.shape))


def _gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, *module, weight = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(module)]}.{weight}"
