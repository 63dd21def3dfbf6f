"""Rows of features through a sparse MoE, trained end to end: ``MoEClassifier``, ``MoERegressor``, and their network.

=============== ====================================================================================================
model           the network, forward and backward
linear_experts  its experts that are linear in the features
router_losses   balance and z over rows that have weights
scaling         the scale of the features before it
linear_part     its linear part: the penalty, and what it says of rows that it has not seen
convex          linear maps mixed with given weights, and the best of them
first           where the features' vectors and the router start
steps           how the rest goes down its loss
judge           who decides which stage is kept
estimator       what both estimators share
classifier      ``MoEClassifier``
regressor       ``MoERegressor``
=============== ====================================================================================================
"""

from __future__ import annotations
