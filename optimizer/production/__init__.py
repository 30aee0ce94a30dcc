"""Is what was shipped still what was promised?"""
