"""The conformance kit, on the strategy of this package."""

from clarena_example.shrink_perturb import ShrinkPerturb

from clarena.testing import parametrize_with_checks


@parametrize_with_checks([ShrinkPerturb])
def test_conformance(check):
    check()
