"""Text to ids and back: nothing lost, slots whole, controls never read from a text."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vol3d.errors import CheckpointError, ConfigError
from vol3d.model.tokenizer import SLOTS_PER_KIND, ReportTokenizer, slot_tokens
from vol3d.text.slots import slot_names, take_numbers

TEXTS = [
    "A 12 x 8 mm nodule in the left upper lobe, SUVmax 4.2 (ct slice 31).",
    "No pleural effusion. The liver is unremarkable; the liver is not enlarged.",
] * 3
TOKENIZER = ReportTokenizer.train([take_numbers(t).template for t in TEXTS], extra_tokens=["<organ>"])


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_to_the_letter(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_slots_and_extra_tokens_are_whole() -> None:
    template = take_numbers(TEXTS[0]).template
    ids = TOKENIZER.encode("<organ>" + template)
    assert ids[0] == TOKENIZER.id_of("<organ>")
    assert [i for i in ids if i in TOKENIZER.slot_ids] == [TOKENIZER.id_of(f"<{n}>") for n in slot_names(template)]
    assert slot_names(template) == ["size_1", "suv_max_1", "slice_1"]
    assert len(TOKENIZER.slot_ids) == len(slot_tokens()) == 9 * SLOTS_PER_KIND
    beyond = f"<size_{SLOTS_PER_KIND + 1}>"
    assert len(TOKENIZER.encode(beyond)) > 1
    assert TOKENIZER.decode(TOKENIZER.encode(beyond)) == beyond


def test_slots_do_not_teach_the_merges() -> None:
    with_slots = ReportTokenizer.train(["liver <size_1> liver"] * 9)
    assert with_slots.digest == ReportTokenizer.train(["liver  liver"] * 9).digest


def test_a_control_token_written_in_a_text_is_only_characters() -> None:
    ids = TOKENIZER.encode("a<eos>b<bos>")
    assert not {TOKENIZER.bos_id, TOKENIZER.eos_id} & set(ids)
    assert TOKENIZER.decode([TOKENIZER.bos_id, *ids, TOKENIZER.eos_id]) == "a<eos>b<bos>"


def test_the_same_texts_give_the_same_tokenizer_in_another_process() -> None:
    code = f"from vol3d.model.tokenizer import ReportTokenizer as R; print(R.train({TEXTS!r}).digest)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == ReportTokenizer.train(TEXTS).digest
    assert ReportTokenizer.train(["something else"] * 2).digest != other.stdout.strip()


def test_vocabulary_is_bounded_and_has_room_for_all_bytes() -> None:
    assert TOKENIZER.size < 4096
    assert ReportTokenizer.train(TEXTS, vocabulary=300).size == 300
    with pytest.raises(ConfigError, match=r"at least 294.*found 200"):
        ReportTokenizer.train(TEXTS, vocabulary=200)


def test_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    again = ReportTokenizer.load(tmp_path)
    assert (again.digest, again.size, again.slot_ids) == (TOKENIZER.digest, TOKENIZER.size, TOKENIZER.slot_ids)
    assert again.encode(TEXTS[0] + "<eos>") == TOKENIZER.encode(TEXTS[0] + "<eos>")
    with pytest.raises(CheckpointError, match="expected a token '</s>'"):
        ReportTokenizer.load(tmp_path, eos="</s>")
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(CheckpointError, match="damaged"):
        ReportTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="found none"):
        ReportTokenizer.load(tmp_path)


def test_pack_marks_answers_and_refuses_to_cut() -> None:
    t = TOKENIZER
    batch = t.pack(["liver?", ""], ["No.", "The liver is unremarkable."], 64)
    question, answer = t.encode("liver?"), t.encode("No.")
    first = [t.bos_id, *question, *answer, t.eos_id]
    second = [t.bos_id, *t.encode("The liver is unremarkable."), t.eos_id]
    width = max(len(first), len(second))
    for row, ids, prompt in ((0, first, 1 + len(question)), (1, second, 1)):
        assert batch.ids_BT[row].tolist() == ids + [t.eos_id] * (width - len(ids))
        assert batch.mask_BT[row].tolist() == [True] * len(ids) + [False] * (width - len(ids))
        assert batch.target_BT[row].nonzero().flatten().tolist() == list(range(prompt, len(ids)))
    with pytest.raises(ConfigError, match=r"at most 5 tokens, found .*The liver"):
        t.pack([""], ["The liver is unremarkable and so is the spleen."], 5)
