"""The control plane: supervision, routes, the private CA and the admin surface."""
