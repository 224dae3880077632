"""How deep can a network train?"""
