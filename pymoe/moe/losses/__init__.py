"""Auxiliary losses of one layer, each a pair forward/backward; returned by name, never stored.

Real tokens only: with a padding mask the counts f, the means P, the logsumexp and the CV² statistics leave padding out.
All accumulate in double precision.  With no real token every loss is 0.
"""
