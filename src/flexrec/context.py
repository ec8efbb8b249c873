"""The context behind a session: a parameter has one value, whatever part of the graph is run."""

from typing import Any

from kedro.framework.context import KedroContext


class FlexrecContext(KedroContext):
    """Kedro's, except that parameters are read with the types of all pipelines.

    Kedro reads them with those of the pipelines that are run. A setting that only another pipeline's node declares
    then keeps the form that it has in the file (`7` instead of `7.0`), which would count as a change.
    """

    def _get_validated_params(self) -> dict[str, Any]:
        self._pipelines_to_validate = None
        return super()._get_validated_params()
