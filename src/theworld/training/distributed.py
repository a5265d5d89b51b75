"""FSDP2: which modules are sharded, and how a delta checkpoint is gathered.

`accelerate launch` with `configs/accelerate/multi_gpu_fsdp.yaml` shards by the same policy as `shard`; a test compares
the two.
"""

from dataclasses import replace

import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from theworld.model import TheWorld
from theworld.model.checkpoints.delta import delta_names
from theworld.model.components import named_components
from theworld.utils.errors import TheWorldError

# Layers that are gathered one by one; everything else is gathered as one group
WRAPPED_LAYERS = ("Gemma3DecoderLayer", "SiglipEncoderLayer")
# Not sharded: it has no gradients or optimiser state, and a rollout runs each layer many times
IGNORED_MODULE = "model.world_encoder"


def shard(model: TheWorld, mesh: DeviceMesh, mixed_precision: MixedPrecisionPolicy | None = None) -> TheWorld:
    """Shard `model` in place over a one-dimensional `mesh`, with torch's own `fully_shard`.

    Build the optimiser afterwards, because sharding replaces the parameters. A ValueError if the world encoder trains.
    """
    check_shardable(model)
    policy = mixed_precision or MixedPrecisionPolicy()
    for module in model.modules():
        if type(module).__name__ in WRAPPED_LAYERS:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    encoder = model.model.world_encoder
    ignored = set() if encoder is None else set(encoder.parameters())
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=ignored)
    return model


def check_shardable(model: TheWorld) -> None:
    """Raise a ValueError if the world encoder trains: its gradients would not be averaged over the processes."""
    if any(p.requires_grad for name, p in model.named_parameters() if name.startswith(f"{IGNORED_MODULE}.")):
        raise TheWorldError(
            "freeze_cosmos_vae=False with FSDP: the world encoder is not sharded and would drift apart between "
            "processes; train it with configs/accelerate/multi_gpu_ddp.yaml"
        )


def configure_fsdp(plugin: FullyShardedDataParallelPlugin, model: TheWorld) -> None:
    """Average gradients in fp32 and keep the dtype of outputs; accelerate's config has no key for this."""
    check_shardable(model)
    policy = plugin.mixed_precision_policy
    if isinstance(policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32, output_dtype=None)


def gather_delta(model: TheWorld) -> dict[str, torch.Tensor]:
    """The whole tensors of a delta checkpoint, for `save_pretrained(state_dict=...)`. Base weights stay sharded.

    Every process has to call it. The first gets the tensors, on the CPU, the others an empty dict.
    """
    delta: dict[str, torch.Tensor] = {}
    names = set(delta_names(model, thorough=False))
    for name, value in ((name, parameter.detach()) for name, _, parameter in named_components(model) if name in names):
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if not dist.is_initialized() or dist.get_rank() == 0:
            delta[name] = whole.to("cpu", copy=True)  # without the padding that even shards need
    return delta
