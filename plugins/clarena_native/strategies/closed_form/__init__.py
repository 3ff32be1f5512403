"""Closed forms on the features of a frozen backbone: what is kept are sums, and nothing is trained by gradients."""
