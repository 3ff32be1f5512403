"""From a plugin file to a verified row: bundles, what they claim, and running them again where they can do no harm.

manifest, bundle and verdict are data; `submit` makes a bundle, `verify` makes a verdict. No torch is imported here.
"""
