"""Many photos at once: which ones, where their results go, and a pipeline that keeps every part busy."""
