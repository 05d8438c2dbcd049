"""The start of a training run, piece by piece: data, backbone, head and leaves."""
