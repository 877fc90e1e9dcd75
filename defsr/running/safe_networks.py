"""Networks on their device, read without running code, written whole."""

from __future__ import annotations

from pathlib import Path

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from defsr.methods.build import trained_with
from defsr.methods.networks import check_trained
from defsr.running.checkpoints import Checkpoints, save_tensors
from defsr.utils import distributed
from defsr.utils.weights import CONTAINERS, TRAINED_WITH, load_weights


class SafeNetworks(BaseModel):
    """The part of ``SafeTraining`` that handles networks and their files.

    Attributes:
        checkpoints: where networks are written.
        written: the files of the checkpoint that is being written.
        memory_format: of the weights of networks.
    """

    checkpoints: Checkpoints
    written: list[Path]
    memory_format: torch.memory_format = torch.preserve_format

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As BasicSR's, with DistributedDataParallel on the CPU as well."""
        net = net.to(self.device).to(memory_format=self.memory_format)
        if not self.opt['dist']:
            return super().model_to_device(net)
        devices = [torch.cuda.current_device()] if self.device.type == 'cuda' else None
        find_unused = self.opt.get('find_unused_parameters', False)
        return DistributedDataParallel(net, device_ids=devices, find_unused_parameters=find_unused)

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = 'params'
    ) -> None:
        """As BasicSR's, without running a checkpoint's code; ValueError if it does not fit.

        Which state dict it is ``path:param_key_*`` says, and no other is taken. Without it, and for
        the moving average, ``read_weights`` finds it.
        """
        is_average = net is getattr(self, 'net_g_ema', None)
        net = self.get_bare_model(net)
        paths = self.opt['path']
        option = next((key for key, path in paths.items() if path == load_path), 'path')
        network = f'network_{option[-1]}'
        key = paths.get(f'param_key_{option[-1]}')
        get_root_logger().info(f'Loading {type(net).__name__} from {load_path}.')
        # the moving average lies in the file of the network, which comes first
        is_first = network == 'network_g' and not is_average
        wanted = trained_with(self.opt) if is_first and check_trained(self.opt) else None
        load_weights(
            net,
            load_path,
            option=f'path:{option}',
            network=network,
            param_key=None if is_average and key in CONTAINERS else key,
            prefer='params_ema' if is_average else 'params',
            strict=strict,
            trained_with=wanted,
        )

    def save_network(
        self,
        net: nn.Module | list[nn.Module],
        net_label: str,
        current_iter: int | str,
        param_key: str | list[str] = 'params',
    ) -> None:
        """BasicSR's file, atomically, with what it was trained with. OSError if that fails."""
        if not distributed.is_main():
            return
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        content = {
            key: {k: v.cpu() for k, v in self.get_bare_model(net_).state_dict().items()}
            for net_, key in zip(nets, keys, strict=True)
        }
        if net_label == 'net_g':
            content[TRAINED_WITH] = trained_with(self.opt)
        suffix = 'latest' if current_iter == -1 else current_iter
        path = self.checkpoints.models / f'{net_label}_{suffix}.pth'
        save_tensors(content, path)
        self.written.append(path)
