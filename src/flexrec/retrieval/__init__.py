"""From the common tables to labelled instances: text embeddings, STAR retrieval, instances and their signals."""
