"""Sharded weights (FSDP2; Zhao et al., VLDB 2023), through Lightning's ``ModelParallelStrategy``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.finetuning.network import BottleneckedModel


def sharded_strategy(ranks: int) -> ModelParallelStrategy:
    """Return the strategy that shards samples and weights over the ranks; a checkpoint is one file."""
    return ModelParallelStrategy(data_parallel_size=ranks, tensor_parallel_size=1, save_distributed_checkpoint=False)


def is_sharded(arguments: dict[str, Any]) -> bool:
    """Whether a Trainer with these arguments shards the weights."""
    return isinstance(arguments.get("strategy"), ModelParallelStrategy)


def shard(network: BottleneckedModel, mesh: DeviceMesh) -> None:
    """Shard every weight over the ranks.

    The weights of a block are gathered while it runs, the others for the whole step.

    Args:
        network: the network, changed in place; the temperature () has no dimension to shard and becomes (1,).
        mesh: the mesh of the ranks.
    """
    if isinstance(network, FSDPModule):
        return
    for module in list(network.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                setattr(module, name, nn.Parameter(parameter.detach()[None], parameter.requires_grad))
    for modality in MODALITIES:
        for block in network.encoder.towers[modality].blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    register_fsdp_forward_method(network, "untouched")


def gathered_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the full state of a sharded module on rank 0, an empty one elsewhere; every rank must call it."""
    state: dict[str, Any] = get_model_state_dict(
        module, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return state
