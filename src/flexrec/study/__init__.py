"""Studies: many runs on one protocol, collected into the tables and figures of the paper's kind."""
