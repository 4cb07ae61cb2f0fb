"""Pure tensor functions: each with its reference, the hot ones with a fast path beside it."""
