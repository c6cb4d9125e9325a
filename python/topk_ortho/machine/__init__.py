"""The machine a run is on: its hardware and memory, and what a run takes of them."""
