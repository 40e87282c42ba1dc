"""Measurements. `make bench` runs all of them; every comparison is measured in the same run."""
