"""Two byte-level tokenizers (a small one trained on the spot, SmolLM2's own), and a made-up instance."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flexrec.prompting.identifiers import identifiers
from flexrec.ranking.instances import Candidate, HistoryItem, Instance
from flexrec.ranking.needs import Need


@pytest.fixture(scope="session")
def trained_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of a few hundred tokens: most characters beyond ASCII are split into several tokens."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    letters = "".join(f" {name}" for name in identifiers("letters", 52))
    lines = [letters] * 50 + ["the answer is <answer> and the thinking is <think>, é and 漢字"] * 20
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    model.train_from_iterator(lines, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, clean_up_tokenization_spaces=False)
    tokenizer.add_special_tokens(
        {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "additional_special_tokens": ["<|im_start|>"]}
    )
    # not special: they are part of the text; one of them holds a space, which is not in the byte alphabet
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("</think>"), AddedToken("<a b>")])
    return tokenizer


@pytest.fixture(scope="session", params=["trained_tokenizer", "smollm2_tokenizer"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return request.getfixturevalue(request.param)


@pytest.fixture
def trend() -> Need:
    return Need.model_validate(
        {
            "instruction": "Recommend what is trending now.",
            "terms": [{"factors": [{"signal": "trend"}]}],
            "relevant": {"rule": "top"},
        }
    )


@pytest.fixture
def instance() -> Instance:
    def candidate(item_id: int, title: str, *topics: str, **signals: float) -> Candidate:
        return Candidate(item_id, title, topics, signals)

    return Instance(
        instance_id=7,
        user_id=3,
        query_time=1000,
        history=(
            HistoryItem(20, "Alien (1979)", ("Horror", "Sci-Fi"), 5.0),
            HistoryItem(21, "Babe (1995)", (), 3.5),
            HistoryItem(22, "Casino (1995)", ("Drama",), 1.234),
        ),
        candidates=(
            candidate(1, "Dune (1984)", "Sci-Fi", similarity=0.62, niche=0, trend=12, popularity=88, quality=4.1),
            candidate(
                2, "Fargo (1996)", "Crime", "Drama", similarity=0.31, niche=1, trend=37, popularity=120, quality=4.3
            ),
            candidate(3, "Grease (1978)", similarity=0.41, niche=0, trend=0, popularity=2, quality=2.7),
            candidate(4, "Heat (1995)", "Action", similarity=0.35, niche=1, trend=0, popularity=40, quality=3.6),
        ),
    )
