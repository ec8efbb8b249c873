"""A process that has imported the heavy libraries, and forks for every command line: the real thing in a second.

It has imported and read our own package, too; a project that has a source of its own makes the fork forget it. A
command can be given a place where the fork kills itself with SIGKILL, as a machine that goes down would.
"""

import functools
import gc
import importlib
import importlib.metadata
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
ASKED = "the network was asked for"
"""In the error output of a command that looked for a host."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    """Exit code, or minus the signal that ended it."""
    out: str
    err: str


class ForkServer:
    """Start it as a context; `run` may be called from one thread at a time."""

    def __enter__(self) -> "ForkServer":
        # the folder holds conf/logging.yml, which Kedro looks for when it is imported
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # another order of sets and dictionaries than in the process that tests
            env={**os.environ, "PYTHONHASHSEED": "4711"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def run(self, folder: Path, *arguments: str, kill: str | None = None) -> Done:
        """`kedro ARGUMENTS` in `folder`."""
        files = {"out": str(folder / "out.txt"), "err": str(folder / "err.txt")}
        job = {"folder": str(folder), "arguments": arguments, "kill": kill, **files}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fork server is gone"
        texts = {name: Path(file).read_text(encoding="utf-8", errors="replace") for name, file in files.items()}
        return Done(json.loads(answer), **texts)


# --- In the server ----------------------------------------------------------------------------------------------------


HEAVY = (
    # plotly looks for it
    "IPython",
    "datasets",
    "duckdb",
    "ibis",
    "kedro.framework.cli.cli",
    "kedro.framework.session",
    "kedro_datasets.json",
    "kedro_datasets.pandas",
    "kedro_datasets.plotly",
    "kedro_datasets.text",
    "mlflow.tracking",
    "pandera.pandas",
    "peft",
    "plotly.graph_objects",
    "sklearn.feature_extraction.text",
    "torch",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "trl.trainer.grpo_trainer",
)


def _no_network(host: Any, *_: Any, **__: Any) -> NoReturn:
    print(f"{ASKED} {host}", file=sys.stderr, flush=True)
    raise OSError("there is no network in the tests")


def _serve() -> None:
    # a command has to do without the hub of its own accord
    os.environ["HF_HUB_OFFLINE"] = "0"
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    from quick_settings import read_all, read_quickly

    read_quickly()
    read_all(ROOT / "conf")
    # a second for every command that looks for the versions of libraries
    importlib.metadata.packages_distributions = functools.cache(importlib.metadata.packages_distributions)
    importlib.metadata.packages_distributions()
    _read_ours()
    socket.getaddrinfo = _no_network
    # or every fork would search all of this for garbage, and so copy it
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        if (child := os.fork()) == 0:
            _command(job)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _read_ours() -> None:
    """Import our package, and analyse its source as every run does."""
    import flexrec
    from flexrec.module_source import read_source

    for module in pkgutil.walk_packages(flexrec.__path__, "flexrec."):
        # the first runs something, the second is vLLM's
        if module.name.rpartition(".")[2] not in ("__main__", "vllm_processor"):
            importlib.import_module(module.name)
    for file in Path(flexrec.__path__[0]).rglob("*.py"):
        read_source(file.read_text(encoding="utf-8"))


def _forget_ours() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "flexrec"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def _command(job: dict[str, Any]) -> NoReturn:
    """Become the command."""
    status = 70
    try:
        for name, descriptor in (("out", 1), ("err", 2)):
            os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(job["folder"])
        sys.dont_write_bytecode = True
        if Path("src", "flexrec").is_dir():
            _forget_ours()
        if job["kill"]:
            KILLS[job["kill"]]()
        from kedro.framework.cli.cli import main

        sys.argv = ["kedro", *job["arguments"]]
        main()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, due: Callable[..., bool]) -> None:
    """Die where `owner.name` is called with arguments for which `due` holds."""
    original = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        if due(*args):
            _die()
        return original(*args, **kwargs)

    setattr(owner, name, dying)


def _in_warm_up() -> None:
    from flexrec.rl.warm_up import ListTrainer

    _before(ListTrainer, "compute_loss", lambda trainer, *_: trainer.state.global_step == 1)


def _in_rl_step_3() -> None:
    from flexrec.rl.trainer import RankingTrainer

    _before(RankingTrainer, "rollout", lambda trainer, *_: trainer.state.global_step == 2)


def _in_checkpoint_2() -> None:
    from flexrec.rl.callbacks import CheckpointMarks

    _before(CheckpointMarks, "on_save", lambda _self, _args, state, *_: state.global_step == 2)


def _while_the_policy_is_written() -> None:
    from flexrec.pipelines.rl_train import nodes

    save = nodes.save_policy

    def dying(model: Any, folder: Path, **options: Any) -> None:
        save(model, folder, **options)
        _die()

    nodes.save_policy = dying


def _before_the_record_of(dataset: str) -> Callable[[], None]:
    def patch() -> None:
        from flexrec.fingerprint import Sidecar

        _before(Sidecar, "write", lambda sidecar, *_: sidecar.dataset == dataset)

    return patch


KILLS: dict[str, Callable[[], None]] = {
    "in warm-up": _in_warm_up,
    "while checkpoint 2 is written": _in_checkpoint_2,
    "in step 3 of RL": _in_rl_step_3,
    "while the policy is written": _while_the_policy_is_written,
    "between the policy and its record": _before_the_record_of("policy"),
    "between the records of policy and curves": _before_the_record_of("rl_curves"),
}
"""Places to die at, in the order in which a run comes by them."""


if __name__ == "__main__":
    _serve()
