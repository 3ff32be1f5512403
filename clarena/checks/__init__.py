"""The conformance kit: rules that every strategy keeps, and a tiny stream on which they are tried."""

from clarena.checks.suite import CHECKS, CheckResult, Suite, run_checks, summary
from clarena.checks.tiny import TinyMlp, TinyStream

__all__ = ["CHECKS", "CheckResult", "Suite", "TinyMlp", "TinyStream", "run_checks", "summary"]
