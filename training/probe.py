"""The head of a frozen backbone: it trains on standardised features, and starts as a linear probe.

Features of different backbones and channels differ in scale by a factor of ten and more. One
learning rate and one weight decay suit all once each feature has mean 0 and variance 1 over the
training images. The scales fold into the linear layer at the end: an adapter knows nothing of them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The precision of the prior of a probe's weights: below 1 it overfits, above 100 it underfits.
_L2 = 10.0
_ITERATIONS = 100
# A feature that hardly varies in training may vary more later: it is scaled up by no more than
# ten times what the mean feature is.
_SMALLEST_STD = 0.1


class StandardizedLinear(nn.Linear):
    """A linear layer on (features - mean) / std: features [B, F] -> logits [B, C].

    Its parameters are those of the layer that it is made from.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, head: nn.Linear, features_NF: Tensor) -> None:
        """Take mean and standard deviation from `features_NF`, on the head's device."""
        super().__init__(head.in_features, head.out_features, device="meta")
        self.weight, self.bias = head.weight, head.bias
        std, mean = torch.std_mean(features_NF, dim=0, correction=0)
        smallest = _SMALLEST_STD * std.mean()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp_min(smallest) if smallest > 0 else std.fill_(1.0))

    def standardize(self, features: Tensor) -> Tensor:
        """Features [B, F] as the weights take them."""
        return (features - self.mean) / self.std

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, C]."""
        return super().forward(self.standardize(features))

    @torch.no_grad()
    def fold(self) -> nn.Linear:
        """The same function as a plain layer, computed in float64 and rounded once."""
        folded = nn.Linear(self.in_features, self.out_features, device=self.weight.device)
        weight = self.weight.double() / self.std.double()
        folded.weight.copy_(weight)
        folded.bias.copy_(self.bias.double() - weight @ self.mean.double())
        return folded


@torch.no_grad()
def start_as_probe(head: StandardizedLinear, features_NF: Tensor, labels_N: Tensor) -> None:
    """Set the weights to those of a logistic regression with an L2 penalty, by L-BFGS in float64.

    It is the best that the head can do while the prompts do nothing, so that they begin with what
    the head alone cannot learn.
    """
    inputs, labels = head.standardize(features_NF).double().cpu(), labels_N.cpu()
    weight = torch.zeros(head.weight.shape, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(head.bias.shape, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def objective() -> float:
        solver.zero_grad()
        penalty = _L2 / 2 / len(labels) * weight.square().sum()
        loss = F.cross_entropy(F.linear(inputs, weight, bias), labels) + penalty
        torch.autograd.backward(loss)
        return loss.item()

    solver.step(objective)  # type: ignore[no-untyped-call]
    head.weight.copy_(weight)
    head.bias.copy_(bias)
