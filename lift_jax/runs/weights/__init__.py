"""The tuned weights of finished runs: exported, merged into the backbone, and averaged."""
