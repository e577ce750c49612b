"""export/targets"""
