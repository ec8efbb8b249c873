"""BERT4Rec: how sequences become examples, and what the network learns of them."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from flexrec.baselines import bert4rec_model
from flexrec.baselines.bert4rec import bert4rec_scores, item_sequences
from flexrec.baselines.bert4rec_model import (
    _batches,
    _Beginnings,
    _masked,
    fit_bert4rec,
    next_item_logits,
    target_ranks,
)
from flexrec.baselines.scores import Scores
from flexrec.baselines.settings import Bert4RecSettings, FittedSettings
from flexrec.errors import InputError

SMALL = Bert4RecSettings(layers=1, hidden_size=16, inner_size=32, epochs=1, batch_size=8)
CYCLE = 8


def cycles(count: int, seed: int = 0) -> list[np.ndarray]:
    """Every item is followed by the next of `CYCLE`."""
    rng = np.random.default_rng(seed)
    return [(rng.integers(CYCLE) + np.arange(rng.integers(4, 9))) % CYCLE for _ in range(count)]


def test_every_beginning_cut_to_its_latest_items() -> None:
    beginnings = _Beginnings.of([np.array([0, 1, 2]), np.array([3])], max_length=2)
    # tokens are items plus 1: [1], [1 2], [2 3] (the first is cut off), [4]
    assert beginnings.batch(np.array([2, 0, 3, 1])).tolist() == [[2, 3], [1, 0], [4, 0], [1, 2]]
    assert beginnings.batch(np.array([3, 0])).tolist() == [[4], [1]]


def test_masks() -> None:
    rng = np.random.default_rng(0)
    tokens = np.where(np.arange(10) < rng.integers(1, 11, 4000)[:, None], 5, 0)
    last = (tokens != 0).sum(axis=1) - 1
    only = _masked(tokens, Bert4RecSettings(last_ratio=1.0), rng)
    assert (only.sum(axis=1) == 1).all()
    assert only[np.arange(len(tokens)), last].all()
    drawn = _masked(tokens, Bert4RecSettings(last_ratio=0.0, mask_ratio=0.2), rng)
    assert not drawn[tokens == 0].any()
    assert drawn.any(axis=1).all()
    # of the rows of ten items 0.8^10 = 0.107 would have no mask and get one: (2 + 0.107) / 10
    assert drawn[last == 9].mean() == pytest.approx(0.2107, abs=0.02)


def test_batches_hold_every_beginning_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 1000)
    how = Bert4RecSettings(batch_size=32, examples=None)
    batches = list(_batches(lengths, how, np.random.default_rng(1)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert max(len(rows) for rows in batches) == 32
    # of similar length
    assert np.mean([np.ptp(lengths[rows]) for rows in batches]) < 10
    other = list(_batches(lengths, how, np.random.default_rng(2)))
    assert [rows.tolist() for rows in batches] != [rows.tolist() for rows in other]
    some = np.concatenate(list(_batches(lengths, how.model_copy(update={"examples": 100}), np.random.default_rng(1))))
    assert len(set(some.tolist())) == 100


def test_a_cycle_is_learnt() -> None:
    how = SMALL.model_copy(
        update={
            "hidden_size": 32,
            "dropout": 0.0,
            "epochs": 8,
            "batch_size": 32,
            "learning_rate": 3e-3,
            "last_ratio": 1.0,
        }
    )
    model = fit_bert4rec(cycles(120), CYCLE, how, seed=0)
    asked = cycles(60, seed=1)
    ranks = target_ranks(model, [s[:-1] for s in asked], np.array([s[-1] for s in asked]), how)
    # by chance it would be an eighth
    assert (ranks == 1).mean() > 0.6
    # ranks are those of the logits
    logits = next_item_logits(model, [asked[0][:-1]], how)[0]
    assert logits.shape == (CYCLE,)
    assert ranks[0] == 1 + (logits > logits[asked[0][-1]]).sum()


def test_padding_and_old_items_do_not_matter() -> None:
    how = SMALL.model_copy(update={"max_length": 5})
    model = fit_bert4rec(cycles(20), CYCLE, how, seed=0)
    histories = [np.array([3]), np.array([], dtype=np.int64), np.array([1, 2, 3, 4]), np.array([0, 6, 1, 2, 3, 4])]
    together = next_item_logits(model, histories, how)
    for row, history in enumerate(histories):
        np.testing.assert_allclose(next_item_logits(model, [history], how)[0], together[row], atol=1e-5)
    # with the mask five tokens are read: the last four items, and all four of them
    np.testing.assert_allclose(together[3], together[2], atol=1e-5)
    assert not np.allclose(next_item_logits(model, [np.array([2, 3, 4])], how)[0], together[2], atol=1e-5)


def test_the_head_is_tied_to_the_embeddings() -> None:
    model = fit_bert4rec(cycles(4), CYCLE, SMALL, seed=0)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    hidden = model.bert(input_ids=torch.tensor([[4, CYCLE + 1]])).last_hidden_state[0, 1]
    head = model.cls.predictions
    above = torch.nn.functional.gelu(head.transform.dense(hidden))
    above = torch.nn.functional.layer_norm(above, (16,), *head.transform.LayerNorm.parameters(), eps=1e-12)
    weight, bias = model.bert.embeddings.word_embeddings.weight, head.bias
    expected = (above @ weight.T + bias)[1 : CYCLE + 1].detach().numpy()
    np.testing.assert_allclose(next_item_logits(model, [np.array([3])], SMALL)[0], expected, atol=1e-5)


def test_same_seed_same_bits_and_no_random_state_is_touched() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    how = SMALL.model_copy(update={"epochs": 3})
    first, again, other = (fit_bert4rec(cycles(20), CYCLE, how, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_best_epoch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # MRR@10 of the epochs: 1/2, 1/3, 1 (best), 1/4, 0 (rank 11), and no more: patience 2
    script = iter([2, 3, 1, 4, 11])
    states = []

    def scripted(model: torch.nn.Module, *_: object) -> np.ndarray:
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return np.array([next(script)])

    monkeypatch.setattr(bert4rec_model, "target_ranks", scripted)
    how = SMALL.model_copy(update={"epochs": 50, "patience": 2})
    kept = fit_bert4rec(cycles(10), CYCLE, how, seed=0).state_dict()
    assert len(states) == 5
    assert all(torch.equal(kept[name], states[2][name]) for name in kept)


def test_short_sequences_train_without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bert4rec_model, "target_ranks", lambda *_: pytest.fail("there is nothing to validate with"))
    model = fit_bert4rec([np.array([0]), np.array([1, 0])], 2, SMALL, seed=0)
    assert not model.training


def test_divergence_is_said() -> None:
    with pytest.raises(InputError, match="bert4rec diverges; lower its learning_rate"):
        fit_bert4rec(cycles(20), CYCLE, SMALL.model_copy(update={"learning_rate": 1e30, "epochs": 3}), seed=0)


def test_heads_divide_the_hidden_size() -> None:
    with pytest.raises(ValidationError, match="hidden_size 64 must be a multiple of heads 3"):
        Bert4RecSettings(heads=3)


# --- as a baseline


def observations(sequences: list[np.ndarray]) -> pd.DataFrame:
    rows = [(100 + user, 1000 + item) for user, sequence in enumerate(sequences) for item in sequence.tolist()]
    table = pd.DataFrame(rows, columns=["user_id", "item_id"])
    return table.assign(engagement=1.0, observed=True, split="train", event_id=range(len(rows)), timestamp=0)


OBSERVED = observations(cycles(20))
INSTANCES = pd.DataFrame(
    {
        "instance_id": [0, 1],
        "user_id": [1, 2],
        "candidates": [[1004, 7777, 1001], [1005, 1002]],
        "history_items": [[1002, 8888, 1003], []],
    }
)


def scores(instances: pd.DataFrame, observed: pd.DataFrame) -> Scores:
    return bert4rec_scores(instances, observations=observed, fitted=FittedSettings(bert4rec=SMALL), seed=0)


def test_scores_are_the_logits_of_the_candidates() -> None:
    found = scores(INSTANCES, OBSERVED)
    item_ids, sequences = item_sequences(OBSERVED)
    assert item_ids.tolist() == [1000 + item for item in range(CYCLE)]
    assert [s.tolist() for s in sequences] == [s.tolist() for s in cycles(20)]
    model = fit_bert4rec(sequences, CYCLE, SMALL, seed=0)
    # 8888 was never seen: it is left out of the history
    logits = next_item_logits(model, [np.array([2, 3]), np.array([], dtype=np.int64)], SMALL).astype(np.float64)
    # neither was 7777: as unlikely as the least likely
    assert found[0].tolist() == [logits[0, 4], logits[0].min(), logits[0, 1]]
    assert found[1].tolist() == [logits[1, 5], logits[1, 2]]


def test_sequences_follow_the_events() -> None:
    table = OBSERVED.head(0).copy()
    table["user_id"], table["item_id"], table["event_id"] = [7, 3, 7, 3], [40, 50, 30, 40], [5, 9, 2, 1]
    item_ids, sequences = item_sequences(table)
    assert item_ids.tolist() == [30, 40, 50]
    # user 3: 40 (event 1), 50 (event 9); user 7: 30 (event 2), 40 (event 5)
    assert [s.tolist() for s in sequences] == [[1, 2], [0, 1]]


def test_what_it_may_not_read() -> None:
    expected = [values.tolist() for values in scores(INSTANCES, OBSERVED)]
    strangers = OBSERVED.tail(9).assign(event_id=np.arange(9) + 900, item_id=1000)
    for row in (
        strangers.assign(user_id=100, observed=False),
        strangers.assign(user_id=55, split="test"),
        strangers.assign(user_id=1),  # the asking user's own, as where a training user is asked
    ):
        assert [values.tolist() for values in scores(INSTANCES, pd.concat([OBSERVED, row]))] == expected


def test_without_any_history_all_candidates_tie() -> None:
    script = (
        "import sys, pandas as pd; from flexrec.baselines import BASELINES; "
        "table = pd.DataFrame({'history_items': [[]], 'candidates': [[1, 2]]}); "
        "found = BASELINES['bert4rec'](table, observations=None, fitted=None, seed=0); "
        "sys.exit('torch' in sys.modules or found[0].tolist() != [0.0, 0.0])"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
