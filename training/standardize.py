"""The head of a frozen backbone trains on standardised features.

Features of different backbones and channels differ in scale by a factor of ten and more. One
learning rate and one weight decay suit all once each feature has mean 0 and variance 1 over the
training images. The scales fold into the linear layer at the end: an adapter knows nothing of them.
"""

import torch
from torch import Tensor, nn

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
