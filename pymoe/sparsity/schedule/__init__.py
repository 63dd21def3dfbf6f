"""When which share goes: in one shot, gradually, in rounds with rewinding, or by exchange at a constant share.

>>> from pymoe.sparsity import schedule
>>> [round(schedule.cubic(step, begin=10, end=30, final=0.8), 3) for step in (5, 10, 20, 30, 99)]
[0.0, 0.0, 0.7, 0.8, 0.8]
>>> [round(s, 3) for s in schedule.lottery.rounds(0.8, 3)]
[0.415, 0.658, 0.8]
"""

from pymoe.sparsity.schedule import lottery, rigl
from pymoe.sparsity.schedule.gradual import cubic, one_shot

__all__ = ["cubic", "lottery", "one_shot", "rigl"]
