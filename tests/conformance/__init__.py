"""The contract of a backend, as tests: each runs on every backend that the host can open."""
