"""Each rank keeps a share of the weights (FSDP2; Zhao et al., VLDB 2023), by Lightning's ``ModelParallelStrategy``."""

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
    """Samples and weights over the ranks; a checkpoint is one file, as of other strategies."""
    return ModelParallelStrategy(data_parallel_size=ranks, tensor_parallel_size=1, save_distributed_checkpoint=False)


def is_sharded(arguments: dict[str, Any]) -> bool:
    """Whether a Trainer with these arguments leaves ranks shares of the weights."""
    return isinstance(arguments.get("strategy"), ModelParallelStrategy)


def shard(network: BottleneckedModel, mesh: DeviceMesh) -> None:
    """Leave each rank a share of every weight: a block's are gathered where it works, the others for the whole step.

    Args:
        network: changed in place; the temperature (), which has no dimension to share, becomes (1,).
        mesh: of the ranks.
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
    """The state of a module of which the ranks have shares, on rank 0; nothing on the others. Every rank calls it."""
    state: dict[str, Any] = get_model_state_dict(
        module, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return state
