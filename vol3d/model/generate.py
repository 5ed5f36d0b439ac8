"""Words one after another: greedy and beam search with repetition control, deterministic, for any stepwise decoder.

Beam search keeps `beams` hypotheses; one that stops stays among them and leaves fewer to go on, so a beam of 1 is
greedy and a beam as wide as all sequences is exact. Repetition is judged on the words written, never on the prompt: a
finding named in the indication may well be named again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from vol3d.errors import ConfigError
from vol3d.model.visual_attention import VisualMemory


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How a text is written."""

    strategy: Literal["greedy", "beam"] = "greedy"
    """`greedy` takes the likeliest word each time; `beam` searches for the likeliest text."""
    beams: int = 4
    """Hypotheses of `beam`."""
    max_new_tokens: int = 128
    """Cut after so many, stop token included."""
    min_new_tokens: int = 0
    """No stop before so many."""
    no_repeat_ngram: int = 0
    """No sequence of so many tokens twice, unless it is words that end in a slot; 0: any."""
    repetition_penalty: float = 1.0
    """Logits of words already written are divided (negative: multiplied) by this (CTRL, arXiv 1909.05858); slots are
    exempt. 1: off."""
    length_penalty: float = 1.0
    """`beam` compares log-probability / length ** this."""

    def __post_init__(self) -> None:
        if self.beams < 1 or self.max_new_tokens < 1:
            raise ConfigError(f"expected beams and max_new_tokens >= 1, found {self.beams} and {self.max_new_tokens}")
        if not 0 <= self.min_new_tokens < self.max_new_tokens:
            raise ConfigError(f"expected min_new_tokens in 0..{self.max_new_tokens - 1}, found {self.min_new_tokens}")
        if self.no_repeat_ngram < 0 or self.repetition_penalty < 1 or self.length_penalty < 0:
            raise ConfigError(
                "expected no_repeat_ngram >= 0, repetition_penalty >= 1 and length_penalty >= 0, found "
                f"{self.no_repeat_ngram}, {self.repetition_penalty} and {self.length_penalty}"
            )


@dataclass(frozen=True, kw_only=True)
class WritingConfig:
    """How a reader writes; stored with it."""

    beams: int = 1
    """Hypotheses; 1 takes the likeliest word each time, more search for the likeliest text."""
    max_new_tokens: int = 0
    """Cut after so many, stop token included; 0: half of the decoder's max_tokens, the other half is the prompt's."""
    no_repeat_ngram: int = 32
    """No sequence of so many tokens twice in one text, which ends loops; 0: any. Honest texts, such as those of 180
    phantom studies, repeat up to 20, where two lesions of a kind are told in the same words."""
    repetition_penalty: float = 1.0
    """Logits of words already written are divided by this; slots are exempt. 1: off."""
    length_penalty: float = 1.0
    """With several beams, log-probability / length ** this is compared."""

    def __post_init__(self) -> None:
        self.search(2 * max(1, self.max_new_tokens))

    def search(self, max_tokens: int) -> GenerationConfig:
        """For a decoder of `max_tokens`, prompt and answer together.

        Raises:
            ConfigError: a setting cannot be, or leaves no room for a prompt.
        """
        if self.max_new_tokens < 0 or self.max_new_tokens >= max_tokens:
            raise ConfigError(
                f"expected max_new_tokens in 0..{max_tokens - 1} of the decoder's {max_tokens}, found "
                f"{self.max_new_tokens}"
            )
        return GenerationConfig(
            strategy="beam" if self.beams > 1 else "greedy",
            beams=self.beams,
            max_new_tokens=self.max_new_tokens or max(1, max_tokens // 2),
            no_repeat_ngram=self.no_repeat_ngram,
            repetition_penalty=self.repetition_penalty,
            length_penalty=self.length_penalty,
        )


@dataclass(frozen=True)
class Generated:
    """One text."""

    ids: tuple[int, ...]
    """Without prompt and stop token."""
    log_probability: float
    """Sum over the tokens, stop included, after repetition control."""
    stopped: bool
    """False: cut at max_new_tokens."""


class Cache(Protocol):
    """Keys and values of the words so far."""

    def select(self, rows_N: Tensor) -> None:
        """Row n becomes what row ``rows_N[n]`` was."""


class Decoder(Protocol):
    """`SmallDecoder` and `PretrainedDecoder`."""

    def new_cache(self, length: int, *, padded: bool) -> Any:
        """Room for `length` words; `padded`: some mask will hide one of them."""

    def __call__(
        self,
        ids_NT: Tensor,
        mask_NS: Tensor,
        memories: Sequence[VisualMemory],
        cache: Any = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Logits [N, T, vocabulary], or at the positions `keep` alone; `mask_NS` covers the cached words as well."""


class DecodingSession:
    """A decoder, its caches and the keys and values of the images; rows belong to images in order, as many to each."""

    def __init__(self, decoder: Decoder, memories: Sequence[VisualMemory], max_new_tokens: int) -> None:
        self._decoder, self._memories, self._room = decoder, memories, max_new_tokens
        self._cache: Cache | None = None
        self._mask_NS = torch.empty(0, dtype=torch.bool)

    def start(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Reads prompts, padded on the left; logits of the next token [B, vocabulary]."""
        length = ids_BT.shape[1] + self._room
        self._cache = self._decoder.new_cache(length, padded=not bool(mask_BT.all()))
        self._mask_NS = mask_BT
        last = torch.tensor([ids_BT.shape[1] - 1], device=ids_BT.device)
        return self._decoder(ids_BT, mask_BT, self._memories, self._cache, last)[:, -1]

    def step(self, ids_N: Tensor) -> Tensor:
        """Reads one more token of every row; logits of the next [N, vocabulary]."""
        self._mask_NS = functional.pad(self._mask_NS, (0, 1), value=True)
        return self._decoder(ids_N[:, None], self._mask_NS, self._memories, self._cache)[:, -1]

    def select(self, rows_N: Tensor) -> None:
        """Row n goes on from what row ``rows_N[n]`` has read."""
        assert self._cache is not None
        if len(rows_N) == len(self._mask_NS) and torch.equal(rows_N, torch.arange(len(rows_N), device=rows_N.device)):
            return
        self._cache.select(rows_N)
        self._mask_NS = self._mask_NS[rows_N]


@dataclass(frozen=True)
class Controls:
    """What may not be written next."""

    config: GenerationConfig
    stop_S: Tensor
    exempt_V: Tensor
    """True at slots: without repetition penalty, and free to end a sequence of words again."""

    def log_probabilities(self, logits_NV: Tensor, written_NT: Tensor) -> Tensor:
        """Log-softmax of the allowed tokens, float32; a row in which nothing would be allowed is left as it was."""
        scores_NV = self._penalised(logits_NV.float(), written_NT)
        allowed_NV = scores_NV
        if written_NT.shape[1] < self.config.min_new_tokens:
            allowed_NV = allowed_NV.index_fill(1, self.stop_S, float("-inf"))
        if self.config.no_repeat_ngram:
            allowed_NV = _without_repeats(allowed_NV, written_NT, self.config.no_repeat_ngram, self.exempt_V)
        none_N1 = torch.isneginf(allowed_NV).all(1, keepdim=True)
        return torch.where(none_N1, scores_NV, allowed_NV).log_softmax(-1)

    def _penalised(self, logits_NV: Tensor, written_NT: Tensor) -> Tensor:
        penalty = self.config.repetition_penalty
        if penalty == 1 or not written_NT.shape[1]:
            return logits_NV
        old_NT = logits_NV.gather(1, written_NT)
        new_NT = torch.where(old_NT < 0, old_NT * penalty, old_NT / penalty)
        return logits_NV.scatter(1, written_NT, torch.where(self.exempt_V[written_NT], old_NT, new_NT))


def generate(
    session: DecodingSession,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    stop: Sequence[int],
    exempt: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> list[Generated]:
    """Continues every prompt.

    Args:
        session: fresh, of as many samples as prompts.
        prompts: token ids, at least one each.
        config: how to search.
        stop: tokens that end a text.
        exempt: tokens without repetition control: slots, of which a text may need one again and again.
        device: of the session's tensors.

    Raises:
        ConfigError: a prompt is empty.
    """
    if not all(prompts):
        raise ConfigError("expected prompts of at least one token, found an empty one; begin with the start token")
    if not prompts:
        return []
    ids_BT, mask_BT = left_padded(prompts, device)
    logits_BV = session.start(ids_BT, mask_BT)
    exempt_V = torch.zeros(logits_BV.shape[1], dtype=torch.bool, device=device)
    exempt_V[list(exempt)] = True
    controls = Controls(config, torch.tensor(list(stop), dtype=torch.long, device=device), exempt_V)
    search = _greedy if config.strategy == "greedy" else _beam
    return search(session, logits_BV, controls)


def left_padded(prompts: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Ids and mask, the ends of the prompts side by side."""
    width = max(len(prompt) for prompt in prompts)
    ids_BT = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask_BT = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
    return ids_BT, mask_BT


def _greedy(session: DecodingSession, logits_BV: Tensor, controls: Controls) -> list[Generated]:
    rows, limit = len(logits_BV), controls.config.max_new_tokens
    written_BT = torch.empty(rows, limit, dtype=torch.long, device=logits_BV.device)
    total_B = torch.zeros(rows, device=logits_BV.device)
    length_B = torch.full((rows,), limit, device=logits_BV.device)
    open_B = torch.ones(rows, dtype=torch.bool, device=logits_BV.device)
    for n in range(limit):
        value_B, token_B = controls.log_probabilities(logits_BV, written_BT[:, :n]).max(-1)
        written_BT[:, n] = token_B
        total_B += torch.where(open_B, value_B, 0)
        ended_B = open_B & torch.isin(token_B, controls.stop_S)
        length_B[ended_B] = n
        open_B &= ~ended_B
        if n == limit - 1 or not open_B.any():
            break
        logits_BV = session.step(token_B)
    return [
        Generated(tuple(row[:length]), score, not is_open)
        for row, length, score, is_open in zip(
            written_BT.tolist(), length_B.tolist(), total_B.tolist(), open_B.tolist(), strict=True
        )
    ]


def _beam(session: DecodingSession, logits_BV: Tensor, controls: Controls) -> list[Generated]:
    config, device = controls.config, logits_BV.device
    (samples, words), beams, limit = logits_BV.shape, config.beams, config.max_new_tokens
    first_B1 = torch.arange(samples, device=device)[:, None] * beams
    rows_N = torch.arange(samples, device=device).repeat_interleave(beams)
    session.select(rows_N)
    logits_NV = logits_BV[rows_N]
    written_NT = torch.empty(samples * beams, 0, dtype=torch.long, device=device)
    score_BK = torch.full((samples, beams), float("-inf"), device=device)
    score_BK[:, 0] = 0
    room_B1 = torch.full((samples, 1), beams, device=device)
    found: list[list[Generated]] = [[] for _ in range(samples)]

    def keep(chosen_BK: Tensor, value_BK: Tensor, *, stopped: bool) -> None:
        for b, k in chosen_BK.nonzero().tolist():
            ids = written_NT[b * beams + k].tolist()
            found[b].append(Generated(tuple(ids[:-1] if stopped else ids), float(value_BK[b, k]), stopped))

    for n in range(limit):
        step_NV = controls.log_probabilities(logits_NV, written_NT)
        total_BKV = step_NV.view(samples, beams, words) + score_BK[..., None]
        value_BK, index_BK = total_BKV.flatten(1).topk(beams)
        rows_N = (first_B1 + index_BK // words).flatten()
        token_BK = index_BK % words
        written_NT = torch.cat([written_NT[rows_N], token_BK.view(-1, 1)], dim=1)
        alive_BK = (torch.arange(beams, device=device) < room_B1) & ~torch.isneginf(value_BK)
        ended_BK = alive_BK & torch.isin(token_BK, controls.stop_S)
        keep(ended_BK, value_BK, stopped=True)
        room_B1 = room_B1 - ended_BK.sum(1, keepdim=True)
        alive_BK = alive_BK & ~ended_BK
        score_BK = torch.where(alive_BK, value_BK, float("-inf"))
        if n == limit - 1 or not alive_BK.any():
            keep(alive_BK, value_BK, stopped=False)
            break
        session.select(rows_N)
        logits_NV = session.step(token_BK.flatten())

    def merit(text: Generated) -> float:
        return text.log_probability / (len(text.ids) + text.stopped) ** config.length_penalty

    return [max(texts, key=merit) for texts in found]


def _without_repeats(scores_NV: Tensor, written_NT: Tensor, size: int, exempt_V: Tensor) -> Tensor:
    """Exempt tokens may come again behind words; behind exempt ones alone they may not, or they would loop."""
    if written_NT.shape[1] < size:
        return scores_NV
    windows_NWS = written_NT.unfold(1, size, 1)
    tail_N1S = written_NT[:, None, written_NT.shape[1] - size + 1 :]
    seen_NW = (windows_NWS[..., :-1] == tail_N1S).all(-1)
    seen_NW &= ~(exempt_V[windows_NWS[..., -1]] & ~exempt_V[tail_N1S].all(-1))
    banned = torch.where(seen_NW, float("-inf"), scores_NV.gather(1, windows_NWS[..., -1]))
    return scores_NV.scatter_reduce(1, windows_NWS[..., -1], banned, "amin")
