"""One SAE or one run, looked at: measured, repaired, trained again."""
