"""A tiny model is asked and reads, against plain forward passes; the text itself."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from flexrec.errors import InputError
from flexrec.forgetting import probe
from flexrec.forgetting.checks import CHECKS
from flexrec.forgetting.probe import HELD_OUT, ask, read, windows_of, write
from flexrec.forgetting.prompts import PROMPTS
from flexrec.forgetting.settings import ForgettingSettings
from flexrec.policy.models import load_base

SETTINGS = ForgettingSettings(prompts=14, max_tokens=6, windows=3, window_tokens=70, batch_size=5)


def lively(folder):
    """The tiny model with larger weights, so that it does not write one word for ever."""
    model = load_base(folder)
    with torch.no_grad():
        for parameter in model.get_decoder().layers.parameters():
            if parameter.ndim == 2:
                parameter *= 3
    return model


@pytest.fixture(scope="module")
def base(tiny_folder):
    return lively(tiny_folder)


@pytest.fixture(scope="module")
def adapted(tiny_folder):
    """Another model: the same with a LoRA adapter that does something."""
    torch.manual_seed(0)
    model = get_peft_model(lively(tiny_folder), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return model


def greedy(model, tokenizer, text: str, limit: int) -> list[int]:
    """By one forward pass per token, without padding and cache."""
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )
    made: list[int] = []
    with torch.no_grad():
        while len(made) < limit and made[-1:] != [tokenizer.eos_token_id]:
            made.append(int(model(torch.tensor([[*ids, *made]])).logits[0, -1].argmax()))
    return made


def test_answers_are_greedy_whatever_their_company(adapted, smollm2_tokenizer):
    table = ask(adapted, smollm2_tokenizer, SETTINGS, name="trained")
    assert table["prompt"].tolist() == list(range(14))
    assert table["kind"].tolist() == [*CHECKS, *CHECKS][:14]
    for row, prompt in zip(table.to_dict("records"), PROMPTS, strict=False):
        expected = greedy(adapted, smollm2_tokenizer, prompt.text, 6)
        assert row["answer"] == smollm2_tokenizer.decode(expected, skip_special_tokens=True)
        assert (row["model"], row["text"], row["tokens"], row["cut"]) == ("trained", prompt.text, 6, True)


class Ending:
    """A tokenizer that takes another token for the end."""

    def __init__(self, tokenizer, eos_token_id: int) -> None:
        self.tokenizer, self.eos_token_id = tokenizer, eos_token_id

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_an_answer_ends_with_its_token(base, smollm2_tokenizer):
    made = greedy(base, smollm2_tokenizer, "Hello", 6)
    third = next(place for place in range(2, 6) if made[place] not in made[:place])
    tokenizer = Ending(smollm2_tokenizer, made[third])
    # beside a longer one, behind which the first is filled up
    ended, other = write(base, tokenizer, ["Hello", "Name three planets."], max_tokens=6)
    assert (ended.tokens, ended.cut) == (third + 1, False)
    assert other.tokens == len(greedy(base, tokenizer, "Name three planets.", 6))


def test_answers_are_checked(smollm2_tokenizer, monkeypatch):
    said = [probe.Written("quite lowercase snow", 3, False)] * 5
    monkeypatch.setattr(probe, "write", lambda model, tokenizer, texts, max_tokens: said[: len(texts)])
    table = ask(None, None, ForgettingSettings(prompts=12, batch_size=5), name="m").set_index("kind")
    assert set(table.index[table["followed"]]) == {"lowercase", "avoid", "max_words", "no_commas"}
    # the others are about Paris, the moon, animals on a farm, ...; some have their words in the instruction
    assert set(table.index[table["on_topic"].eq(True).fillna(False)]) == {"avoid"}
    assert set(table.index[table["on_topic"].isna()]) == {"include", "ending", "json_keys"}
    assert set(table.index[table["passed"]]) == {"avoid"}


def test_losses_and_divergences_against_plain_formulas(base, adapted, smollm2_tokenizer):
    table = read(adapted, smollm2_tokenizer, SETTINGS, name="trained", base=base)
    ids = smollm2_tokenizer(HELD_OUT.read_text(encoding="utf-8"))["input_ids"]
    assert table["window"].tolist() == [0, 1, 2]
    assert set(table["tokens"]) == {69}
    for row in table.to_dict("records"):
        piece = torch.tensor([ids[70 * row["window"] : 70 * (row["window"] + 1)]])
        with torch.no_grad():
            ours = adapted(piece).logits[0, :-1].double().softmax(-1)
            theirs = base(piece).logits[0, :-1].double().softmax(-1)
        loss = -sum(math.log(ours[at, token]) for at, token in enumerate(piece[0, 1:])) / 69
        assert row["loss"] == pytest.approx(loss, rel=1e-5)
        kl = (theirs * (theirs / ours).log()).sum().item() / 69
        assert row["kl"] == pytest.approx(kl, rel=1e-4)
        assert kl > 1e-3


def test_the_base_model_is_no_nat_from_itself(base, smollm2_tokenizer):
    alone = read(base, smollm2_tokenizer, SETTINGS, name="untrained")
    assert alone["kl"].tolist() == [0.0] * 3
    again = read(base, smollm2_tokenizer, SETTINGS, name="untrained", base=base)
    assert again["kl"].tolist() == [0.0] * 3
    assert again["loss"].tolist() == alone["loss"].tolist()


def test_the_default_fits_the_text(smollm2_tokenizer):
    default = ForgettingSettings()
    text = HELD_OUT.read_text(encoding="utf-8")
    pieces = windows_of(text, smollm2_tokenizer, windows=default.windows, window_tokens=default.window_tokens)
    assert {len(piece) for piece in pieces} == {512}
    assert text.startswith(smollm2_tokenizer.decode(pieces[0]))
    assert text.isascii()
    with pytest.raises(InputError, match=r"the held-out text has \d+ tokens .*lower forgetting.windows \(99\)"):
        windows_of(text, smollm2_tokenizer, windows=99, window_tokens=512)


def test_a_piece_that_the_model_cannot_read(base, smollm2_tokenizer, monkeypatch):
    monkeypatch.setattr(base.config, "max_position_embeddings", 69)
    with pytest.raises(InputError, match=r"forgetting\.window_tokens is 70, but untrained reads 69 tokens"):
        read(base, smollm2_tokenizer, SETTINGS, name="untrained")
