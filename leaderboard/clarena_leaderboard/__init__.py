"""The leaderboard: records turned into statistics and static pages. It never imports torch.

The pages are not built yet. Until they are, `clarena results` prints the tables of a store, as text, CSV or JSON.
"""
