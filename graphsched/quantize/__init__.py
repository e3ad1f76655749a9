"""Types that are found by search."""
