"""Made-up raw files in the exact layouts of the public datasets, for tests, speed and studies with a known truth.

Each writer puts what was planted (true gains, noise) beside the files. Nothing in them was watched, asked or bought by
anybody, so a result on them is always called fabricated.
"""
