"""Measurements of every fused loss against eager PyTorch, torch.compile and torch's own ops: see run.py."""
