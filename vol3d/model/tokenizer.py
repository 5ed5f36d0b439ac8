"""Text to token ids and back.

Either the corpus's own: byte-level BPE, lossless on any text, the same for the same texts; or that of a pretrained
language model. Slots (``<size_1>``, ``<suv_max_1>``, see `vol3d.text.slots`) are whole tokens in both, so that a model
can never break one. Control tokens are never read from a text: "<eos>" in a report is five characters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from vol3d.errors import CheckpointError, ConfigError
from vol3d.files import write_whole
from vol3d.text.mentions import Kind
from vol3d.text.slots import SLOT

FILE = "tokenizer.json"
BOS, EOS = "<bos>", "<eos>"
SLOTS_PER_KIND = 4
"""Whole tokens ``<size_1>`` to ``<size_4>``, and so on; a fifth size in one text is spelled in pieces."""


@dataclass(frozen=True)
class TextBatch:
    """Texts side by side, padded on the right."""

    ids_BT: Tensor
    mask_BT: Tensor
    """True at tokens."""
    target_BT: Tensor
    """True at tokens to learn: the answer and the stop behind it, never the prompt."""


class ReportTokenizer:
    """A tokenizer and its start and stop tokens.

    Args:
        backend: as `tokenizers` reads it from tokenizer.json.
        bos, eos: tokens of `backend` that start and stop a text.

    Raises:
        ConfigError: `backend` does not know one of them.
    """

    def __init__(self, backend: Tokenizer, bos: str = BOS, eos: str = EOS) -> None:
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self._backend, self.bos, self.eos = backend, bos, eos
        self.bos_id, self.eos_id = self.id_of(bos), self.id_of(eos)
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values()) + 1
        self.slot_ids = tuple(sorted(i for token, i in vocabulary.items() if SLOT.fullmatch(token)))
        """Ids of the slots."""
        self.digest = hashlib.sha256(repr(sorted(vocabulary.items())).encode()).hexdigest()[:16]
        """16 hex digits that change with any token or its id."""

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocabulary: int = 4096, extra_tokens: Sequence[str] = ()
    ) -> ReportTokenizer:
        """Byte-level BPE of at most `vocabulary` tokens learned from `texts`; fewer if the corpus has fewer pieces.

        Raises:
            ConfigError: `vocabulary` has no room for the 256 bytes and the whole tokens.
        """
        whole = [*slot_tokens(), *extra_tokens]
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if vocabulary < (least := 2 + len(alphabet) + len(whole)):
            raise ConfigError(
                f"language vocabulary: expected at least {least} (bytes, slots, controls), found {vocabulary}"
            )
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary - len(whole),
            min_frequency=2,
            show_progress=False,
            special_tokens=[AddedToken(token, special=True) for token in (BOS, EOS)],
            initial_alphabet=alphabet,
        )
        backend.train_from_iterator((piece for text in texts for piece in SLOT.split(text)[::3]), trainer)
        return cls(add_whole(backend, whole))

    def id_of(self, token: str) -> int:
        """Id of a token that is known as a whole.

        Raises:
            ConfigError: it is not.
        """
        found = self._backend.token_to_id(token)
        if found is None:
            raise ConfigError(f"expected a token {token!r} in the tokenizer, found none; name one it has")
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone, without start or stop."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text; control tokens are left out, slots stay."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def prompt(self, text: str) -> list[int]:
        """Start token and text: what `LanguageModel.generate` continues."""
        return [self.bos_id, *self.encode(text)]

    def pack(self, prompts: Sequence[str], answers: Sequence[str], max_tokens: int) -> TextBatch:
        """Start, prompt, answer, stop: one row a pair, for training.

        Raises:
            ConfigError: a pair is longer than `max_tokens`; nothing is cut.
        """
        rows = []
        for prompt, answer in zip(prompts, answers, strict=True):
            head, tail = self.prompt(prompt), [*self.encode(answer), self.eos_id]
            if len(head) + len(tail) > max_tokens:
                raise ConfigError(
                    f"expected prompt and answer of at most {max_tokens} tokens, found {len(head)} + {len(tail)} in "
                    f"{answer[:60]!r}; split it by sentence, or raise language.max_tokens"
                )
            rows.append((head, tail))
        width = max((len(head) + len(tail) for head, tail in rows), default=0)
        ids_BT = torch.full((len(rows), width), self.eos_id)
        mask_BT = torch.zeros(len(rows), width, dtype=torch.bool)
        target_BT = torch.zeros_like(mask_BT)
        for row, (head, tail) in enumerate(rows):
            end = len(head) + len(tail)
            ids_BT[row, :end] = torch.tensor([*head, *tail])
            mask_BT[row, :end] = True
            target_BT[row, len(head) : end] = True
        return TextBatch(ids_BT, mask_BT, target_BT)

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json."""
        write_whole(Path(folder) / FILE, self._backend.to_str(pretty=True))

    @classmethod
    def load(cls, folder: Path, bos: str = BOS, eos: str = EOS) -> ReportTokenizer:
        """Reads what `save` wrote.

        Raises:
            CheckpointError: it is missing, damaged, or lacks `bos` or `eos`.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise CheckpointError(f"expected {FILE} in {folder}, found none; copy the checkpoint again")
        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")), bos, eos)
        except Exception as error:  # the library raises bare Exception for a damaged file
            raise CheckpointError(f"{path} is damaged or no tokenizer of this checkpoint: {error}") from error


def slot_tokens() -> list[str]:
    """Slots that are tokens of their own."""
    return [f"<{kind}_{n}>" for kind in get_args(Kind) for n in range(1, SLOTS_PER_KIND + 1)]


def add_whole(backend: Tokenizer, tokens: Sequence[str], *, special: bool = False) -> Tokenizer:
    """Adds tokens that no text can break; those it already has stay."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    new = [token for token in dict.fromkeys(tokens) if token not in vocabulary]
    backend.add_tokens([AddedToken(token, normalized=False, special=special) for token in new])
    return backend
