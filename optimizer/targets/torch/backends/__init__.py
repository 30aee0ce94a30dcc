"""What compiles a model: one file a backend, one line each in optimizer/targets/torch/tables.py."""
