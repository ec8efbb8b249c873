"""What the policy forgets while it learns to rank."""

from flexrec.pipelines.forgetting.pipeline import create_pipeline

__all__ = ["create_pipeline"]
