"""Tiny decoders for the tests of the language model: ours, and random ones on disk like real ones."""

from pathlib import Path

import torch
from torch import nn

from vol3d.model.language import BaseConfig, LanguageConfig, LanguageModel, resolve_language

CORPUS = [
    "There is a <size_1> nodule in the left upper lobe, SUVmax <suv_max_1> (ct slice <slice_1>).",
    "No pleural effusion. The liver is unremarkable.",
    "A lesion in the right kidney of <size_1>, volume <volume_1>; unchanged.",
] * 4
ARCHITECTURES = ["gpt2", "llama", "qwen2"]
VISUAL = 10


def small(**changes: object) -> LanguageModel:
    """Width 16, two blocks."""
    config = LanguageConfig(**{"width": 16, "layers": 2, "heads": 2, "visual_heads": 2, "max_tokens": 64, **changes})  # type: ignore[arg-type]
    config, tokenizer = resolve_language(config, visual_width=VISUAL, texts=CORPUS)
    torch.manual_seed(0)
    return livelier(LanguageModel(config, tokenizer)).eval()


def save_base(folder: Path, kind: str) -> Path:
    """A random model of width 16 with two blocks, and a byte-level tokenizer of about 400 tokens."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(CORPUS, vocab_size=350, special_tokens=["</s>"], show_progress=False)
    tokens = backend.get_vocab_size()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, eos_token="</s>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    grouped = {
        "vocab_size": tokens + 5,  # as Qwen2's, whose last rows no token uses
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        **ends,
    }
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=tokens, n_embd=16, n_layer=2, n_head=2, n_positions=64, **ends))
    elif kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**grouped))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**grouped, tie_word_embeddings=True))
    livelier(model).save_pretrained(folder)
    return folder


def pretrained(folder: Path, **changes: object) -> LanguageModel:
    """`save_base`'s model with LoRA of rank 2 and an image at every block."""
    base = BaseConfig(name=str(folder), lora_rank=2)
    config = LanguageConfig(kind="huggingface", base=base, max_tokens=64, visual_heads=2, **changes)  # type: ignore[arg-type]
    config, tokenizer = resolve_language(config, visual_width=VISUAL)
    torch.manual_seed(0)
    return LanguageModel(config, tokenizer).eval()


def open_gates(model: LanguageModel) -> LanguageModel:
    """As after some training: the image matters, and so do the adapters."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(0.7)
            elif "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@torch.no_grad()
def livelier(model: nn.Module) -> nn.Module:
    """Weights so large that the next word depends on all before and on the image, not only on the last."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            embedding = any(part in name for part in ("embed", "wte", "lm_head"))
            parameter.normal_(0, 0.3 if embedding else 0.6)
    return model


def images(batch: int, tokens: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Visual tokens, and a mask that hides a different number of them in each."""
    visual_BVD = torch.randn(batch, tokens, VISUAL, generator=torch.Generator().manual_seed(5))
    return visual_BVD, torch.arange(tokens) < tokens - torch.arange(batch)[:, None] % tokens


def text_batch(model: LanguageModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and targets of three texts."""
    batch = model.tokenizer.pack(["", "Report: ", "liver?"], CORPUS[:3], model.config.max_tokens)
    return batch.ids_BT, batch.mask_BT, batch.target_BT
