"""Methods that are measured before they become part of segtune: a model of learning curves.

It needs `gpytorch`, of the extra `bench`.
"""
