"""The language model that ranks: load and save, adapters, and exact shared-prompt sampling and scoring."""
