"""Reinforcement learning for rankings: rewards, advantages, uncertainty weights and the trainer.

Nothing is imported here, so that `import flexrec.rl` costs nothing: take what you need from the modules.
"""
