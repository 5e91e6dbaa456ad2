"""PPOBuffer: one rank's data of one epoch, as (T, N) arrays. Knows nothing of MPI and files.

Letters of the shapes: T steps of an epoch, N environments of this rank, *O the shape of one observation, *A of one
action.
"""

from __future__ import annotations

import cv2
import numpy as np

from ppo import core


class PPOBuffer:
    """Stores the steps of N environments and turns their paths into advantages and returns.

    The order per step is `store_obs`, then `store`, then `finish_path` for each environment whose episode ended;
    `finish` cuts all open paths at the end of the epoch. A path is consecutive steps of one environment within one
    episode and one epoch.
    """

    def __init__(
        self,
        steps: int,
        num_envs: int,
        obs_shape: tuple[int, ...],
        obs_dtype: np.dtype,
        gamma: float,
        lam: float,
        value_target: str = "lambda",
        act_shape: tuple[int, ...] = (),
        act_dtype: type = np.int64,
    ) -> None:
        """Allocate once for the whole run.

        Args:
            steps: T, steps of each environment in an epoch.
            num_envs: N, environments of this rank.
            obs_shape, obs_dtype: of one observation; images stay uint8.
            gamma, lam: discount and lambda of GAE.
            value_target: "lambda": R_t = A_t + V(s_t), the TD(lambda) return; "rewards-to-go": the discounted rewards.
            act_shape, act_dtype: of one action.
        """
        self._images: np.ndarray | None = None
        if len(obs_shape) == 3:  # images are channels last in memory, which the networks prefer
            channels, height, width = obs_shape
            self._images = np.zeros((steps, num_envs, height, width, channels), obs_dtype)
            self.obs = self._images.transpose(0, 1, 4, 2, 3)
        else:
            self.obs = np.zeros((steps, num_envs, *obs_shape), obs_dtype)
        self.act: np.ndarray = np.zeros((steps, num_envs, *act_shape), act_dtype)
        self.rew = np.zeros((steps, num_envs), np.float32)
        self.val = np.zeros((steps, num_envs), np.float32)
        self.logp = np.zeros((steps, num_envs), np.float32)
        self.adv = np.zeros((steps, num_envs), np.float32)
        self.ret = np.zeros((steps, num_envs), np.float32)
        self.gamma, self.lam, self.value_target = gamma, lam, value_target
        self.path_start = np.zeros(num_envs, np.int64)
        self.ptr, self.max_size = 0, steps

    def store_obs(self, obs: np.ndarray) -> np.ndarray:
        """Copy obs (N, *O) into this step's row and return that row: the environment may now reuse its array."""
        if self.ptr >= self.max_size:
            raise ValueError(f"buffer is full: it holds {self.max_size} steps")
        if self._images is None or obs.shape[1] == 1:  # with one channel the two layouts are the same
            self.obs[self.ptr] = obs
        elif (channels_last := obs.transpose(0, 2, 3, 1)).flags.c_contiguous:
            self._images[self.ptr] = channels_last
        else:
            for channels, image in zip(obs, self._images[self.ptr], strict=True):
                cv2.merge(tuple(channels), image)  # ten times as fast as numpy's assignment
        return self.obs[self.ptr]

    def store(self, act: np.ndarray, rew: np.ndarray, val: np.ndarray, logp: np.ndarray) -> None:
        """Add what followed the observed row, act (N, *A) and the others (N,), and move on to the next step."""
        self.act[self.ptr] = act
        self.rew[self.ptr] = rew
        self.val[self.ptr] = val
        self.logp[self.ptr] = logp
        self.ptr += 1

    def finish_path(self, env: int, last_val: float) -> None:
        """Close the open path of environment `env` after the last stored step.

        Args:
            env: index within this rank.
            last_val: 0 where the episode terminated (a death has no future); V of the final observation where it was
                truncated; V of the next observation where the epoch ended.
        """
        path = slice(int(self.path_start[env]), self.ptr)
        rew, val = self.rew[path, env], self.val[path, env]
        self.adv[path, env] = core.gae(rew, val, last_val, self.gamma, self.lam)
        if self.value_target == "lambda":
            self.ret[path, env] = self.adv[path, env] + val
        else:
            self.ret[path, env] = core.rewards_to_go(rew, last_val, self.gamma)
        self.path_start[env] = self.ptr

    def finish(self, last_val: np.ndarray) -> None:
        """Cut the paths that are still open at the end of the epoch; last_val (N,) is V of the next observations."""
        for env in np.flatnonzero(self.path_start < self.ptr):
            self.finish_path(int(env), float(last_val[env]))

    def get(self) -> dict[str, np.ndarray]:
        """Return the epoch's arrays, each (T, N, ...), and start anew. They are views: the next epoch overwrites them.

        Raises:
            ValueError: the buffer is not full, or a path is still open.
        """
        if self.ptr != self.max_size or (self.path_start != self.ptr).any():
            raise ValueError(f"buffer must be full and finished: {self.ptr} of {self.max_size} steps stored")
        self.clear()
        return {name: getattr(self, name) for name in ("obs", "act", "val", "logp", "adv", "ret")}

    def clear(self) -> None:
        """Discard what was stored."""
        self.ptr = 0
        self.path_start[:] = 0
