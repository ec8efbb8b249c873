import pytest

from flexrec.errors import InputError
from flexrec.policy.models import load_base, load_tokenizer
from flexrec.rewriting.prompts import Shown
from flexrec.rewriting.requests import example_rewrites
from flexrec.rewriting.rewriter import Rewriter
from flexrec.rewriting.settings import RequestSettings, RewritePromptSettings
from flexrec.rewriting.training import choose_shown

SHOWN = Shown(("Alien (1979). Horror",), (("films like Up (2009)", "Comedy 2009"),))


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load_base(tiny_folder)


def make(model, tiny_folder, **settings):
    prompt = RewritePromptSettings.model_validate({"max_answer_tokens": 6, **settings})
    return Rewriter(model, load_tokenizer(tiny_folder), prompt, shown=SHOWN, items="films")


def test_the_prompt_ends_with_the_opening_of_the_answer(model, tiny_folder):
    rewriter = make(model, tiny_folder)
    ids = rewriter.prompt("films like Alien")
    assert rewriter.tokenizer.decode(ids).endswith('assistant\n<answer>{"query": "')


def test_an_answer_is_read_with_its_opening(model, tiny_folder):
    rewriter = make(model, tiny_folder)
    encode = rewriter.tokenizer.encode
    end = rewriter.tokenizer.eos_token_id
    assert rewriter.read([*encode('horror 1979"}</answer>'), end]) == "horror 1979"
    assert rewriter.read(encode("horror 1979")) is None
    # a control token is no end of an answer, and shows as what it is
    control = rewriter.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert rewriter.read([control, *encode('horror"}</answer>')]) == "(|im_start|)horror"


def test_rewrites_are_greedy_and_do_not_depend_on_the_batch(model, tiny_folder):
    rewriter = make(model, tiny_folder)
    seen = []
    rewriter.read = lambda completion: seen.append(tuple(completion)) or "x"
    queries = [f"films like Film {number} (19{number:02d})" for number in range(20)]
    assert rewriter.rewrite(queries) == ["x"] * 20
    together, seen[:] = list(seen), []
    for query in queries[:3]:
        rewriter.rewrite([query])
    assert seen == together[:3]
    assert max(map(len, together)) <= 6
    assert rewriter.rewrite([]) == []


def test_a_prompt_without_room_for_an_answer_is_refused(model, tiny_folder):
    room = model.config.max_position_embeddings
    with pytest.raises(InputError, match="max_answer_tokens"):
        make(model, tiny_folder, max_answer_tokens=room).prompt("films like Alien")


def test_what_is_shown_is_drawn_by_the_seed(items, task):
    def shown(seed, table=items):
        settings = RewritePromptSettings(documents=2, examples=1)
        return choose_shown(table, settings, task=task, requests=RequestSettings(), seed=seed)

    assert shown(0) == shown(0, items[::-1])
    assert len({shown(seed) for seed in range(8)}) > 1


def test_example_rewrites_are_topics_and_years(items, task):
    pairs = example_rewrites(items, 9, task=task, settings=RequestSettings(), seed=0)
    # seven items with topics, two in a request
    assert len(pairs) == 3
    by_title = {row["title"]: row for row in items.to_dict("records")}
    for search, rewrite in pairs:
        named = [by_title[title] for title in search.removeprefix("films like ").split(" and ")]
        topics = [topic for row in named for topic in row["topics"]]
        years = [f"{row['released']:.0f}" for row in named if row["released"] == row["released"]]
        assert rewrite.split() == list(dict.fromkeys([*topics, *years]))
    queries = task.model_copy(update={"context": "query"})
    assert example_rewrites(items, 9, task=queries, settings=RequestSettings(), seed=0) == []
