"""Many runs compared: arms, the documents' recipes, grids over paired seeds, tuning."""
