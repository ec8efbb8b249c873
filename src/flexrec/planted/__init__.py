"""The theory on a fabricated world: true gains, noise and each item's uncertainty are known, and seeds are many.

Nothing is imported here, so that `import flexrec.planted` costs nothing: take what you need from the modules.
"""
