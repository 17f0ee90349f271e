"""Build, train and script the network in PyTorch."""
