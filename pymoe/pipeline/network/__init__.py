"""Rows of features through a sparse MoE, trained end to end: ``MoEClassifier``, ``MoERegressor``, and their network.

=============== ====================================================================================================
model           the network, forward and backward
linear_experts  its experts that are linear in the features
router_losses   balance and z over rows that have weights
scaling         the scale of the features before it
steps           how it goes down its loss
estimator       what both estimators share
classifier      ``MoEClassifier``
regressor       ``MoERegressor``
=============== ====================================================================================================
"""

from __future__ import annotations
