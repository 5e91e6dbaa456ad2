"""Actor and critic: shapes, sizes, initial weights, and that they share nothing."""

import pytest
import torch

from ppo.compute.layers import ReLU
from ppo.compute.networks import FastActorCritic
from ppo.networks import FOR_VECTORS, NETWORKS, SCALE, ActorCritic

IMAGE = (4, 84, 84)


def obs_for(network, batch=2):
    return (
        torch.randint(256, (batch, *IMAGE), dtype=torch.uint8) if network not in FOR_VECTORS else torch.randn(batch, 4)
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_and_separation(network):
    """The actor gives (M, A), the critic (M,), from the family's observations; no parameter is shared."""
    ac = ActorCritic(network, (4,) if network in FOR_VECTORS else IMAGE, 7, "orthogonal", seed=1)
    logits, val = ac.step(obs_for(network))
    assert logits.shape == (2, 7) and val.shape == (2,)
    storages = [{p.untyped_storage().data_ptr() for p in net.parameters()} for net in (ac.pi, ac.v)]
    assert not storages[0] & storages[1]
    ac.pi(obs_for(network)).sum().backward()
    assert all(p.grad is None for p in ac.v.parameters())


def test_sizes_are_those_of_the_sources():
    """32*6*6 features feed the course's 512 units, 3,136 Nature's, 2,592 the 256 units of 2013; 84x84 input."""
    count = {
        name: sum(p.numel() for p in ActorCritic(name, IMAGE, 7, "xavier", 0).pi.parameters())
        for name in ("mario", "nature", "small")
    }
    convolutions = (4 * 32 * 9 + 32) + 3 * (32 * 32 * 9 + 32)
    assert count["mario"] == convolutions + 1152 * 512 + 512 + 512 * 7 + 7
    assert (
        count["nature"]
        == (4 * 32 * 64 + 32) + (32 * 64 * 16 + 64) + (64 * 64 * 9 + 64) + 3136 * 512 + 512 + 512 * 7 + 7
    )
    assert count["small"] == (4 * 16 * 64 + 16) + (16 * 32 * 16 + 32) + 2592 * 256 + 256 + 256 * 7 + 7


def test_a_new_policy_is_close_to_uniform_and_biases_are_zero():
    """The actor's last layer starts small."""
    ac = ActorCritic("nature", IMAGE, 7, "orthogonal", seed=0)
    prob = ac.step(obs_for("nature", 8))[0].softmax(-1)
    assert (prob - 1 / 7).abs().max() < 0.02
    assert all((p == 0).all() for name, p in ac.named_parameters() if name.endswith("bias"))


def test_seed_decides_the_weights():
    """The same seed gives the same weights, another seed others."""
    weights = [
        torch.cat([p.flatten() for p in ActorCritic("mlp", (4,), 2, "xavier", s).parameters()]) for s in (3, 3, 4)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_image_scaling_leaves_the_observation_alone():
    """Scaling to [0, 1] happens inside the network, for float images too."""
    obs = torch.full((1, *IMAGE), 255.0)
    ActorCritic("mario", IMAGE, 2, "xavier", 0).step(obs)
    assert (obs == 255).all()


def test_wrong_network_is_refused():
    """A network for images does not take a vector, and an unknown name is named."""
    with pytest.raises(ValueError, match="does not take observations"):
        ActorCritic("nature", (4,), 2, "xavier", 0)
    with pytest.raises(ValueError, match="must be one of"):
        ActorCritic("vgg", IMAGE, 2, "xavier", 0)


def test_relu_by_bits_is_relu():
    """In bfloat16, where it works on the bits: outputs and gradients equal torch's, signed zeros and infinity too."""
    x = torch.cat([torch.randn(1000), torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-40, -1e-40])]).bfloat16()
    grad = torch.randn(len(x)).bfloat16()
    outputs, gradients = [], []
    for relu in (ReLU(), torch.nn.ReLU()):
        leaf = x.clone().requires_grad_()
        out = relu(leaf * 1.0)
        out.backward(grad)
        outputs.append(out.detach())
        gradients.append(leaf.grad)
    assert torch.equal(*outputs) and torch.equal(*gradients)


@pytest.mark.parametrize("network", ["mario", "nature", "small", "impala"])
def test_bfloat16_is_close_to_float32(network):
    """Logits, values and gradients in bfloat16 point where those in float32 do; the weights stay float32."""
    torch.manual_seed(0)
    blocks = torch.randint(256, (16, 4, 7, 7), dtype=torch.uint8)  # a picture has areas; noise cancels in every layer
    obs = blocks.repeat_interleave(12, dim=2).repeat_interleave(12, dim=3)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        ac = ActorCritic(network, IMAGE, 7, "orthogonal", seed=3)
        for p in ac.parameters():
            p.grad = torch.zeros_like(p)
        nets = FastActorCritic(ac, dtype)
        prepared = nets.prepare(obs)
        logits, val = nets.logits(prepared), nets.value(prepared)
        assert logits.dtype == val.dtype == torch.float32
        (logits.log_softmax(-1)[:, 0].sum() + val.square().sum()).backward()
        found.append((logits.detach(), val.detach(), *(p.grad for p in ac.parameters())))
    for exact, low in zip(*found, strict=True):
        cosine = torch.nn.functional.cosine_similarity(low.flatten(), exact.flatten(), dim=0)
        assert low.dtype == torch.float32 and cosine > 0.9 and 0.8 < low.norm() / exact.norm() < 1.25


def test_copies_follow_the_weights():
    """`refresh` carries a changed weight into what computes in bfloat16; the state of the module holds no copies."""
    ac = ActorCritic("mario", IMAGE, 7, "orthogonal", seed=0)
    names = set(ac.state_dict())
    nets = FastActorCritic(ac, torch.bfloat16)
    before = nets.step(obs_for("mario"))[1]
    ac.load_state_dict(ActorCritic("mario", IMAGE, 7, "orthogonal", seed=1).state_dict())
    nets.refresh()
    assert set(ac.state_dict()) == names and not torch.equal(before, nets.step(obs_for("mario"))[1])


@pytest.mark.parametrize("network", NETWORKS)
def test_the_fast_networks_are_the_plain_ones(network):
    """In float32: logits, values and gradients as near to those in double precision as torch's own layers give them.

    Near, not equal: a sum in another order may put a unit on the other side of a ReLU, or choose another maximum.
    """
    obs, rows, found = obs_for(network, 5), torch.tensor([3, 0, 3]), []
    for kind in ("double", "plain", "fast"):
        ac = ActorCritic(network, (4,) if network in FOR_VECTORS else IMAGE, 7, "orthogonal", seed=1)
        if kind == "double":
            logits, val = in_double(ac.double(), obs[rows])
        else:
            nets = FastActorCritic(ac, torch.float32) if kind == "fast" else ac
            prepared = nets.prepare(obs, rows)
            logits, val = nets.logits(prepared), nets.value(prepared)
        (logits.square().sum() + val.square().sum()).backward()
        found.append((logits, val, *(p.grad for p in ac.parameters())))
    for exact, plain, ours in zip(*found, strict=True):
        theirs, error = (float((one.double() - exact).norm() / exact.norm()) for one in (plain, ours))
        assert error < max(1.5 * theirs, 1e-5)


def in_double(ac, obs):
    """Return logits and values of a network whose parameters are double precision."""
    image = obs.dtype == torch.uint8
    bodies = [body[int(image) :] for body in ac.bodies]
    seen = obs.double() * SCALE if image else obs.double()
    return ac.pi[-1](bodies[0](seen)), ac.v[-1](bodies[1](seen)).squeeze(-1)


def test_chunks_add_up():
    """In bfloat16 the gradients of the second backward pass are added to those of the first, not to older ones."""
    ac = ActorCritic("small", IMAGE, 7, "orthogonal", seed=1)
    for p in ac.parameters():
        p.grad = torch.zeros_like(p)
    nets, obs = FastActorCritic(ac, torch.bfloat16), obs_for("small", 4)
    weight = ac.pi[1].weight

    def gradient(*parts):
        nets.pi_copies.expect_gradients()
        for part in parts:
            nets.logits(nets.prepare(part)).square().sum().backward()
        return weight.grad.clone()

    first, second = gradient(obs[:2]), gradient(obs[2:])
    assert torch.equal(gradient(obs[:2], obs[2:]), first + second) and torch.equal(gradient(obs[:2]), first)
