"""Make a tiny random-weight model that `mlx_lm.server --model FOLDER` serves. Needs: mlx, tokenizers.

usage: tiny_mlx_model.py FOLDER    (under a second, 0.6 MB; replies are noise)
"""

import json
import pathlib
import sys

import mlx.core as mx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WIDTH, LAYERS, HIDDEN, HEADS = 64, 2, 128, 4
SPECIAL = ["<s>", "</s>", "<unk>"]
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def write_tokenizer(folder: pathlib.Path) -> int:
    """Write a byte-level tokenizer; return the size of its vocabulary."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=SPECIAL[2]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(vocabulary)


def write_model(folder: pathlib.Path, vocabulary_size: int) -> None:
    """Write the configuration and seeded random weights of a two-layer Llama."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": vocabulary_size,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    weights = {"model.norm.weight": mx.ones(WIDTH)}

    def random(name: str, *shape: int) -> None:
        weights[f"{name}.weight"] = mx.random.normal(shape) * 0.2

    random("model.embed_tokens", vocabulary_size, WIDTH)
    random("lm_head", vocabulary_size, WIDTH)
    for layer in (f"model.layers.{i}" for i in range(LAYERS)):
        weights[f"{layer}.input_layernorm.weight"] = mx.ones(WIDTH)
        weights[f"{layer}.post_attention_layernorm.weight"] = mx.ones(WIDTH)
        for projection in "qkvo":
            random(f"{layer}.self_attn.{projection}_proj", WIDTH, WIDTH)
        random(f"{layer}.mlp.gate_proj", HIDDEN, WIDTH)
        random(f"{layer}.mlp.up_proj", HIDDEN, WIDTH)
        random(f"{layer}.mlp.down_proj", WIDTH, HIDDEN)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    write_model(target, write_tokenizer(target))
