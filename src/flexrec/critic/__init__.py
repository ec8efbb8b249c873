"""The critic: predicts the engagement gain of unobserved candidates, with a variance, from observed interactions.

`examples` and `item_statistics` build what it is trained on, `model` and `loss` say what it is, `training` fits it, `prediction`
and `completion` turn it into the gains that a policy is trained with, `calibration` measures it, `storage` keeps it.
Importing this package does not import torch.
"""
