"""Many processes that train one SAE: who they are, what they say to each other, what if one ends.

Started by `torchrun` or another launcher that sets the same variables; gloo on CPU, NCCL on CUDA.
With one process nothing of this runs. No collective depends on a process's own data, and each ends
within a timeout.
"""
