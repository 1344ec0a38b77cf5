"""A variational autoencoder draws new handwritten digits from two numbers.

The fused VAE loss holds both terms: the reconstruction (cross-entropy of 784 pixels, or the squared error) and the
Gaussian KL divergence that keeps the latent space near the standard normal prior.
"""

from __future__ import annotations

import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from . import data, plots
from .cli import positive_float, positive_int, size
from .training import Batches, finite, fit, step_time

LIKELIHOODS = {"bce": "bernoulli_logits", "mse": "gaussian"}


def options(parser) -> None:
    data.data_option(parser)
    parser.add_argument("--epochs", type=positive_int, default=50)
    parser.add_argument("--batch", type=positive_int, default=128)
    parser.add_argument("--latent", type=size, default=2, help="latent numbers (default 2)")
    parser.add_argument("--beta", type=positive_float, default=1.0, help="weight of the KL term (default 1)")
    parser.add_argument("--reconstruction", choices=LIKELIHOODS, default="bce")


class Autoencoder(nn.Module):
    """784 -> 256 -> mean and log-variance of the latents; latents -> 256 -> 784."""

    def __init__(self, latent: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
        self.mu, self.logvar = nn.Linear(128, latent), nn.Linear(128, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 784)
        )

    def forward(self, images):
        """Reconstruction [n, 784] (logits, or grey values for mse), mu and logvar [n, latent]."""
        hidden = self.encoder(images)
        mu, logvar = self.mu(hidden), self.logvar(hidden)
        noise = torch.randn_like(mu) if self.training else 0.0
        return self.decoder(mu + noise * (0.5 * logvar).exp()), mu, logvar


def run(session) -> None:
    o = session.options
    digits = data.load(session).limit(2000 if session.quick else 60_000)
    likelihood = LIKELIHOODS[o.reconstruction]
    model = Autoencoder(o.latent).to(session.device)

    def criterion(losses, outputs, batch):
        total, reconstruction, kl = losses.vae_loss(
            outputs[0], batch[0].flatten(1), outputs[1], outputs[2], likelihood=likelihood, beta=o.beta
        )
        return total, {"reconstruction": reconstruction, "kl": kl}

    def optimizer(parameters):
        return torch.optim.Adam(parameters, lr=0.002)

    batches = Batches(digits.train_images, size=o.batch, device=session.device, generator=session.generator(1))
    epochs = min(o.epochs, 15) if session.quick else o.epochs
    before = judge(session, model, criterion, digits)
    history = fit(session, "vae", model, batches, criterion, optimizer(model.parameters()), epochs=epochs)
    after = judge(session, model, criterion, digits)
    session.metrics(**after, **{f"before_{name}": value for name, value in before.items()})
    words = {"loss": "loss, in nats per image", "reconstruction": "reconstruction term", "kl": "KL term",
             "knn_accuracy": "digit named by 5 neighbours in latent space"}  # fmt: skip
    rows = [[words[name], before[name], after[name]] for name in words]
    session.table(["test images", "untrained", "trained"], rows)
    draw(session, model, history, digits, probabilities(likelihood))
    step_time(session, "vae_loss", model, batches, criterion, optimizer)


def probabilities(likelihood):
    """What turns the decoder's output into grey values."""
    return torch.sigmoid if likelihood == "bernoulli_logits" else lambda grey: grey.clamp(0, 1)


@torch.no_grad()
def encode(session, model, images):
    model.eval()
    return [finite(part.cpu(), "an output of the network") for part in model(images.to(session.device))]


@torch.no_grad()
def judge(session, model, criterion, digits) -> dict:
    """Both terms on the test images without noise, and how well the latent space keeps the digits apart."""
    from .. import functional

    outputs = encode(session, model, digits.test_images)
    total, parts = criterion(functional, outputs, (digits.test_images,))
    _, known, _ = encode(session, model, digits.train_images)
    neighbours = KNeighborsClassifier(5).fit(known, digits.train_labels)
    return {"loss": float(total), "reconstruction": float(parts["reconstruction"]), "kl": float(parts["kl"]),
            "knn_accuracy": float(neighbours.score(outputs[1], digits.test_labels))}  # fmt: skip


def draw(session, model, history, digits, grey) -> None:
    figure, (left, right) = plots.axes(2, width=5)
    epochs = range(1, len(history["train"]) + 1)
    left.plot(epochs, history["train"], color=plots.BLACK, label="total")
    left.plot(epochs, history["reconstruction"], "--", color=plots.BLUE, label="reconstruction")
    left.set(title="Total and reconstruction", xlabel="epoch", ylabel="loss per image (nats)")
    left.legend()
    right.plot(epochs, history["kl"], color=plots.VERMILION)
    right.set(title="KL divergence from the prior", xlabel="epoch", ylabel="KL per image (nats)")
    session.picture(figure, "curves.png", "Both terms of the VAE loss by epoch")

    rows = torch.randperm(len(digits.test_images), generator=session.generator(2))[:10]
    shown = digits.test_images[rows]
    rebuilt = grey(encode(session, model, shown)[0]).view(-1, 28, 28)
    pictures = torch.cat([shown[:, 0], rebuilt])
    titles = ["test image"] * 10 + ["rebuilt"] * 10
    figure = plots.image_grid(pictures, 10, titles, title="Test images and what the network makes of them")
    session.picture(figure, "reconstructions.png", "Images never seen, above, and their reconstructions, below")

    latent = model.mu.out_features
    points = torch.randn(40, latent, generator=session.generator(3))
    with torch.no_grad():
        samples = grey(model.decoder(points.to(session.device))).view(-1, 28, 28).cpu()
    figure = plots.image_grid(samples, 10, title="New digits: samples from the prior")
    session.picture(figure, "samples.png", "Digits nobody wrote: the decoder of random numbers")
    latent_space(session, model, digits)


def latent_space(session, model, digits) -> None:
    """The first two latents of the test images, each drawn as its own digit."""
    _, mu, _ = encode(session, model, digits.test_images[:1000])
    labels, spread = digits.test_labels[:1000], mu.numpy()
    figure, axis = plots.axes(width=7.5, height=6)
    palette = [*plots.COLOURS, "#8C564B", "#6A8F00", "#7A7A7A"]
    for digit in range(10):
        chosen = spread[(labels == digit).numpy()]
        x, y = chosen[:, 0], chosen[:, 1] if chosen.shape[1] > 1 else 0 * chosen[:, 0]
        axis.scatter(x, y, s=60, marker=f"${digit}$", color=palette[digit], linewidths=0.4)
    axis.set(title="The latent space: each test image as its own digit", xlabel="first latent", ylabel="second latent")
    session.picture(figure, "latent.png", "Test images in the latent space; the network was never told the digits")
