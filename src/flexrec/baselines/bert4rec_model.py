"""The network of BERT4Rec and its training.

Sun et al. (2019), "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer",
with `transformers`' BERT: encoder, one dense layer with GELU and layer norm above it, logits by the item embeddings and
a bias, as in RecBole 1.2.1. Tokens are 0 for padding, the item's number plus 1, and one mask after all items.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from transformers import BertConfig, BertForMaskedLM

from flexrec.baselines.settings import Bert4RecSettings
from flexrec.errors import InputError
from flexrec.progress import track

log = logging.getLogger(__name__)

CUTOFF = 10
"""Of the validation's MRR."""

FEWEST = 3
"""A sequence this long gives its last item to validation: two are left to learn from."""

_PAD = 0
_POOL = 16
"""Batches whose sequences are sorted by length together, so that little of a batch is padding."""


@dataclass(frozen=True, eq=False)
class _Beginnings:
    """Every beginning of every sequence, cut to its most recent items, without a copy of any."""

    tokens: Int[np.ndarray, " total"]
    starts: Int[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]

    @classmethod
    def of(cls, sequences: Sequence[Int[np.ndarray, " length"]], max_length: int) -> "_Beginnings":
        sizes = np.array([len(sequence) for sequence in sequences])
        ends = np.concatenate([np.arange(1, size + 1) for size in sizes])
        skipped = np.maximum(ends - max_length, 0)
        offsets = np.repeat(np.cumsum(sizes) - sizes, sizes)
        return cls(np.concatenate(sequences) + 1, offsets + skipped, ends - skipped)

    def batch(self, rows: Int[np.ndarray, " b"]) -> Int[np.ndarray, "b L"]:
        """Tokens from the left, padded to the longest of the rows."""
        places = np.arange(self.lengths[rows].max())
        inside = places < self.lengths[rows][:, None]
        return np.where(inside, self.tokens[np.where(inside, self.starts[rows][:, None] + places, 0)], _PAD)


def fit_bert4rec(
    sequences: Sequence[Int[np.ndarray, " length"]],
    items: int,
    settings: Bert4RecSettings,
    *,
    seed: int,
    device: str = "cpu",
) -> BertForMaskedLM:
    """Train on every beginning of every sequence, and keep the epoch with the best validation MRR@10.

    Validation is the last item of every sequence of at least three, ranked among all items; it is not learnt from.
    Without such a sequence the last epoch is kept. A sequence has its last item masked and no other, or each of its
    items at random.

    On a CPU the result is the same bit for bit for the same sequences, settings, seed and number of threads. The
    caller's random state is neither read nor changed.

    Args:
        sequences: Items numbered from 0, oldest first, none empty.
        items: Number of items.
        settings: Network and optimiser.
        seed: Of weights, masks, dropout and the order of the batches, >= 0.
        device: Where to train; the model stays there.

    Returns:
        The model in evaluation mode.

    Raises:
        InputError: The training diverges.
    """
    held_out = [sequence for sequence in sequences if len(sequence) >= FEWEST]
    learnt = [sequence[:-1] if len(sequence) >= FEWEST else sequence for sequence in sequences]
    beginnings = _Beginnings.of(learnt, settings.max_length)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[] if device == "cpu" else None):
        torch.manual_seed(seed)
        model = _network(items, settings)
        model.to(device)  # type: ignore[arg-type]  # the decorator of transformers hides the signature
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        best, best_epoch, state = -1.0, -1, None
        for epoch in track(range(settings.epochs), description="training BERT4Rec", total=settings.epochs):
            _train_epoch(model, optimizer, beginnings, settings, rng)
            if not held_out:
                continue
            ranks = target_ranks(model, [s[:-1] for s in held_out], np.array([s[-1] for s in held_out]), settings)
            value = float(np.where(ranks <= CUTOFF, 1.0 / ranks, 0.0).mean())
            if value > best:
                best, best_epoch, state = value, epoch, copy.deepcopy(model.state_dict())
            elif epoch - best_epoch >= settings.patience:
                break
    if state is not None:
        model.load_state_dict(state)
        log.info("bert4rec: epoch %d of at most %d kept, validation MRR@10 %.4f", best_epoch, settings.epochs, best)
    return model.eval()


def next_item_logits(
    model: BertForMaskedLM, histories: Sequence[Int[np.ndarray, " length"]], settings: Bert4RecSettings
) -> Float[np.ndarray, "n items"]:
    """Logits of all items at a mask that follows each history.

    Args:
        model: As `fit_bert4rec` returns it.
        histories: Items numbered from 0, oldest first; may be empty.
        settings: Those of the training.

    Returns:
        Float32.
    """
    mask = model.config.vocab_size - 1
    found = []
    model.eval()
    for start in range(0, len(histories), settings.batch_size):
        kept = [
            items[max(0, len(items) - settings.max_length + 1) :] for items in histories[start:][: settings.batch_size]
        ]
        lengths = np.array([len(items) for items in kept])
        tokens = np.full((len(kept), lengths.max() + 1), _PAD)
        for row, items in zip(tokens, kept, strict=True):
            row[: len(items)] = items + 1
        tokens[np.arange(len(kept)), lengths] = mask
        with torch.no_grad():
            found.append(_logits(model, tokens, tokens == mask).cpu().numpy())
    return np.concatenate(found)


def target_ranks(
    model: BertForMaskedLM,
    histories: Sequence[Int[np.ndarray, " length"]],
    targets: Int[np.ndarray, " n"],
    settings: Bert4RecSettings,
) -> Int[np.ndarray, " n"]:
    """Rank of each target among all items, from 1; items of the history are not left out, as in RecBole.

    Args:
        model: As `fit_bert4rec` returns it.
        histories: What came before each target.
        targets: Items numbered from 0.
        settings: Those of the training.
    """
    ranks = []
    # in parts, so that the logits of all items are held for one batch at a time
    for start in range(0, len(targets), settings.batch_size):
        part = slice(start, start + settings.batch_size)
        logits = next_item_logits(model, histories[part], settings)
        ranks.append(1 + (logits > logits[np.arange(len(logits)), targets[part]][:, None]).sum(axis=1))
    return np.concatenate(ranks)


def _network(items: int, settings: Bert4RecSettings) -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=items + 2,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=settings.inner_size,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        max_position_embeddings=settings.max_length,
        type_vocab_size=1,
        pad_token_id=_PAD,
    )
    model = BertForMaskedLM(config)
    model.set_attn_implementation("eager")
    return model


def _train_epoch(
    model: BertForMaskedLM,
    optimizer: torch.optim.Optimizer,
    beginnings: _Beginnings,
    settings: Bert4RecSettings,
    rng: np.random.Generator,
) -> None:
    """One pass over the beginnings, or over as many as the settings allow.

    Raises:
        InputError: The loss is not finite.
    """
    model.train()
    mask = model.config.vocab_size - 1
    for rows in _batches(beginnings.lengths, settings, rng):
        tokens = beginnings.batch(rows)
        masked = _masked(tokens, settings, rng)
        logits = _logits(model, np.where(masked, mask, tokens), masked)
        target = torch.from_numpy(tokens[masked] - 1).to(logits.device)
        loss = torch.nn.functional.cross_entropy(logits, target)
        if not torch.isfinite(loss):
            raise InputError("the training of bert4rec diverges; lower its learning_rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def _logits(
    model: BertForMaskedLM, tokens: Int[np.ndarray, "b L"], places: Bool[np.ndarray, "b L"]
) -> Float[torch.Tensor, "masked items"]:
    """Logits of the items at the chosen places, row by row."""
    given = torch.from_numpy(tokens).to(model.device)
    hidden = model.bert(input_ids=given, attention_mask=(given != _PAD).long()).last_hidden_state
    logits: torch.Tensor = model.cls(hidden[torch.from_numpy(places).to(model.device)])
    return logits[:, 1:-1]


def _batches(
    lengths: Int[np.ndarray, " n"], settings: Bert4RecSettings, rng: np.random.Generator
) -> Iterator[Int[np.ndarray, " b"]]:
    """Rows of each batch of an epoch, of similar length and in random order."""
    order = rng.permutation(len(lengths))[: settings.examples]
    batches = []
    for start in range(0, len(order), _POOL * settings.batch_size):
        pool = order[start : start + _POOL * settings.batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += np.split(pool, range(settings.batch_size, len(pool), settings.batch_size))
    for place in rng.permutation(len(batches)):
        yield batches[place]


def _masked(
    tokens: Int[np.ndarray, "b L"], settings: Bert4RecSettings, rng: np.random.Generator
) -> Bool[np.ndarray, "b L"]:
    """Which places to mask: the last item alone, or each at random; at least one of every row."""
    real = tokens != _PAD
    last = np.arange(tokens.shape[1]) == real.sum(axis=1, keepdims=True) - 1
    drawn = real & (rng.random(tokens.shape) < settings.mask_ratio)
    alone = (rng.random(len(tokens)) < settings.last_ratio) | ~drawn.any(axis=1)
    return np.where(alone[:, None], last, drawn)
