"""Training of the critic at the size of KuaiRec's small matrix: seconds per epoch and in all, on made-up data.

The interactions are drawn by a seed: tastes and items are directions, engagement depends on their cosine, is
long-tailed and noisier for some items than for others. What the critic learns from them is printed as its calibration;
it says nothing about real data.
"""

import argparse
import logging
import time
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import Measured, Row, parser, peak_mib, prepare, reset_peak, write_result

PAPER, WITH_STATISTICS = "features of the paper", "with item statistics"
BAR_SECONDS = 180.0
BAR_INTERACTIONS, BAR_EPOCHS = 470_000, 30


def arguments() -> argparse.Namespace:
    """The program's arguments."""
    made = parser(__doc__ or "", repetitions=1)
    made.add_argument("--interactions", type=int, default=BAR_INTERACTIONS, help="observed, all of training users")
    made.add_argument("--users", type=int, default=1411)
    made.add_argument("--items", type=int, default=3327)
    made.add_argument("--dimensions", type=int, default=384, help="of the item embeddings")
    made.add_argument("--epochs", type=int, default=BAR_EPOCHS)
    made.add_argument("--variants", choices=("both", "paper", "statistics"), default="both")
    return made.parse_args()


def make_data(options: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Observations and item embeddings."""
    rng = np.random.default_rng(options.seed)

    def directions(count: int) -> np.ndarray:
        drawn = rng.normal(size=(count, options.dimensions)).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    items, tastes = directions(options.items), directions(options.users)
    user = rng.integers(0, options.users, options.interactions)
    item = rng.integers(0, options.items, options.interactions)
    cosine = np.einsum("nd,nd->n", tastes[user], items[item]) * options.dimensions**0.5
    mean = 0.5 * np.exp(0.5 * cosine) + rng.gamma(2.0, 0.2, options.items)[item]
    noise = rng.lognormal(-0.5 * (0.3 + 0.6 * (item % 7 == 0)) ** 2, 0.3 + 0.6 * (item % 7 == 0))
    observations = pd.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "timestamp": np.sort(rng.integers(0, 10**7, options.interactions)),
            "engagement": mean * noise,
            "event_id": np.arange(options.interactions),
            "observed": True,
            "split": "train",
        }
    )
    return observations, pd.DataFrame({"item_id": np.arange(options.items), "embedding": list(items)})


class Epochs(logging.Handler):
    """Notes when each epoch ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """One epoch."""
        if record.__dict__.get("curve") == "critic":
            self.ends.append(time.perf_counter())


def main() -> None:
    """Train, measure, write."""
    options = arguments()
    prepare(options)
    if options.quick:
        options.interactions, options.users, options.items, options.epochs = 8000, 100, 200, 2
    from flexrec.critic.examples import build_examples
    from flexrec.critic.report import compare_critics
    from flexrec.critic.settings import CriticSettings
    from flexrec.critic.training import train_critic

    observations, embeddings = make_data(options)
    settings = CriticSettings(epochs=options.epochs)
    start = time.perf_counter()
    examples = build_examples(observations, embeddings, "linear", settings, seed=options.seed)
    building = time.perf_counter() - start
    print(f"examples: {building:.1f} s")
    wanted = {"both": (PAPER, WITH_STATISTICS), "paper": (PAPER,), "statistics": (WITH_STATISTICS,)}[options.variants]
    curves = logging.getLogger("flexrec.curves")
    curves.setLevel(logging.INFO)
    critics, rows = {}, []
    extra: dict[str, Any] = {"seconds_per_epoch": {}}
    for name in wanted:
        measured = Measured({name: []}, {})
        for _ in range(options.repetitions):
            listener = Epochs()
            curves.addHandler(listener)
            reset_peak("cpu")
            start = time.perf_counter()
            variant = settings.model_copy(update={"item_statistics": name == WITH_STATISTICS})
            critics[name], _curve = train_critic(examples, variant, seed=options.seed)
            measured.seconds[name].append(building + time.perf_counter() - start)
            measured.peak_mib[name] = peak_mib("cpu")
            curves.removeHandler(listener)
        per_epoch = np.diff([start, *listener.ends])
        extra["seconds_per_epoch"][name] = round(float(np.median(per_epoch)), 3)
        print(f"{name}: {np.median(per_epoch):.2f} s per epoch (first {per_epoch[0]:.2f}, {len(per_epoch)} epochs)")
        is_the_bar = (options.interactions, options.epochs) == (BAR_INTERACTIONS, BAR_EPOCHS)
        rows.append(
            Row(
                work=f"critic, {name}, examples included",
                against="",
                figure=measured.median(name),
                unit="s",
                bar=BAR_SECONDS if is_the_bar else None,
                at_most=True,
                seconds=measured.seconds,
                peak_mib=measured.peak_mib,
                settings={
                    "interactions": options.interactions,
                    "epochs": options.epochs,
                    "users": options.users,
                    "items": options.items,
                    "dimensions": options.dimensions,
                    "dtype": "float32",
                    "threads": options.threads,
                },
            )
        )
    table, _predictions, _groups = compare_critics(critics, examples.select("test"))
    print(pd.DataFrame(table).T.to_string(float_format="{:.4g}".format))
    write_result("critic", options, rows, {**extra, "calibration_on_made_up_data": table})


if __name__ == "__main__":
    main()
