"""The critic: predicts the engagement gain of unobserved candidates, with a variance, from observed interactions.

`examples` and `item_statistics` make what it learns from, `model` and `loss` say what it is, `training` fits it,
`prediction` and `completion` make the gains that a policy is trained with, `calibration` measures it, `storage` keeps
it. This package and the modules without a network do not import torch.
"""
