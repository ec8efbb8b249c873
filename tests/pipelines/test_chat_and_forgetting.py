"""The pipelines `chat` and `forgetting` through whole sessions, beside a finished run of the project."""

import json

import click
import pytest

from chat_endpoint import KEY, Written, running_chat_endpoint
from flexrec.errors import InputError
from flexrec.ranking.schemas import InstanceMetrics, Rankings
from flexrec.reporting.publish_pages import found_pages, published
from flexrec.selection import validate_selection
from flexrec.settings import CONFIG_LOADER_ARGS, CONFIG_LOADER_CLASS

CHOSEN = {"chat": "mine"}


def say(messages, limit) -> Written:
    """Everybody's first three candidates, and a word too many."""
    return Written("Surely C B A", "stop", 200, 5)


def test_chat(done, monkeypatch, capsys) -> None:
    with running_chat_endpoint(say) as endpoint:
        entry = {"model": "made-up", "base_url": endpoint.address, "key_variable": "FLEXREC_TEST_KEY", "retries": 0}
        prices = {"price_per_million_input_tokens": 10, "price_per_million_output_tokens": 100}
        done.set("base/parameters_chat.yml", chats={"mine": entry | prices})

        with pytest.raises(
            click.ClickException, match="no chat endpoint is chosen; add `--params chat=<name>`"
        ) as lost:
            done.run(pipeline_names=["chat"])
        assert "openai, gemini, local, mine" in lost.value.message
        # nothing was computed before that
        assert done.last.ran == {"choose_chat"}

        # the endpoint answers with the header that it got
        monkeypatch.setenv("FLEXREC_TEST_KEY", KEY[::-1])
        with pytest.raises(click.ClickException, match=r"the header Bearer \[key\] is wrong; look at the key") as wrong:
            done.run(CHOSEN, pipeline_names=["chat"])
        told = [*done.last.lines, wrong.value.message]

        monkeypatch.setenv("FLEXREC_TEST_KEY", KEY)
        capsys.readouterr()
        run = done.run(CHOSEN, pipeline_names=["chat"])
        assert run.ran == {"rank_chat", "measure_chat", "compare_chat", "tell_chat", "print_chat"}
        printed = capsys.readouterr().out
        count = len(endpoint.requests)

    catalog = done.catalog(CHOSEN)
    with done.entered():
        rankings = Rankings.validate(catalog["rankings_chat"].load())
        test = catalog["labelled_instances"].load().query("split == 'test'")
        metrics = InstanceMetrics.validate(catalog["chat_instance_metrics"].load())
        costs, summary = catalog["chat_costs"].load(), catalog["chat_summary"].load()
        (page,) = found_pages([done.path / "data" / "08_reporting"]).items()
    assert page[0] == "fabricated-trend-tiny-chat-mine.md"
    assert "# trend on fabricated: mine, zero-shot\n\nMade by `" in published(page[1], page[0])
    assert "| chat model | made-up |" in published(page[1], page[0])
    assert sorted(rankings["instance_id"]) == sorted(test["instance_id"])
    assert set(rankings["method"]) == {"chat_mine"}
    for row in rankings.to_dict("records"):
        shown = list(row["input_order"])
        assert list(row["ranking"])[:3] == [shown[2], shown[1], shown[0]]
        assert (row["invalid"], row["repeated"], row["missing"]) == (1, 0, len(shown) - 3)
    assert (costs["answers"], costs["input_tokens"], costs["output_tokens"]) == (count, 200 * count, 5 * count)
    # 200 tokens of 10 and 5 tokens of 100 per million: 0.0025 for each answer
    assert costs["price"] == pytest.approx(0.0025 * count)
    assert {"random", "untrained", "chat_mine"} <= set(metrics["method"])
    assert {"random", "untrained"} <= set(summary.query("method == 'chat_mine'")["reference"].dropna())
    assert "The ranker 'chat mine' reaches NDCG@5" in printed
    assert f"{count} answers, {200 * count} tokens read" in printed

    told += [*run.lines, printed]
    left = [file for file in done.path.rglob("*") if file.is_file() and not file.is_symlink()]
    assert "chat_cache.sqlite" in {file.name for file in left}
    for key in (KEY, KEY[::-1]):
        assert [file for file in left if key.encode() in file.read_bytes()] == []
        assert key not in "\n".join(told)


def test_an_unknown_chat_endpoint_is_refused_before_anything_runs(project_root) -> None:
    parameters = CONFIG_LOADER_CLASS(str(project_root / "conf"), env="test", **CONFIG_LOADER_ARGS)["parameters"]
    with pytest.raises(InputError, match="parameter `chat`: unknown chat endpoint 'yours', allowed: none, openai"):
        validate_selection({**parameters, "chat": "yours"})


def test_forgetting(done, capsys) -> None:
    run = done.run(pipeline_names=["forgetting"])
    assert run.ran == {
        *("examine_untrained", "examine_warmed_up", "examine_trained"),
        *("compare_forgetting", "tell_forgetting", "print_forgetting"),
    }
    printed = capsys.readouterr().out
    catalog = done.catalog()
    with done.entered():
        answers, windows = catalog["forgetting_answers"].load(), catalog["forgetting_windows"].load()
        found, figure = catalog["forgetting"].load(), catalog["forgetting_figure"].load()
        (page,) = found_pages([done.path / "data" / "08_reporting"]).items()
    assert page[0] == "fabricated-trend-tiny-flexrec-forgetting.md"
    text = published(page[1], page[0])
    assert text.startswith("# What tiny forgets, trained by flexrec for trend on fabricated\n\nMade by `")
    for words in ("FlexRec against untrained: ", "## Instructions followed, by kind", "| layout | default |"):
        assert words in text
    assert answers.groupby("model", sort=False).size().to_dict() == {"untrained": 12, "warmed_up": 12, "flexrec": 12}
    assert windows.query("model == 'untrained'")["kl"].eq(0).all()
    assert windows.query("model == 'flexrec'")["kl"].gt(0).all()
    assert list(found["pass_rate"]) == ["untrained", "warmed_up", "flexrec"]
    assert json.loads(figure.to_json())["data"]
    assert "Before and after training" in printed
    assert "FlexRec against untrained:" in printed
