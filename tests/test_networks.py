"""Actor and critic: shapes, sizes, initial weights, and that they share nothing."""

import pytest
import torch

from ppo.networks import NETWORKS, ActorCritic

IMAGE = (4, 84, 84)


def obs_for(network, batch=2):
    return torch.randint(256, (batch, *IMAGE), dtype=torch.uint8) if network != "mlp" else torch.randn(batch, 4)


@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_and_separation(network):
    """The actor gives (M, A), the critic (M,), from the family's observations; no parameter is shared."""
    ac = ActorCritic(network, (4,) if network == "mlp" else IMAGE, 7, "orthogonal", seed=1)
    logits, val = ac.step(obs_for(network))
    assert logits.shape == (2, 7) and val.shape == (2,)
    storages = [{p.untyped_storage().data_ptr() for p in net.parameters()} for net in (ac.pi, ac.v)]
    assert not storages[0] & storages[1]
    ac.pi(obs_for(network)).sum().backward()
    assert all(p.grad is None for p in ac.v.parameters())


def test_sizes_are_those_of_the_sources():
    """32*6*6 features feed the course's 512 units, 3,136 those of the Nature network; 84x84 input."""
    count = {
        name: sum(p.numel() for p in ActorCritic(name, IMAGE, 7, "xavier", 0).pi.parameters())
        for name in ("mario", "nature")
    }
    convolutions = (4 * 32 * 9 + 32) + 3 * (32 * 32 * 9 + 32)
    assert count["mario"] == convolutions + 1152 * 512 + 512 + 512 * 7 + 7
    assert (
        count["nature"]
        == (4 * 32 * 64 + 32) + (32 * 64 * 16 + 64) + (64 * 64 * 9 + 64) + 3136 * 512 + 512 + 512 * 7 + 7
    )


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
