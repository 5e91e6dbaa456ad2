"""The fast implementation of what `ppo/` computes. It changes the speed, and results only by rounding: to bfloat16 for
images, where the processor has it, and otherwise in the last bits of float32. Without this folder everything works.

    File             Is a drop-in for
    networks.py      `ppo.networks.ActorCritic`: bfloat16 copies of the weights, images scaled once for both networks
    layers.py        `torch.nn.ReLU`, and the layers of a network
    convolutions.py  `torch.nn.Conv2d`, alone or in a stack
    adam.py          `ppo.optimiser.Adam`: each rank takes its part of the step
    arrays.py        torch's own loops over long arrays
    cpp.py           nothing: it loads their C++, convolutions.cpp (with convolutions.hpp and float32.hpp),
                     arrays.cpp and team.hpp

PPO_COMPUTE=plain in the environment turns it off, PPO_CONVOLUTION=0 its convolutions alone.
"""
