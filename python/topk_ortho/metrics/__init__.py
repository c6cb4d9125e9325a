"""Pure: tensors in, numbers out; nothing that is measured changes."""
