"""Programs that measure flexrec beside its alternatives; see README.md."""
