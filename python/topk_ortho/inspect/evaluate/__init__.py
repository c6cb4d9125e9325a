"""One SAE, ours or anyone's, in the metrics of the field: `topk-ortho evaluate`."""
