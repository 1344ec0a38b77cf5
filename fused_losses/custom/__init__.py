"""Losses of your own: a formula in plain PyTorch becomes a fused loss, compiled once, on the CPU and on CUDA."""

from .ahead import build
from .builder import cache_info
from .elementwise import elementwise

__all__ = ["build", "cache_info", "elementwise"]
