"""The baseline BERT4Rec beside RecBole's, on RecBole's protocol.

The last item of every user is the test, the one before it the validation, and each is ranked among all items, those of
the history included. Both sides read the same interactions. RecBole runs in a Python of its own:

    python -m venv FOLDER
    FOLDER/bin/pip install "recbole==1.2.1" "numpy<2" "pandas<3"
    python -m benchmarks.bert4rec --recbole-python FOLDER/bin/python

Without --recbole-python ours alone is run, and printed beside what has been published.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

METRICS = ("MRR@10", "NDCG@10", "Hit@10")
CUTOFF = 10
RESAMPLES = 10_000

PUBLISHED = (
    {
        "what": "RecBole on MovieLens-1M, learning rate 0.001. Since taken back (pull requests 1517, 1522 and 1639): "
        "the model had a fault",
        "address": "https://github.com/RUCAIBox/RecBole/blob/b616af6b6d4a8eaf6221477cc3d482048cc4f53e/benchmark/hyper/"
        "sequential/BERT4Rec-ml-1m_seq.md",
        "dataset": "ml-1m",
        "MRR@10": 0.0202,
        "NDCG@10": 0.0315,
        "Hit@10": 0.0693,
    },
    {
        "what": "to be expected on MovieLens-1M, by the replication study of Petrov and Macdonald (2022)",
        "address": "https://github.com/asash/bert4rec_repro",
        "dataset": "ml-1m",
        "NDCG@10": 0.1516,
        "Hit@10": 0.2821,
    },
)
"""RecBole publishes no figure of BERT4Rec on MovieLens-100K; its own code, run here, is the comparison."""

FILTERS = {"ml-100k": (None, 0), "ml-1m": (3.0, 10)}
"""Least rating, and fewest interactions of a user or an item: none, and those of RecBole's benchmark."""

RECBOLE_BATCH = 2048

TOLERANCE = 1e-4
"""Of logits, in float32, between both networks with the same weights."""

LAYER = {
    "attention.self.query": "multi_head_attention.query",
    "attention.self.key": "multi_head_attention.key",
    "attention.self.value": "multi_head_attention.value",
    "attention.output.dense": "multi_head_attention.dense",
    "attention.output.LayerNorm": "multi_head_attention.LayerNorm",
    "intermediate.dense": "feed_forward.dense_1",
    "output.dense": "feed_forward.dense_2",
    "output.LayerNorm": "feed_forward.LayerNorm",
}
"""The parts of a layer: in transformers, and in RecBole."""


def main(arguments: list[str] | None = None) -> None:
    """Run both sides, print the figures and the paired differences."""
    from benchmarks.common import Row, parser, prepare, scratch, write_result

    made = parser((__doc__ or "").partition("\n")[0], repetitions=1)
    made.add_argument("--dataset", choices=tuple(FILTERS), default="ml-100k")
    made.add_argument("--raw", type=Path, default=Path("data/01_raw"), help="where the dataset's archive is or goes")
    made.add_argument("--epochs", type=int, default=300, help="most epochs of both sides")
    made.add_argument("--batch-size", type=int, default=RECBOLE_BATCH, help="of both sides")
    made.add_argument("--examples", type=int, help="most sequences of an epoch, ours alone; RecBole takes all")
    made.add_argument("--recbole-python", type=Path, help="a Python with recbole 1.2.1; without it ours alone is run")
    options = made.parse_args(arguments)
    prepare(options)
    interactions = _cycles() if options.quick else _interactions(options.dataset, options.raw)
    print(f"{interactions['user_id'].nunique()} users, {interactions['item_id'].nunique()} items, {len(interactions)}")

    agreement: dict[str, dict[str, float]] = {}
    sides: dict[str, dict[str, Any]] = {"flexrec": _ours(interactions, options)}
    if options.recbole_python is not None:
        with scratch() as folder:
            agreement = {"same weights": {"logits": _same_weights(options, folder)}}
            sides["RecBole 1.2.1"] = _recbole(interactions, options, folder)
    rows = []
    for metric in METRICS:
        figures = {name: _metric(metric, side["ranks"]) for name, side in sides.items()}
        shown = {name: f"{value:.4f}" for name, value in figures.items()}
        if len(sides) > 1:
            shown["difference"] = _difference(metric, *(side["ranks"] for side in sides.values()), seed=options.seed)
        rows.append(
            Row(
                work=f"BERT4Rec on {'made-up cycles' if options.quick else options.dataset}, {metric}",
                against="RecBole 1.2.1" if len(sides) > 1 else "",
                figure=figures["flexrec"],
                unit=metric,
                seconds={name: [side["seconds"]] for name, side in sides.items()},
                settings={**shown, "epochs at most": options.epochs, "batch": options.batch_size},
            )
        )
    for entry in PUBLISHED:
        found = ", ".join(f"{metric} {entry[metric]}" for metric in METRICS if metric in entry)
        print(f"published: {found} ({entry['what']}; {entry['address']})")
    write_result("bert4rec", options, rows, {"published": PUBLISHED, "agreement": agreement})


def _interactions(dataset: str, raw: Path) -> Any:
    """user_id, item_id, timestamp, event_id, as RecBole's benchmark filters them."""
    from flexrec.sources import source_of

    source = source_of(dataset, {})
    raw.mkdir(parents=True, exist_ok=True)
    table = source.read(source.fetch(raw), None).interactions
    least, fewest = FILTERS[dataset]
    table = table if least is None else table[table["engagement"] >= least]
    while fewest:
        keep = (table.groupby("user_id")["item_id"].transform("size") >= fewest) & (
            table.groupby("item_id")["user_id"].transform("size") >= fewest
        )
        if keep.all():
            break
        table = table[keep]
    return table[["user_id", "item_id", "timestamp", "event_id"]]


def _cycles() -> Any:
    """Made-up users: every item is followed by the next of thirty (RecBole hangs where a user knows all items)."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    sequences = [(rng.integers(30) + np.arange(rng.integers(6, 12))) % 30 for _ in range(40)]
    table = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(40), [len(sequence) for sequence in sequences]),
            "item_id": np.concatenate(sequences),
        }
    )
    return table.assign(timestamp=range(len(table)), event_id=range(len(table)))


def _ours(interactions: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Rank of every user's last item, by user, and the seconds of training and ranking."""
    import logging

    import numpy as np

    from flexrec.baselines.bert4rec import item_sequences
    from flexrec.baselines.bert4rec_model import fit_bert4rec, target_ranks
    from flexrec.baselines.settings import Bert4RecSettings

    logging.basicConfig(format="  %(message)s", level=logging.INFO)
    item_ids, sequences = item_sequences(interactions)
    settings = Bert4RecSettings(
        epochs=1 if options.quick else options.epochs, batch_size=options.batch_size, examples=options.examples
    )
    start = time.perf_counter()
    # the last of what is left is held out by the training itself
    model = fit_bert4rec(
        [sequence[:-1] for sequence in sequences], len(item_ids), settings, seed=options.seed, device=options.device
    )
    targets = np.array([sequence[-1] for sequence in sequences])
    ranks = target_ranks(model, [sequence[:-1] for sequence in sequences], targets, settings)
    users = np.unique(interactions["user_id"])
    seconds = time.perf_counter() - start
    return {"ranks": dict(zip(users.tolist(), ranks.tolist(), strict=True)), "seconds": seconds}


def _same_weights(options: argparse.Namespace, folder: Path) -> float:
    """Largest difference between the logits of both networks with the same weights."""
    import numpy as np

    from flexrec.baselines.bert4rec_model import fit_bert4rec, next_item_logits
    from flexrec.baselines.settings import Bert4RecSettings

    items, settings, rng = 100, Bert4RecSettings(epochs=1), np.random.default_rng(options.seed)
    model = fit_bert4rec([rng.integers(0, items, 60) for _ in range(20)], items, settings, seed=options.seed)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    bert = "bert.embeddings."
    named = {
        "item_embedding.weight": weights[f"{bert}word_embeddings.weight"],
        # of token types there is one
        "position_embedding.weight": weights[f"{bert}position_embeddings.weight"]
        + weights[f"{bert}token_type_embeddings.weight"],
        # it has none for the mask, which is no item
        "output_bias": weights["cls.predictions.bias"][:-1],
    }
    for kind in ("weight", "bias"):
        named[f"LayerNorm.{kind}"] = weights[f"{bert}LayerNorm.{kind}"]
        named[f"output_ffn.{kind}"] = weights[f"cls.predictions.transform.dense.{kind}"]
        named[f"output_ln.{kind}"] = weights[f"cls.predictions.transform.LayerNorm.{kind}"]
        for layer in range(settings.layers):
            for ours, theirs in LAYER.items():
                named[f"trm_encoder.layer.{layer}.{theirs}.{kind}"] = weights[
                    f"bert.encoder.layer.{layer}.{ours}.{kind}"
                ]
    np.savez(folder / "weights.npz", **named)
    histories = [rng.integers(0, items, length) for length in (1, 3, 20, settings.max_length - 1)]
    (folder / "histories.json").write_text(json.dumps([(history + 1).tolist() for history in histories]))
    _run_recbole(options, folder, "--network")
    theirs_logits = np.array(json.loads((folder / "logits.json").read_text()))
    difference = float(np.abs(theirs_logits - next_item_logits(model, histories, settings)).max())
    if difference > TOLERANCE:
        sys.exit(f"the networks differ: with the same weights their logits are up to {difference:.1e} apart")
    print(f"with the same weights the logits of both networks are at most {difference:.1e} apart")
    return difference


def _recbole_network(folder: Path) -> None:
    """What RecBole's Python runs: logits after some histories with the weights given."""
    from types import SimpleNamespace

    import numpy as np
    import torch
    from recbole.model.sequential_recommender import BERT4Rec

    weights = {name: torch.from_numpy(value) for name, value in np.load(folder / "weights.npz").items()}
    items = len(weights["item_embedding.weight"]) - 1
    config = {
        "USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item", "LIST_SUFFIX": "_list", "ITEM_LIST_LENGTH_FIELD": "length",
        "NEG_PREFIX": "neg_", "MASK_ITEM_SEQ": "masked", "POS_ITEMS": "pos", "NEG_ITEMS": "neg", "MASK_INDEX": "index",
        "MAX_ITEM_LIST_LENGTH": len(weights["position_embedding.weight"]), "device": "cpu",
        "n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 256, "hidden_dropout_prob": 0.2,
        "attn_dropout_prob": 0.2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "mask_ratio": 0.2,
        "loss_type": "CE", "initializer_range": 0.02,
    }  # fmt: skip
    model = BERT4Rec(config, SimpleNamespace(num=lambda _field: items)).eval()
    model.load_state_dict(weights)
    found = []
    for history in json.loads((folder / "histories.json").read_text()):
        # before it asks, RecBole drops the first item, whatever the length
        sequence = torch.zeros((1, config["MAX_ITEM_LIST_LENGTH"]), dtype=torch.long)
        sequence[0, : len(history) + 1] = torch.tensor([1, *history])
        batch = {"item_list": sequence, "length": torch.tensor([len(history) + 1])}
        found.append(model.full_sort_predict(batch)[0, 1:].tolist())
    (folder / "logits.json").write_text(json.dumps(found))


def _run_recbole(options: argparse.Namespace, folder: Path, part: str) -> None:
    run = subprocess.run([options.recbole_python, Path(__file__), part, folder], cwd=folder, check=False)
    if run.returncode:
        sys.exit(f"RecBole's side failed with exit status {run.returncode}; its output is above")


def _recbole(interactions: Any, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The same by RecBole, in its own Python."""
    data = folder / "data" / "same"
    data.mkdir(parents=True)
    table = interactions.sort_values(["user_id", "event_id"])
    # RecBole keeps times in float32, which cannot tell seconds apart: the event's rank is a time that both agree on
    columns = {"user_id": "user_id:token", "item_id": "item_id:token", "event_id": "timestamp:float"}
    table[list(columns)].rename(columns=columns).to_csv(data / "same.inter", sep="\t", index=False)
    asked = {
        "data_path": str(data.parent),
        "checkpoint_dir": str(folder),
        "epochs": 1 if options.quick else options.epochs,
        "train_batch_size": options.batch_size,
        "seed": options.seed,
        "use_gpu": options.device == "cuda",
        "threads": options.threads,
    }
    (folder / "asked.json").write_text(json.dumps(asked))
    _run_recbole(options, folder, "--train")
    answer = json.loads((folder / "answer.json").read_text())
    print(f"RecBole says of itself: {answer['test']}")
    return {"ranks": {int(user): rank for user, rank in answer["ranks"].items()}, "seconds": answer["seconds"]}


def _recbole_training(folder: Path) -> None:
    """What RecBole's Python runs: train, and write the rank of every user's last item."""
    asked = json.loads((folder / "asked.json").read_text())
    # its checkpoints are its own pickles, which newer torch refuses
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_logger, init_seed

    torch.set_num_threads(asked.pop("threads"))
    settings = {
        **asked,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": 50,
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "show_progress": False,
    }
    config = Config(model="BERT4Rec", dataset="same", config_dict=settings)
    init_seed(config["seed"], True)
    init_logger(config)
    dataset = create_dataset(config)
    train, validation, test = data_preparation(config, dataset)
    init_seed(config["seed"], True)
    model = get_model("BERT4Rec")(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    start = time.perf_counter()
    trainer.fit(train, validation, saved=True, show_progress=False)
    result = trainer.evaluate(test, load_best_model=True, show_progress=False)
    ranks: dict[str, int] = {}
    model.eval()
    with torch.no_grad():
        for batch, _history, rows, items in test:
            scores = model.full_sort_predict(batch.to(config["device"])).cpu()
            scores[:, 0] = -torch.inf  # padding
            users = dataset.id2token("user_id", batch["user_id"].cpu().numpy())
            own = scores[rows, items][:, None]
            ranks |= dict(zip(map(str, users), (1 + (scores > own).sum(dim=1)).tolist(), strict=True))
    seconds = time.perf_counter() - start
    (folder / "answer.json").write_text(json.dumps({"ranks": ranks, "test": dict(result), "seconds": seconds}))


def _metric(name: str, ranks: dict[int, int]) -> float:
    return float(_values(name, ranks).mean())


def _values(name: str, ranks: dict[int, int]) -> Any:
    """The metric of every user, by user."""
    import numpy as np

    rank = np.array([ranks[user] for user in sorted(ranks)], dtype=np.float64)
    gain = {"MRR@10": 1 / rank, "NDCG@10": 1 / np.log2(rank + 1), "Hit@10": np.ones(len(rank))}[name]
    return np.where(rank <= CUTOFF, gain, 0.0)


def _difference(name: str, ours: dict[int, int], theirs: dict[int, int], *, seed: int) -> str:
    """Mean difference with a bootstrap 95% interval over the users."""
    import numpy as np

    from flexrec.ranking.statistics import bootstrap_interval

    if ours.keys() != theirs.keys():
        sys.exit(f"the sides ranked different users: {len(ours)} and {len(theirs)}")
    values = _values(name, ours) - _values(name, theirs)
    mean, low, high = bootstrap_interval(
        values, np.arange(len(values)), confidence=0.95, resamples=RESAMPLES, seed=seed
    )
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


if __name__ == "__main__":
    RECBOLE_PARTS = {"--network": _recbole_network, "--train": _recbole_training}
    if sys.argv[1:2] and sys.argv[1] in RECBOLE_PARTS:
        RECBOLE_PARTS[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
