"""Search methods on recorded learning curves: segtune and its peers, on one virtual clock."""
