"""Drop-in for `ppo.networks.ActorCritic`: the same networks and weights, evaluated faster.

All layers but the last can work in bfloat16, on a copy of the weights that the optimiser writes anew at each step; the
last layer and its output stay float32. Images are scaled once for both networks and are channels last in memory, which
convolutions prefer.

Letters of the shapes: N observations, M samples, C H W image, P parameters of a distribution of actions.
"""

from __future__ import annotations

import copy
import functools

import torch
from torch import nn

from ppo.compute import arrays
from ppo.compute.layers import with_fast_layers
from ppo.networks import SCALE, ActorCritic, Evaluator, ScaleImage


class Copies:
    """The body of one network in bfloat16: copies of its float32 weights, and layers that use the copies.

    After a backward pass the gradients of the copies are added to those of the weights, in float32; the first time
    after `expect_gradients` they replace them instead.

    Attributes:
        weights: the float32 parameters that have copies: the first ones of the network.
        parameters: the copies, in the same order.
        body: the layers.
    """

    def __init__(self, body: nn.Sequential, dtype: torch.dtype) -> None:
        """Copy a body that is on its device."""
        self.weights: list[torch.Tensor] = list(body.parameters())
        self.body = with_fast_layers(copy.deepcopy(body).to(dtype))
        self.parameters: list[torch.Tensor] = list(self.body.parameters())
        self._received: set[int] = set()
        for i, parameter in enumerate(self.parameters):
            parameter.register_post_accumulate_grad_hook(functools.partial(self._receive, i))

    def expect_gradients(self) -> None:
        """Let the next gradients replace those that the weights have."""
        self._received.clear()

    def zero_missing(self) -> None:
        """Zero the gradients of weights whose copies received none since `expect_gradients`."""
        for i, weight in enumerate(self.weights):
            if i not in self._received and weight.grad is not None:
                weight.grad.zero_()

    def _receive(self, i: int, parameter: torch.Tensor) -> None:
        gradient = self.weights[i].grad
        assert gradient is not None and parameter.grad is not None
        if i in self._received:
            gradient.add_(parameter.grad)
        else:
            gradient.copy_(parameter.grad)
            self._received.add(i)
        parameter.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Write all copies anew."""
        torch._foreach_copy_(self.parameters, self.weights)


class FastActorCritic(Evaluator):
    """Evaluates an `ActorCritic`'s networks; see its methods of the same names.

    Attributes:
        dtype: what all layers but the last compute in.
        pi_copies, v_copies: of the weights of actor and critic; None in float32, and of a critic that shares its body.
    """

    def __init__(self, ac: ActorCritic, dtype: torch.dtype) -> None:
        """Take networks that are on their device. In bfloat16, `refresh` after every change of their weights."""
        self._ac, self.dtype = ac, dtype
        self._image = isinstance(ac.bodies[0][0], ScaleImage)
        bodies = [nn.Sequential(*list(body)[int(self._image) :]) for body in ac.bodies]
        self.pi_copies, self.v_copies = None, None
        if dtype == torch.float32:  # other layers on the same parameters
            keep = {id(p): p for p in ac.parameters()}
            self._bodies = [with_fast_layers(copy.deepcopy(body, dict(keep))) for body in bodies]
        else:
            copies = [Copies(body, dtype) for body in bodies]
            self.pi_copies, self.v_copies = copies[0], None if ac.shared else copies[1]
            self._bodies = [body_copies.body for body_copies in copies]

    def prepare(self, obs: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return observations, or some rows of them, as `logits` and `value` take them: what both have in common."""
        converted = self._convert(obs, rows)
        return self._bodies[0](converted).float() if self._ac.shared else converted

    def _convert(self, obs: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        """Return observations, or some rows of them, in the type that is computed in; images scaled."""
        if not self._image:
            return self._ac.take(obs, rows).to(self.dtype)
        in_buffer = obs.dtype == torch.uint8 and obs.permute(0, 2, 3, 1).is_contiguous()  # as it keeps them
        if self.dtype == torch.bfloat16 and obs.device.type == "cpu" and in_buffer and arrays.compiled():
            return arrays.scale_images(obs, torch.arange(len(obs)) if rows is None else rows, SCALE)
        return scale_image(obs if rows is None else take_images(obs, rows), self.dtype)

    def pi_features(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return what the actor's head sees: (M, features) float32."""
        return prepared if self._ac.shared else self._bodies[0](prepared).float()

    def v_features(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return what the critic's head sees: (M, features) float32."""
        return prepared if self._ac.shared else self._bodies[1](prepared).float()

    def logits(self, prepared: torch.Tensor) -> torch.Tensor:
        """(M, P) float32."""
        return self._ac.pi[-1](self.pi_features(prepared))

    def value(self, prepared: torch.Tensor) -> torch.Tensor:
        """V(obs), (M,) float32."""
        return self._ac.v[-1](self.v_features(prepared)).squeeze(-1)

    def refresh(self) -> None:
        """Copy the weights into the type in which the networks compute."""
        for copies in (self.pi_copies, self.v_copies):
            if copies is not None:
                copies.refresh()


def scale_image(obs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return obs / 255 as a new tensor of `dtype`, channels last in memory."""
    return obs.to(dtype, memory_format=torch.channels_last, copy=True).mul_(SCALE)


def take_images(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return images[rows], channels last in memory, so that whole rows are copied."""
    return images.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
