"""The context behind a session: a parameter has one value, whatever part of the graph is run."""

from typing import Any

from kedro.framework.context import KedroContext
from kedro.io import AbstractVersionedDataset, CatalogProtocol, DataCatalog

from flexrec.errors import InputError
from flexrec.runner import unwrapped


class FlexrecContext(KedroContext):
    """Kedro's, except that parameters are read with the types of all pipelines.

    Kedro reads them with those of the pipelines that are run. A setting that only another pipeline's node declares
    then keeps the form that it has in the file (`7` instead of `7.0`), which would count as a change.
    """

    def _get_validated_params(self) -> dict[str, Any]:
        self._pipelines_to_validate = None
        return super()._get_validated_params()

    def _get_catalog(
        self,
        catalog_class: type = DataCatalog,
        save_version: str | None = None,
        load_versions: dict[str, str] | None = None,
    ) -> CatalogProtocol:
        catalog: CatalogProtocol = super()._get_catalog(catalog_class, save_version, load_versions)
        for name, version in (load_versions or {}).items():
            dataset = unwrapped(catalog[name])
            if not isinstance(dataset, AbstractVersionedDataset) or dataset._version is None:
                raise InputError(f"`{name}` is kept once only: there is no version {version} of it to load")
        return catalog
