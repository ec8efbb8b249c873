"""`python -m flexrec`: `kedro run` for an installed package, with the same options."""

from typing import Any

from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Run the project."""
    configure_project("flexrec")
    from flexrec.cli import run

    return run(*args, **kwargs)


if __name__ == "__main__":
    main()
