"""Several GPUs: a training is what it is on one."""

import torch
from transformers import TrainingArguments

from flexrec.rl.arguments import on_one_device
from flexrec.rl.settings import WarmUpSettings
from flexrec.rl.warm_up import warm_up
from small_trainings import example, new_ranker, weights_of


def seen_gpus(monkeypatch, count: int) -> None:
    """Have transformers find so many GPUs, as it does in a process that was not started by a launcher."""
    begin = TrainingArguments.__post_init__

    def begun(self) -> None:
        begin(self)
        self._n_gpu = count

    monkeypatch.setattr(TrainingArguments, "__post_init__", begun)


def test_an_update_is_one_batch_however_many_gpus_are_seen(tmp_path, monkeypatch) -> None:
    seen_gpus(monkeypatch, 2)
    arguments = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=3, use_cpu=True)
    assert arguments.train_batch_size == 6
    assert on_one_device(arguments).train_batch_size == 3


def test_a_warm_up_learns_from_the_same_lists(tiny_folder, tmp_path, monkeypatch) -> None:
    settings = WarmUpSettings(steps=3, lists_per_step=2, learning_rate=1e-3)

    def learnt(name: str) -> dict:
        ranker = new_ranker(tiny_folder)
        examples = [example(number) for number in range(6)]
        warm_up(ranker, examples, settings=settings, work_folder=tmp_path / name, seed=0)
        return weights_of(ranker)

    one = learnt("one")
    seen_gpus(monkeypatch, 2)
    two = learnt("two")
    assert all(torch.equal(one[name], two[name]) for name in one)
