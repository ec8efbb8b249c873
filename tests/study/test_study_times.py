from types import SimpleNamespace

from flexrec.pipelines.study.times import Times, plan_text
from flexrec.study.settings import Seconds
from looked_at import looked, state


def test_shared_parts_are_counted_once_and_measured_ones_as_they_were():
    rough = Seconds(start=10, train_warm_up=100, train_rl=200)
    done = looked("a", [state("train_rl", "a", stale=False, seconds=50.0)])
    first = looked("b", [state("train_warm_up", "w"), state("train_rl", "b"), state("measure", "bm")])
    second = looked("c", [state("train_warm_up", "w"), state("train_rl", "c")])
    times = Times(rough)
    # 10 + 100 + 200 + 1 for a node that nobody has measured; then 10 + 200, the warm-up being there
    assert times.seconds([done, first, second]) == [0.0, 311.0, 210.0]
    times.learn([done, first, second])
    assert times.seconds([done, first, second]) == [0.0, 161.0, 60.0]
    # twice the updates of twice the prompts; half of the lists; five times the instances
    more = looked(
        "d",
        [state("train_warm_up", "w2"), state("train_rl", "d"), state("rank_trained", "d2"), state("measure", "dm")],
        rl=SimpleNamespace(steps=60, prompts_per_step=8, rollouts=8),
        warm_up=SimpleNamespace(steps=120, lists_per_step=4),
        task=SimpleNamespace(instances=SimpleNamespace(test=800)),
    )
    assert times.seconds([more]) == [10 + 50 + 4 * 50.0 + 5 * 30 + 1]
    unknown = Times(rough)
    unknown.learn([looked("e", [state("train_rl", "e", stale=False, seconds=100.0)], rl=more.parameter("rl"))])
    assert unknown.seconds([first]) == [10 + 100 + 25 + 1]
    text = plan_text("mine", [done, first, second], times)
    assert text.startswith("study mine: 3 runs, 1 up to date, 2 to make, about 4 min\n")
    assert "2  trend b seed 0: about 3 min; train_warm_up: it is missing" in text
