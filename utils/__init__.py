"""Tools that any reinforcement learning code could use: they know nothing of PPO and of the environments."""
