"""Models as nn.Module: loaded, pruned, quantised, compiled by one of several backends, and run in workers."""
