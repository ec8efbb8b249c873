"""Query rewriting for a black-box retriever, the task of Rec-R1 (arXiv 2503.24289)."""
