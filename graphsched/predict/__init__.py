"""What would run, where, why, and how long it would take: plans, and their trace on a virtual clock."""
