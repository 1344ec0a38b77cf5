"""Losses of the literature that the library does not have, as a user would write them: the test of custom losses."""

import math

import torch
import torch.nn.functional as F

from fused_losses import custom

# ---- Regression: of a prediction and a target. ----


@custom.elementwise
def log_cosh(input, target, *, scale=1.0):
    # Saleh and Saleh, "Statistical Properties of the log-cosh Loss Function", 2022
    d = (input - target).abs() / scale
    return d + F.softplus(-2 * d) - math.log(2)


@custom.elementwise
def quantile(input, target, *, q=0.9):
    # Koenker and Bassett, "Regression Quantiles", 1978
    d = target - input
    return torch.maximum(q * d, (q - 1) * d)


@custom.elementwise
def charbonnier(input, target, *, epsilon=1e-3):
    # Charbonnier et al., "Two deterministic half-quadratic regularization algorithms", 1994
    return torch.sqrt((input - target) ** 2 + epsilon**2)


@custom.elementwise
def cauchy(input, target, *, scale=1.0):
    # Black and Anandan, "The Robust Estimation of Multiple Motions", 1996
    return torch.log1p(0.5 * ((input - target) / scale) ** 2)


@custom.elementwise
def tukey(input, target, *, c=4.685):
    # Beaton and Tukey, "The Fitting of Power Series", 1974
    u = 1 - ((input - target) / c).clamp(-1, 1) ** 2
    return c**2 / 6 * (1 - u**3)


@custom.elementwise
def wing(input, target, *, width=5.0, curvature=0.5):
    # Feng et al., "Wing Loss for Robust Facial Landmark Localisation", 2018
    d = (input - target).abs()
    at_width = width * torch.log1p(torch.ones_like(d) * width / curvature)
    return torch.where(d < width, width * torch.log1p(d / curvature), d - width + at_width)


@custom.elementwise
def general_robust(input, target, *, alpha=1.5, scale=1.0):
    # Barron, "A General and Adaptive Robust Loss Function", 2019; alpha other than 0 and 2
    b = abs(alpha - 2)
    return b / alpha * ((((input - target) / scale) ** 2 / b + 1) ** (alpha / 2) - 1)


@custom.elementwise
def epsilon_insensitive(input, target, *, epsilon=0.1):
    # Drucker et al., "Support Vector Regression Machines", 1997, squared
    return torch.relu((input - target).abs() - epsilon) ** 2


@custom.elementwise
def elastic(input, target, *, l1=0.5, l2=0.25):
    # Zou and Hastie, "Regularization and variable selection via the elastic net", 2005: two terms in one pass
    d = input - target
    return l1 * d.abs() + l2 * d * d


# ---- Likelihoods. ----


@custom.elementwise(differentiable=("input",))
def poisson_nll(input, target):
    # Cameron and Trivedi, "Regression Analysis of Count Data", 1998: rate e^input
    return torch.exp(input) - target * input


@custom.elementwise
def gaussian_nll(input, target, log_variance):
    # Nix and Weigend, "Estimating the mean and variance of the target probability distribution", 1994
    return 0.5 * (log_variance + (input - target) ** 2 * torch.exp(-log_variance))


@custom.elementwise
def laplace_nll(input, target, scale):
    # Kotz et al., "The Laplace Distribution and Generalizations", 2001
    return torch.log(2 * scale) + (input - target).abs() / scale


@custom.elementwise
def student_t_nll(input, target, log_scale, log_freedom):
    # Lange, Little and Taylor, "Robust Statistical Modeling Using the t Distribution", 1989, without its constants
    freedom = torch.exp(log_freedom)
    return log_scale + (freedom + 1) / 2 * torch.log1p(((input - target) * torch.exp(-log_scale)) ** 2 / freedom)


@custom.elementwise
def multi_task(input, target, log_variance, *, factor=1.0):
    # Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses", 2018
    return factor * (torch.exp(-log_variance) * (input - target) ** 2 + log_variance)


# ---- Binary classification, of logits. ----


@custom.elementwise(differentiable=("input",), ignores=True)
def asymmetric_focal(input, target, *, gamma_positive=1.0, gamma_negative=4.0, shift=0.05):
    # Ridnik et al., "Asymmetric Loss For Multi-Label Classification", 2021
    p = torch.sigmoid(input)
    shifted = (p - shift).clamp(min=0)
    positive = (1 - p) ** gamma_positive * F.logsigmoid(input)
    return -target * positive - (1 - target) * shifted**gamma_negative * torch.log(1 - shifted)


@custom.elementwise(differentiable=("input",), ignores=True)
def poly1_focal(input, target, *, epsilon=1.0, gamma=2.0):
    # Leng et al., "PolyLoss", 2022
    p = torch.sigmoid(input)
    miss = 1 - (target * p + (1 - target) * (1 - p))
    ce = F.binary_cross_entropy_with_logits(input, target, reduction="none")
    return miss**gamma * ce + epsilon * miss ** (gamma + 1)


@custom.elementwise(differentiable=("input",))
def symmetric_bce(input, target, *, alpha=0.1, beta=1.0, floor=-4.0):
    # Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", 2019
    p = torch.sigmoid(input)
    reverse = -(p * torch.log(target).clamp(min=floor) + (1 - p) * torch.log(1 - target).clamp(min=floor))
    return alpha * F.binary_cross_entropy_with_logits(input, target, reduction="none") + beta * reverse


@custom.elementwise(differentiable=("input",))
def tempered_bce(input, target, *, t=0.8):
    # Amid et al., "Robust Bi-Tempered Logistic Loss", 2019, of two classes with the second temperature 1
    def of_class(y, p):
        return y * (1 - p ** (1 - t)) / (1 - t) + (p ** (2 - t) - y) / (2 - t)

    p = torch.sigmoid(input)
    return of_class(target, p) + of_class(1 - target, 1 - p)


@custom.elementwise(differentiable=("input",))
def modified_huber(input, target):
    # Zhang, "Solving large scale linear prediction problems", 2004; target -1 or 1
    z = input * target
    return torch.where(z >= -1, torch.relu(1 - z) ** 2, -4 * z)


@custom.elementwise(differentiable=("input",))
def distillation(input, teacher, target, *, temperature=2.0, share=0.5):
    # Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, and the label's loss in one pass
    def of(x, t):
        return F.binary_cross_entropy_with_logits(x, t, reduction="none")

    soft = of(input / temperature, torch.sigmoid(teacher / temperature))
    return share * temperature**2 * soft + (1 - share) * of(input, target)


# ---- Adversarial: of a critic's outputs. ----


@custom.elementwise
def lsgan_generator(fake):
    # Mao et al., "Least Squares Generative Adversarial Networks", 2017
    return 0.5 * (fake - 1) ** 2


@custom.elementwise
def hinge_critic(real, fake):
    # Lim and Ye, "Geometric GAN", 2017: both terms in one pass
    return torch.relu(1 - real) + torch.relu(1 + fake)


@custom.elementwise
def logistic_critic(real, fake, *, penalty=0.001):
    # Goodfellow et al., "Generative Adversarial Nets", 2014, with the drift of Karras et al., 2018
    return F.softplus(-real) + F.softplus(fake) + penalty * real**2


# ---- Of the target's class, from logits. ----


@custom.softmax
def generalized_cross_entropy(log_p, p, *, q=0.7):
    # Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", 2018
    return (1 - torch.exp(q * log_p)) / q


@custom.softmax
def focal_cross_entropy(log_p, p, *, gamma=2.0):
    # Lin et al., "Focal Loss for Dense Object Detection", 2017: none at log p = -inf
    return -((1 - p) ** gamma) * log_p


@custom.softmax
def poly1_cross_entropy(log_p, p, *, epsilon=2.0):
    # Leng et al., "PolyLoss", 2022
    return -log_p + epsilon * (1 - p)


@custom.softmax
def taylor_cross_entropy(log_p, p):
    # Feng et al., "Can Cross Entropy Loss Be Robust to Label Noise?", 2020, of second order
    return (1 - p) + (1 - p) ** 2 / 2


# ---- Of the region of a class. ----


@custom.overlap
def log_dice(intersection, predicted, true, *, gamma=0.3):
    # Wong et al., "3D Segmentation with Exponential Logarithmic Loss for Highly Unbalanced Object Sizes", 2018
    return (-torch.log((2 * intersection + 1e-5) / (predicted + true + 1e-5))) ** gamma


@custom.overlap
def power_jaccard(intersection, predicted, true, *, p=1.75):
    # Duque-Arias et al., "On power Jaccard losses for semantic segmentation", 2021
    return 1 - (intersection + 1e-5) / (predicted**p + true**p - intersection**p + 1e-5)


@custom.overlap
def matthews(intersection, predicted, true, count):
    # Abhishek and Hamarneh, "Matthews Correlation Coefficient Loss for Deep Convolutional Networks", 2021
    covariance = count * intersection - predicted * true
    return 1 - covariance / torch.sqrt(predicted * (count - predicted) * true * (count - true) + 1e-5)


@custom.overlap
def generalized_dice(intersection, predicted, true, count):
    # Sudre et al., "Generalised Dice Overlap as a Deep Learning Loss Function for Highly Unbalanced Segmentations",
    # 2017, of a region and its surroundings
    region, rest = 1 / (true**2 + 1e-5), 1 / ((count - true) ** 2 + 1e-5)
    shared = region * intersection + rest * (count - predicted - true + intersection)
    return 1 - 2 * shared / (region * (predicted + true) + rest * (2 * count - predicted - true))


@custom.overlap
def focal_tversky(intersection, predicted, true, *, alpha=0.7, gamma=4 / 3):
    # Abraham and Khan, "A Novel Focal Tversky Loss Function with Improved Attention U-Net", 2019
    missed, beside = true - intersection, predicted - intersection
    index = (intersection + 1e-5) / (intersection + alpha * missed + (1 - alpha) * beside + 1e-5)
    return (1 - index) ** (1 / gamma)


# ---- Of a row. ----


@custom.row_sums(term=lambda anchor, positive, negative: (anchor - positive) ** 2 - (anchor - negative) ** 2)
def triplet(total, *, margin=1.0):
    # Schroff, Kalenichenko and Philbin, "FaceNet", 2015
    return torch.relu(total + margin)


@custom.row_sums(term=lambda x, mean, log_variance: (x - mean) ** 2 * torch.exp(-log_variance))
def mahalanobis_hinge(total, target, *, margin=5.0):
    # Mahalanobis, "On the generalised distance in statistics", 1936, of a diagonal covariance, in a hinge
    return target * total + (1 - target) * torch.relu(margin - torch.sqrt(total)) ** 2
