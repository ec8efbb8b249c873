"""What a policy forgets while it learns to rank: instructions it still follows, and text it still predicts."""
