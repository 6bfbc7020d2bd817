"""`TensorsOutput`: what a model returns, as a whole on another device."""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

Output = TypeVar("Output", bound="TensorsOutput")


class TensorsOutput(BaseOutput):
    """A dataclass of tensors, to which diffusers' hooks that offload a model's layers can apply ``.to`` as well.

    Without it they would make the class anew from a dictionary, which works for classes of one field alone.
    """

    def to(self: Output, device: str | torch.device, non_blocking: bool = False) -> Output:
        """The same with every tensor on ``device``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type] # those that inherit from it are dataclasses
        moved = {
            name: value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        return type(self)(**moved)
