"""`kedro run` of this project: Kedro's own, except that a value of `--params` may be a list (`need=interest,trend`)."""

import copy
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import _split_params, split_string
from omegaconf import OmegaConf


def split_params(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Read `a=1,b=x,y` as {a: 1, b: "x,y"}: an item without `=` belongs to the value before it."""
    if isinstance(value, dict):
        return value
    items: list[str] = []
    for item in split_string(context, option, value):
        if "=" in item or not items:
            items.append(item)
        else:
            items[-1] += f",{item}"
    pairs = [tuple(part.strip() for part in item.partition("=")) for item in items]
    if not all(key and equals for key, equals, _ in pairs):
        return _split_params(context, option, value)  # which refuses it, in Kedro's words
    return OmegaConf.to_container(OmegaConf.from_dotlist([f"{key}={text}" for key, _, text in pairs]))


run = copy.copy(kedro_run)
run.params = [copy.copy(option) for option in kedro_run.params]
for _option in run.params:
    if _option.name == "params":
        _option.callback = split_params

cli = click.Group(name="flexrec", commands={"run": run})
