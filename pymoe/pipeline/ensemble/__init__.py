"""Sub-models on subsets of the rows, integrated into one answer: ``SparseExpertClassifier`` and its parts.

=========== ========================================================================================================
classifier  ``SparseExpertClassifier``: all stages in a row
training    trunk, experts, shared parameters, the learnt rule
fused       the sub-models as the experts of one MoE layer
gate        the learnt gate: who is asked about a row
rules       how the sub-models' answers become one
=========== ========================================================================================================
"""

from __future__ import annotations
