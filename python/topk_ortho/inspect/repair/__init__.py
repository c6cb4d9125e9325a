"""`topk-ortho repair`: a trained SAE fine-tuned briefly under the constraint, before and after."""
