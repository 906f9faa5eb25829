"""Real applications, from the package index, on trio-lio: nox -s applications."""
