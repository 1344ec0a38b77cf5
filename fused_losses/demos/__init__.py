"""Small complete projects trained with the fused losses: `python -m fused_losses.demos <name> [options]`.

They need the extra `fused-losses[demos]`: NumPy, scikit-learn, Matplotlib and tqdm.
"""
