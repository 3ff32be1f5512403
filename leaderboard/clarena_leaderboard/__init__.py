"""The leaderboard: records turned into statistics and static pages. It never imports torch."""
