"""What a trained policy does beyond its own test: other needs, switching between them, other input orders."""

from flexrec.pipelines.probe.pipeline import create_pipeline

__all__ = ["create_pipeline"]
