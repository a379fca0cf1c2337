"""From any `nn.Module` to a network that learns task after task."""
