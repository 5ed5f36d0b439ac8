"""Greedy decoding of the small language model beside transformers' `generate` on a GPT-2 of the same size.

Without an image both read a prompt of 8 tokens. With one of 256 visual tokens, ours attends to them in every block, and
GPT-2 gets them as a prefix, the usual way. Both write 64 tokens, random weights, in turns; the median of the rounds
counts.

    .venv/bin/python benchmarks/language_speed.py --out out/language_speed.json
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from vol3d.model.language import GenerationConfig, LanguageConfig, LanguageModel, resolve_language

TOKENS, PROMPT, VISUAL_WIDTH = 64, 8, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    texts = [f"Report number {n} of {n * n}: no finding in organ {n % 13}." for n in range(4000)]
    config, tokenizer = resolve_language(LanguageConfig(), visual_width=VISUAL_WIDTH, texts=texts)
    ours = LanguageModel(config, tokenizer).eval()
    same = GPT2Config(
        vocab_size=config.tokens, n_embd=config.width, n_layer=config.layers, n_head=config.heads,
        n_positions=512, bos_token_id=0, eos_token_id=None,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(same).eval()
    rows = []
    for batch, seen in itertools.product((1, 8), (0, 256)):
        prompts = torch.randint(0, config.tokens, (batch, PROMPT))
        visual = torch.randn(batch, seen, VISUAL_WIDTH), torch.ones(batch, seen, dtype=torch.bool)
        prefix = torch.randn(batch, seen, config.width)
        # a stop that cannot come before the end: both write all tokens
        settings = GenerationConfig(max_new_tokens=TOKENS, min_new_tokens=TOKENS - 1)
        runs: dict[str, Callable[[], object]] = {
            "vol3d": lambda p=prompts, v=visual, s=settings: ours.generate(p.tolist(), *v, s),
            "transformers": lambda p=prompts, x=prefix: theirs.generate(
                inputs_embeds=torch.cat([x, theirs.transformer.wte(p)], dim=1),
                attention_mask=torch.ones(len(p), x.shape[1] + PROMPT, dtype=torch.long),
                max_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=0,
            ),
        }
        for run in runs.values():
            run()
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        rows.append(
            {
                "batch": batch,
                "visual_tokens": seen,
                **{f"{name}_ms_per_step": round(1e3 * value / TOKENS, 3) for name, value in median.items()},
                "ratio": round(median["transformers"] / median["vol3d"], 2),
            }
        )
    found = {
        "threads": torch.get_num_threads(),
        "parameters": {
            "vol3d": sum(p.numel() for p in ours.parameters()),
            "transformers": sum(p.numel() for p in theirs.parameters()),
        },
        "rows": rows,
    }
    text = json.dumps(found, indent=1)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
