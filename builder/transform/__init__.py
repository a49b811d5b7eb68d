"""A dataset made of a dataset: converted, merged, tracked again, repaired, exported, migrated.

One file per verb; ``export/`` has one per target, ``migrate/`` reads the older route.
"""
