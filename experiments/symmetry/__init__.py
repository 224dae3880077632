"""Why not start with equal weights?"""
