"""The task's vocabulary: columns, schemas, instances, gains, needs, ranking metrics and statistics. No torch here."""
