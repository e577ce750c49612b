"""planning/sensitivity"""
