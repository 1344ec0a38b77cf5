"""Small complete projects trained with the fused losses: `python -m fused_losses.demos <name> [options]`.

They need the extra `demos` of the package: NumPy, scikit-learn, Matplotlib and tqdm.
"""
