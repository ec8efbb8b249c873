"""`python -m flexrec.export FOLDER`: what `rl_train` would train on, as a folder that travels to another machine.

There, `python -m flexrec.rl FOLDER/specification.yml` trains without Kedro and MLflow (docs/backends.md).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from kedro.framework.startup import bootstrap_project
from kedro.io import DatasetError

from flexrec.cli import split_params
from flexrec.errors import InputError
from flexrec.policy.settings import DecodingSettings, GenerationSettings
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.task import Needs
from flexrec.rl.settings import MethodEntry, RlSettings, WarmUpSettings
from flexrec.rl.training import TABLES
from flexrec.rl.travelling import write_specification


def export(project: Path, target: Path, *, env: str | None, parameters: dict[str, Any]) -> Path:
    """Write the folder from a project's artifacts.

    Args:
        project: The project's folder.
        target: Folder to make.
        env: Kedro environment.
        parameters: As `--params` of `kedro run`.

    Returns:
        The path of the specification.

    Raises:
        InputError: A parameter is refused, or an artifact has not been made yet, or not by these parameters.
    """
    if not (project / "pyproject.toml").is_file():
        raise InputError(f"{project} is no project; start the command in its folder, or name it with --project")
    bootstrap_project(project)
    from flexrec.session import FlexrecSession

    session: Any
    with FlexrecSession.create(project, env=env, runtime_params=parameters) as session:
        session.check_parameters()
        catalog = session.load_context().catalog

        def load(name: str) -> Any:
            try:
                return catalog[name].load()
            except DatasetError as error:
                raise InputError(
                    f"`{name}` cannot be loaded: {error}\nMake it first: kedro run --pipelines=data,warm_up, with the "
                    "same --env and --params"
                ) from error

        # the instances as prompts show them
        names = {name: {"labelled_instances": "prompt_instances"}.get(name, name) for name in TABLES}
        tables = {name: load(kept) for name, kept in names.items()}
        _refuse_stale([*names.values(), "base_model", "warm_up_policy"], catalog)
        return write_specification(
            target,
            tables=tables,
            base_model=load("base_model"),
            model_name=load("params:model"),
            checkpoint=load("warm_up_policy"),
            adapter=None,
            needs=Needs.model_validate(load("params:needs_asked")).root,
            prompt=PromptSettings.model_validate(load("params:prompt")),
            decoding=DecodingSettings.model_validate(load("params:decoding")),
            method=MethodEntry.model_validate(load("params:method_settings")).root,
            rl=RlSettings.model_validate(load("params:rl")),
            warm_up=WarmUpSettings.model_validate(load("params:warm_up")),
            generation=GenerationSettings.model_validate(load("params:generation")),
            seed=load("params:seed"),
        )


def _refuse_stale(names: Sequence[str], catalog: Any) -> None:
    """Make sure that what lies there was made by today's code, parameters and data.

    Raises:
        InputError: A node behind it would run again.
    """
    from kedro.framework.project import pipelines

    from flexrec.pipelines.study.uptodate import Inspector

    behind = pipelines["__default__"].to_outputs(*names)
    for state in Inspector().states(behind, catalog):
        if state.reason is not None:
            raise InputError(
                f"what is there is not what these parameters make: node '{state.node}' would run again, because "
                f"{state.reason}. Make it first: kedro run --pipelines=data,warm_up, with the same --env and --params"
            )


def _parameters(context: click.Context, option: click.Parameter, value: str) -> Any:
    return split_params(context, option, value) if value else {}


@click.command(help=__doc__)
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--project", type=click.Path(path_type=Path), default=Path(), help="The project; here if absent.")
@click.option("--env", default=None, help="As for `kedro run`.")
@click.option("--params", default="", callback=_parameters, help="As for `kedro run`.")
def main(target: Path, project: Path, env: str | None, params: dict[str, Any]) -> None:
    """The command line."""
    try:
        click.echo(export(project.resolve(), target.resolve(), env=env, parameters=params))
    except Exception as error:
        from flexrec.session import told

        if (message := told(error)) is None:
            raise
        raise click.ClickException(message) from error


if __name__ == "__main__":
    main()
