"""Native benchmarks: split, permuted and rotated versions of digits, MNIST and Fashion-MNIST."""
