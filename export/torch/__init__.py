"""Build, train and script the twin of the network in PyTorch."""
