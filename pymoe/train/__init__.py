"""F6: training.  Optimisers, schedules, clipping, text and its batches, the loop, and what a run leaves behind."""
