"""Metrics as pure functions: tensors in, numbers out; nothing that is measured changes."""
