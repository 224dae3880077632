"""Where is the edge of chaos?"""
