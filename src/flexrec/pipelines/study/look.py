"""The cells of a study as they are: what of each is up to date, and what it holds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import click
from kedro.framework.hooks.manager import _NullPluginManager
from kedro.framework.project import pipelines, settings
from kedro.io import CatalogProtocol
from omegaconf import OmegaConf

from flexrec.config_loader import FlexrecConfigLoader, Read
from flexrec.errors import InputError
from flexrec.fingerprint import canonical, text_digest
from flexrec.pipelines.study.project import PIPELINE, Project
from flexrec.pipelines.study.uptodate import Inspector, NodeState, refuse_conflicts
from flexrec.policy.models import saved_dtype
from flexrec.reporting.provenance import git_state
from flexrec.runner import path_of, unwrapped
from flexrec.session import FlexrecSession
from flexrec.study.collection import CellResult
from flexrec.study.plan import DEFAULT_LAYOUT, Cell

ALSO = {"probe": ("probe_instance_metrics", "probe"), "chat": ("chat_instance_metrics", "test")}
"""What other pipelines keep their metrics in, and on which sample of instances those are."""

PROBED = {"switching": "probe_switching", "input_order": "probe_input_order"}
"""What else the probe keeps."""


@dataclass(frozen=True)
class Look:
    """A cell as its run would find it."""

    cell: Cell
    catalog: CatalogProtocol
    states: tuple[NodeState, ...]

    @property
    def stale(self) -> tuple[NodeState, ...]:
        """The nodes that would run."""
        return tuple(state for state in self.states if state.reason is not None)

    @property
    def reason(self) -> str:
        """Why the first of them would, in words; empty where none would."""
        return f"{self.stale[0].node}: {self.stale[0].reason}" if self.stale else ""

    def parameter(self, name: str) -> Any:
        """What the cell is run with."""
        return self.catalog[f"params:{name}"].load()


def look(cells: Sequence[Cell], project: Project) -> list[Look]:
    """See what of every cell is up to date.

    Raises:
        InputError: A cell has parameters that the project refuses, or two would overwrite each other's results; nothing
            has run then.
    """
    inspector = Inspector()
    read: Read = {}
    used = {PIPELINE, *(other for cell in cells for other in cell.also)}
    needed = {name for one in used for name in pipelines[one].datasets()}
    checked: set[Cell] = set()
    found = []
    for cell in cells:
        # neither its seed nor its method has an effect on whether the parameters can be used
        kind = replace(cell, seed=0, method="", also=())
        if kind not in checked:
            _check(cell, project)
            checked.add(kind)
        catalog = _catalog(cell, project, read, needed)
        whole = sum((pipelines[name] for name in cell.also), pipelines[PIPELINE])
        found.append(Look(cell, catalog, tuple(inspector.states(whole, catalog))))
    refuse_conflicts({one.cell.words: list(one.states) for one in found})
    _refuse_twice(found)
    return found


def _refuse_twice(looks: Sequence[Look]) -> None:
    """Refuse one run under two names, such as with a dataset that is the environment's own anyway."""
    known: dict[tuple[Path, ...], str] = {}
    for one in looks:
        (places,) = (state.places for state in one.states if state.node == "measure")
        if (other := known.setdefault(places, one.cell.words)) != one.cell.words:
            names = f"'{other}' and as '{one.cell.words}'"
            raise InputError(f"the grid has one run twice, as {names}; leave out one of them")


def _check(cell: Cell, project: Project) -> None:
    """Refuse what the cell's own session would refuse."""
    session = FlexrecSession.create(
        project.folder,
        save_on_close=False,
        env=cell.environment or project.environment,
        runtime_params=_runtime_parameters(cell),
        conf_source=project.conf_source,
    )
    assert isinstance(session, FlexrecSession)
    try:
        session.check_parameters()
    except InputError as error:
        raise InputError(f"{cell.words}: {error}") from error


class _Loader(FlexrecConfigLoader):
    """Made for many cells: it reads every file once, and resolves of the catalog only what they need."""

    def __init__(self, *args: Any, needed: Collection[str], **kwargs: Any) -> None:
        self._needed = needed
        super().__init__(*args, **kwargs)

    def _from_files(self, key: str) -> Any:
        *configs, base_path, env_path, files = super()._from_files(key)
        if key == "catalog":
            configs = [{path: self._reduced(config) for path, config in part.items()} for part in configs]
        return (*configs, base_path, env_path, files)

    def _reduced(self, config: Any) -> Any:
        kept = [str(name) for name in config if str(name).startswith("_") or name in self._needed]
        return OmegaConf.masked_copy(config, kept)


def _catalog(cell: Cell, project: Project, read: Read, needed: Collection[str]) -> CatalogProtocol:
    """The catalog as the cell's own session would make it, without the hooks of this one."""
    environment, parameters = cell.environment or project.environment, _runtime_parameters(cell)
    loader = _Loader(
        project.conf_source,
        env=environment,
        runtime_params=parameters,
        read=read,
        needed=needed,
        **settings.CONFIG_LOADER_ARGS,
    )
    context = settings.CONTEXT_CLASS(
        project_path=project.folder,
        config_loader=loader,
        env=environment,
        package_name=project.folder.name,
        hook_manager=_NullPluginManager(),
        runtime_params=parameters,
    )
    return cast(CatalogProtocol, context.catalog)


def _runtime_parameters(cell: Cell) -> dict[str, Any]:
    """What the command line of the cell's run makes of its arguments."""
    # the command line is not needed for anything else
    from flexrec.cli import split_params

    context, option = click.Context(click.Command("run")), click.Option(["--params"])
    given: dict[str, Any] = split_params(context, option, ",".join(cell.arguments))
    return given


# --- What they hold ---------------------------------------------------------------------------------------------------


def results(looks: Sequence[Look], failed: Mapping[Cell, str], project: Project) -> list[CellResult]:
    """What the cells hold that are up to date; the others with the reason why they are not."""
    git = git_state(project.folder)
    commit = f"{git['commit']}{' with changes' if git['uncommitted changes'] else ''}" if git else ""
    return [_result(one, failed.get(one.cell), commit) for one in looks]


def not_run(one: Look) -> CellResult:
    """The cell with what it would be run with, whatever it holds."""
    return CellResult(
        cell=one.cell,
        dataset=str(one.parameter("dataset")),
        density=float(one.parameter("density")),
        model=_model(one),
        gains=str(one.parameter("methods")[one.cell.method].get("gains", "critic")),
        parameters=_parameters(one),
        state="not run",
        reason=one.reason,
    )


def _result(one: Look, failed: str | None, commit: str) -> CellResult:
    found = not_run(one)
    if one.stale:
        return replace(found, state="failed", reason=failed) if failed else found
    states = {state.node: state for state in one.states}
    critic = [_table(one, name) for name in ("critic_test_predictions", "critic_reliability")]
    metrics = [("test", one.catalog["instance_metrics"].load())]
    metrics += [(sample, one.catalog[name].load()) for name, sample in (ALSO[other] for other in one.cell.also)]
    return replace(
        found,
        state="done",
        baselines=tuple(one.parameter("evaluate.baselines")),
        made=(states["measure"].made or "")[:10],
        commit=commit,
        dtype=saved_dtype(one.catalog["base_model"].load()),
        seconds={name: state.seconds for name, state in states.items() if state.seconds is not None},
        metrics=tuple(metrics),
        curves=_table(one, "rl_curves"),
        critic=(critic[0], critic[1]) if critic[0] is not None and critic[1] is not None else None,
        **({name: _table(one, dataset) for name, dataset in PROBED.items()} if "probe" in one.cell.also else {}),
    )


def _parameters(one: Look) -> str:
    """Digest of what all nodes are configured with: equal on two machines for runs that can stand in one table."""
    kinds = ("parameter", "order")
    return text_digest(
        canonical([[state.node, *(state.static.parts.get(kind, {}) for kind in kinds)] for state in one.states])
    )[:16]


def _model(one: Look) -> str:
    """Its name in the tables, as in the paths: with another layout of the prompt it counts as another model."""
    model, layout = str(one.parameter("model")), str(one.parameter("layout"))
    return model if layout == DEFAULT_LAYOUT else f"{model}+{layout}"


def _table(one: Look, name: str) -> Any:
    """A table of the cell; None where there is none."""
    there = name in one.catalog and path_of(unwrapped(one.catalog[name])) is not None
    return one.catalog[name].load() if there else None
