"""Each program runs from end to end on a tiny model, and the page is made of what they wrote."""

import json
import re
import shlex
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def run(project_root, monkeypatch, tiny_folder, tmp_path, capsys):
    """Run one program as `--quick` does; its result file."""
    monkeypatch.syspath_prepend(str(project_root))
    from importlib import import_module

    threads = torch.get_num_threads()

    def program(name, *arguments):
        shared = ["--quick", "--threads", "1", "--model", str(tiny_folder), "--results", str(tmp_path / "results")]
        import_module(f"benchmarks.{name}").main([*shared, *arguments])
        capsys.readouterr()
        return json.loads((tmp_path / "results" / f"{name}.json").read_text())

    yield program
    torch.set_num_threads(threads)


def test_update_agrees_with_stock_trl_and_is_measured(run):
    result = run("update", "--weights", "lora")
    errors = result["agreement in float32, relative"]["lora"]
    assert set(errors) == {"log-probabilities", "loss", "gradients"}
    assert max(errors.values()) < 1e-4
    row = result["rows"][0]
    sides = {"stock TRL", "replicated", "flexrec", "flexrec, free"}
    assert set(row["seconds"]) == sides
    assert all(len(values) == 1 for values in row["seconds"].values())
    assert row["figure"] == pytest.approx(row["seconds"]["stock TRL"][0] / row["seconds"]["flexrec"][0], rel=0.05)


def test_a_step_is_measured_beside_stock_trl(run):
    rows = run("step", "--weights", "full", "lora")["rows"]
    assert [row["settings"]["trained"] for row in rows] == ["all weights", "LoRA of the default configuration"]
    for row in rows:
        assert set(row["seconds"]) == {"flexrec", "stock TRL"}
        assert row["settings"]["tokens per answer"] == {"flexrec": 6, "stock TRL": 6}


def test_sampling_is_measured_beside_stock_trl(run):
    rows = run("sampling")["rows"]
    # 2 prompts, 2 rollouts, 6 tokens
    assert rows[0]["settings"]["tokens sampled"] == {"flexrec": 24, "flexrec, free": 24, "stock TRL": 24}
    assert [row["against"] for row in rows] == ["stock TRL", "stock TRL"]


def test_greedy_rankings_are_those_of_generate(run):
    rows = run("greedy", "--layouts", "default", "short")["rows"]
    assert [row["settings"]["equal rankings, float32"] for row in rows] == ["4 of 4", "4 of 4"]


def test_rewards_the_profile_and_the_page(run, tmp_path):
    run("rewards")
    profile = run("step_profile", "--which", "short")["profiles"]["short"]
    assert {"sampling: decoding", "update: backward pass", "optimiser: step"} <= set(profile["parts"])
    assert sum(profile["parts"].values()) == pytest.approx(profile["seconds"], rel=0.2)
    assert 0 < profile["floor_seconds"] < profile["seconds"]
    notes = tmp_path / "notes.md"
    notes.write_text("What did not help.\n")
    from benchmarks import report

    page = tmp_path / "page.md"
    report.main(["--results", str(tmp_path / "results"), "--page", str(page), "--notes", str(notes)])
    text = page.read_text()
    # on the processor that the tests run on
    assert re.search(r"\| swap reward and its variance, 1,000 lists of 30, float64 \| - \| [^|]{3,} \| - \|", text)
    assert "sampling: decoding" in text
    assert " TFLOP (benchmarks/flops.py), " in text
    assert text.endswith("## Notes\n\nWhat did not help.\n")


def test_data_is_made_from_nothing_and_described(run):
    (row,) = run("data")["rows"]
    assert row["settings"]["instances"] == {"test": 16, "train": 60, "validation": 8}
    assert set(row["settings"]["NDCG@5/10/30 of a random order"]) >= {"interest", "explore", "trend"}
    # a process of its own, that took its time and memory
    assert row["seconds"]["kedro run"][0] > 1
    assert row["peak_mib"]["kedro run"] > 100


def kept(made, *works, **more):
    """A result as a program leaves it, of so many seconds for each work."""
    from benchmarks.common import Row

    rows = [
        {**vars(Row(work, "", figure, "s", seconds={"flexrec": [figure]} if timed else {})), "met": None}
        for work, figure, timed in works
    ]
    origin = {"device": "cpu", "command": "c", "commit": "d", "made": made, "hardware": {}, "versions": {}}
    return origin | {"rows": rows} | more


def test_the_page_has_the_rates_of_steps(project_root, monkeypatch):
    monkeypatch.syspath_prepend(str(project_root))
    from benchmarks import report

    result = kept("e", program="tabular", steps={"4000000": {"all": 2.5}})
    assert "| 4,000,000 | all | 2.50 | 1.60 |" in report.page([result], "")


def test_of_the_same_work_the_page_has_the_newest(project_root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(project_root))
    from benchmarks import report

    steps = {"1": {"all": 1.0}, "2": {"all": 1.0}}
    old = kept("2026-01-01", ("short", 3.0, True), ("long", 9.0, True), program="tabular", steps=steps)
    new = kept("2026-01-02", ("short", 2.0, True), ("memory", 7.0, False), program="tabular", steps={"1": {"all": 2.0}})
    other = kept("2026-01-03", ("short", 5.0, True), program="search")
    gone = kept("2025-01-01", ("short", 1.0, True), program="tabular")
    for name, result in {"a": old, "b": new, "c": other, "d": gone}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    found = report.read_results(tmp_path)
    assert [[(row["work"], row["figure"]) for row in result["rows"]] for result in found] == [
        [("long", 9.0)],
        [("short", 2.0), ("memory", 7.0)],
        [("short", 5.0)],
    ]
    assert [list(result.get("steps", ())) for result in found] == [["2"], ["1"], []]
    text = report.page(found, "")
    # what was not timed has a figure and no table
    assert "| memory | - | cpu | - | 7.00 s | - |" in text
    assert "**memory**" not in text
    assert text.count("| side |") == 3


def test_a_profile_goes_with_its_row(project_root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(project_root))
    from benchmarks import report

    def profiled(made, *names):
        profiles = {name: {"what": name, "seconds": 1.0, "parts": {}, "operators": []} for name in names}
        rows = ((f"one RL step, {name}", 1.0, True) for name in names)
        return kept(made, *rows, program="step_profile", profiles=profiles)

    for name, result in {"a": profiled("1", "default", "short"), "b": profiled("2", "default")}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    text = report.page(report.read_results(tmp_path), "")
    assert text.count("One step, default: 1.000 s.") == 1
    assert text.count("One step, short: 1.000 s.") == 1


def test_of_the_same_work_on_several_processors_the_page_has_each(project_root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(project_root))
    from benchmarks import report

    measured = (("a", "1", "EPYC", 3.0), ("b", "2", "Xeon(R) Processor, amx", 4.0), ("c", "3", "EPYC", 5.0))
    for name, made, cpu, figure in measured:
        result = kept(made, ("short", figure, True), ("other", figure, True), program="step", hardware={"cpu": cpu})
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    rows = [line for line in report.page(report.read_results(tmp_path), "").splitlines() if line.endswith("s | - |")]
    # rows of one work stand together
    assert rows == [
        "| short | - | Xeon, amx | - | 4.00 s | - |",
        "| short | - | EPYC | - | 5.00 s | - |",
        "| other | - | Xeon, amx | - | 4.00 s | - |",
        "| other | - | EPYC | - | 5.00 s | - |",
    ]


def test_the_page_has_what_the_critic_learned_and_what_was_published(project_root, monkeypatch):
    monkeypatch.syspath_prepend(str(project_root))
    from benchmarks import report

    learned = {"n": 47000, "mse": 0.41838, "pearson_mean": 0.2648}
    more = {"calibration_on_made_up_data": {"paper": learned}, "seconds_per_epoch": {"paper": 4.175}}
    text = report.page([kept("e", program="critic", **more)], "")
    assert "| variant | n | mse | pearson mean | seconds |" in text
    assert "| paper | 47,000 | 0.4184 | 0.2648 | 4.17 |" in text
    published = [{"what": "theirs", "address": "https://there", "dataset": "ml-1m", "NDCG@10": 0.1516}]
    text = report.page([kept("e", program="bert4rec", published=published, agreement={})], "")
    assert "Published, ml-1m: NDCG@10 0.1516 ([theirs](https://there))." in text
    assert "Agreement" not in text


def test_a_part_of_a_program_has_a_file_of_its_own(project_root, monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(project_root))
    from benchmarks.common import parser, write_result

    for arguments in ([], ["--part", "long"], ["--part", "long", "--device", "cuda"]):
        options = parser("").parse_args([*arguments, "--results", str(tmp_path)])
        monkeypatch.setattr("benchmarks.common.hardware", lambda options: {})
        write_result("update", options, [])
    assert {path.name for path in tmp_path.iterdir()} == {"update.json", "update-long.json", "update-long-cuda.json"}
    assert {json.loads(path.read_text())["program"] for path in tmp_path.iterdir()} == {"update"}


@pytest.mark.parametrize(
    ("stem", "device", "recorded", "shown"),
    [
        # the option was a name, whatever the file is called now
        ("update-float32", "cpu", "--cases a --results a-f32", "--cases a --part float32"),
        ("update", "cpu", "--results update-bf16 --cases 'a b'", "--cases 'a b'"),
        ("update-cuda", "cuda", "--device cuda --results update", "--device cuda"),
        ("update-long-cuda", "cuda", "--results u --device cuda", "--part long --device cuda"),
        # it is a folder, which is no part of the work
        ("update-long", "cpu", "--part long --results elsewhere", "--part long"),
        ("update-long", "cpu", "--part long", "--part long"),
        ("update-other", "cpu", "--cases a", "--cases a"),
    ],
)
def test_commands_are_shown_as_they_are_given_today(project_root, monkeypatch, tmp_path, stem, device, recorded, shown):
    monkeypatch.syspath_prepend(str(project_root))
    from benchmarks.common import parser

    from benchmarks import report

    result = kept("2026-01-01", ("short", 3.0, True), program="update", hardware={})
    result |= {"device": device, "command": f"python -m benchmarks.update {recorded}"}
    (tmp_path / f"{stem}.json").write_text(json.dumps(result))
    text = report.page(report.read_results(tmp_path), "")
    assert f"`python -m benchmarks.update {shown}` at commit" in text
    options, _ = parser("").parse_known_args(shlex.split(shown))
    assert options.results is None


def test_a_bar_is_met_from_the_right_side(run):
    from benchmarks.common import Row

    assert Row("", "", figure=5.3, bar=5.3).met is True
    assert Row("", "", figure=5.2, bar=5.3).met is False
    assert Row("", "", figure=0.2, bar=0.25, at_most=True).met is True
    assert Row("", "", figure=0.3, bar=0.25, at_most=True).met is False
    assert Row("", "", figure=0.3).met is None


def test_prompts_have_exactly_the_length_asked_for(run, smollm2_tokenizer):
    from benchmarks.common import make_prompts

    prompts = make_prompts(smollm2_tokenizer, 2, 137, seed=0)
    assert [len(prompt.tokens) for prompt in prompts] == [137, 137]
    again = smollm2_tokenizer.apply_chat_template(prompts[0].messages, add_generation_prompt=True, return_dict=False)
    assert again == prompts[0].tokens
    assert prompts[0].tokens != prompts[1].tokens


@pytest.mark.parametrize(("rate", "sizes"), [(1e12, [256, 512, 1024, 2048]), (3e8, [256, 512])])
def test_the_rate_of_products_takes_seconds_on_any_processor(project_root, monkeypatch, rate, sizes):
    monkeypatch.syspath_prepend(str(project_root))
    from benchmarks import flops

    asked = []
    monkeypatch.setattr(flops, "_product_seconds", lambda *at: asked.append(at[2:]) or 2 * at[2] ** 3 / rate)
    assert flops.matrix_rate("cpu", "bfloat16") == pytest.approx(rate)
    # of the largest one that takes no more than seconds, ten
    assert asked == [*((size, 2) for size in sizes), (sizes[-1], 10)]


def test_needed_operations_by_hand(run):
    from benchmarks.flops import step_flops, update_flops

    config = SimpleNamespace(
        hidden_size=4, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=3
    )
    # one layer's matrices: q 4x4, k and v 4x2, o 4x4, three of 4x3: 16 + 8 + 8 + 16 + 36 = 84; keys and values 16
    # T = P + G (C - 1) = 5 + 2 * 2 = 9 tokens: 2 * 9 * 84 = 1512 a layer; the last less 2 * 4 * (84 - 16) = 544
    linear = 1512 + (1512 - 544)
    # pairs: prompt 5 * 6 / 2 = 15, answers 2 * (6 + 7) = 26; 4 * (2 heads * 2) = 16 a pair; last layer 5 + 26
    attention = 16 * (15 + 26) + 16 * (5 + 26)
    # output matrix: 2 * 4 * 3 columns * 2 rollouts * 3 tokens
    head = 144
    sizes = {"prompt": 5, "rollouts": 2, "answer": 3, "columns": 3}
    assert update_flops(config, **sizes) == 3 * (linear + attention + head)
    # and the reference's forward pass
    assert step_flops(config, **sizes) == 4 * (linear + attention + head)
    # with an adapter on the last layer alone: the reference shares the first layer
    adapter = SimpleNamespace(upper_layers=1, rank=2, targets=["q_proj"])
    low_rank = 6 * 9 * 2 * (4 + 4)
    last = 1512 - 544 + 16 * (5 + 26)
    update = linear + attention + head + (1512 - 544) + 2 * 16 * (5 + 26) + head + low_rank
    assert update_flops(config, **sizes, adapter=adapter) == update
    assert step_flops(config, **sizes, adapter=adapter) == update + last + head
