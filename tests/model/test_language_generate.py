"""Greedy and beam search: caches, batches and beams change no answer; exact against all sequences; as transformers."""

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vol3d.errors import ConfigError
from vol3d.model.generate import (
    Controls,
    DecodingSession,
    GenerationConfig,
    WritingConfig,
    generate,
    left_padded,
)
from vol3d.model.language import LanguageModel
from vol3d.model.small_decoder import SmallDecoder
from vol3d.model.tokenizer import ReportTokenizer

_spec = importlib.util.spec_from_file_location("language_models", Path(__file__).with_name("language_models.py"))
assert _spec is not None
assert _spec.loader is not None
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)

KINDS = ["small", *models.ARCHITECTURES]
PROMPTS = [[2, 7, 9, 30], [2], [2, 11]]


@pytest.fixture(scope="module")
def by_kind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    found = {"small": models.small()}
    for kind in models.ARCHITECTURES:
        folder = models.save_base(tmp_path_factory.mktemp(kind), kind)
        found[kind] = models.open_gates(models.pretrained(folder))
    return found


def texts(model: LanguageModel, prompts: list[list[int]] = PROMPTS, **changes: object) -> list[tuple[int, ...]]:
    visual, mask = models.images(3)
    config = GenerationConfig(**{"max_new_tokens": 12, **changes})  # type: ignore[arg-type]
    return [g.ids for g in model.generate(prompts, visual[: len(prompts)], mask[: len(prompts)], config)]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_cached_step_equals_the_uncached_model(by_kind: dict[str, LanguageModel], kind: str) -> None:
    model = by_kind[kind]
    visual, visual_mask = models.images(3)
    session = DecodingSession(model.decoder, model._remember(visual, visual_mask), 8)
    ids, mask = left_padded(PROMPTS)
    logits = session.start(ids, mask)
    for n in range(8):
        torch.testing.assert_close(logits, model(ids, mask, visual, visual_mask)[:, -1], atol=1e-4, rtol=1e-4)
        token = logits.argmax(-1) if n % 2 else torch.tensor([5, 6, 7]) + n
        ids, mask = torch.cat([ids, token[:, None]], 1), torch.nn.functional.pad(mask, (0, 1), value=True)
        logits = session.step(token)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_a_batch_writes_what_each_sample_writes_alone(
    by_kind: dict[str, LanguageModel], kind: str, strategy: str
) -> None:
    model = by_kind[kind]
    visual, mask = models.images(3)
    config = GenerationConfig(strategy=strategy, max_new_tokens=12, beams=3)  # type: ignore[arg-type]
    together = model.generate(PROMPTS, visual, mask, config)
    assert len({g.ids for g in together}) == 3
    for b, expected in enumerate(together):
        alone = model.generate(PROMPTS[b : b + 1], visual[b : b + 1], mask[b : b + 1], config)[0]
        assert alone.ids == expected.ids
        assert alone.log_probability == pytest.approx(expected.log_probability, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_beam_of_one_is_greedy(by_kind: dict[str, LanguageModel], kind: str) -> None:
    control = {"no_repeat_ngram": 2, "repetition_penalty": 1.3}
    for changes in ({}, control):
        assert texts(by_kind[kind], strategy="beam", beams=1, **changes) == texts(by_kind[kind], **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_visual_keys_are_computed_once(by_kind: dict[str, LanguageModel], kind: str) -> None:
    model, calls = by_kind[kind], []
    layers = model.decoder.visual
    handles = [layer.keys.register_forward_hook(lambda *_: calls.append(1)) for layer in layers]
    texts(model, strategy="beam")
    for handle in handles:
        handle.remove()
    assert len(calls) == len(layers) == 2


@pytest.fixture(scope="module")
def tiny() -> SmallDecoder:
    """Four tokens; 3 stops."""
    torch.manual_seed(2)
    decoder = SmallDecoder(
        vocabulary=4, width=8, layers=1, heads=2, dropout=0.0, max_tokens=16, visual_width=models.VISUAL,
        visual_inner=8, visual_heads=2, visual_every=1, checkpointing=False,
    )  # fmt: skip
    return models.livelier(decoder).eval()


def session_of(decoder: SmallDecoder, batch: int) -> DecodingSession:
    visual, mask = models.images(batch)
    return DecodingSession(decoder, [layer.keys(visual, mask) for layer in decoder.visual], 8)


@torch.no_grad()
def all_sequences(
    decoder: SmallDecoder, batch: int, prompt: list[int], length: int
) -> list[dict[tuple[int, ...], float]]:
    """Log-probability of every text that ends in 3 or has `length` tokens, by the model without cache or search."""
    visual, mask = models.images(batch)
    memories = [layer.keys(visual, mask) for layer in decoder.visual]
    found: list[dict[tuple[int, ...], float]] = [{} for _ in range(batch)]
    for tokens in itertools.product(range(4), repeat=length):
        text = tokens[: tokens.index(3) + 1] if 3 in tokens else tokens
        ids = torch.tensor([[*prompt, *text]] * batch)
        logp = decoder(ids, torch.ones_like(ids, dtype=torch.bool), memories).log_softmax(-1)
        steps = logp[:, len(prompt) - 1 : -1].gather(2, ids[:, len(prompt) :, None])[..., 0]
        for b in range(batch):
            found[b][text] = float(steps[b].sum())
    return found


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@torch.no_grad()
def test_a_wide_beam_finds_the_best_of_all_sequences(tiny: SmallDecoder, length_penalty: float) -> None:
    batch, length = 3, 5
    config = GenerationConfig(strategy="beam", beams=4**length, max_new_tokens=length, length_penalty=length_penalty)
    written = generate(session_of(tiny, batch), [[0, 1]] * batch, config, stop=[3])
    for b, sequences in enumerate(all_sequences(tiny, batch, [0, 1], length)):
        best = max(sequences, key=lambda text: sequences[text] / len(text) ** length_penalty)
        assert (*written[b].ids, *((3,) if written[b].stopped else ())) == best
        assert written[b].log_probability == pytest.approx(sequences[best], abs=1e-4)


@torch.no_grad()
def test_greedy_takes_the_likeliest_word_and_sums_its_log_probability(tiny: SmallDecoder) -> None:
    written = generate(session_of(tiny, 3), [[0, 1]] * 3, GenerationConfig(max_new_tokens=5), stop=[3])
    for text, sequences in zip(written, all_sequences(tiny, 3, [0, 1], 5), strict=True):
        whole = (*text.ids, *((3,) if text.stopped else ()))
        assert text.log_probability == pytest.approx(sequences[whole], abs=1e-4)


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:Passing")
@pytest.mark.parametrize("control", [{}, {"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}])
@torch.no_grad()
def test_greedy_equals_transformers(by_kind: dict[str, LanguageModel], kind: str, control: dict[str, float]) -> None:
    """With closed gates and without logits of new tokens the pretrained model is all there is."""
    from transformers import AutoModelForCausalLM

    base = by_kind[kind].config.base
    assert base is not None
    plain, ours = AutoModelForCausalLM.from_pretrained(base.name).eval(), models.pretrained(Path(base.name))
    ours.decoder.new_tokens = None
    prompts = [[2, 7, 9, 30], [3, 7, 9, 31]]
    embeds = plain.get_input_embeddings()(torch.tensor(prompts))  # so that the prompt counts as no repetition
    expected = plain.generate(
        inputs_embeds=embeds, attention_mask=torch.ones(2, 4, dtype=torch.long), max_new_tokens=12, do_sample=False,
        pad_token_id=0, eos_token_id=0,
        suppress_tokens=list(range(base.own_tokens, plain.config.vocab_size + 1)), **control,
    )  # fmt: skip
    names = {"no_repeat_ngram_size": "no_repeat_ngram", "repetition_penalty": "repetition_penalty"}
    config = GenerationConfig(max_new_tokens=12, **{names[k]: v for k, v in control.items()})  # type: ignore[arg-type]
    session = DecodingSession(ours.decoder, ours._remember(*models.images(2)), 12)
    for row, text in zip(expected.tolist(), generate(session, prompts, config, stop=[0]), strict=True):
        assert row[: len(text.ids)] == list(text.ids)
        assert len(text.ids) == 12 or row[len(text.ids)] == 0


def test_no_ngram_is_written_twice(by_kind: dict[str, LanguageModel]) -> None:
    def repeats(ids: tuple[int, ...], n: int) -> int:
        windows = [ids[i : i + n] for i in range(len(ids) - n + 1)]
        return len(windows) - len(set(windows))

    for strategy in ("greedy", "beam"):
        for n in (1, 2, 3):
            free = texts(by_kind["gpt2"], strategy=strategy, max_new_tokens=30)
            assert sum(repeats(ids, n) for ids in free) > 0
            held = texts(by_kind["gpt2"], strategy=strategy, max_new_tokens=30, no_repeat_ngram=n)
            assert [repeats(ids, n) for ids in held] == [0, 0, 0]


def test_repetition_penalty_by_hand_spares_slots() -> None:
    logits = torch.tensor([[2.0, -1.0, 3.0, 0.5]])
    exempt = torch.tensor([False, False, True, False])
    controls = Controls(GenerationConfig(repetition_penalty=2.0), torch.tensor([3]), exempt)
    found = controls.log_probabilities(logits, torch.tensor([[0, 1, 2, 0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, -2.0, 3.0, 0.5]]).log_softmax(-1))


def test_a_slot_may_end_the_same_words_again_but_slots_alone_may_not_loop() -> None:
    slot = torch.tensor([False, False, False, True, True])
    controls = Controls(GenerationConfig(no_repeat_ngram=3), torch.tensor([0]), slot)

    def banned(*written: int) -> list[int]:
        found = controls.log_probabilities(torch.zeros(1, 5), torch.tensor([written]))
        return torch.isneginf(found)[0].nonzero()[:, 0].tolist()

    assert banned(1, 2, 3, 2, 1, 2) == []  # "1 2 <3>" again
    assert banned(1, 2, 0, 2, 1, 2) == [0]
    assert banned(3, 4, 3, 4) == [3]
    assert banned(2, 4, 1, 3, 2, 4) == [1]  # a word behind the slot is no slot


class Parrot:
    """Writes its text for ever, whatever it has written."""

    def __init__(self, period: list[int], words: int) -> None:
        self.period, self.words, self.at = period, words, 0

    def start(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.step(ids[:, -1])

    def step(self, ids: Tensor) -> Tensor:
        logits = torch.zeros(1, self.words)
        logits[0, 1] = 1  # token 1 stops: second best
        logits[0, self.period[self.at % len(self.period)]] = 9
        self.at += 1
        return logits


@pytest.mark.parametrize("period", [1, 2, 7, 40])
def test_the_default_of_a_reader_ends_loops(period: int) -> None:
    text = list(range(2, 2 + period))
    limit = 200
    loop = Parrot(text, 60)
    free = generate(loop, [[0]], GenerationConfig(max_new_tokens=limit), stop=[1])[0]  # type: ignore[arg-type]
    assert len(free.ids) == limit
    config = WritingConfig(max_new_tokens=limit).search(2 * limit)
    held = generate(Parrot(text, 60), [[0]], config, stop=[1], exempt=[2])[0]  # type: ignore[arg-type]
    assert held.stopped
    assert len(held.ids) <= period + config.no_repeat_ngram


def test_the_default_of_a_reader_forbids_nothing_that_reports_say() -> None:
    alike = (
        "FDG-avid isodense focal lesion in the left paraspinal muscles. Non-avid calcified focal lesion in the left "
        "paraspinal muscles. Non-avid calcified focal lesion in the left paraspinal muscles."
    )
    numbers = "There is a <size_1> nodule, SUVmax <suv_max_1> (ct slice <slice_1>, z = <z_1>). " * 3
    tokenizer = ReportTokenizer.train([alike, numbers] * 3, vocabulary=600)
    exempt = torch.zeros(tokenizer.size, dtype=torch.bool)
    exempt[list(tokenizer.slot_ids)] = True
    controls = Controls(WritingConfig().search(512), torch.tensor([tokenizer.eos_id]), exempt)
    for text in (alike, numbers):
        ids = tokenizer.encode(text)
        for n, token in enumerate(ids):
            found = controls.log_probabilities(torch.zeros(1, tokenizer.size), torch.tensor([ids[:n]]).view(1, n))
            banned = bool(torch.isneginf(found[0, token]))
            assert not (banned and (text == alike or exempt[token])), tokenizer.decode(ids[: n + 1])


def test_writing_settings_become_a_search() -> None:
    assert WritingConfig().search(192) == GenerationConfig(beams=1, max_new_tokens=96, no_repeat_ngram=32)
    found = WritingConfig(beams=3, max_new_tokens=40, no_repeat_ngram=5, repetition_penalty=1.2).search(192)
    assert (found.strategy, found.beams, found.max_new_tokens) == ("beam", 3, 40)
    assert (found.no_repeat_ngram, found.repetition_penalty) == (5, 1.2)
    with pytest.raises(ConfigError, match=r"0\.\.47 of the decoder's 48, found 48"):
        WritingConfig(max_new_tokens=48).search(48)
    for wrong in ({"beams": 0}, {"no_repeat_ngram": -1}, {"repetition_penalty": 0.9}, {"max_new_tokens": -1}):
        with pytest.raises(ConfigError):
            WritingConfig(**wrong)  # type: ignore[arg-type]


def test_where_nothing_is_allowed_the_row_stays_as_it_was() -> None:
    controls = Controls(GenerationConfig(no_repeat_ngram=1), torch.tensor([9]), torch.zeros(3, dtype=torch.bool))
    logits = torch.tensor([[1.0, 2.0, 3.0]] * 2)
    found = controls.log_probabilities(logits, torch.tensor([[0, 1, 2], [0, 1, 1]]))
    torch.testing.assert_close(found[0], logits[0].log_softmax(-1))
    assert found[1].exp().tolist() == [0, 0, 1]


def test_stops_and_limits(by_kind: dict[str, LanguageModel]) -> None:
    model = by_kind["llama"]
    visual, mask = models.images(1)
    free = model.generate([[2, 9]], visual, mask, GenerationConfig(max_new_tokens=10))[0]
    assert (len(free.ids), free.stopped) == (10, False)
    for strategy in ("greedy", "beam"):
        config = GenerationConfig(strategy=strategy, beams=1, max_new_tokens=10)  # type: ignore[arg-type]
        stop = free.ids[4]
        held = model.generate([[2, 9]], visual, mask, config, stop=[stop])[0]
        assert (held.ids, held.stopped) == (free.ids[: free.ids.index(stop)], True)
    late = GenerationConfig(max_new_tokens=10, min_new_tokens=7)
    assert len(model.generate([[2, 9]], visual, mask, late, stop=[free.ids[4]])[0].ids) >= 7
    assert model.generate([], visual[:0], mask[:0], late) == []
    with pytest.raises(ConfigError, match=r"at most 64 tokens, found 2 \+ 63"):
        model.generate([[2, 9]], visual, mask, GenerationConfig(max_new_tokens=63))
    with pytest.raises(ConfigError, match="prompt for each of 1 images, found 2"):
        model.generate([[2], [2]], visual, mask)
    with pytest.raises(ConfigError, match="begin with the start token"):
        model.generate([[]], visual, mask, late)


def test_generation_leaves_the_mode_and_ignores_dropout(by_kind: dict[str, LanguageModel]) -> None:
    model = by_kind["small"]
    expected = texts(model)
    model.train()
    assert texts(model) == expected
    assert model.training
    model.eval()


def test_bf16_generation_stays_finite(by_kind: dict[str, LanguageModel]) -> None:
    visual, mask = models.images(3)
    for kind in KINDS:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = by_kind[kind].generate(PROMPTS, visual, mask, GenerationConfig(max_new_tokens=4, strategy="beam"))
        assert all(torch.isfinite(Tensor([g.log_probability])) for g in found)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [({"beams": 0}, "beams and max_new"), ({"min_new_tokens": 128}, r"0\.\.127"), ({"repetition_penalty": 0.5}, "0.5")],
)
def test_settings_are_checked(changes: dict[str, float], fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment):
        GenerationConfig(**changes)  # type: ignore[arg-type]
