"""F6: files.  Checkpoints (safetensors, written atomically, checked on load) and records of a run."""

from pymoe.io import atomic, checkpoint, records, tensors

__all__ = ["atomic", "checkpoint", "records", "tensors"]
