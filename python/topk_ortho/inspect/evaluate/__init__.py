"""One SAE, ours or anyone's, in the figures of the field: `topk-ortho evaluate`."""
