"""Words a second, and how often an image is encoded.

    python -m benchmarks.report --out out/bench

A random Llama of `--width` and `--layers` is written to disk; transformers' `generate` and vol3d's decoding, which puts
gated visual layers round the same weights, write `--tokens` tokens greedily from the same prompts. At the start the
gates are shut, so both must write the same words. Without an image, and with 256 visual tokens: vol3d caches their keys
and values, transformers gets them as a prefix, the usual way. Without an image vol3d still runs its visual layers, half
as many as the model has blocks, and the rival has none. Our own small decoder beside a GPT-2 of its size is
`benchmarks.language_speed`.

Then `vol3d infer` on a tiny study (masks, findings and report), with the passes of the image encoder counted.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import torch

from benchmarks import harness
from benchmarks.startup import tiny
from vol3d.model.language import BaseConfig, GenerationConfig, LanguageConfig, LanguageModel, resolve_language

PROMPT, VISUAL, VISUAL_WIDTH = 8, 256, 128


def main() -> None:
    parser = harness.arguments(__doc__, rounds=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=16, help="every second looks at the image then, as by default")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    bench = harness.Bench("report", settings)
    with tempfile.TemporaryDirectory(dir=settings.out) as folder:
        words(bench, Path(folder))
        passes(bench, Path(folder))
    bench.write()


def words(bench: harness.Bench, folder: Path) -> None:
    settings = bench.settings
    write_base(folder / "base", settings.width, settings.layers)
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
    base = BaseConfig(name=str(folder / "base"), lora_rank=0)
    config = LanguageConfig(kind="huggingface", base=base, max_tokens=PROMPT + settings.tokens)
    config, tokenizer = resolve_language(config, visual_width=VISUAL_WIDTH)
    ours = LanguageModel(config, tokenizer).eval()
    options = GenerationConfig(max_new_tokens=settings.tokens, min_new_tokens=settings.tokens - 1)
    for batch, seen in itertools.product((1, 8), (0, VISUAL)):
        prompts = torch.randint(5, 300, (batch, PROMPT), generator=torch.Generator().manual_seed(batch))
        visual = torch.randn(batch, seen, VISUAL_WIDTH), torch.ones(batch, seen, dtype=torch.bool)
        prefix = torch.randn(batch, seen, settings.width)
        embed = theirs.get_input_embeddings()

        def write(prompts=prompts, visual=visual):
            return [list(g.ids) for g in ours.generate(prompts.tolist(), *visual, options)]

        def generate(prompts=prompts, prefix=prefix, embed=embed):
            with torch.no_grad():  # as its own generate does
                found = theirs.generate(
                    inputs_embeds=torch.cat([prefix, embed(prompts)], dim=1),
                    attention_mask=torch.ones(len(prompts), prefix.shape[1] + PROMPT, dtype=torch.long),
                    max_new_tokens=settings.tokens, min_new_tokens=settings.tokens, do_sample=False, pad_token_id=0,
                )  # fmt: skip
            return found.tolist()

        if not seen:  # new tokens of vol3d's tokenizer are the only words that one side has and the other has not
            pairs = [p for one, two in zip(write(), generate(), strict=True) for p in zip(one, two, strict=False)]
            same = sum(a == b for a, b in pairs)
            assert same >= 0.8 * batch * settings.tokens, f"expected the same words of both, found {same} the same"
        times = harness.in_turns({"vol3d": write, "transformers": generate}, settings.rounds)
        bench.row(f"tokens a second, batch {batch}, {seen} visual tokens",
                  harness.ratio(times["transformers"], times["vol3d"], "cpu"), ">= 1",
                  against="transformers generate, same weights",
                  per_s=batch * settings.tokens / times["vol3d"].median(),
                  wall_ratio=harness.ratio(times["transformers"], times["vol3d"]))  # fmt: skip


def write_base(folder: Path, width: int, layers: int) -> None:
    """A random Llama and a tokenizer of about 400 tokens."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = ByteLevelBPETokenizer()
    texts = [f"Report {n}: no lesion of {n % 13} mm in the liver." for n in range(500)]
    backend.train_from_iterator(texts, vocab_size=400, special_tokens=["</s>"], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=backend.get_vocab_size(), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # no ties between words
    model.save_pretrained(folder)


def passes(bench: harness.Bench, folder: Path) -> None:
    """Tiles encoded by `infer` over the tiles of the study."""
    from vol3d.checkpoint import FindingCalibration, Findings, load_checkpoint, save_checkpoint
    from vol3d.infer.tiles import tile_rows
    from vol3d.metrics.operating import OperatingPoint
    from vol3d.model.vlm import VisionLanguageModel
    from vol3d.text.prompts import prompts_for
    from vol3d.workflows.infer import infer

    run, study = tiny(bench.settings.out / "startup")
    checkpoint = load_checkpoint(run)
    name = "pleural_effusion"
    point = OperatingPoint(threshold=0.5, criterion="youden")
    calibration = FindingCalibration(scale=1.0, bias=0.0, points={"youden": point}, prompts=prompts_for(name))
    checkpoint.findings = Findings(by_name={name: calibration})
    checkpoint.provenance["trained_phrases"] = ["liver", "spleen", "lesion in the liver", "pleural effusion"]
    save_checkpoint(folder / "model", checkpoint)
    calls, encode = [0], VisionLanguageModel.encode_image

    def counted(self: VisionLanguageModel, image_BCZYX: torch.Tensor) -> list[torch.Tensor]:
        calls[0] += len(image_BCZYX)
        return encode(self, image_BCZYX)

    VisionLanguageModel.encode_image = counted  # type: ignore[method-assign]
    try:
        summary = infer(folder / "model", study, folder / "answers", prompts=["liver", "spleen"], show_progress=False)
    finally:
        VisionLanguageModel.encode_image = encode  # type: ignore[method-assign]
    assert len(summary.done) == 1, f"expected one study done, found {summary}"
    tiles = sum(len(row) for _, row in tile_rows((32, 32, 32), checkpoint.patch_size, checkpoint.predict.overlap))
    bench.row("passes of the image encoder for masks, findings and report of a study", calls[0] / tiles, "<= 1",
              unit="passes")  # fmt: skip


if __name__ == "__main__":
    main()
